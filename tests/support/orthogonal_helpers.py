"""What the tests of orthogonal_ share: shapes and types, draws, and how orthogonal they are."""

from __future__ import annotations

import math
from typing import Any

import torch

import fastinit

OPS = torch.ops.fastinit
TESTING = torch.ops.fastinit_testing
COMPUTED = [torch.float32, torch.float64, torch.complex64, torch.complex128]
# 1 x n, n x 1, 1 x 1, 2 x 2; around blocks of 4 and of 32; small and large, tall, wide and square.
SHAPES = [
    (1, 1), (1, 5), (5, 1), (2, 2), (3, 2), (2, 3), (4, 4), (5, 5), (7, 4), (8, 13), (64, 64),
    (65, 127), (128, 128), (129, 129), (130, 128), (300, 70), (70, 300), (200, 200), (257, 193),
]  # fmt: skip


def exact_type(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def tolerance(dtype: torch.dtype) -> float:
    """What is promised of |Q^T Q - I| / sqrt(n)."""
    return 1e-14 if dtype in (torch.float64, torch.complex128) else 1.5e-6


def orthogonality(matrix: torch.Tensor) -> float:
    """The largest |Q^H Q - I| / sqrt(n), Frobenius, over a batch."""
    q = matrix.detach().to(exact_type(matrix.dtype))
    q = q.mT if q.shape[-2] < q.shape[-1] else q
    identity = torch.eye(q.shape[-1], dtype=q.dtype)
    error = torch.linalg.matrix_norm(q.mH @ q - identity) / math.sqrt(q.shape[-1])
    return float(error.max())


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **kwargs: Any) -> torch.Tensor:
    # Whatever was in memory must not matter.
    tensor = torch.full(shape, math.nan, dtype=dtype)
    return fastinit.orthogonal_(tensor, **{"key": 1, **kwargs})
