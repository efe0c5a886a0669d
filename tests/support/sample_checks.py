"""What the samples of each distribution have to pass, as functions of a sampler.

A sampler is called with (first, count) and returns elements first … first + count − 1 of a stream.
tests/ hands in fastinit's; tools/sample_defects.py hands in spoilt ones, which must fail.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import special, stats

from support import statistics_helpers as st
from support.statistics_helpers import Array, Report
from support.stream_cases import filled_shard

Sampler = Callable[[int, int], Array]
Check = Callable[[Sampler], Report]

# Small enough for a second-level cache, and for the fill to stay on the thread that asks.
CHUNK = 3 * 2**14
TAIL_DRAWS = 5 * 10**9
MOMENT_DRAWS = 2**28
LAGS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 1024, 4096, 16384, 32768, 65536, 262144)


def stream(dist: str, *args: float, key: int, dtype: str = "float32") -> Sampler:
    """Elements of one very large tensor: floats of the type, or bit patterns of small types."""
    kind = {"float32": np.float32, "float64": np.float64}.get(dtype)

    def draw(first: int, count: int) -> Array:
        found = filled_shard(dist, 2**60, first, count, key, dtype, *args)
        return found if kind is None else found.view(kind)

    return draw


def _map_chunks(
    total: int, body: Callable[[int, int], Array], join: Callable[[list[Array]], Array]
) -> Array:
    """body(first, count) over consecutive chunks, on all processors; `join` takes a few at once."""
    run = 32 * CHUNK

    def work(start: int) -> Array:
        end = min(total, start + run)
        return join([body(k, min(CHUNK, end - k)) for k in range(start, end, CHUNK)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return join(list(pool.map(work, range(0, total, run))))


def sum_over(total: int, body: Callable[[int, int], Array]) -> Array:
    return _map_chunks(total, body, lambda parts: np.sum(parts, axis=0))


def collect_over(total: int, body: Callable[[int, int], Array]) -> Array:
    return _map_chunks(total, body, np.concatenate)


def _power_sums(x: Array) -> Array:
    power = x.copy()
    sums = np.empty(4)
    for k in range(4):
        sums[k] = power.sum()
        power *= x
    return sums


def moments(draw: Sampler, raw: list[float], total: int, shift: float, scale: float) -> Report:
    """Four moments of (x − shift)/scale; `raw` holds the first eight of its distribution."""
    sums = sum_over(
        total, lambda first, n: _power_sums((draw(first, n).astype(np.float64) - shift) / scale)
    )
    return st.moments(total, sums, raw)


# ---- normal --------------------------------------------------------------------------------------

NORMAL_RAW = [0.0, 1.0, 0.0, 3.0, 0.0, 15.0, 0.0, 105.0]


def normal_ks(draw: Sampler) -> Report:
    return {"KS": st.ks(draw(0, 2**21), special.ndtr)}


def normal_moments(draw: Sampler) -> Report:
    return moments(draw, NORMAL_RAW, MOMENT_DRAWS, 0.0, 1.0)


def normal_tails(draw: Sampler, total: int = TAIL_DRAWS) -> Report:
    """Poisson counts beyond 4.5 … 6σ on either side, and the shape of what lies beyond 4.5σ."""

    def extremes(first: int, count: int) -> Array:
        x = draw(first, count)
        found = [x[:0]]
        if x.max() > 4.5:
            found.append(x[x > 4.5])
        if x.min() < -4.5:
            found.append(x[x < -4.5])
        return np.concatenate(found).astype(np.float64)

    z = collect_over(total, extremes)
    report = {}
    for t in (4.5, 5.0, 5.5, 5.75, 6.0):
        expected = total * float(special.ndtr(-t))
        report[f"above {t}σ"] = st.poisson(int((z > t).sum()), expected)
        report[f"below −{t}σ"] = st.poisson(int((z < -t).sum()), expected)
    beyond = st.truncated_cdf(0.0, 1.0, 4.5, math.inf)
    report["shape of the upper tail"] = st.ks(z[z > 0], beyond) if (z > 0).any() else 0.0
    report["shape of the lower tail"] = st.ks(-z[z < 0], beyond) if (z < 0).any() else 0.0
    return report


def normal_lags(draw: Sampler) -> Report:
    return st.lags(draw(0, 2**24), LAGS)


def normal_blocks(draw: Sampler) -> Report:
    return st.within_blocks(draw(0, 2**24))


def normal_patterns(draw: Sampler) -> Report:
    x = draw(0, 3 * 2**22)
    median = float(special.ndtri(0.75))  # of |x|
    report = st.patterns(x > 0, "signs") | st.patterns(np.abs(x) > median, "sizes")
    # The same at a distance: one lane of a vector, one chunk of a thread.
    for lag in (8, 64, 16384):
        columns = x[: x.size // (4 * lag) * 4 * lag].reshape(-1, 4, lag).swapaxes(1, 2)
        report |= st.patterns((columns > 0).reshape(-1), f"signs {lag} apart")
    return report


def normal_radius_and_angle(draw: Sampler) -> Report:
    """Undoes Box-Muller: both words should be uniform, fine-grained and independent."""
    pairs = draw(0, 2**22).astype(np.float64).reshape(-1, 2)
    x, y = pairs[:, 0], pairs[:, 1]
    square = x * x + y * y
    u, rest = np.exp(-square / 2), -np.expm1(-square / 2)
    turn = np.arctan2(y, x) / (2 * math.pi) % 1.0
    cell = (u * 256).astype(np.int64).clip(0, 255) * 256 + (turn * 256).astype(np.int64) % 256
    report = {
        "radius": st.ks_unit(u),
        "angle": st.ks_unit(turn),
        "radius and angle": st.equal_cells(cell, 1 << 16),
    }
    # Position inside the cells of ever finer grids, where float32 can tell: a word of fewer bits
    # sits at the same place of every cell.
    quarter = np.abs(turn * 4 - np.round(turn * 4)) / 4
    known = {
        "radius": (u, 1e-6 * u * square),
        "radius from its other end": (rest, 1e-6 * rest + 1e-16),
        "angle": (turn, 1e-6 * quarter + 1e-16),
    }
    for name, (value, error) in known.items():
        for bits in range(8, 25, 2):
            inside = value[error * 2.0**bits < 0.05] * 2.0**bits % 1.0
            if inside.size >= 1024:
                report[f"{name}: place in cells of 2^−{bits}"] = st.equal_cells(
                    (inside * 32).astype(np.int64), 32
                )
    return report


def normal_repeats(draw: Sampler) -> Report:
    """Equal draws among 2²²: as many as rounding a normal density to float32 makes."""
    n = 2**22
    second = third = largest = 0.0  # Σp², Σp³ and max p over the values of float32
    for e in range(-40, 3):
        place, ends = 2.0 ** (e - 23), np.array([2.0**e, 2.0 ** (e + 1)])
        largest = max(largest, place * float(stats.norm.pdf(ends[0])))
        # ∫ φ² and ∫ φ³ over the binade, times the spacing of its values once and twice
        parts = [float(np.diff(special.ndtr(math.sqrt(k) * ends))[0]) for k in (2, 3)]
        second += 2 * parts[0] / math.sqrt(4 * math.pi) * place
        third += 2 * parts[1] / (2 * math.pi * math.sqrt(3)) * place**2
    mean = n * (n - 1) / 2 * second
    variance = mean * (1 - second) + n * (n - 1.0) * (n - 2.0) * (third - second**2)
    x = draw(0, n)
    z = (st.repeats(x) - mean) / math.sqrt(variance)
    # Both normals of two words, as one number: these have almost as many values as the words.
    twice = st.repeats(np.ascontiguousarray(x).view(np.uint64))
    # No value much more often than the most likely one: bounded by a sum over all values.
    most = stats.poisson(n * largest).sf(st.most_frequent(x) - 1) * 2.0**27
    return {
        "equal values": st.normal_p(z),
        "equal pairs": st.poisson(twice, n / 2 * (n / 2 - 1) / 2 * second**2),
        "most frequent value": min(1.0, float(most)),
    }


NORMAL_CHECKS: dict[str, Check] = {
    "KS": normal_ks,
    "patterns of signs and sizes": normal_patterns,
    "radius and angle": normal_radius_and_angle,
    "repeated values": normal_repeats,
    "inside a block": normal_blocks,
    "lags": normal_lags,
    "moments": normal_moments,
    "tail counts": normal_tails,
}

# ---- uniform -------------------------------------------------------------------------------------

UNIFORM_RAW = [1.0 / (k + 1) for k in range(1, 9)]


def uniform_ks(draw: Sampler) -> Report:
    return {"KS": st.ks_unit(draw(0, 2**21))}


def uniform_bits(draw: Sampler) -> Report:
    """All 24 bits: values of bytes, equal values, bits against bits, also further on."""
    size = 2**21
    x = draw(0, size + 2**14).astype(np.float64) * 2.0**24
    words = x.astype(np.uint32)
    if not np.array_equal(words, x) or words.max() >= 2**24:
        return {"multiples of 2^−24 below 1": 0.0}
    report = st.words_alone(words[:size], "bits", 24)
    for lag in (1, 2, 3, 4, 8, 32, 2**14):
        ahead = words[lag : lag + size]
        report |= st.bit_correlations(words[:size], ahead, f"lag {lag}", (24, 24))
    return report


def uniform_moments(draw: Sampler) -> Report:
    return moments(draw, UNIFORM_RAW, 5 * 10**7, 0.0, 1.0)


def uniform_ends(draw: Sampler) -> Report:
    """Poisson counts near 0 and near 1, down to the last value of float32; never 1 itself."""
    total = 2**28

    def ends(first: int, count: int) -> Array:
        x = draw(first, count)
        return np.concatenate([x[x < 2.0**-10], x[x >= 1 - 2.0**-10]])

    x = collect_over(total, ends)
    report = {"within [0, 1)": float(x.min() >= 0 and x.max() < 1)}
    for edge in (2.0**-10, 2.0**-16, 2.0**-20, 2.0**-22, 2.0**-24):
        report[f"below {edge}"] = st.poisson(int((x < edge).sum()), total * edge)
        report[f"from 1 − {edge} on"] = st.poisson(int((x >= 1 - edge).sum()), total * edge)
    return report


def uniform_lags(draw: Sampler) -> Report:
    return st.lags(draw(0, 2**24), LAGS)


def uniform_blocks(draw: Sampler) -> Report:
    return st.within_blocks(draw(0, 2**23)) | st.patterns(draw(0, 3 * 2**22) >= 0.5, "halves")


UNIFORM_CHECKS: dict[str, Check] = {
    "KS": uniform_ks,
    "bits": uniform_bits,
    "inside a block": uniform_blocks,
    "lags": uniform_lags,
    "moments": uniform_moments,
    "ends": uniform_ends,
}

# ---- truncated normal ----------------------------------------------------------------------------

Interval = tuple[float, float, float, float]  # mean, std, a, b


def truncated_ks(draw: Sampler, case: Interval) -> Report:
    x = draw(0, 2**21)
    assert x.min() >= case[2] and x.max() <= case[3]
    return {"KS": st.ks(x, st.truncated_cdf(*case))}


def truncated_moments(draw: Sampler, case: Interval) -> Report:
    mean, std, a, b = case
    if a == -math.inf:
        return truncated_moments(lambda first, n: -draw(first, n), (-mean, std, -b, math.inf))
    width = b - a if b < math.inf else std
    return moments(draw, st.coordinate_moments(*case), 5 * 10**7, a, width)


def truncated_ends(draw: Sampler, case: Interval) -> Report:
    """Poisson counts near both ends, where the accuracy of the type allows as many draws."""
    total, cdf = 5 * 10**7, st.truncated_cdf(*case)
    mean, std, a, b = case
    low, high = max(a, min(b, mean) - 40 * std), min(b, max(a, mean) + 40 * std)
    kind = draw(0, 4).dtype.type
    edges = []
    for share in (0.2, 1e-2, 1e-3, 1e-4, 1e-5):
        for quantile in (share, 1 - share):
            value = kind(st.quantile(cdf, quantile, low, high))
            above = np.nextafter(value, kind(np.inf))
            edge = float(value) + (float(above) - float(value)) / 2
            # Results are off by this much, and may be (P7): it must not show in the count.
            size = b - a if 4 * (b - a) <= std else max(std, abs(edge - mean))
            error = (5e-7 if kind is np.float32 else 1e-13) * size
            reach = np.clip([edge - error, edge, edge + error], a, b)
            least, below, most = (float(p) for p in cdf(reach))
            tail = min(below, 1 - below)
            if 0.5 * share < tail < 2 * share and (most - least) * total < math.sqrt(tail * total):
                edges.append((value, below))
    assert len(edges) >= 2

    def count(first: int, n: int) -> Array:
        x = draw(first, n)
        return np.array([np.count_nonzero(x <= value) for value, _ in edges])

    counts = sum_over(total, count)
    report = {}
    for (value, below), found in zip(edges, counts.tolist(), strict=True):
        beyond = found if below < 0.5 else total - found
        report[f"beyond {value}"] = st.poisson(beyond, total * min(below, 1 - below))
    return report


def truncated_lags(draw: Sampler, case: Interval) -> Report:
    del case
    x = draw(0, 2**21)
    return st.lags(x, range(1, 9)) | st.within_blocks(x)


TRUNCATED_CHECKS: dict[str, Callable[[Sampler, Interval], Report]] = {
    "KS": truncated_ks,
    "lags": truncated_lags,
    "moments": truncated_moments,
    "ends": truncated_ends,
}
