"""Correctly rounded building blocks for the NumPy reference of the stream.

NumPy has no fused multiply-add and no bfloat16 or 8-bit floats, so this file supplies them: `fma`
on float32 and float64 arrays with a single rounding, and `Format`, which rounds real numbers to
any of the number types fastinit writes. `tests/core/test_exact_arithmetic.py` checks both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """Float64 sum and its rounding error, exactly (Knuth)."""
    s = x + y
    t = s - x
    return s, (x - (s - t)) + (y - t)


def _two_product(x: Array, y: Array) -> tuple[Array, Array]:
    """Float64 product and its rounding error, exact unless something over- or underflows."""

    def split(v: Array) -> tuple[Array, Array]:
        c = v * 134217729.0
        high = c - (c - v)
        return high, v - high

    p = x * y
    xh, xl = split(x)
    yh, yl = split(y)
    return p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl


def _odd_sum(x: Array, y: Array) -> Array:
    """Float64 sum rounded to odd: an inexact result ends in a set bit."""
    s, error = _two_sum(x, y)
    bits = s.view(np.int64)
    fix = (error != 0) & (bits & 1 == 0) & np.isfinite(error)
    outward = (error > 0) == (s > 0)
    return np.where(fix, np.where(outward, bits + 1, bits - 1), bits).view(np.float64)


def _round_fraction(value: Fraction) -> float:
    """Nearest float64, ties to even (integer division rounds correctly, subnormals included)."""
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _fma_scalar(x: float, y: float, z: float) -> float:
    product = x * y
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)) or x == 0 or y == 0:
        return product + z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    # An exact zero is the sum of opposite numbers, which IEEE makes +0 in round-to-nearest.
    return _round_fraction(exact) if exact else 0.0


def _fma64(x: Array, y: Array, z: Array) -> Array:
    p, e = _two_product(x, y)
    # Boldo & Melquiond (2008): add the small parts rounding to odd, then round once.
    uh, ul = _two_sum(z, e)
    th, tl = _two_sum(p, uh)
    out = th + _odd_sum(tl, ul)
    exact = (x == 0) | (y == 0)
    out = np.where(exact | ((e == 0) & np.isfinite(p)), p + z, out)
    size = np.abs(p)
    # Where the error-free transformations could over- or underflow, compute in rationals.
    unsafe = (size > 2.0**1000) | (size < 2.0**-900) | ~np.isfinite(out) | (np.abs(z) > 2.0**1000)
    unsafe |= (np.abs(x) > 2.0**990) | (np.abs(y) > 2.0**990)
    unsafe &= ~exact
    if unsafe.any():
        where = np.nonzero(unsafe.ravel())[0]
        flat = out.ravel()
        xs, ys, zs = x.ravel(), y.ravel(), z.ravel()
        for i in where:
            flat[i] = _fma_scalar(float(xs[i]), float(ys[i]), float(zs[i]))
        out = flat.reshape(out.shape)
    return out


def _fma32(x: Array, y: Array, z: Array) -> Array:
    # 24 + 24 bits: the float64 product is exact; round-to-odd makes the second rounding harmless.
    product = x.astype(np.float64) * y.astype(np.float64)
    return _odd_sum(product, z.astype(np.float64)).astype(np.float32)


def fma(x: Any, y: Any, z: Any) -> Array:
    """x·y + z with one rounding, element by element; all float32 or all float64."""
    x, y, z = np.broadcast_arrays(np.asarray(x), np.asarray(y), np.asarray(z))
    if not x.dtype == y.dtype == z.dtype or x.dtype not in (np.float32, np.float64):
        raise TypeError(f"fma of {x.dtype}, {y.dtype} and {z.dtype}")
    x, y, z = (np.ascontiguousarray(v) for v in (x, y, z))
    with np.errstate(all="ignore"):
        return _fma32(x, y, z) if x.dtype == np.float32 else _fma64(x, y, z)


@dataclass(frozen=True)
class Format:
    """A binary floating-point type: bits, exponent of the least normal, maximum."""

    name: str
    bits: int
    precision: int
    least_exponent: int
    largest: float

    @property
    def real(self) -> type[np.floating[Any]]:
        """The type results are computed in before they are rounded to this one."""
        return np.float64 if self.bits == 64 else np.float32

    def _spacing(self, x: Array) -> Array:
        exponent = np.maximum(np.frexp(x)[1] - 1, self.least_exponent)
        return np.ldexp(1.0, exponent - (self.precision - 1))

    def _to_multiple(self, x: Any, rule: Any) -> Array:
        x = np.asarray(x, dtype=np.float64)
        if self.bits == 64:
            return x.copy()
        spacing = self._spacing(np.where(np.isfinite(x), x, 0.0))
        return np.where(np.isfinite(x), rule(x / spacing) * spacing, x)

    def nearest(self, x: Any) -> Array:
        """Nearest value, ties to even, as float64; results above `largest` are left as they are."""
        return self._to_multiple(x, np.rint)

    def ceil(self, x: float) -> float:
        """Least value ≥ x."""
        return float(self._to_multiple(x, np.ceil))

    def floor(self, x: float) -> float:
        """Greatest value ≤ x."""
        return float(self._to_multiple(x, np.floor))

    def before(self, x: float) -> float:
        """The value before x, which is a value of this type."""
        return self.floor(float(np.nextafter(x, -np.inf)))

    def pack(self, x: Array) -> Array:
        """Bit patterns, as unsigned integers, of values of this type given as float64."""
        if self.bits == 64:
            return np.asarray(x, np.float64).view(np.uint64)
        magnitude = np.abs(x)
        exponent = np.where(magnitude == 0, self.least_exponent, np.frexp(magnitude)[1] - 1)
        exponent = np.maximum(exponent, self.least_exponent)
        significand = np.ldexp(magnitude, self.precision - 1 - exponent).astype(np.int64)
        # The leading bit of a normal number carries into the exponent field; subnormals have none.
        field = ((exponent - self.least_exponent) << (self.precision - 1)) + significand
        sign = np.signbit(x).astype(np.int64) << (self.bits - 1)
        return (field | sign).astype(f"uint{self.bits}")


FORMATS = {
    f.name: f
    for f in (
        Format("float64", 64, 53, -1022, float(np.finfo(np.float64).max)),
        Format("float32", 32, 24, -126, float(np.finfo(np.float32).max)),
        Format("float16", 16, 11, -14, 65504.0),
        Format("bfloat16", 16, 8, -126, float.fromhex("0x1.fep127")),
        Format("float8_e4m3fn", 8, 4, -6, 448.0),
        Format("float8_e5m2", 8, 3, -14, 57344.0),
    )
}
