"""`initialize_` on modules whose buffers are DTensors, as `distribute_module` makes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import fastinit


class Buffers(nn.Module):
    """Buffers that an initialiser writes, replaces and leaves, and what `step` does."""

    def __init__(self, step: str = "") -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.weight = nn.Parameter(torch.zeros(6))
        self.register_buffer("left", torch.arange(6.0))
        self.register_buffer("drawn", torch.full((6,), 7.0))
        self.register_buffer("replaced", torch.full((6,), 7.0))
        self.register_buffer("other", torch.full((6,), 7.0))
        self.step = step
        self.norm.running_mean = torch.full((6,), 7.0)
        self.norm.num_batches_tracked = torch.tensor(7)

    def reset_parameters(self) -> None:
        tensors: Any = self
        with torch.no_grad():
            tensors.drawn.normal_()
            self.weight.copy_(tensors.drawn)
            self.replaced = torch.arange(6.0) * 2
            if self.step == "reads":
                self.weight.copy_(tensors.left)
            elif self.step == "writes a part":
                tensors.other[:3].fill_(1)
            elif self.step == "changes":
                tensors.other.mul_(2)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def shard_of(tensor: torch.Tensor, mesh: DeviceMesh, placement: Any) -> Any:
    placements = [placement if tensor.ndim else Replicate()]
    return distribute_tensor(tensor.detach(), mesh, placements, src_data_rank=None)


def distribute(module: nn.Module, mesh: DeviceMesh, placement: Any) -> None:
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            assert buffer is not None
            owner._buffers[name] = shard_of(buffer, mesh, placement)
        for name, parameter in owner._parameters.items():
            assert parameter is not None
            owner._parameters[name] = nn.Parameter(shard_of(parameter, mesh, placement))


@pytest.mark.parametrize("placement", [Replicate(), Shard(0)])
def test_what_initialisers_write(placement: Any) -> None:
    """As without shards: what they do not write stays, and all are the objects they were."""
    want = tensors_of(fastinit.initialize_(Buffers(), key=3))
    assert not want["norm.running_mean"].any() and want["left"].any()
    with as_rank(1, 2):
        mesh = init_device_mesh("cpu", (2,))
        module = Buffers()
        distribute(module, mesh, placement)
        before = tensors_of(module)
        fastinit.initialize_(module, key=3)
        for name, tensor in tensors_of(module).items():
            sharded: Any = tensor
            assert tensor is before[name]
            assert same_bits(
                sharded._local_tensor.detach(), shard_of(want[name], mesh, placement)._local_tensor
            ), name


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("reads", r"an initialiser reads left \(copy_\), which is sharded"),
        ("writes a part", "an initialiser writes only a part of other, or changes"),
        ("changes", "an initialiser writes only a part of other, or changes"),
    ],
)
def test_what_needs_values_that_are_elsewhere_is_refused(step: str, message: str) -> None:
    with as_rank(1, 2):
        mesh = init_device_mesh("cpu", (2,))
        module = Buffers(step)
        distribute(module, mesh, Shard(0))
        before = tensors_of(module)
        with pytest.raises(NotImplementedError, match=f"fastinit.initialize_: {message}"):
            fastinit.initialize_(module, key=3)
        for name, tensor in tensors_of(module).items():
            assert tensor is before[name]
        shard: Any = module.drawn
        assert same_bits(shard._local_tensor, torch.full((3,), 7.0))


class Counts(nn.Module):
    """A buffer that is a sum over ranks, as torchtitan counts the tokens of experts."""

    def __init__(self, value: float | None, replaces: bool) -> None:
        super().__init__()
        self.register_buffer("counts", torch.full((6,), 7.0))
        self.weight = nn.Parameter(torch.zeros(6))
        self.value = value
        self.replaces = replaces

    def reset_parameters(self) -> None:
        tensors: Any = self
        nn.init.normal_(self.weight)
        if self.value is None:
            return
        if self.replaces:
            self.counts = torch.full((6,), self.value)
        else:
            tensors.counts.fill_(self.value)


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("replaces", [False, True])
def test_sums_over_ranks_are_set_to_zero(replaces: bool, meta: bool) -> None:
    with as_rank(1, 2):
        mesh = init_device_mesh("cpu", (2,))

        def made(value: float | None) -> Any:
            module: Any = Counts(value, replaces).to("meta" if meta else "cpu")
            module.counts = DTensor.from_local(module.counts, mesh, [Partial()])
            return module

        function = fastinit.materialize if meta else fastinit.initialize_
        module = made(0.0)
        function(module, key=3)
        assert same_bits(module.counts._local_tensor, torch.zeros(6))
        with pytest.raises(NotImplementedError, match=r"counts is a DTensor .*sums over ranks"):
            function(made(1.0), key=3)
        if not meta:
            module = fastinit.initialize_(made(None), key=3)
            assert same_bits(module.counts._local_tensor, torch.full((6,), 7.0))
