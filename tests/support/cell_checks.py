"""What shows in single elements: exact probabilities of small types, and float64 inside its cell.

A float64 result lies in the cell of its 32-bit word: undoing the transform gives w + r with r in
[0, 1), and r comes from the LOW word, so it is uniform and independent of everything else.
As in sample_checks.py, the functions take samplers, fastinit's or spoilt ones.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy import special

from support import statistics_helpers as st
from support.exact_arithmetic import FORMATS, fma
from support.reference_stream import words
from support.sample_checks import Interval, Sampler, sum_over
from support.statistics_helpers import Array, Report

SMALL = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
SMALL_DRAWS = 2**26

# ---- types of 8 and 16 bits: exact probabilities -------------------------------------------------


@lru_cache
def finite_values(dtype: str) -> tuple[Array, Array]:
    """The finite values of a small type in order, −0 before +0, and their bit patterns."""
    bits = FORMATS[dtype].bits
    patterns = torch.arange(2**bits, dtype=torch.int32).to(getattr(torch, f"uint{bits}"))
    values = patterns.view(getattr(torch, dtype)).to(torch.float64).numpy()
    codes = np.arange(2**bits)
    finite = np.isfinite(values)
    values, codes = values[finite], codes[finite]
    order = np.lexsort((~np.signbit(values), values))
    return values[order], codes[order]


def _edges(values: Array) -> Array:
    """Halfway between neighbours, where round-to-nearest changes its mind."""
    return (values[1:] + values[:-1]) / 2


def normal_probabilities(dtype: str, mean: float, std: float) -> tuple[Array, Array]:
    """Bit patterns of the type and the probability of each under a rounded normal."""
    values, codes = finite_values(dtype)
    z = (np.r_[-np.inf, _edges(values), np.inf] - mean) / std
    # From the nearer tail, so that small probabilities keep their digits.
    upper = z[:-1] > 0
    share = np.where(
        upper,
        special.ndtr(-z[:-1]) - special.ndtr(-z[1:]),
        special.ndtr(z[1:]) - special.ndtr(z[:-1]),
    )
    return codes, share


def truncated_probabilities(dtype: str, case: Interval) -> tuple[Array, Array]:
    """The same for a truncated normal."""
    _, _, a, b = case
    values, codes = finite_values(dtype)
    inside = (values >= a) & (values <= b) & ~((values == 0) & np.signbit(values) & (a >= 0))
    values, codes = values[inside], codes[inside]
    ends = np.r_[max(a, -1e300), _edges(values), min(b, 1e300)]
    # Cells too small for the distribution function to tell apart are not impossible.
    return codes, np.maximum(np.diff(st.truncated_cdf(*case)(ends)), 1e-30)


@lru_cache(maxsize=1)
def _all_uniforms(a: float, b: float) -> Array:
    """What the 2²⁴ leading bits of a word become in float32, before clamping and rounding."""
    u = np.arange(2**24, dtype=np.float32) * np.float32(2.0**-24)
    if (a, b) == (0.0, 1.0):
        return u
    scale, shift = np.float32(b - a), np.float32(a)
    return np.concatenate([fma(part, scale, shift) for part in np.split(u, 64)])


def uniform_probabilities(dtype: str, a: float, b: float) -> tuple[Array, Array]:
    """The same for a uniform, by enumeration; torch rounds."""
    form = FORMATS[dtype]
    low, high = form.ceil(a), form.before(float(form.nearest(b)))
    x = torch.from_numpy(np.clip(_all_uniforms(a, b), low, high))
    patterns = x.to(getattr(torch, dtype)).view(torch.uint8 if form.bits == 8 else torch.uint16)
    counts = np.bincount(patterns.numpy(), minlength=2**form.bits)
    return np.arange(2**form.bits), counts / 2.0**24


def exact_probabilities(draw: Sampler, expected: tuple[Array, Array]) -> Report:
    """Chi-square of the bit patterns that `draw` returns; impossible ones must not occur."""
    codes, share = expected
    assert abs(share.sum() - 1) < 1e-9
    size = int(codes.max()) + 1

    def count(first: int, n: int) -> Array:
        return np.bincount(draw(first, n), minlength=size)

    counts = sum_over(SMALL_DRAWS, count)
    if counts.size > size or counts.sum() != counts[codes].sum():
        return {"impossible values": 0.0}
    return {"chi-square": st.chi_square(counts[codes], share * SMALL_DRAWS)}


def few_values(draw: Sampler, case: Interval) -> Report:
    """The same for float32 on an interval that holds a handful of its values."""
    _, _, a, b = case
    listed = [np.float32(a)]
    while listed[-1] < b and len(listed) < 100:
        listed.append(np.nextafter(listed[-1], np.float32(np.inf)))
    values = np.array(listed)
    assert values[0] == a and values[-1] == b and values.size >= 3
    share = np.diff(st.truncated_cdf(*case)(np.r_[a, _edges(values.astype(np.float64)), b]))
    x = draw(0, 2**20)
    counts = np.array([np.count_nonzero(x == v) for v in values])
    if counts.sum() != 2**20:
        return {"outside": 0.0}
    return {"chi-square": st.chi_square(counts, share * 2**20)}


# ---- float64: the place inside the cell of the word ----------------------------------------------


def _in_cell(rest: Array, coarse: Array, name: str, tolerance: float = 1e-4) -> Report:
    """`rest` should be in [0, 1), uniform, and unrelated to `coarse`."""
    if not (rest.min() >= -tolerance and rest.max() <= 1 + tolerance):
        return {f"{name}: inside the cell": 0.0}
    report = {f"{name}: place in the cell": st.ks_unit(rest)}
    report |= st.pair(rest, coarse, f"{name}: place against word")
    return report | st.lags(rest, (1, 2, 4))


def uniform_cells(wide: Sampler, narrow: Sampler) -> Report:
    """float64 and float32 uniforms of one stream: 0 ≤ u64 − u32 < 2⁻²⁴."""
    u64, u32 = wide(0, 2**22), narrow(0, 2**22).astype(np.float64)
    difference = (u64 - u32) * 2.0**24
    if not (difference.min() >= 0 and difference.max() < 1):
        return {"inside the cell": 0.0}
    return _in_cell(difference, u32, "uniform", 0.0)


def normal_cells(draw: Sampler, key: int) -> Report:
    """Radius and angle of float64 normals, in units of the word: w + r, r uniform."""
    index = np.arange(2**20, dtype=np.uint64)
    w = words(key, index).astype(np.float64).reshape(-1, 2)
    x, y = draw(0, index.size).reshape(-1, 2).T
    square = x * x + y * y
    radius = np.exp(-square / 2) * 2.0**32 - w[:, 0]
    turn = np.arctan2(y, x) / (2 * math.pi) % 1.0 * 2.0**32 - w[:, 1]
    return (
        _in_cell(radius, w[:, 0], "radius")
        | _in_cell(turn, w[:, 1], "angle")
        | st.pair(radius, turn, "places of radius and angle")
    )


def truncated_cells(draw: Sampler, key: int, case: Interval) -> Report:
    """The conditional probability of float64 truncated normals, in units of the word."""
    index = np.arange(2**19, dtype=np.uint64)
    w = words(key, index).astype(np.float64)
    u = st.truncated_cdf(*case)(draw(0, index.size))
    return _in_cell(u * 2.0**32 - w, w, "place", 1e-2)
