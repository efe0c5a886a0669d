"""Orthogonal and sparse matrices on a CUDA device: as on the CPU, but for rounding."""

from __future__ import annotations

import pytest
import torch
from support.common import same_bits
from support.layout_cases import MATRIX_LAYOUTS, laid_out
from support.orthogonal_helpers import SHAPES, orthogonality, tolerance

import fastinit

pytestmark = pytest.mark.cuda

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (128, 400), (3000, 5), (700, 700)])
def test_as_on_the_cpu(shape: tuple[int, int], dtype: torch.dtype) -> None:
    ours = fastinit.orthogonal_(torch.empty(shape, dtype=dtype, device="cuda"), 1.5, key=1).cpu()
    expected = fastinit.orthogonal_(torch.empty(shape, dtype=dtype), 1.5, key=1)
    rtol = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=rtol)
    if dtype.itemsize > 2:
        assert orthogonality(ours / 1.5) < tolerance(dtype)


@pytest.mark.parametrize("shape", [(5, 6), (64, 64), (140, 150)])
def test_batches_and_lists(shape: tuple[int, int]) -> None:
    batch = fastinit.orthogonal_(torch.empty(70, *shape, device="cuda"), key=1, batch_dims=1)
    expected = fastinit.orthogonal_(torch.empty(70, *shape), key=1, batch_dims=1)
    torch.testing.assert_close(batch.cpu(), expected, atol=1e-5, rtol=0)
    tensors = [torch.empty(shape, device="cuda") for _ in range(70)]
    fastinit.orthogonal_many_(tensors, keys=list(range(70)))
    for key in (0, 33, 69):
        one = fastinit.orthogonal_(torch.empty(shape), key=key)
        torch.testing.assert_close(tensors[key].cpu(), one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
@pytest.mark.parametrize("shape", [(9, 7), (150, 140)])
def test_layouts(layout: str, shape: tuple[int, int]) -> None:
    view = laid_out(layout, *shape, dtype=torch.float32)
    size = view.storage_offset() + view.untyped_storage().nbytes() // 4
    tensor = torch.empty(size, device="cuda").as_strided(view.shape, view.stride())
    fastinit.orthogonal_(tensor, key=1)
    expected = fastinit.orthogonal_(torch.empty(shape), key=1)
    torch.testing.assert_close(tensor.cpu(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (200, 200)])
def test_tf32_makes_no_difference(shape: tuple[int, int]) -> None:
    plain = fastinit.orthogonal_(torch.empty(shape, device="cuda"), key=1)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        with torch.autocast("cuda", dtype=torch.bfloat16):
            allowed = fastinit.orthogonal_(torch.empty(shape, device="cuda"), key=1)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert same_bits(plain, allowed)


def test_on_the_current_stream_and_in_a_graph() -> None:
    tensor = torch.zeros(100, 20, 30, device="cuda")
    expected = fastinit.orthogonal_(torch.empty_like(tensor), key=1, batch_dims=1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fastinit.orthogonal_(tensor, key=1, batch_dims=1)
    tensor.zero_()
    graph.replay()
    assert same_bits(tensor, expected)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sparse_is_that_of_the_cpu(sparsity: float, dtype: torch.dtype) -> None:
    ours = fastinit.sparse_(torch.empty(300, 70, dtype=dtype, device="cuda"), sparsity, key=8)
    assert same_bits(
        ours.cpu(), fastinit.sparse_(torch.empty(300, 70, dtype=dtype), sparsity, key=8)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_structural_fills(dtype: torch.dtype) -> None:
    for fill, shape in (
        (fastinit.eye_, (5, 8)),
        (fastinit.dirac_, (6, 4, 3, 3)),
    ):
        ours = fill(torch.full(shape, 7.0, dtype=dtype, device="cuda"))
        assert same_bits(ours.cpu(), fill(torch.full(shape, 7.0, dtype=dtype)))
    ours = fastinit.delta_orthogonal_(
        torch.empty(6, 4, 3, 3, dtype=dtype, device="cuda"), key=1
    ).cpu()
    expected = fastinit.delta_orthogonal_(torch.empty(6, 4, 3, 3, dtype=dtype), key=1)
    atol = 1e-5 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(ours, expected, atol=atol, rtol=0)
