"""The finite values of a floating-point type, enumerated or stepped by torch and NumPy themselves.

An account of rounding and of bounds (docs/stream.md, section 3) that shares nothing with fastinit
and nothing with exact_arithmetic.py.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import torch

SMALL = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
WIDE = {"float32": np.float32, "float64": np.float64}


@cache
def finite_values(dtype: str) -> np.ndarray:
    """All finite values of an 8- or 16-bit type, ascending, one zero, as float64."""
    wide = getattr(torch, dtype)
    bits = torch.iinfo(torch.int8).bits * torch.empty(1, dtype=wide).element_size()
    patterns = torch.arange(2**bits).to(torch.uint8 if bits == 8 else torch.int16)
    values = patterns.view(wide).to(torch.float64)
    return np.unique(values[torch.isfinite(values)].numpy() + 0.0)


def largest(dtype: str) -> float:
    return float(torch.finfo(getattr(torch, dtype)).max)


def neighbours(dtype: str, x: float) -> tuple[float, float]:
    """The greatest value ≤ x and the least ≥ x; x lies within ± `largest`."""
    if dtype in SMALL:
        values = finite_values(dtype)
        above = int(np.searchsorted(values, x))
        return float(values[above if values[above] == x else above - 1]), float(values[above])
    real = WIDE[dtype]
    with np.errstate(all="ignore"):
        near = real(x)
        below = near if float(near) <= x else np.nextafter(near, real(-np.inf))
        above = near if float(near) >= x else np.nextafter(near, real(np.inf))
    return float(below), float(above)


def ceiling(dtype: str, x: float) -> float:
    """The least value ≥ x, not below −largest and, where there is none, the largest."""
    top = largest(dtype)
    return -top if x <= -top else top if x >= top else neighbours(dtype, x)[1]


def floor(dtype: str, x: float) -> float:
    return -ceiling(dtype, -x)


def _is_even(dtype: str, x: float) -> bool:
    pattern = torch.tensor(x, dtype=getattr(torch, dtype))
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(pattern.view(integer[pattern.element_size()])) % 2 == 0


def nearest(dtype: str, x: float) -> float:
    """The nearest value, ties to even, saturating."""
    below, above = floor(dtype, x), ceiling(dtype, x)
    if below == above or abs(x) >= largest(dtype):
        return above + 0.0
    down, up = Fraction(x) - Fraction(below), Fraction(above) - Fraction(x)
    if down != up:
        return (below if down < up else above) + 0.0
    return (below if _is_even(dtype, below) else above) + 0.0


def before(dtype: str, x: float) -> float:
    """The value before x, which is one; below the least there is minus infinity."""
    if x <= -largest(dtype):
        return -np.inf
    return neighbours(dtype, float(np.nextafter(x, -np.inf)))[0]


def uniform_bounds(dtype: str, a: float, b: float) -> tuple[float, float]:
    """The least and the greatest sample of a uniform fill; equal where it is a constant."""
    if a == b:
        return (nearest(dtype, a),) * 2
    low, high = ceiling(dtype, a), before(dtype, nearest(dtype, b))
    return (low, high) if low <= high else (nearest(dtype, a),) * 2


def truncation_bounds(dtype: str, a: float, b: float) -> tuple[float, float]:
    """The same for a truncated normal fill of positive std."""
    low, high = ceiling(dtype, a), floor(dtype, b)
    return (low, high) if low <= high else (nearest(dtype, a),) * 2
