"""Defects planted in samples, and the checks of tests/ that have to see them.

Each defect is a sampler, of fastinit's own values spoilt, or of a faulty transform of its words,
fed to the functions that the tests feed with fastinit. tools/mutants.py runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy import special
from support import cell_checks as cells
from support import sample_checks as checks
from support import statistics_helpers as st
from support import word_checks
from support.sample_checks import Interval, Sampler, stream
from support.statistics_helpers import Array, Report
from support.stream_cases import filled_shard

Findings = Iterator[tuple[str, Report]]  # name of a check and what it reports, cheapest first
KEY = 0x5EED
KEYS = range(2**14)

# ---- normal --------------------------------------------------------------------------------------

Pair = tuple[Array, Array]


def _box_muller(change: Callable[[Array, Array], Pair]) -> Sampler:
    """Box-Muller in float64 on words 2k and 2k + 1, after `change` has had them as units."""

    def draw(first: int, count: int) -> Array:
        words = filled_shard("words", 2**60, first, count, KEY, "int32").reshape(-1, 2)
        u, turn = change(words[:, 0], words[:, 1])
        radius, angle = np.sqrt(-2 * np.log(u)), 2 * math.pi * turn
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel().astype("f4")

    return draw


def _unit(words: Array, bits: int = 32) -> Array:
    return ((words >> np.uint32(32 - bits)) + 0.5) / 2.0**bits


def _spoilt(change: Callable[[Array, int], Array]) -> Sampler:
    """fastinit's normals; `change` has the values and the index of the first."""
    normal = stream("normal", 0.0, 1.0, key=KEY)
    return lambda first, count: change(normal(first, count), first).astype(np.float32)


def _again(period: int) -> Sampler:
    normal = stream("normal", 0.0, 1.0, key=KEY)
    memory = normal(0, period)
    return lambda first, count: memory[np.arange(first, first + count) % period]


def _alternating(x: Array, first: int) -> Array:
    return np.abs(x) * np.where((np.arange(x.size) + first) % 2, 1, -1)


def _volatile(x: Array, first: int) -> Array:
    """Every twentieth stretch of 64 has the sizes of the next one: each value is still normal."""
    later = stream("normal", 0.0, 1.0, key=KEY)(first + 64, x.size)
    take = (np.arange(x.size) + first) // 64 % 20 == 0
    return np.where(take, np.sign(x) * np.abs(later), x)


def _copied_lane(x: Array, first: int) -> Array:
    blocks = x.reshape(-1, 4).copy()
    blocks[::2, 2] = np.sign(blocks[::2, 2]) * np.abs(blocks[::2, 0])
    return blocks.ravel()


def _negated_chunks(x: Array, first: int) -> Array:
    """Of every sixteen chunks of 16384, the last repeats the first with its sign turned."""
    chunk = 16384
    normal = stream("normal", 0.0, 1.0, key=KEY)
    index = np.arange(first, first + x.size)
    late = index // chunk % 16 == 15
    if not late.any():
        return x
    source = normal(max(0, first - 15 * chunk), x.size + min(first, 15 * chunk))
    return np.where(late, -source[index - 15 * chunk - max(0, first - 15 * chunk)], x)


NORMAL: dict[str, Sampler] = {
    "radius of 16 bits": _box_muller(lambda w, t: (_unit(w, 16), _unit(t))),
    "radius of 24 bits": _box_muller(lambda w, t: (_unit(w, 24), _unit(t))),
    "angle of 12 bits": _box_muller(lambda w, t: (_unit(w), _unit(t, 12))),
    "angle of 20 bits": _box_muller(lambda w, t: (_unit(w), _unit(t, 20))),
    "one word for radius and angle": _box_muller(lambda w, t: (_unit(w), _unit(w))),
    "angle a hash of the radius": _box_muller(
        lambda w, t: (_unit(w), _unit(w * np.uint32(2654435761)))
    ),
    "one radius for both pairs of a block": _box_muller(
        lambda w, t: (np.repeat(_unit(w)[::2], 2), _unit(t))
    ),
    "words of neighbouring blocks overlap": _box_muller(
        lambda w, t: (_unit(w), np.r_[_unit(t)[:1], _unit(w)[:-1]])
    ),
    "clipped at 4σ": _spoilt(lambda x, first: np.clip(x, -4, 4)),
    "nothing beyond 5.5σ": _spoilt(lambda x, first: np.where(np.abs(x) > 5.5, x / 2, x)),
    "standard deviation off by 5e-4": _spoilt(lambda x, first: x * (1 + 5e-4)),
    "mean off by 5e-4": _spoilt(lambda x, first: x + np.float32(5e-4)),
    "skewed by 5e-4": _spoilt(lambda x, first: x + 5e-4 * (x * x - 1)),
    "alternating signs": _spoilt(_alternating),
    "every value twice, far apart": _again(2**20),
    "every value twice, side by side": _spoilt(lambda x, first: np.repeat(x[::2], 2)),
    "one place of a block copies a size": _spoilt(_copied_lane),
    "one size in twenty from 64 on": _spoilt(_volatile),
    "one chunk in sixteen repeats another, negated": _spoilt(_negated_chunks),
    "one value in 10⁵ is zero": _spoilt(
        lambda x, first: np.where((np.arange(x.size) + first) % 100003 == 7, 0, x)
    ),
}


