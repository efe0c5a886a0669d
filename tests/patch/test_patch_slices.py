"""Slices of DTensors under a patch: what is written to them stays.

What several processes do is in support/model_ranks.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, ones

import fastinit


def spread() -> Any:
    mesh = init_device_mesh("cpu", (2,))
    return nn.Parameter(ones(8, 4, device_mesh=mesh, placements=[Shard(0)]))


def filled(*rows: int) -> torch.Tensor:
    """The shard of rank 1, whose rows are 4 to 7, where some of these have been zeroed."""
    local = torch.ones(4, 4)
    for row in rows:
        if row >= 4:
            local[row - 4] = 0
    return local


@torch.no_grad()
def test_what_is_written_to_slices_stays() -> None:
    with as_rank(1, 2):
        weight = spread()
        version = weight._version
        with fastinit.patch():
            weight[6].zero_()
            assert weight._version > version
            first, second = weight[4], weight[5]
            second.fill_(0)
            first.zero_()  # a slice beside it has been written meanwhile
            torch._foreach_zero_([weight[2], weight[3]])
        assert same_bits(weight.to_local(), filled(4, 5, 6))


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w[6].data.zero_(),
        lambda w: w.data[6].detach().zero_(),
        lambda w: w[4:6].t().zero_(),
        lambda w: w[4:6].T[1].zero_(),
        lambda w: w[3:6].mT.zero_(),
        lambda w: w[3:6].transpose(0, 1)[2].zero_(),
        lambda w: w[3:6].permute(1, 0).zero_(),
        lambda w: torch.movedim(w[3:6], 0, 1).zero_(),
        lambda w: w[3:6].view(-1).zero_(),
        lambda w: w[3:6].view_as(w[2:5]).zero_(),
        lambda w: w[3:6].reshape(1, 3, 4)[0, 1:].zero_(),
        lambda w: w[3:6].flatten().zero_(),
        lambda w: w[4:8].unflatten(0, (2, 2))[:, 1].zero_(),
        lambda w: w[6].unsqueeze(0).zero_(),
        lambda w: w[6:7].squeeze(0).zero_(),
        lambda w: w.vsplit(2)[1].zero_(),
        lambda w: w[:, 1:3][5].zero_(),
        lambda w: w[:, ::2][4:7].zero_(),
        lambda w: w[2:7][1:4][:, ::2].zero_(),
        lambda w: w.t()[1:, 5].zero_(),
        lambda w: torch.mul(w[6], 0, out=w[6]),
        lambda w: nn.init.zeros_(w[3:6].t()),
    ],
)
@torch.no_grad()
def test_what_is_written_to_views_of_slices_stays(write: Any) -> None:
    want = torch.ones(8, 4)
    write(want)
    with as_rank(1, 2):
        weight = spread()
        with fastinit.patch():
            write(weight)
        assert same_bits(weight.to_local(), want[4:])


@torch.no_grad()
def test_copies_of_slices_are_copies() -> None:
    with as_rank(1, 2), fastinit.patch():
        weight = spread()
        weight[4:7, 1:3].reshape(-1).zero_()
        weight.t()[:, 5:7].flatten().zero_()
        assert same_bits(weight.to_local(), filled())


@torch.no_grad()
def test_views_that_do_not_lie_along_dimensions() -> None:
    with as_rank(1, 2), fastinit.patch():
        weight = spread()
        for view in (weight.diagonal(), weight[4:8].diagonal(), weight[6].view(torch.int32)):
            with pytest.raises(NotImplementedError, match="does not lie along its dimensions"):
                view.zero_()
        assert same_bits(weight.to_local(), filled())


@torch.no_grad()
def test_without_a_patch_torch_is_as_ever() -> None:
    with as_rank(1, 2):
        weight = spread()
        weight[6].zero_()
        with fastinit.patch():
            pass
        weight[6].zero_()
        assert same_bits(weight.to_local(), filled())


@torch.no_grad()
def test_slices_that_are_old_are_not_written() -> None:
    with as_rank(1, 2), fastinit.patch():
        weight = spread()
        row = weight[6]
        weight.mul_(1)
        with pytest.raises(NotImplementedError, match=r"shape \(4,\) of a DTensor of shape \(8, 4"):
            row.zero_()
        rows, row = weight[5:7], weight[6]
        row.zero_()
        with pytest.raises(NotImplementedError, match="slice anew"):
            rows.add_(1)
        with pytest.raises(NotImplementedError, match="slice anew"):
            nn.init.normal_(rows[0])
        assert same_bits(weight.to_local(), filled(6))


def test_what_autograd_sees_is_left_to_torch() -> None:
    with as_rank(1, 2), fastinit.patch():
        weight = spread()
        row = weight[6] * 1
        row.zero_()
        copy = weight.detach()[6]
        assert not copy.requires_grad
        copy.zero_()
        assert same_bits(weight.detach().to_local(), filled(6))
        (weight[5].clone().add_(1)).sum()
        assert same_bits(weight.detach().to_local(), filled(6))


@torch.no_grad()
def test_indices_that_make_copies_of_ordinary_tensors() -> None:
    with as_rank(1, 2), fastinit.patch():
        weight = spread()
        plain = torch.ones(8, 4)
        for tensor in (weight, plain):
            tensor[6].mul(0)
            tensor[6].clone().zero_()
            tensor.select(0, 5).sum().zero_()
        plain[[1, 2]].zero_()
        assert same_bits(weight.to_local(), filled())
        assert same_bits(plain, torch.ones(8, 4))


@torch.no_grad()
def test_draws_into_slices_are_not_named() -> None:
    with as_rank(1, 2):
        module = nn.Linear(4, 8)
        module.weight = spread()
        with fastinit.patch(key=3, module=module):
            with pytest.raises(NotImplementedError, match=r"a slice of shape \(4,\) of a DTensor"):
                nn.init.normal_(module.weight[6])
            with pytest.raises(NotImplementedError, match=r"a slice of shape \(4, 2\) of a DTen"):
                nn.init.normal_(module.weight[5:7].t())
            module.weight[6].zero_()
        assert same_bits(module.weight.to_local(), filled(6))  # type: ignore[operator]
