"""sparse_, orthogonal_, eye_, dirac_ and the constants, of every dtype and layout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.common import (
    COMPLEX_DTYPES,
    CONSTANT,
    OTHER_DTYPES,
    RANDOM,
    REAL_DTYPES,
    fill,
    same_bits,
    untouched,
)
from support.layout_cases import MATRIX_LAYOUTS, laid_out
from torch import nn

import fastinit

INF, NAN = math.inf, math.nan
EVERY = [*RANDOM, *CONSTANT]
MAX_HALF = 65504.0


# ---- sparse_, orthogonal_, eye_, dirac_ ----------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.1, 1 / 3, 0.5, 0.999, 1.0, 0, 1])
@pytest.mark.parametrize("shape", [(10, 7), (1, 5), (33, 1)])
@pytest.mark.parametrize("dtype", [*REAL_DTYPES, *COMPLEX_DTYPES])
def test_sparse_zeros_per_column(sparsity, shape, dtype):
    tensor = fastinit.sparse_(torch.empty(shape, dtype=dtype), sparsity, std=1.0, key=1)
    values = fastinit.normal_(torch.empty(shape, dtype=dtype), 0.0, 1.0, key=1)
    zeros = tensor.to(torch.complex128) == 0
    assert torch.all(zeros.sum(0) == math.ceil(sparsity * shape[0]))
    kept = ~zeros
    assert torch.equal(tensor.to(torch.complex128)[kept], values.to(torch.complex128)[kept])


def test_sparse_mask_is_that_of_the_smallest_words():
    tensor = fastinit.sparse_(torch.empty(37, 11), 0.4, key=8)
    words = torch.empty(37, 11, dtype=torch.int32)
    torch.ops.fastinit_testing.random_words_(words, key=8)
    order = (words.to(torch.int64) & 0xFFFFFFFF).argsort(dim=0, stable=True)
    expected = torch.zeros(37, 11, dtype=torch.bool).scatter_(0, order[:15], True)
    assert torch.equal(tensor == 0, expected)


def test_sparse_settles_ties_by_row():
    """Equal words on both sides of the cut: the upper row becomes zero, in either half of 2^32."""
    rows, upper_half, lower_half = 2**17, 0, 0
    for key in range(6):
        words = torch.empty(rows, 1, dtype=torch.int32)
        torch.ops.fastinit_testing.random_words_(words, key=key)
        words = words.view(-1).numpy().view(np.uint32)
        order = np.argsort(words, kind="stable")
        for rank in np.flatnonzero(np.diff(words[order]) == 0):
            count, (zeroed, kept) = int(rank) + 1, order[rank : rank + 2]
            upper_half += words[kept] >= 2**31
            lower_half += words[kept] < 2**31
            tensor = fastinit.sparse_(torch.empty(rows, 1), count / rows, key=key)
            ranked = torch.ones(rows, 1)
            torch.ops.fastinit_testing.zero_smallest_(ranked, count, key)
            expected = np.zeros(rows, bool)
            expected[order[:count]] = True
            assert zeroed < kept
            for zeros in (tensor == 0, ranked == 0):
                assert np.array_equal(zeros.view(-1).numpy(), expected)
    assert upper_half > 0
    assert lower_half > 0


@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
@pytest.mark.parametrize("dtype", [*REAL_DTYPES, *COMPLEX_DTYPES])
def test_sparse_by_ranking_is_the_same(layout, dtype):
    """What devices without a kernel of their own run, on the words of every 16th strip or so."""
    tensor = laid_out(layout, 300, 700, dtype=dtype)
    fastinit.sparse_(tensor, 0.37, key=8)
    ranked = fastinit.normal_(torch.empty(300, 700, dtype=dtype), 0.0, 0.01, key=8)
    torch.ops.fastinit_testing.zero_smallest_(ranked, math.ceil(0.37 * 300), 8)
    assert same_bits(tensor, ranked)


@pytest.mark.parametrize("count", [24, 104])
def test_sparse_of_columns_whose_quantile_is_far_off(count):
    """A few of so many have their threshold outside the window that is searched first."""
    rows, columns = 128, 65536
    tensor = fastinit.sparse_(torch.empty(rows, columns), count / rows, key=0)
    words = torch.empty(rows, columns, dtype=torch.int32)
    torch.ops.fastinit_testing.random_words_(words, key=0)
    words = words.double().remainder_(2.0**32)
    zeros = tensor == 0
    assert torch.all(zeros.sum(0) == count)
    largest = words.masked_fill(~zeros, -1).amax(0)
    assert torch.all(largest < words.masked_fill(zeros, 2.0**32).amin(0))
    share = count / rows
    reach = 4 * math.sqrt(share * (1 - share) / rows) + 1 / rows
    outside = (largest / 2.0**32 - share).abs() > reach
    assert outside.any()


@pytest.mark.parametrize("shape", [(5000, 3), (40000, 1), (3, 5000), (1, 7), (2, 2000)])
def test_sparse_of_long_and_flat_shapes(shape):
    tensor = fastinit.sparse_(torch.empty(shape), 0.5, key=5)
    ranked = fastinit.normal_(torch.empty(shape), 0.0, 0.01, key=5)
    torch.ops.fastinit_testing.zero_smallest_(ranked, math.ceil(shape[0] / 2), 5)
    assert same_bits(tensor, ranked)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, NAN, INF, -INF])
def test_sparse_of_an_impossible_fraction(sparsity):
    tensor = torch.zeros(4, 3)
    with untouched(tensor), pytest.raises(ValueError, match=r"'sparsity' must be in \[0, 1\]"):
        fastinit.sparse_(tensor, sparsity)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (4, 2, 3, 2), (1, 6), (6, 1)])
@pytest.mark.parametrize("dtype", [*REAL_DTYPES, *COMPLEX_DTYPES])
def test_orthogonal_of_every_dtype(shape, dtype):
    tensor = fastinit.orthogonal_(torch.empty(shape, dtype=dtype), gain=1.5, key=2)
    exact = torch.complex128 if dtype.is_complex else torch.float64
    matrix = tensor.to(exact).flatten(1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.mT
    # Rounding the entries, each below 1.5, moves the products by about this much.
    info = torch.finfo(dtype)
    atol = 4 * matrix.shape[1] * info.eps
    expected = 1.5**2 * torch.eye(len(matrix), dtype=exact)
    torch.testing.assert_close(matrix @ matrix.mH, expected, atol=atol, rtol=0)
    if dtype.itemsize < 4:  # the same matrix as in float32, rounded
        single = fastinit.orthogonal_(torch.empty(shape), gain=1.5, key=2)
        torch.testing.assert_close(tensor.float(), single.to(dtype).float(), atol=0, rtol=info.eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_orthogonal_is_the_qr_of_the_same_gaussian(dtype, shape):
    gaussian = fastinit.normal_(torch.empty(shape, dtype=dtype), key=2)
    gaussian = gaussian.to(torch.complex128 if dtype.is_complex else torch.float64)
    wide = shape[0] < shape[1]
    q, r = torch.linalg.qr(gaussian.T if wide else gaussian)
    expected = q * r.diagonal().sgn()
    tensor = fastinit.orthogonal_(torch.empty(shape, dtype=dtype), key=2, method="qr")
    close = (tensor.to(expected.dtype), expected.T if wide else expected)
    torch.testing.assert_close(*close, atol=1e-5 if dtype.itemsize <= 8 else 1e-13, rtol=0)


def test_orthogonal_into_channels_last():
    plain = fastinit.orthogonal_(torch.empty(8, 4, 3, 3), key=2)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.empty(8, 4, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        strides = tensor.stride()
        fastinit.orthogonal_(tensor, key=2)
        assert tensor.stride() == strides
        torch.testing.assert_close(tensor, plain.to(dtype))


def test_orthogonal_saturates():
    tensor = fastinit.orthogonal_(torch.empty(1, 1, dtype=torch.float16), gain=1e6, key=2)
    assert tensor.abs().item() == MAX_HALF


@pytest.mark.parametrize("name", RANDOM)
def test_autocast_makes_no_difference(name):
    plain = fill(name, torch.empty(40, 30), key=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(plain, fill(name, torch.empty(40, 30), key=2))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_orthogonal_needs_two_dimensions(shape):
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        fastinit.orthogonal_(torch.empty(shape))


@pytest.mark.parametrize("dtype", [*REAL_DTYPES, *COMPLEX_DTYPES, *OTHER_DTYPES])
@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
def test_constants_of_every_dtype_and_layout(dtype, layout):
    for rows, columns in ((3, 5), (5, 3), (4, 4)):
        for name, expected in (
            ("constant_", torch.full((rows, columns), 3, dtype=torch.float32)),
            ("ones_", torch.ones(rows, columns)),
            ("zeros_", torch.zeros(rows, columns)),
            ("eye_", torch.eye(rows, columns)),
        ):
            tensor = laid_out(layout, rows, columns, dtype=dtype)
            strides, arguments = tensor.stride(), (3,) if name == "constant_" else ()
            assert getattr(fastinit, name)(tensor, *arguments) is tensor
            assert tensor.stride() == strides
            assert same_bits(tensor, expected.to(dtype))


@pytest.mark.parametrize("value", [NAN, INF, -INF, True, 3, np.float32(0.5), torch.tensor(2.0)])
def test_constants_take_what_torch_takes(value):
    ours, torchs = torch.empty(3), torch.empty(3)
    assert same_bits(fastinit.constant_(ours, value), nn.init.constant_(torchs, value))
    with pytest.raises(TypeError):
        fastinit.constant_(ours, "1")
    expanded = torch.zeros(1).expand(3)
    assert fastinit.constant_(expanded, 2.0).tolist() == [2.0] * 3


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 1, 4), (6, 2, 3, 5), (6, 3, 2, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.complex64])
def test_dirac_is_that_of_torch(groups, shape, dtype):
    expected = nn.init.dirac_(torch.empty(shape, dtype=dtype), groups)
    assert same_bits(fastinit.dirac_(torch.empty(shape, dtype=dtype), groups), expected)
    strided = torch.ones(*shape[:-1], 2 * shape[-1], dtype=dtype).transpose(0, 1)
    strided = strided.contiguous().transpose(0, 1)[..., ::2]
    assert not strided.is_contiguous()
    assert same_bits(fastinit.dirac_(strided, groups), expected)


def test_dirac_takes_any_integer_for_groups():
    for groups in (True, np.int64(3)):
        expected = nn.init.dirac_(torch.empty(6, 3, 3), int(groups))
        assert same_bits(fastinit.dirac_(torch.empty(6, 3, 3), groups), expected)
    tensor = torch.ones(6, 3, 3)
    with untouched(tensor), pytest.raises(TypeError, match="integer"):
        fastinit.dirac_(tensor, 2.0)


@pytest.mark.parametrize("groups", [0, -1, 4, 7])
def test_dirac_groups_must_divide(groups):
    tensor = torch.ones(6, 2, 3)
    with untouched(tensor), pytest.raises(ValueError, match=f"divisor of 6.*got {groups}"):
        fastinit.dirac_(tensor, groups)