def _normal(draw: Sampler) -> Findings:
    for name, check in checks.NORMAL_CHECKS.items():
        yield f"test_normal[{name}]", check(draw)


# ---- uniform -------------------------------------------------------------------------------------


def _uniform_of(change: Callable[[Array, int], Array]) -> Sampler:
    uniform = stream("uniform", 0.0, 1.0, key=KEY)
    return lambda first, count: change(uniform(first, count), first).astype(np.float32)


def _grid(u: Array, bits: int) -> Array:
    return np.floor(u * 2.0**bits) / 2.0**bits


UNIFORM: dict[str, Sampler] = {
    "16 bits": _uniform_of(lambda u, first: _grid(u, 16)),
    "23 bits": _uniform_of(lambda u, first: _grid(u, 23)),
    "includes 1": _uniform_of(lambda u, first: u + np.float32(2.0**-24)),
    "mean off by 5e-4": _uniform_of(lambda u, first: _grid(u * (1 - 1e-3), 24) + 2.0**-10),
    "second of a pair mirrors the first": _uniform_of(
        lambda u, first: np.stack([u[::2], (1 - 2.0**-24) - u[::2]], 1).ravel()
    ),
    "too even": _uniform_of(
        lambda u, first: _grid((np.arange(u.size) + first) * 0.6180339887498949 % 1.0, 24)
    ),
    "a byte copied": _uniform_of(
        lambda u, first: (np.floor(u * 2**24) // 2**8 * 2**8 + np.floor(u * 2**8)) / 2.0**24
    ),
    "nothing below 2⁻²⁰": _uniform_of(lambda u, first: np.where(u < 2.0**-20, u + 2.0**-20, u)),
}


def _uniform(draw: Sampler) -> Findings:
    for name, check in checks.UNIFORM_CHECKS.items():
        yield f"test_uniform[{name}]", check(draw)


# ---- truncated normal ----------------------------------------------------------------------------


def _naive(case: Interval) -> Sampler:
    """Φ⁻¹ of a uniform between Φ(α) and Φ(β), in float32."""
    mean, std, a, b = case
    low, high = (np.float32(special.ndtr((x - mean) / std)) for x in (a, b))

    def draw(first: int, count: int) -> Array:
        u = stream("uniform", 0.0, 1.0, key=KEY)(first, count)
        z = special.ndtri(low + u * (high - low)).astype(np.float32)
        return np.clip(np.float32(mean) + np.float32(std) * z, a, b).astype(np.float32)

    return draw


def _changed(case: Interval, change: Callable[[Array], Array]) -> Sampler:
    good = stream("trunc_normal", *case, key=KEY)
    return lambda first, count: change(good(first, count)).astype(np.float32)


NARROW: Interval = (0.0, 1.0, 0.0, 0.2)
USUAL: Interval = (0.0, 1.0, -2.0, 2.0)
TAIL: Interval = (0.0, 1.0, 3.0, 5.0)
TRUNCATED: dict[str, tuple[Sampler, Interval]] = {
    "naive interpolation of Φ on (8, 9)": (_naive((0.0, 1.0, 8.0, 9.0)), (0.0, 1.0, 8.0, 9.0)),
    "naive interpolation of Φ on (4.5, 6)": (_naive((0.0, 1.0, 4.5, 6.0)), (0.0, 1.0, 4.5, 6.0)),
    "naive interpolation of Φ on (−1e-9, 2e-9)": (
        _naive((0.0, 1.0, -1e-9, 2e-9)), (0.0, 1.0, -1e-9, 2e-9),
    ),
    "uniform on a narrow interval": (stream("uniform", 0.0, 0.2, key=KEY), NARROW),
    "normals clamped to the bounds": (
        lambda first, count: np.clip(stream("normal", 0.0, 1.0, key=KEY)(first, count), -2, 2),
        USUAL,
    ),
    "tail the wrong way round": (_changed(TAIL, lambda x: 8 - x), TAIL),
    "scaled by 1 − 5e-4": (_changed(USUAL, lambda x: x * (1 - 5e-4)), USUAL),
    "exponential instead of a far tail": (
        lambda first, count: 20
        - np.log1p(-stream("uniform", 0.0, 1.0, key=KEY)(first, count)) / np.float32(20.05),
        (0.0, 1.0, 20.0, math.inf),
    ),
}  # fmt: skip


def _truncated(draw: Sampler, case: Interval) -> Findings:
    for name, check in checks.TRUNCATED_CHECKS.items():
        yield f"test_truncated_normal[{name}]", check(draw, case)


# ---- small types ---------------------------------------------------------------------------------

Rounding = Callable[[Array], torch.Tensor]


def _patterns(rounded: torch.Tensor) -> Array:
    return rounded.view(torch.uint8 if rounded.element_size() == 1 else torch.uint16).numpy()


def _toward_zero(dtype: torch.dtype) -> Rounding:
    drop = {torch.bfloat16: 16, torch.float8_e5m2: 21, torch.float8_e4m3fn: 20}[dtype]
    return lambda x: torch.from_numpy((x.view(np.int32) >> drop << drop).view("f4")).to(dtype)


def _flushed(dtype: torch.dtype) -> Rounding:
    least = torch.finfo(dtype).smallest_normal
    return lambda x: torch.from_numpy(np.where(np.abs(x) < least, x * 0, x)).to(dtype)


def _small(dist: str, args: tuple[float, ...], rounding: Rounding) -> Sampler:
    wide = stream(dist, *args, key=KEY)
    return lambda first, count: _patterns(rounding(wide(first, count)))


UNIT, NORM, FINE = (0.0, 1.0), (0.0, 1.0), (0.0, 0.02)
SMALL: dict[str, tuple[str, str, tuple[float, ...], Rounding]] = {
    "bfloat16 cut off instead of rounded": (
        "normal", "bfloat16", NORM, _toward_zero(torch.bfloat16)),
    "float8_e4m3fn cut off instead of rounded": (
        "uniform", "float8_e4m3fn", (-0.3, 0.7), _toward_zero(torch.float8_e4m3fn)),
    "bfloat16 uniform returns b": (
        "uniform", "bfloat16", UNIT, lambda x: torch.from_numpy(x).bfloat16()),
    "float16 flushes subnormals": ("normal", "float16", FINE, _flushed(torch.float16)),
    "float8_e4m3fn flushes subnormals": (
        "normal", "float8_e4m3fn", FINE, _flushed(torch.float8_e4m3fn)),
    "float8_e4m3fn by way of float8_e5m2": (
        "normal", "float8_e4m3fn", NORM,
        lambda x: torch.from_numpy(x).to(torch.float8_e5m2).to(torch.float8_e4m3fn)),
    "no −0": ("normal", "float8_e4m3fn", FINE,
              lambda x: (torch.from_numpy(x).to(torch.float8_e4m3fn).float() + 0.0)
              .to(torch.float8_e4m3fn)),
    "bfloat16 uniform of 8 bits": (
        "uniform", "bfloat16", UNIT,
        lambda x: torch.from_numpy(np.floor(x * 256) / 256).bfloat16()),
}  # fmt: skip


def _exact(dist: str, dtype: str, args: tuple[float, ...], rounding: Rounding) -> Findings:
    expected = (
        cells.uniform_probabilities(dtype, args[0], args[1])
        if dist == "uniform"
        else cells.normal_probabilities(dtype, args[0], args[1])
    )
    report = cells.exact_probabilities(_small(dist, args, rounding), expected)
    yield f"test_exact_{dist}_probabilities", report


# ---- float64 -------------------------------------------------------------------------------------


def _wide(change: Callable[[Array, Array], Array]) -> Sampler:
    """float64 uniforms of words and low words (in [0, 1)), as `change` puts them together."""

    def draw(first: int, count: int) -> Array:
        high, low = word_checks.value_and_low_words(KEY, count)
        return change(high.astype(np.float64), low.astype(np.float64) / 2.0**21)

    return draw


CELLS: dict[str, Sampler] = {
    "low words all zero": _wide(lambda w, r: w / 2.0**32),
    "low words equal to the words": _wide(lambda w, r: (w + w / 2.0**32) / 2.0**32),
    "low words of 4 bits": _wide(
        lambda w, r: (np.floor(w / 2**8) + np.floor(r * 16) / 16) / 2.0**24
    ),
    "centred on the float32 value": _wide(lambda w, r: (w + r) / 2.0**32 - 2.0**-25),
    "words of another key": stream("uniform", 0.0, 1.0, key=KEY + 1, dtype="float64"),
}


def _uniform_cells(draw: Sampler) -> Findings:
    narrow = stream("uniform", 0.0, 1.0, key=KEY)
    yield "test_uniform_cells", cells.uniform_cells(draw, narrow)


def _promoted(first: int, count: int) -> Array:
    return stream("normal", 0.0, 1.0, key=KEY)(first, count).astype(np.float64)


def _normal_cells(draw: Sampler) -> Findings:
    yield "test_normal_cells", cells.normal_cells(draw, KEY)


def _few(change: Callable[[Array], Array]) -> Findings:
    case = (0.0, 1.0, 1.0, 1.0 + 2.0**-20)
    yield "test_intervals_of_few_values", cells.few_values(_changed(case, change), case)


# ---- words and keys ------------------------------------------------------------------------------


def _pair_of_words(other: Callable[[Array], Array]) -> Findings:
    words = word_checks.mask_words(KEY)
    yield "test_related_keys_are_unrelated", word_checks.two_streams(words, other(words))


def _one_stream(change: Callable[[Array], Array]) -> Findings:
    yield "test_value_words", word_checks.one_stream(change(word_checks.mask_words(KEY)))


def _normals_of(key_of: Callable[[int], tuple[int, int]]) -> Findings:
    """Key k reads the stream of the key and from the element that `key_of` gives."""

    def draw(keys: Sequence[int], count: int) -> Array:
        rows = [key_of(k) for k in keys]
        return np.stack([stream("normal", 0.0, 1.0, key=key)(at, count) for key, at in rows])

    yield "test_many_keys", word_checks.across_keys(draw, KEYS)


def _common_block() -> Findings:
    streams = [word_checks.mask_words(k, 2**16) for k in range(4)]
    streams[3][2**15 : 2**15 + 4] = streams[0][:4]
    yield "test_streams_share_no_block", word_checks.no_common_block(streams)


DEFECTS: dict[str, Callable[[], Findings]] = {
    **{f"normal: {name}": (lambda d=draw: _normal(d)) for name, draw in NORMAL.items()},
    **{f"uniform: {name}": (lambda d=draw: _uniform(d)) for name, draw in UNIFORM.items()},
    **{
        f"truncated normal: {name}": (lambda d=both: _truncated(*d))
        for name, both in TRUNCATED.items()
    },
    **{f"small type: {name}": (lambda d=what: _exact(*d)) for name, what in SMALL.items()},
    **{f"float64: {name}": (lambda d=draw: _uniform_cells(d)) for name, draw in CELLS.items()},
    "float64: normals made of float32 ones": lambda: _normal_cells(_promoted),
    "float64: normals of another key": lambda: _normal_cells(
        stream("normal", 0.0, 1.0, key=KEY + 1, dtype="float64")
    ),
    "few values: rounded down": lambda: _few(
        lambda x: np.maximum(np.nextafter(x, np.float32(0)), 1)
    ),
    "words: equal one time in 2¹⁴": lambda: _pair_of_words(
        lambda w: np.where(np.arange(w.size) % 2**14 == 0, w, word_checks.mask_words(KEY + 1))
    ),
    "words: xor with a constant": lambda: _pair_of_words(lambda w: w ^ np.uint32(0x9E3779B9)),
    "words: shifted by one block": lambda: _pair_of_words(lambda w: np.roll(w, -4)),
    "words: byte-swapped": lambda: _pair_of_words(lambda w: w.byteswap()),
    "words: one bit biased by 1 %": lambda: _one_stream(
        lambda w: w | ((np.arange(w.size) % 100 == 0).astype(np.uint32) << np.uint32(13))
    ),
    "words: none occurs twice": lambda: _one_stream(
        lambda w: np.arange(w.size, dtype=np.uint32) * np.uint32(2654435761)
    ),
    "keys: the high word ignored": lambda: _normals_of(lambda k: (k // 2, 0)),
    "keys: key + 1 is one block on": lambda: _normals_of(lambda k: (KEY, 4 * k)),
    "keys: a block of one stream in another": _common_block,
}  # fmt: skip

CONTROLS: dict[str, Callable[[], Findings]] = {
    "normal": lambda: _cheap(_box_muller(lambda w, t: (_unit(w), _unit(t)))),
    "words": lambda: _pair_of_words(lambda w: word_checks.mask_words(KEY + 1)),
    "one stream": lambda: _one_stream(lambda w: w),
    "keys": lambda: _normals_of(lambda k: (k, 0)),
}


def _cheap(draw: Sampler) -> Findings:
    for name, check in checks.NORMAL_CHECKS.items():
        if name not in ("moments", "tail counts"):
            yield name, check(draw)


def first_rejection(findings: Findings) -> tuple[str, str, float] | None:
    """The first check that rejects: its name, the statistic and the p-value."""
    for name, report in findings:
        bad = st.rejected(report)
        if bad:
            worst = min(bad, key=lambda what: bad[what])
            return name, worst, bad[worst]
    return None
