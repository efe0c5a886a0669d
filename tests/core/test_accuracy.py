"""Accuracy against real arithmetic (P7 of the design, and 1e-14 in float64).

Words come from the reference's Philox, which test_known_answers.py ties to fastinit; the words at
the seams of the transforms sit at known elements of key 0 (vectors/seam_elements.txt), so the
compiled code itself is measured there. All errors are against mpmath with 50 digits.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp
from support.exact_arithmetic import Array
from support.real_arithmetic import DIGITS, normal_pairs, truncation_errors, unit
from support.reference_stream import (
    LOW,
    direction,
    normal_values,
    radius,
    truncated_values,
    uniform_values,
    words,
)
from support.stream_cases import INF, TRUNCATIONS, filled, filled_shard
from support.truncation_constants import truncation

REALS = [("float32", np.float32), ("float64", np.float64)]
PROMISE = {"float32": 2e-6, "float64": 1e-14}
KEY = 2024

LISTED = [
    *((0.0, 1.0, a, b) for a, b in [(3.0, 5.0), (8.0, 9.0), (-6.0, 6.0), (0.0, INF), (20.0, INF)]),
    *((0.0, 1.0, a, b) for a, b in [(-1e-9, 2e-9), (1.5, 4.0), (-0.01, 0.02), (-2.0, 2.0)]),
    *((0.0, 1.0, a, b) for a, b in [(-INF, INF), (1.4, 6.0), (1.499, 1.66), (-5.0, -3.0)]),
    *((0.0, 1.0, a, b) for a, b in [(29.99, 30.0), (30.001, INF), (31.0, 31.01), (-INF, -40.0)]),
    *((0.0, 1.0, a, b) for a, b in [(0.0, 0.25), (-0.125, 0.125), (1e4, INF), (-INF, 1.499)]),
    *((-30.001, 1.0, 0.0, b) for b in (0.01, INF)),
    *((-29.9, 1.0, 0.0, b) for b in (0.01, INF)),
    *[(-100.0, 1.0, 0.0, 0.0024), (0.5, 3.0, -1.0, 2.0), (0.0, 0.02, -2.0, 2.0)],
    *[(-7.25, 0.125, -7.3, -7.0), (7.0, 3e-3, -1.0, 6.8), (1e3, 1.0, 998.0, 1002.0)],
]


@lru_cache(None)
def seams() -> tuple[Array, Array, Array]:
    """Words at seams and, for each, an even and an odd element of key 0 that has it."""
    path = Path(__file__).resolve().parents[1] / "vectors" / "seam_elements.txt"
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    table = np.array([[int(field, 16) for field in row] for row in rows], dtype=np.uint64)
    return table[:, 0].astype(np.uint32), table[:, 1], table[:, 2]


def at_elements(dist: str, index: Array, dtype: str, *args: float) -> Array:
    """Values that fastinit writes at single elements of key 0."""
    full = 2**40
    parts = [filled_shard(dist, full, int(i), 1, 0, dtype, *args) for i in index]
    return np.concatenate(parts).view(dtype)


def check(errors: Array, sizes: Array, x: Array, std: float, dtype: str, what: object) -> None:
    """P7: 2e-6 (float64: 1e-14) of std·max(1, |z|), and one unit in the last place of x."""
    spacing = np.spacing(np.abs(x)).astype(float) / std
    excess = (errors - spacing) / np.maximum(1.0, sizes)
    worst = int(np.argmax(excess))
    assert excess[worst] <= PROMISE[dtype], (what, float(excess[worst]), float(x[worst]))


def low_words(index: Array, key: int, dtype: str) -> Array | None:
    return words(key, index, LOW) if dtype == "float64" else None


def units(w: Array, low: Array | None) -> list[object]:
    with mp.workdps(DIGITS):
        return [unit(int(w[i]), None if low is None else int(low[i])) for i in range(w.size)]


def test_the_seams_are_where_the_file_says() -> None:
    word, even, odd = seams()
    assert {0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**29, 3 * 2**29} <= set(word.tolist())
    assert not np.any(even % np.uint64(2)) and np.all(odd % np.uint64(2))
    assert np.array_equal(words(0, even), word) and np.array_equal(words(0, odd), word)


# ---- uniform -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, real", REALS)
@pytest.mark.parametrize("a, b", [(0.0, 1.0), (-0.5, 0.5), (-0.3, 0.7), (0.0, 1e-3), (2.0, 5.0)])
def test_uniform(a: float, b: float, dtype: str, real: type) -> None:
    def errors(x: Array, w: Array, low: Array) -> Array:
        out = np.empty(x.size)
        with mp.workdps(DIGITS):
            for i in range(x.size):
                if real is np.float32:
                    u = mp.mpf(int(w[i]) >> 8) / 2**24
                else:
                    u = mp.mpf((int(w[i]) << 21) + (int(low[i]) >> 11)) / mp.mpf(2) ** 53
                out[i] = abs(mp.mpf(float(x[i])) - (a + u * (mp.mpf(b) - mp.mpf(a))))
        return out

    def hold(x: Array, w: Array, low: Array) -> None:
        # One unit in the last place of the largest term: a itself is rounded too.
        allowed = PROMISE[dtype] * (b - a) / 12**0.5
        allowed = allowed + np.spacing(np.maximum(np.abs(x), real(abs(a)))).astype(float)
        assert np.all(errors(x, w, low) <= allowed)

    index = np.arange(4000, dtype=np.uint64)
    x = filled("uniform", index.size, KEY, dtype, a, b).view(dtype)
    hold(x, words(KEY, index), words(KEY, index, LOW))
    word, even, _ = seams()
    hold(at_elements("uniform", even, dtype, a, b), word, words(0, even, LOW))
    # The low words' ends, by the reference, which agrees with fastinit on all others.
    for end in (0, 2**32 - 1):
        low = np.full(word.size, end, dtype=np.uint32)
        hold(uniform_values(word, low, a, b, real), word, low)


# ---- normal ------------------------------------------------------------------------------------


def normal_errors(
    pair: tuple[Array, Array], w: Array, t: Array, low_w: Array | None, low_t: Array | None
) -> tuple[Array, Array, Array]:
    x = np.concatenate(pair)
    with mp.workdps(DIGITS):
        z = [v for half in normal_pairs(w, t, low_w, low_t) for v in half]
        errors = np.array([float(abs(mp.mpf(float(x[i])) - z[i])) for i in range(x.size)])
    return errors, np.abs(np.array(z, dtype=float)), x


@pytest.mark.parametrize("dtype, real", REALS)
def test_normal(dtype: str, real: type) -> None:
    index = np.arange(60_000, dtype=np.uint64)
    radii, angles = index[::2], index[1::2]
    x = filled("normal", index.size, KEY, dtype, 0.0, 1.0).view(dtype)
    w, t = words(KEY, radii), words(KEY, angles)
    lows = low_words(radii, KEY, dtype), low_words(angles, KEY, dtype)
    errors, sizes, values = normal_errors((x[::2], x[1::2]), w, t, *lows)
    check(errors, sizes, values, 1.0, dtype, "sample")


@pytest.mark.parametrize("dtype, real", REALS)
def test_normal_at_seams(dtype: str, real: type) -> None:
    word, even, odd = seams()
    for start in (even, odd - np.uint64(1)):  # a seam as radius word, then as angle word
        pair = [at_elements("normal", start + np.uint64(k), dtype, 0.0, 1.0) for k in (0, 1)]
        w, t = words(0, start), words(0, start + np.uint64(1))
        assert np.array_equal(w if start is even else t, word)
        lows = low_words(start, 0, dtype), low_words(start + np.uint64(1), 0, dtype)
        errors, sizes, values = normal_errors((pair[0], pair[1]), w, t, *lows)
        check(errors, sizes, values, 1.0, dtype, "seams")
    # Every seam with every other, and the ends of the low words: by the reference.
    w, t = (grid.ravel().copy() for grid in np.meshgrid(word[::3], word[1::3]))
    for ends in [(0, 0), (2**32 - 1, 2**32 - 1)]:
        low_w, low_t = (np.full(w.size, end, dtype=np.uint32) for end in ends)
        got = normal_values(w, low_w, t, low_t, 0.0, 1.0, real)
        given = (low_w, low_t) if dtype == "float64" else (None, None)
        errors, sizes, values = normal_errors(got, w, t, *given)
        check(errors, sizes, values, 1.0, dtype, "seam pairs")


def test_radius_and_direction() -> None:
    """Each within 5e-7 relative, on samples and seams; `make exhaustive` takes all 2**32 words."""
    word = np.concatenate([seams()[0], words(KEY, np.arange(1_000_000))])
    n = word.astype(np.int64).astype(np.longdouble)
    # log1p from the nearer end keeps small radii exact; long double rounds at 5e-20 or finer
    assert np.finfo(np.longdouble).eps < 1e-15
    below = (n - 2**32 + 0.5) / 2**32
    u = (n + 0.5) / 2**32
    with np.errstate(divide="ignore"):
        exact = np.sqrt(-2 * np.where(n < 2**31, np.log(u), np.log1p(below)))
    unused = np.zeros_like(word)
    assert np.max(np.abs(radius(word, unused, np.float32) / exact - 1)) <= 5e-7
    quarter = np.longdouble("1.5707963267948966192313216916397514")
    angle = (n * 4 / 2**32) % 4
    whole = np.floor(angle + 0.5)
    c, s = np.cos((angle - whole) * quarter), np.sin((angle - whole) * quarter)
    k = whole.astype(int) % 4
    cosine, sine = np.choose(k, [c, -s, -c, s]), np.choose(k, [s, c, -s, -c])
    got_c, got_s = direction(word, unused, np.float32)
    assert np.max(np.hypot(got_c - cosine, got_s - sine)) <= 5e-7
    # The pairs that fastinit writes: length and direction once more, through its own rounding.
    x = filled("normal", 2_000_000, KEY, "float32", 0.0, 1.0).view(np.float32)
    first, second = x[::2].astype(np.float64), x[1::2].astype(np.float64)
    index = np.arange(0, 2_000_000, 2)
    w, t = words(KEY, index).astype(np.float64), words(KEY, index + 1).astype(np.float64)
    w = np.where(w < 2**31, np.log((w + 0.5) / 2**32), np.log1p((w - 2**32 + 0.5) / 2**32))
    r, theta = np.sqrt(-2 * w), t * (2 * np.pi / 2**32)
    assert np.max(np.abs(np.hypot(first, second) / r - 1)) <= 5e-7
    across = second * np.cos(theta) - first * np.sin(theta)
    assert np.max(np.abs(across) / r) <= 5e-7


# ---- truncated normal ----------------------------------------------------------------------------


def hold_truncation(
    x: Array, w: Array, low: Array | None, args: tuple[float, ...], dtype: str, what: str
) -> None:
    mean, std, a, b = args
    errors, sizes = truncation_errors(x, units(w, low), mean, std, a, b)
    if truncation(*args).branch != "NARROW":
        check(errors, sizes, x, std, dtype, (what, args))
        return
    # Narrow intervals promise more: the error is measured against their width.
    allowed = PROMISE[dtype] * (b - a) / std + np.spacing(np.abs(x)).astype(float) / std
    assert np.all(errors <= allowed), (what, args, float(np.max(errors)))


@pytest.mark.parametrize("dtype, real", REALS)
@pytest.mark.parametrize("args", LISTED)
def test_trunc_normal(args: tuple[float, ...], dtype: str, real: type) -> None:
    n = 1000
    index = np.arange(n, dtype=np.uint64)
    x = filled("trunc_normal", n, KEY, dtype, *args).view(dtype)
    hold_truncation(x, words(KEY, index), low_words(index, KEY, dtype), args, dtype, "sample")
    word, even, _ = seams()
    x = at_elements("trunc_normal", even, dtype, *args)
    hold_truncation(x, word, low_words(even, 0, dtype), args, dtype, "seams")


@pytest.mark.parametrize("args", [case for cases in TRUNCATIONS.values() for case in cases[:3]])
def test_float64_low_word_ends(args: tuple[float, ...]) -> None:
    """By the reference, which agrees with fastinit on all other words."""
    word = seams()[0][::4]
    for end in (0, 2**32 - 1):
        low = np.full(word.size, end, dtype=np.uint32)
        x = truncated_values(word, low, truncation(*args), np.float64)
        x = np.clip(x, args[2], args[3])
        hold_truncation(x, word, low, args, "float64", "low ends")
