"""What comes out under our modes has the bits that it has without: not so under torch's modes.

Where a mode is on, torch computes vectors with singular values; in inference mode it takes
operators apart as its compiler does, once that is loaded; and it forgets conjugations made inside.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch._decomp  # which is what the compiler takes operators apart with
import torch.nn.functional as F
from support.common import same_bits
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit

linalg = torch.linalg
_real = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
_complex = torch.complex(_real, _real.flip(0))
_square = _real @ _real.mT

MADE: dict[str, Callable[[], Any]] = {
    "svdvals": lambda: linalg.svdvals(_real),
    "spectral norm": lambda: linalg.matrix_norm(_real, 2),
    "nuclear norm": lambda: linalg.matrix_norm(_real, "nuc"),
    "norm": lambda: linalg.norm(_real, ord=-2),
    "Tensor.norm": lambda: _real.norm("nuc"),
    "torch.norm": lambda: torch.norm(_real, p="nuc"),
    "norm of a vector": lambda: torch.norm(_real),
    "svd without vectors": lambda: torch.svd(_real, compute_uv=False)[1],
    "Tensor.svd without vectors": lambda: _real.svd(True, False)[1],
    "svd": lambda: torch.svd(_real)[1],
    "linalg.svd": lambda: linalg.svd(_real, full_matrices=False)[2],
    "cond": lambda: linalg.cond(_real),
    "cond by inverse": lambda: linalg.cond(_square, p="fro"),
    "eigvalsh": lambda: linalg.eigvalsh(_square),
    "eigvalsh of the upper half": lambda: linalg.eigvalsh(_square.triu(), UPLO="U"),
    "eigvals": lambda: torch.view_as_real(linalg.eigvals(_square + _real[:, :20])),
    "rank": lambda: linalg.matrix_rank(_real),
    "rank of a symmetric one": lambda: linalg.matrix_rank(_square, hermitian=True),
    "matmul": lambda: _real.expand(3, 20, 30).mT @ torch.stack([_real[:, :7].mT] * 3).mT,
    "interpolate": lambda: F.interpolate(_real[None, None], size=(7, 9), mode="bilinear"),
    "batch_norm": lambda: F.batch_norm(_real, None, None, training=True),
    "hfft2": lambda: torch.fft.hfft2(_real.reshape(5, 4, 30), dim=(-3, -2, -1)),
    "pinv": lambda: torch.view_as_real(linalg.pinv(_complex)),
    "complex svdvals": lambda: linalg.svdvals(_complex),
}


class Held(nn.Module):
    def __init__(self, make: Callable[[], Any], mode: Callable[[], Any] = nullcontext) -> None:
        super().__init__()
        with mode():
            made = make()
        self.register_buffer("held", made.clone())


class Scaled(nn.Module):
    """A weight that is scaled by a norm of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(20, 30))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        with torch.no_grad():
            self.weight.div_(linalg.matrix_norm(self.weight, 2))


@pytest.mark.parametrize("name", MADE)
def test_bits(name: str) -> None:
    make = MADE[name]
    expected = make()
    for around in (fastinit.batch, lambda: fastinit.patch(0, batch=True)):
        with around():
            made = make()
        assert same_bits(made, expected)
        with around(), fastinit.batch():
            nested = make()
        assert same_bits(nested, expected)
    made = fastinit.materialize(lambda: Held(make), key=0).held
    assert same_bits(made, expected)


@pytest.mark.parametrize("name", MADE)
def test_bits_in_inference_mode(name: str) -> None:
    make = MADE[name]
    with torch.inference_mode():
        expected = make()
        with fastinit.batch():
            made = make()
    assert same_bits(made, expected)
    held = fastinit.materialize(lambda: Held(make, torch.inference_mode), key=0).held
    assert same_bits(held, expected)


def test_a_weight_scaled_by_its_norm() -> None:
    key = fastinit.Key(3)
    made = fastinit.materialize(Scaled, key=key)
    weight = fastinit.normal_(torch.empty(20, 30), key=key.fold_in("weight").fold_in(0))
    assert same_bits(made.weight.data, weight / linalg.matrix_norm(weight, 2))
    assert same_bits(fastinit.initialize_(Scaled(), key=key).weight.data, made.weight.data)


def test_gradients_of_values_are_there() -> None:
    matrices = [_square.clone().requires_grad_() for _ in range(2)]
    for matrix, around in zip(matrices, (nullcontext, fastinit.batch), strict=True):
        with around():
            (linalg.svdvals(matrix).sum() + linalg.eigvalsh(matrix)[0]).backward()
    plain, inside = (matrix.grad for matrix in matrices)
    assert plain is not None and inside is not None
    assert same_bits(inside, plain)


def test_tangents_of_values_are_there() -> None:
    found = []
    for around in (nullcontext, fastinit.batch):
        with torch.autograd.forward_ad.dual_level(), around():
            dual = torch.autograd.forward_ad.make_dual(_square, _square.flip(0))
            found.append(torch.autograd.forward_ad.unpack_dual(linalg.svdvals(dual)).tangent)
    plain, inside = found
    assert plain is not None and same_bits(inside.clone(), plain.clone())


def test_modes_of_others_see_what_they_do_without_ours() -> None:
    class Seeing(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            self.seen.append((func, args[1:]))
            return func(*args, **(kwargs or {}))

    seen = []
    for around in (nullcontext, fastinit.batch):
        with Seeing() as mode, around():
            linalg.svdvals(_real)
        seen.append(mode.seen)
    assert seen[0] == seen[1]


def test_a_matrix_whose_fill_waits() -> None:
    with fastinit.batch():
        matrix: Tensor = fastinit.normal_(torch.empty(9, 9), key=1)
        values = linalg.svdvals(matrix)
        rank = linalg.matrix_rank(fastinit.normal_(torch.empty(9, 9), key=1))
    assert same_bits(values, linalg.svdvals(fastinit.normal_(torch.empty(9, 9), key=1)))
    assert rank == 9
