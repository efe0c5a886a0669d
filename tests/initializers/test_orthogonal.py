"""orthogonal_: values, accuracy, batches, lists. Calls and settings: test_orthogonal_calls.py; what
it draws: test_haar.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from support.common import REAL_DTYPES, no_randomness, same_bits, untouched
from support.layout_cases import MATRIX_LAYOUTS, laid_out
from support.orthogonal_helpers import (
    COMPUTED,
    SHAPES,
    TESTING,
    draw,
    exact_type,
    orthogonality,
    tolerance,
)

import fastinit
from fastinit import Key


def reflected(gaussian: torch.Tensor) -> torch.Tensor:
    """The same by definition: one reflection after the other, each an explicit matrix."""
    x = gaussian.to(exact_type(gaussian.dtype))
    if x.shape[0] < x.shape[1]:
        return reflected(gaussian.T).T
    rows, columns = x.shape
    product = torch.eye(rows, dtype=x.dtype)
    phases = []
    for k in range(columns):
        v = x[:, k].clone()
        v[:k] = 0
        length, first = torch.linalg.vector_norm(v), v[k]
        if length == 0:
            v[k], phase = 1, torch.ones((), dtype=x.dtype)
        else:
            flat = first == 0
            phase = torch.ones_like(first) if flat else first / first.abs()
            if flat and not x.is_complex() and torch.signbit(first):
                phase = -phase
            v[k] += phase * length
        h = torch.eye(rows, dtype=x.dtype) - 2 * torch.outer(v, v.conj()) / v.abs().square().sum()
        product = product @ h
        phases.append(phase)
    return product[:, :columns] * -torch.stack(phases)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [s for s in SHAPES if max(s) <= 130] + [(20, 150), (150, 20)])
@pytest.mark.parametrize("dtype", COMPUTED)
def test_is_the_product_of_the_reflections(shape, dtype):
    gaussian = fastinit.normal_(torch.empty(shape, dtype=dtype), key=1)
    expected = reflected(gaussian)
    atol = 1e-13 if tolerance(dtype) < 1e-10 else 1e-5
    matrix = draw(shape, dtype)
    torch.testing.assert_close(matrix.to(expected.dtype), expected, atol=atol, rtol=0)
    given = TESTING.orthogonal_from_(gaussian)
    assert given is None
    torch.testing.assert_close(gaussian.to(expected.dtype), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("size", [5, 200])
def test_columns_without_length_and_signed_zeros(dtype, size):
    gaussian = fastinit.normal_(torch.empty(size, size, dtype=dtype), key=1)
    gaussian[:, 1] = 0
    gaussian[size - 1, size - 1] = 0
    gaussian[2, 2] = -0.0
    gaussian[3, 3] = 0.0
    gaussian[3:, 3] *= 1e-25  # their squares vanish in float32
    expected = reflected(gaussian)
    if tolerance(dtype) > 1e-10:
        # Too short to be told from nothing, so nothing: v is e1.
        zeroed = gaussian.clone()
        zeroed[:, 3] = 0
        expected = reflected(zeroed)
    TESTING.orthogonal_from_(gaussian)
    atol = 1e-13 if tolerance(dtype) < 1e-10 else 1e-5
    torch.testing.assert_close(gaussian.to(expected.dtype), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("width", [1, 3, 32, 70, 1000])
@pytest.mark.parametrize("shape", [(90, 70), (70, 90), (70, 70), (1, 5), (5, 1)])
def test_the_number_of_reflections_at_once_makes_no_difference(shape, width):
    gaussian = fastinit.normal_(torch.empty(shape), key=1)
    TESTING.orthogonal_from_(gaussian, width=width)
    torch.testing.assert_close(gaussian, draw(shape), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (150, 150)])
def test_all_zeros(shape, dtype, method):
    tensor = torch.zeros(shape, dtype=dtype)
    TESTING.orthogonal_from_(tensor, method=method)
    assert orthogonality(tensor) < tolerance(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_types_agree(shape):
    """The same matrix, before the rounding to 16 and 8 bits."""
    single, double = draw(shape), draw(shape, torch.float64)
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=0)
    for dtype in REAL_DTYPES:
        if dtype.itemsize < 4:
            rounded = draw(shape, dtype).float()
            rtol = torch.finfo(dtype).eps
            torch.testing.assert_close(rounded, single.to(dtype).float(), atol=1e-5, rtol=rtol)
    double = draw(shape, torch.complex128)
    torch.testing.assert_close(draw(shape, torch.complex64).cdouble(), double, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (150, 140), (140, 150)])
@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
def test_layouts_agree(shape, layout, dtype):
    tensor = laid_out(layout, *shape, dtype=dtype)
    fastinit.orthogonal_(tensor, key=1, gain=1.5)
    expected = draw(shape, dtype, gain=1.5)
    coarse = dtype.itemsize == 2
    torch.testing.assert_close(tensor, expected, atol=8e-3 if coarse else 1e-5, rtol=0)


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("shape", [(12, 5), (150, 160)])
def test_gain(shape, method):
    plain = draw(shape, torch.float64, method=method)
    for gain in (0.0, -2.5, 1e-30, 1e30):
        scaled = draw(shape, torch.float64, method=method, gain=gain)
        torch.testing.assert_close(scaled, gain * plain, atol=0, rtol=1e-9)
    assert torch.all(draw(shape, torch.float16, method=method, gain=1e9).isfinite())


# ---- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("shape", SHAPES)
def test_columns_are_orthogonal(shape, dtype, method):
    assert orthogonality(draw(shape, dtype, method=method)) < tolerance(dtype)


@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_accuracy_does_not_depend_on_the_size(size):
    """Norms in float32 would give 2e-6 at 1024 already."""
    assert orthogonality(draw((size, size))) < 1.1e-6
    assert orthogonality(draw((size, size // 2))) < 1.1e-6


def test_accuracy_of_float64_in_blocks():
    assert orthogonality(draw((1024, 1024), torch.float64)) < 4e-15


# ---- batches and lists ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 6), (40, 3, 2), (150, 20), (180, 190)])
def test_matrices_of_a_batch_are_orthogonal_and_differ(shape, dtype, method):
    batch = draw((2, 3, *shape), dtype, batch_dims=2, method=method)
    flat = batch.reshape(6, shape[0], -1)
    bound = 2e-2 if dtype.itemsize == 2 else tolerance(dtype)
    assert orthogonality(flat) < bound
    assert len({tuple(m.flatten()[:4].tolist()) for m in flat}) == 6


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("shape", [(5, 6), (6, 5), (130, 40), (140, 150)])
def test_a_matrix_of_a_batch_comes_from_its_part_of_the_gaussian(shape, dtype):
    """Row-major index in the whole tensor, whatever else is made with it."""
    gaussian = fastinit.normal_(torch.empty(4, *shape, dtype=dtype), key=1)
    batch = draw((4, *shape), dtype, batch_dims=1)
    for matrix, its_gaussian in zip(batch, gaussian, strict=True):
        TESTING.orthogonal_from_(its_gaussian)
        torch.testing.assert_close(matrix, its_gaussian, atol=1e-5, rtol=0)
    alone = draw((1, *shape), dtype, batch_dims=1)
    rounding = 1e-5 if dtype.itemsize // (1 + dtype.is_complex) == 4 else 1e-13
    torch.testing.assert_close(batch[:1], alone, atol=rounding, rtol=0)
    torch.testing.assert_close(batch[0], draw(shape, dtype), atol=rounding, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 6), (6, 5), (31, 64), (128, 128), (130, 40)])
def test_small_real_matrices_do_not_depend_on_their_batch(shape, dtype):
    """Each is made by a thread of its own: bit for bit. Larger and complex ones go through ATen."""
    batch = draw((7, *shape), dtype, batch_dims=1)
    for count in (1, 2, 5):
        assert torch.equal(batch[:count], draw((count, *shape), dtype, batch_dims=1))


@pytest.mark.parametrize("shape", [(5, 6), (140, 150)])
def test_layouts_of_batches(shape):
    expected = draw((2, 3, *shape), batch_dims=2)
    permuted = torch.empty(3, 2, *shape[::-1]).permute(1, 0, 3, 2)
    sliced = torch.empty(2, 6, *shape)[:, ::2]
    for tensor in (permuted, sliced):
        fastinit.orthogonal_(tensor, key=1, batch_dims=2)
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=0)


def list_of_tensors() -> list[torch.Tensor]:
    shapes = [(9, 7), (150, 140), (9, 7), (7, 9), (150, 140), (9, 7), (0, 3), (3, 0), (20, 3, 3)]
    tensors = [torch.empty(shape) for shape in shapes]
    more = [torch.empty(9, 7, dtype=d) for d in (torch.float64, torch.bfloat16, torch.complex64)]
    return [*tensors, *more, torch.empty(7, 9).t(), torch.empty(4, 9, 7)[2]]


@pytest.mark.parametrize("method", ["householder", "qr"])
def test_lists(method):
    tensors, alone = list_of_tensors(), list_of_tensors()
    keys = [Key(3).fold_in(k) for k in range(len(tensors))]
    gains = [1.0 + k for k in range(len(tensors))]
    result = fastinit.orthogonal_many_(tensors, gains, keys=keys, method=method)
    assert all(a is b for a, b in zip(result, tensors, strict=True))
    for tensor, one, key, gain in zip(tensors, alone, keys, gains, strict=True):
        fastinit.orthogonal_(one, gain, key=key, method=method)
        torch.testing.assert_close(tensor, one, atol=2e-4, rtol=0)


def test_lists_draw_keys_in_order():
    tensors, alone = list_of_tensors(), list_of_tensors()
    fastinit.orthogonal_many_(tensors, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for tensor, one in zip(tensors, alone, strict=True):
        fastinit.orthogonal_(one, generator=generator)
        torch.testing.assert_close(tensor, one, atol=1e-5, rtol=0)
    torch.manual_seed(5)
    again = fastinit.orthogonal_many_(list_of_tensors())
    for tensor, one in zip(tensors, again, strict=True):
        assert same_bits(tensor, one)


def test_a_tensor_twice_in_a_list_keeps_the_last():
    tensor = torch.empty(9, 7)
    fastinit.orthogonal_many_([tensor, torch.empty(9, 7), tensor], keys=[1, 2, 3])
    assert same_bits(tensor, fastinit.orthogonal_(torch.empty(9, 7), key=3))


def test_lists_are_checked_before_anything_is_filled():
    tensors = [torch.zeros(4, 4), torch.zeros(4)]
    with untouched(tensors[0]), pytest.raises(ValueError, match="at least 2 dimensions"):
        fastinit.orthogonal_many_(tensors)
    good = tensors[:1]
    with untouched(good[0]):
        for bad in ({"keys": [1, 2]}, {"gain": [1.0, 2.0]}):
            with pytest.raises(ValueError, match="2 values for 1 tensors"):
                fastinit.orthogonal_many_(good, **bad)
        with pytest.raises(ValueError, match="exclude each other"):
            fastinit.orthogonal_many_(good, generator=torch.Generator(), keys=[1])
        with pytest.raises(TypeError):
            fastinit.orthogonal_many_(good, keys=["a"])
    assert fastinit.orthogonal_many_([]) == []


# ---- in the middle of a convolution --------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(3,), (4,), (3, 5), (2, 1), (3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_delta_orthogonal(kernel, dtype):
    tensor = torch.full((7, 5, *kernel), math.nan, dtype=dtype)
    assert fastinit.delta_orthogonal_(tensor, 2.0, key=3) is tensor
    middle = (slice(None), slice(None), *((k - 1) // 2 for k in kernel))
    expected = torch.zeros(7, 5, *kernel, dtype=dtype)
    expected[middle] = fastinit.orthogonal_(torch.empty(7, 5, dtype=dtype), 2.0, key=3)
    assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    ("bad", "arguments", "error"),
    [
        (torch.zeros(3, 3, dtype=torch.int32), {"keys": [1, 2]}, NotImplementedError),
        (torch.zeros(3, 3, dtype=torch.int32), {}, NotImplementedError),
        (torch.zeros(3, 3).to_sparse(), {"keys": [1, 2]}, NotImplementedError),
        (torch.zeros(3, 3).to_sparse(), {"method": "qr"}, NotImplementedError),
        (3, {}, TypeError),
        (torch.zeros(3, 3), {"batch_dims": (0,)}, TypeError),
        (torch.zeros(3, 3), {"method": 3}, TypeError),
    ],
)
def test_what_cannot_be_filled_keeps_others_from_being_filled(bad, arguments, error):
    good = torch.zeros(3, 3)
    with untouched(good), pytest.raises(error):
        fastinit.orthogonal_many_([good, bad], **arguments)


def test_delta_orthogonal_refuses():
    for overlapping in (
        torch.zeros(1, 3, 1).expand(4, 3, 3),
        torch.zeros(9).as_strided((4, 3, 2), (1, 1, 1)),
    ):
        with untouched(overlapping), pytest.raises(RuntimeError, match="single memory location"):
            fastinit.delta_orthogonal_(overlapping)
    for shape, message in (((4, 4), "3, 4 or 5"), ((2, 3, 3), "as many outputs as inputs")):
        tensor = torch.zeros(shape)
        with untouched(tensor), pytest.raises(ValueError, match=message):
            fastinit.delta_orthogonal_(tensor)
    tensor = torch.zeros(3, 2, 3)
    with untouched(tensor), pytest.raises(ValueError, match="exclude each other"):
        fastinit.delta_orthogonal_(tensor, key=1, generator=torch.Generator())
    with untouched(tensor), pytest.raises(TypeError, match="gain"):
        fastinit.delta_orthogonal_(tensor, "1")
    with no_randomness():
        fastinit.delta_orthogonal_(torch.empty(3, 2, 3, device="meta"))
        fastinit.delta_orthogonal_(torch.empty(0, 0, 3))
