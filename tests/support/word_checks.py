"""What words of different purposes and keys have to pass. Functions of words and of samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import special

from fastinit import _compiled
from support import statistics_helpers as st
from support.sample_checks import stream
from support.statistics_helpers import Array, Report
from support.stream_cases import KINDS, filled_shard, signed

# (keys, count) -> float32 array of one row per key
KeySampler = Callable[[Sequence[int], int], Array]
WORDS = 2**20


def value_and_low_words(key: int, count: int = WORDS) -> tuple[Array, Array]:
    """Read the stream back from float64 uniforms: VALUE words, and the top 21 bits of LOW ones."""
    u = stream("uniform", 0.0, 1.0, key=key, dtype="float64")(0, count)
    bits = (u * 2.0**53).astype(np.uint64)
    low = bits & np.uint64(2**21 - 1)
    return (bits >> np.uint64(21)).astype(np.uint32), low.astype(np.uint32)


def mask_words(key: int, count: int = WORDS) -> Array:
    return filled_shard("words", 2**60, 0, count, key, "int32")


def one_stream(words: Array, bits: int = 32) -> Report:
    """The words of one purpose: alone, and against those some way on."""
    report = st.words_alone(words, "words", bits)
    for lag in (1, 2, 3, 4, 8, 16, 1024, 2**14):
        size = (words.size - lag) // 64 * 64
        both = words[:size], words[lag : lag + size]
        report |= st.bit_correlations(*both, f"lag {lag}", (bits, bits))
    return report


def two_streams(a: Array, b: Array, bits: tuple[int, int] = (32, 32)) -> Report:
    """Words that should be unrelated: at the same place, and one element and one block apart."""
    report: Report = {}
    for shift in (0, 1, 4):
        size = (min(a.size, b.size) - shift) // 64 * 64
        report |= st.bit_correlations(a[:size], b[shift : shift + size], f"b {shift} on", bits)
        if shift:
            report |= st.bit_correlations(a[shift : shift + size], b[:size], f"a {shift} on", bits)
    return report


def no_common_block(streams: Sequence[Array]) -> Report:
    """Pairs of words from all streams: 64 bits, so that none should occur twice."""
    pairs = np.concatenate([np.ascontiguousarray(s).view(np.uint64) for s in streams])
    expected = pairs.size**2 / 2.0**65
    assert expected < 1e-3
    return {"pairs that occur twice": st.poisson(st.repeats(pairs), expected)}


def normals_of_keys(keys: Sequence[int], count: int) -> Array:
    """Row k holds the first normals of key k."""
    rows = torch.empty(len(keys), count)
    plan, args = [KINDS["normal"], 0] * len(keys), [0.0, 1.0, 0.0, 0.0] * len(keys)
    _compiled.fill_many_op(list(rows.unbind()), plan, args, [signed(k) for k in keys])
    return rows.numpy()


def across_keys(draw: KeySampler, keys: Sequence[int]) -> Report:
    """Normals of many keys, in the order given: along a row, along a column, over a row."""
    x = draw(keys, 32)
    width = x.shape[1]
    squares = (x.astype(np.float64) ** 2).sum(axis=1)
    report = {
        "first elements": st.ks(x[:, 0], special.ndtr),
        "means of rows": st.ks(x.sum(axis=1) / np.sqrt(width), special.ndtr),
        "squares of rows": st.ks(squares, lambda s: special.gammainc(width / 2, s / 2)),
    }
    for step in (1, 2, 3, 4, 8):
        # The same element of keys `step` apart, then one block on.
        report |= st.pair(x[:-step], x[step:], f"{step} keys apart")
        report |= st.pair(x[:-step, 4:], x[step:, :-4], f"{step} keys and a block apart")
    report |= st.patterns(x[:, 0] > 0, "signs of first elements")
    # Two normals of one block fix 48 bits or so: none should occur twice.
    twice = st.repeats(np.ascontiguousarray(x).view(np.uint64))
    return report | {"pairs that occur twice": st.poisson(twice, 0.01)}
