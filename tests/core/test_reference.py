"""fastinit against the independent NumPy implementation of docs/stream.md, bit for bit (P6)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import bits
from support.exact_arithmetic import FORMATS, Array
from support.reference_stream import fill, mask
from support.stream_cases import (
    ALL_TRUNCATIONS,
    INF,
    KEYS,
    NORMALS,
    TRUNCATIONS,
    UNIFORMS,
    differences,
    filled,
    filled_shard,
    signed,
)
from support.truncation_constants import truncation

import fastinit

ONE_OF_EACH = [
    ("uniform", (-0.3, 0.7)),
    ("normal", (0.5, 3.0)),
    *(("trunc_normal", cases[0]) for cases in TRUNCATIONS.values()),
]
TYPED = [(dtype, *one) for dtype in ("float32", "float64", "bfloat16") for one in ONE_OF_EACH]


def same(got: Array, want: Array) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape
    assert differences(got, want) is None


def test_the_cases_cover_the_branches() -> None:
    for name, cases in TRUNCATIONS.items():
        for case in cases:
            c = truncation(*case)
            assert name == c.branch + (" mirrored" if c.mirrored else ""), case


@pytest.mark.parametrize("dtype", [*FORMATS, "complex64", "complex128"])
@pytest.mark.parametrize("args", UNIFORMS)
def test_uniform(args: tuple[float, float], dtype: str) -> None:
    for key in KEYS:
        same(filled("uniform", 1027, key, dtype, *args), fill("uniform", 1027, key, dtype, *args))


@pytest.mark.parametrize("dtype", [*FORMATS, "complex64", "complex128"])
@pytest.mark.parametrize("args", NORMALS)
def test_normal(args: tuple[float, float], dtype: str) -> None:
    for key in KEYS:
        same(filled("normal", 1027, key, dtype, *args), fill("normal", 1027, key, dtype, *args))


@pytest.mark.parametrize("dtype", list(FORMATS))
@pytest.mark.parametrize("args", ALL_TRUNCATIONS)
def test_trunc_normal(args: tuple[float, ...], dtype: str) -> None:
    for key in KEYS:
        want = fill("trunc_normal", 1027, key, dtype, *args)
        same(filled("trunc_normal", 1027, key, dtype, *args), want)


@pytest.mark.parametrize("dtype, dist, args", TYPED)
def test_every_short_length(dist: str, args: tuple[float, ...], dtype: str) -> None:
    want = fill(dist, 70, 7, dtype, *args)
    for n in range(71):
        same(filled(dist, n, 7, dtype, *args), want[:n])


@pytest.mark.parametrize("dtype", list(FORMATS))
@pytest.mark.parametrize("dist, args", ONE_OF_EACH)
def test_long_fills(dist: str, args: tuple[float, ...], dtype: str) -> None:
    n = 200_003
    same(filled(dist, n, 11, dtype, *args), fill(dist, n, 11, dtype, *args))


@pytest.mark.parametrize("dist, args", ONE_OF_EACH)
def test_many_keys(dist: str, args: tuple[float, ...]) -> None:
    for k in range(100):
        key = (0x9E3779B97F4A7C15 * (k + 1)) % 2**64
        want = fill(dist, 33, key, "float32", *args)
        same(filled(dist, 33, key, "float32", *args), want)


@pytest.mark.parametrize("dtype, dist, args", TYPED)
@pytest.mark.parametrize("start", [2**34 - 37, 2**34 - 2, 2**34 + 1, 2**33 - 5, 2**50 + 3, 3])
def test_far_elements(dist: str, args: tuple[float, ...], dtype: str, start: int) -> None:
    """Blocks 2³² − 1 and 2³², where the counter carries into its second word, and beyond."""
    for n in (1, 2, 3, 74):
        index = np.arange(start, start + n, dtype=np.uint64)
        want = fill(dist, index, 5, dtype, *args)
        same(filled_shard(dist, 2**55, start, n, 5, dtype, *args), want)


@pytest.mark.parametrize("start", [2**33 - 19, 2**33 - 1, 1, 2**40])
def test_far_complex_elements(start: int) -> None:
    index = np.arange(start, start + 41, dtype=np.uint64)
    for dtype in ("complex64", "complex128"):
        for dist in ("normal", "uniform"):
            want = fill(dist, index, 6, dtype, 0.25, 1.5)
            same(filled_shard(dist, 2**45, start, 41, 6, dtype, 0.25, 1.5), want)


def test_mask_words() -> None:
    for key in KEYS:
        words = torch.empty(1003, dtype=torch.int32)
        torch.ops.fastinit_testing.random_words_(words, key=signed(key))
        same(words.numpy().view(np.uint32), mask(1003, key))
        start = 2**34 - 7
        want = mask(np.arange(start, start + 30), key)
        same(filled_shard("words", 2**40, start, 30, key, "int32"), want)


@pytest.mark.parametrize("rows, columns, sparsity", [(7, 5, 0.5), (64, 33, 0.9), (3, 4, 1.0)])
def test_sparse(rows: int, columns: int, sparsity: float) -> None:
    got = fastinit.sparse_(torch.empty(rows, columns), sparsity, std=0.5, key=21)
    want = fill("normal", rows * columns, 21, "float32", 0.0, 0.5).reshape(rows, columns)
    # A stable sort leaves equal words in the order of their rows.
    ranks = np.argsort(mask(rows * columns, 21).reshape(rows, columns), axis=0, kind="stable")
    zeros = ranks[: math.ceil(sparsity * rows)]
    np.put_along_axis(want, zeros, 0, axis=0)
    same(bits(got), want)


@pytest.mark.parametrize("shape", [(6, 4), (5, 3, 2, 2)])
def test_variance_scaling(shape: tuple[int, ...]) -> None:
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    n, key = math.prod(shape), 22
    xavier, kaiming = 1.5 * math.sqrt(2 / (fan_in + fan_out)), math.sqrt(2) / math.sqrt(fan_in)
    w = torch.empty(shape)
    for filled_by, dist, args in [
        (fastinit.xavier_normal_(w, gain=1.5, key=key), "normal", (0.0, xavier)),
        (fastinit.kaiming_normal_(w.clone(), key=key), "normal", (0.0, kaiming)),
    ]:
        same(bits(filled_by).ravel(), fill(dist, n, key, "float32", *args))
    for filled_by, std in [
        (fastinit.xavier_uniform_(w, gain=1.5, key=key), xavier),
        (fastinit.kaiming_uniform_(w.clone(), key=key), kaiming),
    ]:
        c = math.sqrt(3) * std
        same(bits(filled_by).ravel(), fill("uniform", n, key, "float32", -c, c))


# ---- bounds, constants, saturation ------------------------------------------------------------

CORNERS = [
    ("uniform", (0.1, 0.1)),  # a = b
    ("uniform", (1.0, 1.0 + 1e-9)),  # one value of the type or none
    ("uniform", (1.001, 1.002)),  # none in the 8-bit types
    ("uniform", (-1e-60, 1.0)),  # the least value ≥ a is zero
    ("uniform", (-1.0, 1e-60)),  # the value before RN(b) is not
    ("uniform", (-2e-60, -1e-60)),
    ("uniform", (-0.0, 1.0)),
    ("uniform", (0.0, 1e-5)),  # subnormal in half precision
    ("uniform", (0.0, 1e-36)),  # a subnormal float times 2^24
    ("uniform", (1e-40, 3e-39)),  # subnormal floats
    ("uniform", (-220.0, 228.0)),
    ("uniform", (1.0, 1.25)),
    ("uniform", (0.99, 1.01)),
    ("normal", (0.0, 440.0)),  # saturates the 8-bit types
    ("normal", (448.0, 448.0)),
    ("normal", (-448.0, 1.0)),
    ("normal", (0.0, 1e-7)),
    ("normal", (-0.0, 0.0)),
    ("normal", (0.3, 0.0)),
    ("trunc_normal", (0.0, 1.0, 0.1, 0.1)),
    ("trunc_normal", (0.3, 0.0, -1.0, 1.0)),  # std = 0 inside, below, above
    ("trunc_normal", (-3.0, 0.0, -1.0, 1.0)),
    ("trunc_normal", (3.0, 0.0, -1.0, 1.1)),
    ("trunc_normal", (3.0, 0.0, -INF, INF)),
    ("trunc_normal", (0.0, 1.0, 1.0001, 1.0002)),  # no value of the type inside
    ("trunc_normal", (0.0, 1.0, -1.0002, -1.0001)),
    ("trunc_normal", (0.0, 1.0, -2e-60, -1e-60)),
    ("trunc_normal", (0.0, 1.0, -1e-60, 1.0)),  # a bound rounds to zero
    ("trunc_normal", (0.0, 1.0, -1.0, -1e-60)),
    ("trunc_normal", (0.0, 1.0, 0.9999, 1.26)),  # few values of the 8-bit types
    ("trunc_normal", (0.0, 1e6, -INF, INF)),  # saturates half precision
    ("trunc_normal", (0.0, 1e6, -1e6, 3e5)),
    ("trunc_normal", (0.0, 1e6, -1e39, 1e39)),
    ("trunc_normal", (1e30, 1.0, -1.0, 1.0)),
    ("trunc_normal", (0.0, 1e-310, 1.001, 3.0)),  # α overflows: the least value ≥ a
    ("trunc_normal", (0.0, 1e-310, -3.0, -1.001)),
    ("trunc_normal", (3.0, 0.0, 1.001, 1.0077)),  # std = 0 and no value of bfloat16 inside
]


@pytest.mark.parametrize("dtype", list(FORMATS))
@pytest.mark.parametrize("dist, args", CORNERS)
def test_corners(dist: str, args: tuple[float, ...], dtype: str) -> None:
    same(filled(dist, 515, 3, dtype, *args), fill(dist, 515, 3, dtype, *args))


FINITE = st.floats(-4.0, 4.0, allow_subnormal=False)


@st.composite
def typed_scales(draw: st.DrawFn, dtypes: list[str], largest: int) -> tuple[str, float]:
    """A type and a power of two that leaves room for `largest` times as much."""
    dtype = draw(st.sampled_from(dtypes))
    part = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    top = min(60, int(math.log2(FORMATS[part].largest / largest)))
    return dtype, 2.0 ** draw(st.integers(-60, top))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    mean=FINITE,
    std=st.floats(0.5, 1.0),
    low=st.floats(-45.0, 45.0),
    width=st.one_of(st.floats(1e-8, 12.0), st.just(INF)),
    typed=typed_scales(list(FORMATS), 64),
    key=st.integers(0, 2**64 - 1),
    mirror=st.booleans(),
)
def test_drawn_truncations(
    mean: float,
    std: float,
    low: float,
    width: float,
    typed: tuple[str, float],
    key: int,
    mirror: bool,
) -> None:
    dtype, scale = typed
    a, b = (mean + low * std) * scale, (mean + (low + width) * std) * scale
    if mirror:
        mean, a, b = -mean, -b, -a
    args = mean * scale, std * scale, a, b
    same(filled("trunc_normal", 65, key, dtype, *args), fill("trunc_normal", 65, key, dtype, *args))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    ends=st.tuples(FINITE, FINITE),
    typed=typed_scales(list(FORMATS), 8),
    key=st.integers(0, 2**64 - 1),
)
def test_drawn_uniforms(ends: tuple[float, float], typed: tuple[str, float], key: int) -> None:
    dtype, scale = typed
    a, b = sorted(scale * e for e in ends)
    same(filled("uniform", 65, key, dtype, a, b), fill("uniform", 65, key, dtype, a, b))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    mean=FINITE,
    std=st.floats(0.0, 4.0, allow_subnormal=False),
    typed=typed_scales([*FORMATS, "complex64", "complex128"], 4),
    key=st.integers(0, 2**64 - 1),
)
def test_drawn_normals(mean: float, std: float, typed: tuple[str, float], key: int) -> None:
    dtype, scale = typed
    args = mean * scale, std * scale
    same(filled("normal", 65, key, dtype, *args), fill("normal", 65, key, dtype, *args))


def test_complex_parts_have_half_the_variance() -> None:
    """The page's √2 division, seen from outside."""
    parts = fill("normal", 4, 9, "complex64", 0.0, 2.0).view(np.float32)
    whole = fill("normal", 8, 9, "float32", 0.0, 2.0 / math.sqrt(2.0)).view(np.float32)
    assert np.array_equal(parts.ravel(), whole)
