"""Defects that a Kolmogorov-Smirnov test on a million draws does not see.

Every p-value must reach statistics_helpers.ALPHA = 1e-6. The functions under test_* live in
cell_checks.py and word_checks.py and take samples, so that `make mutants` can show each of them
failing for its defect. (Tail counts, repeated values, patterns and dependence at many distances
belong here too, and run in test_distributions.py with the other checks of each distribution.)
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import cell_checks as cells
from support import word_checks
from support.reference_stream import LOW, MASK, words
from support.sample_checks import Interval, stream
from support.statistics_helpers import require
from test_distributions import key_of

import fastinit

UNIFORMS = [(0.0, 1.0), (-0.3, 0.7), (-0.04, 0.04)]
NORMALS = [(0.0, 1.0), (0.0, 0.02), (0.5, 3.0)]
TRUNCATED: list[Interval] = [
    (0.0, 1.0, -2.0, 2.0),
    (0.0, 1.0, 3.0, 5.0),
    (0.0, 0.02, -0.04, 0.03),
    (0.0, 1.0, -math.inf, 0.0),
]

# ---- types of 8 and 16 bits ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", cells.SMALL)
@pytest.mark.parametrize("args", UNIFORMS)
def test_exact_uniform_probabilities(dtype: str, args: tuple[float, float]) -> None:
    draw = stream("uniform", *args, key=key_of(dtype, args), dtype=dtype)
    require(cells.exact_probabilities(draw, cells.uniform_probabilities(dtype, *args)))


@pytest.mark.parametrize("dtype", cells.SMALL)
@pytest.mark.parametrize("args", NORMALS)
def test_exact_normal_probabilities(dtype: str, args: tuple[float, float]) -> None:
    draw = stream("normal", *args, key=key_of(dtype, args), dtype=dtype)
    require(cells.exact_probabilities(draw, cells.normal_probabilities(dtype, *args)))


@pytest.mark.parametrize("dtype", cells.SMALL)
@pytest.mark.parametrize("case", TRUNCATED)
def test_exact_truncated_probabilities(dtype: str, case: Interval) -> None:
    draw = stream("trunc_normal", *case, key=key_of(dtype, case), dtype=dtype)
    require(cells.exact_probabilities(draw, cells.truncated_probabilities(dtype, case)))


@pytest.mark.parametrize("a, b", [(1.0, 1.0 + 2.0**-20), (-4.0, -4.0 + 2.0**-18)])
def test_intervals_of_few_values(a: float, b: float) -> None:
    case = (0.0, 1.0, a, b)
    require(cells.few_values(stream("trunc_normal", *case, key=key_of(a)), case))


@pytest.mark.parametrize("dtype, dropped", [("bfloat16", 16), ("float16", 13)])
def test_ties_go_to_even(dtype: str, dropped: int) -> None:
    """Too rare to show in any count: half up would differ in one element of 15,000."""
    key = key_of("ties", dtype)
    single = stream("uniform", 0.0, 1.0, key=key)(0, 2**23)
    short = stream("uniform", 0.0, 1.0, key=key, dtype=dtype)(0, 2**23)
    ends = single.view(np.int32) & (2**dropped - 1)
    # Above, one would be clamped, and below, float16 is subnormal.
    ties = (ends == 2 ** (dropped - 1)) & (single < 0.99) & (single >= 2.0**-14)
    assert ties.sum() > 500
    assert not (short[ties] & 1).any()


# ---- float64 inside its cell ---------------------------------------------------------------------


def test_uniform_cells() -> None:
    key = key_of("uniform cells")
    wide, narrow = (stream("uniform", 0.0, 1.0, key=key, dtype=t) for t in ("float64", "float32"))
    require(cells.uniform_cells(wide, narrow))


def test_normal_cells() -> None:
    key = key_of("normal cells")
    require(cells.normal_cells(stream("normal", 0.0, 1.0, key=key, dtype="float64"), key))


CELL_INTERVALS = [
    *[(-2.0, 2.0), (-6.0, 6.0), (0.0, math.inf), (3.0, 5.0), (-9.0, -8.0)],
    *[(40.0, math.inf), (-math.inf, -35.0), (-1e-9, 2e-9), (0.0, 0.2)],
]


@pytest.mark.parametrize("a, b", CELL_INTERVALS)
def test_truncated_cells(a: float, b: float) -> None:
    key, case = key_of("truncated cells", a), (0.0, 1.0, a, b)
    draw = stream("trunc_normal", *case, key=key, dtype="float64")
    require(cells.truncated_cells(draw, key, case))


# ---- words of different purposes and keys --------------------------------------------------------


def test_the_words_are_those_of_the_page() -> None:
    """Otherwise the tests below would look at something else."""
    value, low = word_checks.value_and_low_words(7, 999)
    assert np.array_equal(value, words(7, np.arange(999)))
    assert np.array_equal(low, words(7, np.arange(999), LOW) >> np.uint32(11))
    assert np.array_equal(word_checks.mask_words(7, 999), words(7, np.arange(999), MASK))


def test_value_words() -> None:
    require(word_checks.one_stream(word_checks.value_and_low_words(key_of("value"))[0]))


def test_low_words() -> None:
    require(word_checks.one_stream(word_checks.value_and_low_words(key_of("low"))[1], 21))


def test_mask_words() -> None:
    require(word_checks.one_stream(word_checks.mask_words(key_of("mask"))))


def test_purposes_are_unrelated() -> None:
    key = key_of("purposes")
    (value, low), mask = word_checks.value_and_low_words(key), word_checks.mask_words(key)
    require(word_checks.two_streams(value, mask))
    require(word_checks.two_streams(value, low, (32, 21)))
    require(word_checks.two_streams(mask, low, (32, 21)))
    require(word_checks.two_streams(value >> np.uint32(11), low, (21, 21)))


KEY = fastinit.Key(0x5EED_0F_4A11)
RELATIVES = {
    "the next": int(KEY) + 1,
    "the next high word": int(KEY) + 2**32,
    "top bit": int(KEY) ^ 2**63,
    "complement": ~int(KEY) % 2**64,
    "halves swapped": int(KEY) >> 32 | (int(KEY) & 0xFFFFFFFF) << 32,
    "fold_in(0)": int(KEY.fold_in(0)),
    "fold_in of a name": int(KEY.fold_in("weight")),
    "split": int(KEY.split(1)[0]),
}


@pytest.mark.parametrize("relative", RELATIVES)
def test_related_keys_are_unrelated(relative: str) -> None:
    both = [word_checks.value_and_low_words(int(k))[0] for k in (KEY, RELATIVES[relative])]
    require(word_checks.two_streams(*both))


def test_streams_share_no_block() -> None:
    keys = [KEY, *map(fastinit.Key, RELATIVES.values()), *KEY.split(4)]
    keys += [KEY.fold_in(k) for k in range(1, 5)] + [KEY.fold_in(str(k)) for k in range(5)]
    distinct = {int(k) for k in keys}
    streams = [word_checks.value_and_low_words(k, 2**17)[0] for k in distinct]
    streams += [word_checks.mask_words(k, 2**17) for k in distinct]
    require(word_checks.no_common_block(streams))


SERIES = {
    "consecutive": lambda n: range(n),
    "consecutive high words": lambda n: [k << 32 for k in range(n)],
    "consecutive from the top": lambda n: [2**64 - n + k for k in range(n)],
    "fold_in": lambda n: [int(KEY.fold_in(k)) for k in range(n)],
    "fold_in of names": lambda n: [int(KEY.fold_in(f"layers.{k}.weight")) for k in range(n)],
    "fold_in of fold_in": lambda n: [
        int(KEY.fold_in(k).fold_in(j)) for k in range(n // 64) for j in range(64)
    ],
    "split": lambda n: [int(k) for k in KEY.split(n)],
    "reserved": lambda n: [int(fastinit.reserve_key("cpu")) for _ in range(n)],
}


@pytest.mark.parametrize("series", SERIES)
def test_many_keys(series: str) -> None:
    torch.manual_seed(3)
    keys = SERIES[series](2**15)
    assert len(set(keys)) == 2**15
    require(word_checks.across_keys(word_checks.normals_of_keys, keys))
