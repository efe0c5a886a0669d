"""The stream of docs/stream.md in NumPy, written from that page alone.

Nothing here looks at the C++ sources, so where fastinit and this file agree bit for bit, the page
describes both. Speed does not matter. The sections follow the page's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from support.exact_arithmetic import FORMATS, Array, Format, fma
from support.truncation_constants import (
    AS241_COARSE,
    AS241_FINE,
    FAR_SERIES,
    Truncation,
    truncation,
)

STREAM_VERSION = 1
VALUE, LOW, MASK, FOLD_INT, FOLD_STR, SPLIT, GEN_CPU, GEN_CUDA = range(8)
LOW32 = 0xFFFFFFFF

# ---- 1. blocks and words -------------------------------------------------------------------------


def philox4x32(counter: Sequence[Any], key: Sequence[Any]) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10 on arrays or integers; the four 32-bit words come in uint64 arrays."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = (int(k) for k in key)
    low, half = np.uint64(LOW32), np.uint64(32)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & LOW32, (k1 + 0xBB67AE85) & LOW32
    return c0, c1, c2, c3


def philox(key: int, n: Any, purpose: int) -> tuple[Array, Array, Array, Array]:
    """The block of 64-bit number n under a purpose."""
    n = np.asarray(n, dtype=np.uint64)
    counter = (n & np.uint64(LOW32), n >> np.uint64(32), purpose, 0x46494E49 ^ STREAM_VERSION)
    return philox4x32(counter, (key & LOW32, key >> 32))


def words(key: int, index: Any, purpose: int = VALUE) -> Array:
    """The uint32 words of elements `index` (row-major indices in the unsharded real tensor)."""
    index = np.asarray(index, dtype=np.uint64)
    block = philox(key, index >> np.uint64(2), purpose)
    return np.choose((index & np.uint64(3)).astype(np.intp), block).astype(np.uint32)


# ---- 2. keys -------------------------------------------------------------------------------------


def _word01(key: int, n: int, purpose: int) -> int:
    block = philox(key, n, purpose)
    return int(block[0]) + (int(block[1]) << 32)


def fold_in(key: int, data: int | str) -> int:
    """Key.fold_in of an integer or a string."""
    if isinstance(data, str):
        digest = hashlib.blake2b(data.encode(), digest_size=8).digest()
        return _word01(key, int.from_bytes(digest, "little"), FOLD_STR)
    return _word01(key, data % 2**64, FOLD_INT)


def split(key: int, n: int) -> list[int]:
    """Key.split."""
    return [_word01(key, i, SPLIT) for i in range(n)]


# ---- 3. types and rounding -----------------------------------------------------------------------


def finish(x: Array, form: Format, lo: float, hi: float) -> Array:
    """Clamps computed values and packs them into bit patterns of the type."""
    x = x.astype(np.float64)
    x = np.where(x < lo, lo, x)
    x = np.where(x > hi, hi, x)
    return form.pack(form.nearest(x))


def _constant(n: int, form: Format, value: float) -> Array:
    value = min(max(value, -form.largest), form.largest)
    return form.pack(form.nearest(np.full(n, value)))


# ---- elementary functions ------------------------------------------------------------------------

L32 = [-0.500003235, 0.333347149, -0.249712274, 0.199068856, -0.17243243, 0.161804803, -0.100822857]
S32 = [1.57079632, -0.645963461, 0.0796800376, -0.00460166898]
C32 = [0.999999968, -1.23369667, 0.253594976, -0.0203986468]


def _hexes(text: str) -> list[float]:
    return [float.fromhex(word) for word in text.split()]


L64 = _hexes("""
    0x1.5555555555555p-1 0x1.9999999999a38p-2 0x1.2492492476c87p-2
    0x1.c71c720160b47p-3 0x1.745cf901605f7p-3 0x1.3b1c360763b8ap-3
    0x1.0fbe83c2cbcf3p-3 0x1.0c04595972ab8p-3""")
S64 = _hexes("""
    0x1.921fb54442d18p+0 -0x1.4abbce625be53p-1 0x1.466bc6775aad9p-4
    -0x1.32d2cce62ac22p-8 0x1.50783485cbd83p-13 -0x1.e3074b4ff3058p-19
    0x1.e8eed12ee00a3p-25 -0x1.6c5b875d4e739p-31""")
C64 = _hexes("""
    1 -0x1.3bd3cc9be45dep+0 0x1.03c1f081b5ac4p-2 -0x1.55d3c7e3cbfedp-6
    0x1.e1f5068919a8ap-11 -0x1.a6d1f29f1c7fap-16 0x1.f9d3854812ae6p-22
    -0x1.b6dd6cfa280afp-28 0x1.1e2a69fa47a81p-34""")
LN2HI, LN2LO = _hexes("0x1.62e42fefp-1 0x1.473de6af278edp-34")
M64 = [p / q for p, q in FAR_SERIES]


def horner(coefficients: Sequence[float], x: Array) -> Array:
    """Σ cᵢxⁱ by fused steps; coefficients are rounded to the type of x."""
    p = np.full_like(x, x.dtype.type(coefficients[-1]))
    for c in reversed(coefficients[:-1]):
        p = fma(p, x, x.dtype.type(c))
    return p


def _log_parts(x: Array, v: Array | None) -> tuple[Array, Array]:
    """Exponent e (in the type of x) and f, the mantissa less one."""
    if x.dtype == np.float32:
        bits, pivot, shift = x.view(np.int32), np.int32(0x3F3504F3), 23
    else:
        bits, pivot, shift = x.view(np.int64), np.int64(0x3FE6A09E667F3BCD), 52
    h = bits - pivot
    e = h >> shift
    m = (bits - (e << shift)).view(x.dtype)
    f = m - x.dtype.type(1)
    return e.astype(x.dtype), f if v is None else np.where(h >= 0, v, f)


def log(x: Array, v: Array | None = None) -> Array:
    """log32 or log64 by the type of x."""
    e, f = _log_parts(x, v)
    if x.dtype == np.float32:
        c = [np.float32(x) for x in L32]
        s = f * f
        p = fma(c[6], s, fma(c[5], f, c[4]))
        p = fma(fma(p, s, fma(c[3], f, c[2])), s, fma(c[1], f, c[0]))
        return fma(e, np.float32(0.693147182), fma(s, p, f))
    return _log_sum(e, f)


def _log_sum(g: Array, f: Array) -> Array:
    s = f / (f + 2)
    z = s * s
    big_r = z * horner(L64, z)
    k = 0.5 * (f * f)
    return g * LN2HI - ((k - fma(s, k + big_r, g * LN2LO)) - f)


def log1(f: Array) -> Array:
    """log(1 + f), near f = 0, in float64."""
    return _log_sum(np.zeros_like(f), f)


def _signed(w: Array, real: Any) -> Array:
    return w.view(np.int32).astype(real)


# ---- 4. uniform ----------------------------------------------------------------------------------


def uniform_values(w: Array, low: Array, a: float, b: float, real: Any) -> Array:
    """Computed values, before clamping, from the words."""
    if real is np.float32:
        u = (w >> np.uint32(8)).astype(real) * real(2.0**-24)
        return fma(u, real(b - a), real(a))
    u = fma(w.astype(real), real(2.0**-32), (low >> np.uint32(11)).astype(real) * real(2.0**-53))
    return fma(u, real(b - a), real(a))


# ---- 5. normal -----------------------------------------------------------------------------------


def radius(w: Array, low: Array, real: Any) -> Array:
    """√(−2 log u) of the radius words."""
    n = _signed(w, real)
    if real is np.float32:
        v = fma(n, real(2.0**-32), real(2.0**-33))
    else:
        v = fma(n, real(2.0**-32), (low.astype(real) + real(0.5)) * real(2.0**-64))
    x = np.where(v < 0, real(1) + v, v)
    return np.sqrt(real(-2) * log(x, v))


def direction(t: Array, low: Array, real: Any) -> tuple[Array, Array]:
    """(cos, sin) of the angle words."""
    n = _signed(t << np.uint32(2), real)
    y = (
        n * real(2.0**-32)
        if real is np.float32
        else fma(n, real(2.0**-32), low.astype(real) * real(2.0**-62))
    )
    z = y * y
    s = y * horner(S32 if real is np.float32 else S64, z)
    c = horner(C32 if real is np.float32 else C64, z)
    q = (t + np.uint32(2**29)) >> np.uint32(30)
    return np.choose(q, [c, -s, -c, s]), np.choose(q, [s, c, -s, -c])


def normal_values(
    w: Array, low_w: Array, t: Array, low_t: Array, mean: float, std: float, real: Any
) -> tuple[Array, Array]:
    """Both computed values of a word pair, before clamping."""
    rs = radius(w, low_w, real) * real(std)
    c, s = direction(t, low_t, real)
    return fma(rs, c, real(mean)), fma(rs, s, real(mean))


# ---- 6. truncated normal -------------------------------------------------------------------------


def nearer_end(w: Array, low: Array, real: Any) -> tuple[Array, Array]:
    """(n, up): n is u, or 1 − u where up."""
    k = w.view(np.int32) >> 31
    n = (w.view(np.int32) ^ k).astype(real)
    if real is np.float32:
        return fma(n, real(2.0**-32), real(2.0**-33)), k != 0
    low = low ^ k.view(np.uint32)
    return fma(n, real(2.0**-32), (low.astype(real) + real(0.5)) * real(2.0**-64)), k != 0


def tail(big_l: Array) -> Array:
    """The normal quantile at upper tail probability exp(−L)."""
    real = big_l.dtype.type
    table = AS241_COARSE if real is np.float32 else AS241_FINE
    r = np.sqrt(big_l)
    near, far = r - real(1.6), r - real(5)
    return np.where(
        r <= real(5),
        horner(table["C"], near) / horner(table["D"], near),
        horner(table["E"], far) / horner(table["F"], far),
    )


def _narrow(w: Array, low: Array, c: Truncation, real: Any) -> Array:
    n = _signed(w ^ np.uint32(0x80000000), real)
    if real is np.float32:
        t = fma(n, real(2.0**-32), real(2.0**-33))
    else:
        t = fma(n, real(2.0**-32), (low.astype(real) + real(0.5)) * real(2.0**-64))
    return fma(horner(c.narrow(8 if real is np.float32 else 16), t), real(c.b - c.a), real(c.a))


def _central(w: Array, low: Array, c: Truncation, real: Any) -> Array:
    n, up = nearer_end(w, low, real)
    table = AS241_COARSE if real is np.float32 else AS241_FINE
    pa, qb, width, ha, hb = (real(v) for v in c.central())
    d = np.where(up, fma(-n, width, hb), fma(n, width, ha))
    r = fma(-d, d, real(0.180625))
    centre = d * horner(table["A"], r) / horner(table["B"], r)
    p = np.where(up == (d > 0), fma(n, width, np.where(up, qb, pa)), real(0.5) - np.abs(d))
    # The centre's p may be unfit for a logarithm; it is not used there.
    outer = tail(-log(np.where(np.abs(d) <= real(0.425), real(0.5), p)))
    z = np.where(np.abs(d) <= real(0.425), centre, np.where(d < 0, -outer, outer))
    return fma(z, real(c.std), real(c.mean))


def _conditional_log(w: Array, low: Array, c: Truncation, real: Any) -> Array:
    """log of the conditional tail probability, log(1 − u(1 − ρ))."""
    n, up = nearer_end(w, low, real)
    rho, omega = (real(v) for v in c.ratio())
    u1 = np.where(up, real(1) - n, n)
    v1 = np.where(up, n, real(1) - n)
    return log(fma(v1, omega, rho), -(u1 * omega))


def _tail_branch(w: Array, low: Array, c: Truncation, real: Any) -> Array:
    z = tail(real(c.log_q()) - _conditional_log(w, low, c, real))
    return fma(z, real(c.std), real(c.mean))


def _far(w: Array, low: Array, c: Truncation, real: Any) -> Array:
    t = -_conditional_log(w, low, c, real)
    far = c.far()
    c2 = real(far.c2)
    if real is np.float32:
        return (t * real(far.c1_scaled)) / (real(1) + np.sqrt(fma(c2, t, real(1)))) + real(c.a)
    d = (t * real(far.c1)) / (real(1) + np.sqrt(fma(c2, t, real(1))))
    y0 = np.full_like(t, 1 / (c.alpha * c.alpha))
    start, inverse = y0 * horner(M64, y0), 1 / c.alpha
    for _ in range(2):
        y = real(1) / ((c.alpha + d) * (c.alpha + d))
        log_part = log1(d * inverse) + (start - y * horner(M64, y))
        big_t = fma(d, fma(real(0.5), d, real(c.alpha)), log_part)
        d = d - (big_t - t) / fma(real(far.slope), d, real(far.rate))
    return fma(d, real(c.std), real(c.a))


def truncated_values(w: Array, low: Array, c: Truncation, real: Any) -> Array:
    """Computed values, before clamping, from the words."""
    if c.mirrored:
        w, low = ~w, ~low
    branch = {"NARROW": _narrow, "FAR": _far, "TAIL": _tail_branch, "CENTRAL": _central}[c.branch]
    with np.errstate(all="ignore"):
        return branch(w, low, c, real)


# ---- fills ---------------------------------------------------------------------------------------


def _uniform(index: Array, key: int, form: Format, a: float, b: float) -> Array:
    lo, hi = form.ceil(a) + 0.0, form.before(float(form.nearest(b))) + 0.0
    if a == b or lo > hi:
        return _constant(index.size, form, float(form.nearest(a)) + 0.0)
    if lo == hi:
        return _constant(index.size, form, lo)
    x = uniform_values(words(key, index), words(key, index, LOW), a, b, form.real)
    return finish(x, form, lo, hi)


def _normal(index: Array, key: int, form: Format, mean: float, std: float) -> Array:
    first = index & ~np.uint64(1)
    second = index | np.uint64(1)
    radii, angles = ((words(key, i), words(key, i, LOW)) for i in (first, second))
    pair = normal_values(*radii, *angles, mean, std, form.real)
    x = np.where(index & np.uint64(1) == 0, *pair)
    return finish(x, form, -form.largest, form.largest)


def _trunc_normal(
    index: Array, key: int, form: Format, mean: float, std: float, a: float, b: float
) -> Array:
    lo, hi = max(form.ceil(a), -form.largest) + 0.0, min(form.floor(b), form.largest) + 0.0
    if lo == hi:
        return _constant(index.size, form, lo)
    if lo > hi:
        return _constant(index.size, form, float(form.nearest(a)) + 0.0)
    if std == 0:
        value = float(form.nearest(min(max(mean, a), b))) + 0.0
        return _constant(index.size, form, min(max(value, lo), hi))
    c = truncation(mean, std, a, b)
    if c.degenerate:
        return _constant(index.size, form, hi if c.mirrored else lo)
    x = truncated_values(words(key, index), words(key, index, LOW), c, form.real)
    return finish(x, form, lo, hi)


_FILLS = {"uniform": _uniform, "normal": _normal, "trunc_normal": _trunc_normal}


def _indices(index: Any) -> Array:
    listed = np.arange(index) if isinstance(index, int) else index
    return np.asarray(listed, dtype=np.uint64)


def fill(dist: str, index: Any, key: int, dtype: str, *args: float) -> Array:
    """Bit patterns (unsigned, as wide as the type) that fastinit writes at elements `index`.

    Args:
        dist: "uniform" (a, b), "normal" (mean, std) or "trunc_normal" (mean, std, a, b).
        index: row-major indices, or a count n for 0 … n − 1.
        key: 64-bit key.
        dtype: a torch name. Complex types give a last axis of 2, real and imaginary parts.
        args: the arguments of the distribution.
    """
    index = _indices(index)
    values = [float(v) + 0.0 for v in args]  # −0 counts as +0
    if dtype.startswith("complex"):
        part = "float32" if dtype == "complex64" else "float64"
        real = index * np.uint64(2)
        parts = np.stack([real, real + np.uint64(1)], axis=-1)
        if dist == "normal":
            values[1] /= math.sqrt(2)
        flat = fill(dist, parts.ravel(), key, part, *values)
        return flat.reshape(parts.shape)
    return _FILLS[dist](index, key, FORMATS[dtype], *values)


def mask(index: Any, key: int) -> Array:
    """The words of `random_words_`."""
    return words(key, _indices(index), MASK)
