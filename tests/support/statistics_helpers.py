"""Statistics for the tests of distributions. Each takes arrays and returns p-values.

Nothing here draws anything or knows fastinit, so planted defects go through the same functions
(`make mutants`). A p-value is two-sided: too even is as wrong as too uneven. Keys are fixed, so a
result is the same in every run; every p-value is held against the same threshold, ALPHA. The
numbers of draws are chosen so that the defects named in tools/sample_defects.py fall far below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, special, stats

Array = NDArray[Any]
Report = dict[str, float]  # what was tested -> p-value

ALPHA = 1e-6
LEAST_EXPECTED = 16.0  # per cell of a chi-square; smaller neighbours are pooled


def rejected(report: Report) -> Report:
    """The entries below ALPHA; a NaN counts as one."""
    return {name: p for name, p in report.items() if not p >= ALPHA}


def require(report: Report) -> None:
    assert report, "nothing was tested"
    assert not rejected(report)


# ---- p-values ------------------------------------------------------------------------------------


def _two_sided(lower: Any, upper: Any) -> float:
    return float(min(1.0, 2.0 * min(lower, upper)))


def normal_p(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2.0))


def poisson(count: float, expected: float) -> float:
    law = stats.poisson(expected)
    return _two_sided(law.cdf(count), law.sf(count - 1))


def chi_square(counts: Array, expected: Array) -> float:
    """Pearson's statistic; neighbouring cells are pooled up to LEAST_EXPECTED."""
    counts, expected = counts.ravel().astype(np.float64), expected.ravel().astype(np.float64)
    n = counts.sum()
    assert abs(expected.sum() / n - 1) < 1e-9, "expected counts do not add up"
    if counts[expected == 0].any():
        return 0.0
    ends, room = [], 0.0
    for cell, size in enumerate(expected.tolist()):
        room += size
        if room >= LEAST_EXPECTED:
            ends.append(cell)
            room = 0.0
    assert len(ends) >= 2, "too few draws for a chi-square"
    ends[-1] = len(expected) - 1  # what is left over joins the last cell
    at = np.array(ends)
    observed = np.diff(np.cumsum(counts)[at], prepend=0.0)
    pooled = np.diff(np.cumsum(expected)[at], prepend=0.0)
    law = stats.chi2(len(ends) - 1)
    statistic = float(((observed - pooled) ** 2 / pooled).sum())
    return _two_sided(law.cdf(statistic), law.sf(statistic))


def equal_cells(index: Array, cells: int) -> float:
    """Chi-square of cell numbers that should be equally likely."""
    counts = np.bincount(index.ravel(), minlength=cells)
    return chi_square(counts, np.full(cells, counts.sum() / cells))


def ks(sample: Array, cdf: Callable[[Array], Array]) -> float:
    """Kolmogorov-Smirnov; for continuous distributions, on types fine enough to look so."""
    u = np.sort(cdf(np.sort(sample.astype(np.float64).ravel())))
    n = u.size
    steps = np.arange(n + 1) / n
    distance = max(float((steps[1:] - u).max()), float((u - steps[:-1]).max()))
    return float(stats.kstwo.sf(distance, n))


def ks_unit(sample: Array) -> float:
    return ks(sample, lambda u: np.clip(u, 0.0, 1.0))


# ---- moments -------------------------------------------------------------------------------------


def moments(count: int, sums: Array, raw: Sequence[float]) -> Report:
    """Sums of x, x², x³, x⁴ over `count` draws against E[x], …, E[x⁸] in `raw`."""
    report = {}
    for k in range(1, 5):
        mean, square = raw[k - 1], raw[2 * k - 1]
        z = (float(sums[k - 1]) - count * mean) / math.sqrt(count * (square - mean * mean))
        report[f"moment {k}"] = normal_p(z)
    return report


# ---- dependence ----------------------------------------------------------------------------------


def standardised(x: Array) -> Array:
    x = x.astype(np.float32).ravel()
    mean = x.mean(dtype=np.float64)
    return ((x - np.float32(mean)) / x.std(dtype=np.float64)).astype(np.float32)


