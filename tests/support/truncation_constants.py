"""What a truncated normal of docs/stream.md computes once per tensor: the branch and its constants.

Normal probabilities come from mpmath and are rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from mpmath import mp

# Wichura's AS 241 (Applied Statistics 37, 1988): PPND7, then PPND16.
AS241_COARSE = {
    "A": [3.3871327179, 5.0434271938e1, 1.5929113202e2, 5.9109374720e1],
    "B": [1.0, 1.7895169469e1, 7.8757757664e1, 6.7187563600e1],
    "C": [1.4234372777, 2.7568153900, 1.3067284816, 1.7023821103e-1],
    "D": [1.0, 7.3700164250e-1, 1.2021132975e-1],
    "E": [6.6579051150, 3.0812263860, 4.2868294337e-1, 1.7337203997e-2],
    "F": [1.0, 2.4197894225e-1, 1.2258202635e-2],
}
AS241_FINE = {
    "A": [
        3.3871328727963666080, 1.3314166789178437745e2, 1.9715909503065514427e3,
        1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
        3.3430575583588128105e4, 2.5090809287301226727e3,
    ],
    "B": [
        1.0, 4.2313330701600911252e1, 6.8718700749205790830e2,
        5.3941960214247511077e3, 2.1213794301586595867e4, 3.9307895800092710610e4,
        2.8729085735721942674e4, 5.2264952788528545610e3,
    ],
    "C": [
        1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550,
        3.64784832476320460504, 1.27045825245236838258, 2.41780725177450611770e-1,
        2.27238449892691845833e-2, 7.74545014278341407640e-4,
    ],
    "D": [
        1.0, 2.05319162663775882187, 1.67638483018380384940,
        6.89767334985100004550e-1, 1.48103976427480074590e-1, 1.51986665636164571966e-2,
        5.47593808499534494600e-4, 1.05075007164441684324e-9,
    ],
    "E": [
        6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580,
        2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
        2.71155556874348757815e-5, 2.01033439929228813265e-7,
    ],
    "F": [
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
        1.48753612908506148525e-2, 7.86869131145613259100e-4, 1.84631831751005468180e-5,
        1.42151175831644588870e-7, 2.04426310338993978564e-15,
    ],
}  # fmt: skip

# M of the FAR branch, numerators and denominators.
FAR_SERIES = [(-1, 1), (5, 2), (-37, 3), (353, 4), (-4081, 5), (55205, 6)]


def to_float(x: Any) -> float:
    """Nearest float64 of an mpf, subnormals included."""
    if not mp.isfinite(x):
        return float(x)
    sign, man, exponent, size = x._mpf_
    if man == 0 or exponent + size < -1100:
        return 0.0
    exact = Fraction(man) * Fraction(2) ** exponent
    value = exact.numerator / exact.denominator
    return -value if sign else value


def mills(x: Any) -> Any:
    """Q(x)/φ(x) in the working precision (at least 45 digits)."""
    if x == mp.inf:
        return mp.zero
    if x < 10**5:
        return upper_tail(x) / mp.npdf(x)
    # The asymptotic series; its terms fall by 10¹⁰ each.
    y = 1 / x**2
    return (1 - y * (1 - 3 * y * (1 - 5 * y * (1 - 7 * y * (1 - 9 * y))))) / x


def upper_tail(x: Any) -> Any:
    """Q(x) in the working precision, for |x| not astronomically large."""
    return mp.erfc(x / mp.sqrt(2)) / 2


class Far(NamedTuple):
    """Constants of the FAR branch: l, l₁, C₁ of float64, C₁ of float32 and C₂."""

    rate: float
    slope: float
    c1: float
    c1_scaled: float
    c2: float


@dataclass(frozen=True)
class Truncation:
    """One truncated normal, with (α, β), std and a already mirrored where the branch is."""

    branch: str
    mirrored: bool
    alpha: float
    beta: float
    h: float
    mean: float
    std: float
    a: float
    b: float

    def _precision(self) -> int:
        # exp(−α²/2) and λ(α) − α each lose about 2·log10 α digits.
        size = abs(self.alpha) if math.isfinite(self.alpha) else 1.0
        return 50 + 3 * max(0, math.ceil(math.log10(size + 1)))

    @property
    def degenerate(self) -> bool:
        """Whether the interval is so far out that the fill is its nearest end."""
        return self.branch == "FAR" and math.isinf(self.alpha)

    def central(self) -> tuple[float, ...]:
        """Pa, Qb, D, Ha, Hb."""
        with mp.workdps(self._precision()):
            pa, qb = upper_tail(-mp.mpf(self.alpha)), upper_tail(mp.mpf(self.beta))
            half = mp.mpf(1) / 2
            return tuple(to_float(x) for x in (pa, qb, 1 - qb - pa, pa - half, half - qb))

    def ratio(self) -> tuple[float, float]:
        """ρ and ω."""
        with mp.workdps(self._precision()):
            alpha, h = mp.mpf(self.alpha), mp.mpf(self.h)
            rho = mp.zero
            if mp.isfinite(h):
                rho = mp.exp(-h * (alpha + h / 2)) * mills(alpha + h) / mills(alpha)
            return to_float(rho), to_float(1 - rho)

    def log_q(self) -> float:
        """Λ."""
        with mp.workdps(self._precision()):
            return to_float(-mp.log(upper_tail(mp.mpf(self.alpha))))

    def far(self) -> Far:
        """λ(α), its slope and what follows from them."""
        with mp.workdps(self._precision()):
            alpha = mp.mpf(self.alpha)
            rate = 1 / mills(alpha)
            slope = rate * (rate - alpha)
            c1, c1_scaled, c2 = 2 / rate, 2 * mp.mpf(self.std) / rate, 2 * slope / rate**2
            return Far(*(to_float(x) for x in (rate, slope, c1, c1_scaled, c2)))

    def narrow(self, degree: int) -> list[float]:
        """c[0 … degree], in plain float64 operations in the page's order."""
        big_a, big_b = self.alpha * self.h, self.h * self.h / 2
        m = 2 * big_b
        e = [1.0, -big_a]
        for k in range(1, 18):
            e.append(-(big_a * e[k] + m * e[k - 1]) / (k + 1))

        def integral(g: float) -> float:
            p = e[18] / 19
            for k in range(17, -1, -1):
                p = e[k] / (k + 1) + g * p
            return g * p

        def density(g: float) -> float:
            p = e[18]
            for k in range(17, -1, -1):
                p = e[k] + g * p
            return p

        total = integral(1.0)
        g = 0.5
        for _ in range(4):
            g = g - (integral(g) - total * 0.5) / density(g)
        c, f = [g], [1 / density(g)]
        d1: list[float] = []
        d2: list[float] = []
        for k in range(degree):
            c.append(total * f[k] / (k + 1))
            d1.append((k + 1) * c[k + 1])
            inner = 0.0
            for j in range(k + 1):
                inner = inner + c[j] * d1[k - j]
            d2.append(inner)
            outer = 0.0
            for i in range(k + 1):
                outer = outer + (big_a * d1[i] + m * d2[i]) * f[k - i]
            f.append(outer / (k + 1))
        return c


@lru_cache(maxsize=256)
def truncation(mean: float, std: float, a: float, b: float) -> Truncation:
    """The branch of docs/stream.md for N(mean, std) on [a, b], std > 0."""
    alpha, beta, h = (a - mean) / std, (b - mean) / std, (b - a) / std
    straight = Truncation("CENTRAL", False, alpha, beta, h, mean, std, a, b)
    mirror = Truncation("CENTRAL", True, -beta, -alpha, h, mean, -std, b, a)

    def as_branch(t: Truncation, branch: str) -> Truncation:
        return Truncation(branch, t.mirrored, t.alpha, t.beta, t.h, t.mean, t.std, t.a, t.b)

    if h * max(1.0, abs(alpha), abs(beta)) <= 0.25:
        return as_branch(straight, "NARROW")
    for branch, limit in (("FAR", math.nextafter(30, 31)), ("TAIL", 1.5)):
        if alpha >= limit:
            return as_branch(straight, branch)
        if beta <= -limit:
            return as_branch(mirror, branch)
    return straight
