"""Derive the polynomial coefficients of csrc/core/coefficients.h (needs mpmath).

Each polynomial interpolates its function at Chebyshev nodes in 60-digit arithmetic, which is within
a small factor of minimax; the printed error is the largest relative error over a fine grid, before
the coefficients are rounded. Run ``python tools/coefficients.py`` and compare with the header.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60


def interpolate(fn: Callable[[mp.mpf], mp.mpf], lo: float, hi: float, degree: int) -> list[mp.mpf]:
    """Monomial coefficients of the degree-``degree`` interpolant of ``fn`` on [lo, hi]."""
    n = degree + 1
    mid, half = (mp.mpf(lo) + hi) / 2, (mp.mpf(hi) - lo) / 2
    nodes = [mid + half * mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    vandermonde = mp.matrix(n, n)
    values = mp.matrix(n, 1)
    for row, x in enumerate(nodes):
        values[row] = fn(x)
        for col in range(n):
            vandermonde[row, col] = x**col
    return list(mp.lu_solve(vandermonde, values))


def worst(fn: Callable[[mp.mpf], mp.mpf], coeffs: list[mp.mpf], lo: float, hi: float) -> mp.mpf:
    """Largest relative error of the polynomial on a grid."""
    grid = [mp.mpf(lo) + (mp.mpf(hi) - lo) * k / 400 for k in range(401)]
    return max(abs(mp.polyval(coeffs[::-1], x) / fn(x) - 1) for x in grid)


def log_remainder(z: mp.mpf) -> mp.mpf:
    """(log((1 + s) / (1 - s)) - 2 s) / (s z) with s = sqrt(z)."""
    if z == 0:
        return mp.mpf(2) / 3
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s) / (s * z)


def sin_quarter(z: mp.mpf) -> mp.mpf:
    """sin(pi y / 2) / y with y = sqrt(z)."""
    if z == 0:
        return mp.pi / 2
    y = mp.sqrt(z)
    return mp.sin(mp.pi * y / 2) / y


def cos_quarter(z: mp.mpf) -> mp.mpf:
    """cos(pi y / 2) with y = sqrt(z)."""
    return mp.cos(mp.pi * mp.sqrt(z) / 2)


def main() -> None:
    s_max = (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)
    jobs = [
        ("kLog64", log_remainder, 0, s_max**2 * mp.mpf("1.0001"), 7),
        ("kSin64", sin_quarter, 0, mp.mpf("0.25"), 7),
        ("kCos64", cos_quarter, 0, mp.mpf("0.25"), 8),
    ]
    for name, fn, lo, hi, degree in jobs:
        coeffs = interpolate(fn, lo, hi, degree)
        print(f"// {name}: relative error {mp.nstr(worst(fn, coeffs, lo, hi), 2)}")
        for c in coeffs:
            print(f"  {float(c)!r},  // {float(c).hex()}")
    ln2_hi = mp.floor(mp.log(2) * 2**33) / 2**33
    print("// kLn2Hi", float(ln2_hi).hex(), repr(float(ln2_hi)))
    ln2_lo = mp.log(2) - ln2_hi
    print("// kLn2Lo", float(ln2_lo).hex(), repr(float(ln2_lo)))


if __name__ == "__main__":
    main()
