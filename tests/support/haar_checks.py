"""What is known of Haar distributed matrices, as checks that name what they find wrong."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

# Each of some fifty checks of a fixed sample fails a right one with this probability.
LEAST_P = 1e-5


class Findings:
    """Collects the names of checks whose p-value is too small to be chance."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def p(self, name: str, value: float) -> None:
        if not value >= LEAST_P:  # a NaN is a finding, too
            self.names.append(f"{name} (p = {value:.1e})")

    def mean(self, name: str, samples: np.ndarray, expected: float) -> None:
        """Compare a mean with its expectation, by the samples' own variance."""
        error = samples.std(ddof=1) / math.sqrt(len(samples))
        distance = abs(samples.mean() - expected)
        self.p(name, 2 * stats.norm.sf(distance / error) if error > 0 else float(distance < 1e-9))

    def ks(self, name: str, samples: np.ndarray, cdf) -> None:
        self.p(name, stats.kstest(samples, cdf).pvalue if len(samples) > 0 else 0.0)


def entry_cdf(n: int):
    """Distribution of one entry of a real n x n matrix: (1 + q)/2 is beta((n-1)/2, (n-1)/2)."""
    return lambda q: stats.beta.cdf((1 + np.asarray(q)) / 2, (n - 1) / 2, (n - 1) / 2)


def angle_cdf(n: int, determinant: int):
    """Distribution of a random one of the eigenangles inside (0, pi) of O(n) of a determinant.

    Integrated one-level densities: Katz and Sarnak, "Random matrices, Frobenius eigenvalues, and
    monodromy" (1999), 5.5. With s_m the integral of sin(m x)/sin x, they are (m x +- s_m(x))/2pi.
    """
    if determinant > 0:
        pairs, m, sign = (n // 2, n - 1, 1) if n % 2 == 0 else (n // 2, n - 1, -1)
    else:
        pairs, m, sign = (n // 2 - 1, n - 1, -1) if n % 2 == 0 else (n // 2, n - 1, 1)

    def integral(x: np.ndarray) -> np.ndarray:
        # sin(m x)/sin x = sum of e^{i k x} over k = m-1, m-3, ..., 1-m
        total = np.zeros_like(x)
        for k in range(m - 1, -m, -2):
            total += x if k == 0 else np.sin(k * x) / k
        return total

    return lambda x: (m * np.asarray(x) + sign * integral(np.asarray(x))) / (2 * np.pi * pairs)


def one_of_each(values: list[np.ndarray], seed: int) -> np.ndarray:
    chosen = np.random.default_rng(seed)
    return np.array([v[chosen.integers(len(v))] for v in values if len(v)])


def check_entries(found: Findings, q: np.ndarray, what: str = "") -> None:
    """Entries of real matrices of which rows or columns, the fewer, are orthonormal."""
    n = max(q.shape[1:])
    if n == 1:
        return
    rows, columns = q.shape[1:]
    for r, c in {(0, 0), (rows - 1, columns - 1), (0, columns - 1), (rows - 1, 0)}:
        found.ks(f"{what}entry {r}, {c}", q[:, r, c], entry_cdf(n))
    if min(rows, columns) > 1:
        # Weingarten's integrals of order four.
        a, b, c, d = q[:, 0, 0], q[:, 0, -1], q[:, -1, 0], q[:, -1, -1]
        scale = n * (n + 2)
        if rows == columns:
            found.mean(f"{what}a b c d", a * b * c * d, -1 / (scale * (n - 1)))
            found.mean(f"{what}a^2 d^2", a * a * d * d, (n + 1) / (scale * (n - 1)))
        found.mean(f"{what}a^2 b^2", a * a * b * b, 1 / scale)
        found.mean(f"{what}a b", a * b, 0)
        found.mean(f"{what}a c", a * c, 0)
        found.mean(f"{what}a d", a * d, 0)


def check_traces(found: Findings, q: np.ndarray, what: str = "") -> None:
    trace = np.trace(q, axis1=1, axis2=2)
    found.mean(f"{what}tr", trace, 0)
    found.mean(f"{what}tr^2", trace**2, 1)
    found.mean(f"{what}tr^3", trace**3, 0)
    found.mean(f"{what}tr^4", trace**4, 3)


def check_real(q: np.ndarray) -> list[str]:
    """Check square real matrices (draws, n, n), n at least 2. Returns what is wrong."""
    found = Findings()
    n = q.shape[1]
    determinant = np.sign(np.linalg.det(q))
    found.p("det", stats.binomtest(int((determinant > 0).sum()), len(q)).pvalue)
    for r, c in ((0, 0), (n - 1, n - 1), (0, n - 1)):
        found.mean(f"det against entry {r}, {c}", determinant * q[:, r, c], 0)
    check_entries(found, q)
    check_traces(found, q)
    # Multiplying by a fixed matrix from either side changes nothing.
    fixed = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
    for name, product in (("left: ", fixed @ q), ("right: ", q @ fixed)):
        check_entries(found, product, name)
        check_traces(found, product, name)
    for sign in (1, -1):
        angles = np.angle(np.linalg.eigvals(q[determinant == sign]))
        inside = [a[(a > 1e-3) & (a < np.pi - 1e-3)] for a in angles]
        if n > 2 or sign > 0:
            found.ks(f"eigenangles, det {sign:+d}", one_of_each(inside, n), angle_cdf(n, sign))
    return found.names


def check_unitary(q: np.ndarray) -> list[str]:
    """Check square complex matrices (draws, n, n), n at least 3. Returns what is wrong."""
    found = Findings()
    n = q.shape[1]
    trace = np.trace(q, axis1=1, axis2=2)
    for power, expected in ((1, 1), (2, 2), (3, 6)):
        found.mean(f"|tr|^{2 * power}", np.abs(trace) ** (2 * power), expected)
        for part in (np.real, np.imag):
            found.mean(f"{part.__name__} tr^{power}", part(trace**power), 0)
    uniform = stats.uniform(-np.pi, 2 * np.pi).cdf
    found.ks("det", np.angle(np.linalg.det(q)), uniform)
    found.ks("eigenangles", one_of_each(list(np.angle(np.linalg.eigvals(q))), n), uniform)
    for r, c in ((0, 0), (n - 1, n - 1), (0, n - 1)):
        entry = q[:, r, c]
        found.ks(f"phase of {r}, {c}", np.angle(entry), uniform)
        found.ks(f"size of {r}, {c}", np.abs(entry) ** 2, stats.beta(1, n - 1).cdf)
    return found.names