def _mean_product(x: Array, y: Array) -> float:
    """√n times the mean of x·y: standard normal if x and y are independent and standardised."""
    total, step = 0.0, 1 << 16
    for k in range(0, x.size, step):
        total += float((x[k : k + step] * y[k : k + step]).sum(dtype=np.float64))
    return total / math.sqrt(x.size)


def pair(x: Array, y: Array, name: str) -> Report:
    """Joint statistics of values and squares of two samples that should be independent."""
    x, y = standardised(x), standardised(y)
    xx, yy = standardised(x * x), standardised(y * y)
    combos = {"x·y": (x, y), "x²·y²": (xx, yy), "x·y²": (x, yy), "x²·y": (xx, y)}
    return {f"{name}: {what}": normal_p(_mean_product(*both)) for what, both in combos.items()}


def lags(x: Array, distances: Iterable[int]) -> Report:
    """The same of a sample with itself, shifted."""
    x = standardised(x)
    xx = standardised(x * x)
    report = {}
    for lag in distances:
        ahead, behind = slice(lag, None), slice(None, -lag)
        for what, first, second in (
            ("x·y", x, x), ("x²·y²", xx, xx), ("x·y²", x, xx), ("x²·y", xx, x),
        ):  # fmt: skip
            z = _mean_product(first[behind], second[ahead])
            report[f"lag {lag}: {what}"] = normal_p(z)
    return report


def within_blocks(x: Array) -> Report:
    """Values and squares at each pair of places in a block of four; and products of more."""
    columns = standardised(x).reshape(-1, 4).T.copy()
    report: Report = {}
    for i in range(4):
        for j in range(i + 1, 4):
            report |= pair(columns[i], columns[j], f"places {i}, {j}")
    a, b, c, d = columns
    for name, u, v in (("012", a * b, c), ("013", a * b, d), ("023", a * c, d), ("123", b * c, d)):
        report[f"product {name}"] = normal_p(_mean_product(u, v))
    report["product 0123"] = normal_p(_mean_product(a * b, c * d))
    return report


