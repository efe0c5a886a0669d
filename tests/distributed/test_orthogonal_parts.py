"""Parts of orthogonal matrices that are made of their own rows, as those of large ones are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.common import same_bits
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.float16])
@pytest.mark.parametrize(
    ("full", "shape", "offset"),
    [
        ((300, 100), (50, 30), (70, 60)),
        ((100, 300), (30, 50), (60, 70)),
        ((64, 64), (64, 10), (0, 50)),
        ((1, 5), (1, 2), (0, 1)),
        ((8, 4, 5, 3), (4, 2, 2, 3), (2, 1, 3, 0)),
    ],
)
def test_orthogonal_by_rows(
    full: tuple[int, ...], shape: tuple[int, ...], offset: tuple[int, ...], dtype: torch.dtype
) -> None:
    """The way of matrices too large to be made whole gives the same, to rounding."""
    want = fastinit.orthogonal_(torch.empty(full, dtype=dtype), 2.0, key=5)
    part = torch.empty(shape, dtype=dtype)
    boxes = [*[0] * len(full), *shape, *offset]
    torch.ops.fastinit_testing.orthogonal_by_rows_(part, 2.0, list(full), boxes, key=5)
    there = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
    tolerance = {torch.float64: 1e-14, torch.float16: 2e-3}.get(dtype, 2e-6)
    torch.testing.assert_close(part, want[there], atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_orthogonal_by_rows_below_a_mode(dtype: torch.dtype) -> None:
    """Where nobody resolves a conjugation that is still pending."""

    class Passes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    for full in ((30, 20), (20, 30)):
        want, part = (torch.empty(10, 8, dtype=dtype) for _ in range(2))
        boxes = [0, 0, 10, 8, 7, 5]
        torch.ops.fastinit_testing.orthogonal_by_rows_(want, 2.0, list(full), boxes, key=5)
        with Passes():  # type: ignore[no-untyped-call]
            torch.ops.fastinit_testing.orthogonal_by_rows_(part, 2.0, list(full), boxes, key=5)
        assert same_bits(part, want)


def test_orthogonal_by_rows_drawn_in_turns() -> None:
    want = fastinit.orthogonal_(torch.empty(4500, 1000), key=5)
    part = torch.empty(10, 20)
    boxes = [0, 0, 10, 20, 4400, 7]
    torch.ops.fastinit_testing.orthogonal_by_rows_(part, 1.0, [4500, 1000], boxes, key=5)
    torch.testing.assert_close(part, want[4400:4410, 7:27], atol=1e-6, rtol=0)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("narrow", [3000, 700])
def test_orthogonal_by_rows_written_in_turns(narrow: int, wide: bool) -> None:
    """Parts of more rows than are made at once, of a matrix more columns than that."""
    full, shape, offset = (5000, narrow), (4000, narrow - 100), (900, 50)
    if narrow == 3000:  # fewer rows than columns: row by row
        full, shape, offset = (3200, 3000), (1700, 2900), (1000, 50)
    want = fastinit.orthogonal_(torch.empty(full[::-1] if wide else full), key=5)
    part = torch.empty(shape[::-1] if wide else shape)
    if wide:
        full, shape, offset = full[::-1], shape[::-1], offset[::-1]
    boxes = [0, 0, *shape, *offset]
    torch.ops.fastinit_testing.orthogonal_by_rows_(part, 1.0, list(full), boxes, key=5)
    there = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
    torch.testing.assert_close(part, want[there], atol=1e-6, rtol=0)


def test_orthogonal_experts_by_rows() -> None:
    want = fastinit.orthogonal_(torch.empty(3, 4, 20, 6), batch_dims=2, key=5)
    part = torch.empty(2, 2, 5, 6)
    boxes = [0, 0, 0, 0, 2, 2, 5, 6, 1, 2, 10, 0]
    torch.ops.fastinit_testing.orthogonal_by_rows_(part, 1.0, [3, 4, 20, 6], boxes, 2, key=5)
    torch.testing.assert_close(part, want[1:, 2:, 10:15], atol=1e-6, rtol=0)