def patterns(above: Array, name: str) -> Report:
    """True and false should be equally likely and independent: patterns of 4, 8 and 12."""
    report = {}
    for length in (4, 8, 12):
        rows = above[: above.size // length * length].reshape(-1, length)
        index = rows.astype(np.int64) @ (1 << np.arange(length))
        report[f"{name}: patterns of {length}"] = equal_cells(index, 1 << length)
    return report


def _multiplicities(values: Array) -> Array:
    ordered = np.sort(values.ravel())
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    return np.diff(starts)


def repeats(values: Array) -> int:
    """How many pairs of elements are equal."""
    lengths = _multiplicities(values)
    return int((lengths * (lengths - 1) // 2).sum())


def most_frequent(values: Array) -> int:
    """How often the most frequent value occurs."""
    return int(_multiplicities(values).max())


def _planes(words: Array, bits: int) -> Array:
    """Bit k of all words side by side, in row k."""
    rows = np.unpackbits(words[:, None].view(np.uint8), axis=1, bitorder="little")[:, :bits]
    return np.packbits(np.ascontiguousarray(rows.T), axis=1)


def _ones(x: Array) -> Array:
    """How many bits are set in each row of a uint8 array."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(x.view(np.uint64)).sum(axis=-1, dtype=np.int64)
    return np.unpackbits(x, axis=-1).sum(axis=-1, dtype=np.int64)


def bit_correlations(
    a: Array, b: Array, name: str, bits: tuple[int, int] = (32, 32), itself: bool = False
) -> Report:
    """Every bit of `a` against every bit of `b` (uint32, `bits` wide), and words that are equal.

    With `itself`, a and b are one array, and bits are compared with the other ones only.
    """
    n = a.size
    assert n % 64 == 0
    differ = np.zeros(bits)
    for k in range(0, n, 1 << 19):
        rows, columns = (
            _planes(v[k : k + (1 << 19)], wide) for v, wide in zip((a, b), bits, strict=True)
        )
        for i in range(bits[0]):
            differ[i] += _ones(rows[i] ^ columns)
    z = (n - 2 * differ) / math.sqrt(n)  # sums of products of signs
    z = z[np.triu_indices(bits[0], 1)] if itself else z.ravel()
    law = stats.chi2(z.size)
    square = float((z * z).sum())
    report = {
        f"{name}: largest bit correlation": min(1.0, normal_p(float(np.abs(z).max())) * z.size),
        f"{name}: sum of squared correlations": _two_sided(law.cdf(square), law.sf(square)),
    }
    if bits[0] == bits[1] and not itself:
        equal = int(np.count_nonzero(a == b))
        report[f"{name}: equal words"] = poisson(equal, n / 2.0 ** bits[0])
    return report


def words_alone(words: Array, name: str, bits: int = 32) -> Report:
    """One array of words: bytes, bits against each other, pairs that are equal."""
    report = {
        f"{name}: byte {k}": equal_cells((words >> np.uint32(8 * k)) & np.uint32(255), 256)
        for k in range(bits // 8)
    }
    report |= bit_correlations(words, words, f"{name} itself", (bits, bits), itself=True)
    pairs = words.size * (words.size - 1) / 2  # of which any two are independent
    z = (repeats(words) - pairs / 2**bits) / math.sqrt(pairs / 2**bits * (1 - 2.0**-bits))
    return report | {f"{name}: equal pairs": normal_p(z)}


# ---- the truncated normal ------------------------------------------------------------------------


def _gauss_part(slope: float, curve: float, g: Array) -> Array:
    """∫₀ᵍ exp(−slope·s − curve·s²) ds by Gauss's rule; for moderate slope and curve."""
    nodes, weights = special.roots_legendre(20)
    total = np.zeros_like(g)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        s = g * node
        total += weight * np.exp(-s * (slope + curve * s))
    return total * g


def truncated_cdf(mean: float, std: float, a: float, b: float) -> Callable[[Array], Array]:
    """P(X ≤ x) for a ≤ x ≤ b, to about 1e-13, wherever the interval lies."""
    alpha, beta = (a - mean) / std, (b - mean) / std
    if beta <= 0 or (alpha < 0 and -alpha > beta):
        mirrored = truncated_cdf(-mean, std, -b, -a)
        return lambda x: 1.0 - mirrored(-x)
    h = (b - a) / std
    if h * max(1.0, abs(alpha), abs(beta)) <= 1.0:
        slope, curve = alpha * h, h * h / 2
        whole = _gauss_part(slope, curve, np.ones(1))[0]
        return lambda x: _gauss_part(slope, curve, (x - a) / (b - a)) / whole
    if alpha >= 0.5:
        scale = special.erfcx(alpha / math.sqrt(2))

        def beyond(d: Array) -> Array:  # P(Z > α + d | Z > α)
            with np.errstate(invalid="ignore"):
                part = special.erfcx((alpha + d) / math.sqrt(2)) / scale
                return np.where(np.isinf(d), 0.0, np.exp(-d * (alpha + d / 2)) * part)

        rest = float(beyond(np.array(h)))
        return lambda x: (1.0 - beyond((x - a) / std)) / (1.0 - rest)
    low, high = special.ndtr(alpha), special.ndtr(beta)
    return lambda x: (special.ndtr((x - mean) / std) - low) / (high - low)


def quantile(cdf: Callable[[Array], Array], share: float, low: float, high: float) -> float:
    """Where `cdf`, which grows between low and high, reaches `share`."""
    return float(optimize.brentq(lambda x: float(cdf(np.array(x))) - share, low, high, xtol=1e-300))


def coordinate_moments(mean: float, std: float, a: float, b: float) -> list[float]:
    """E[g], …, E[g⁸] of g = (x − a)/(b − a), or (x − a)/std where b is infinite."""
    alpha, h = (a - mean) / std, (b - a) / std
    slope, curve, end = (alpha * h, h * h / 2, 1.0) if math.isfinite(h) else (alpha, 0.5, math.inf)

    def integral(k: int) -> float:
        value = integrate.quad(
            lambda s: s**k * math.exp(-s * (slope + curve * s)), 0, end, epsabs=0, epsrel=1e-11,
            limit=200,
        )  # fmt: skip
        return float(value[0])

    return [integral(k) / integral(0) for k in range(1, 9)]
