"""Factories that make of DTensors others: like them, on their memory, or the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from support.sharded_factories import WORLD, fsdp, materialized
from support.sharded_models import wrong_in
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, zeros

import fastinit

Shards = Callable[[nn.Module], Any]


def unsharded(module: nn.Module) -> Any:
    return module


def numbers(shard: Shards) -> nn.Module:
    """Numbers of shards, as DTensors have them."""
    model = shard(nn.Linear(4, 8))
    with torch.no_grad():
        norm = model.weight.norm()
        model.weight.div_(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        total = torch.stack([p.detach().abs().max() for p in model.parameters()]).sum()
        model.bias.mul_(total)
    return model


def alike(shard: Shards) -> nn.Module:
    model = shard(nn.Linear(4, 8))
    weight = model.weight.detach()
    model.register_buffer("zeros", torch.zeros_like(model.bias))
    model.register_buffer("ones", torch.ones_like(weight, dtype=torch.float64))
    model.register_buffer("threes", torch.full_like(weight, 3.0))
    model.register_buffer("drawn", torch.empty_like(weight).normal_())
    model.register_buffer("copy", weight.clone())
    model.register_buffer("less", -weight * 2)
    model.register_buffer("later", torch.zeros_like(model.bias))
    model.later.add_(1.5)
    model.register_buffer("new", weight.new_zeros(8, 4))
    model.register_buffer("given", weight.new_full((8, 4), 2.5))
    model.register_buffer("there", torch.empty_like(weight, device="cpu").fill_(2))
    model.there[1:3] = weight[1:3]
    model.register_buffer("other", weight.to("cpu", copy=True))
    model.other.zero_()
    return model


def over_values(shard: Shards) -> nn.Module:
    """Draws into a part of what has values that nothing waits for."""
    model = shard(nn.Linear(4, 8))
    ones = torch.ones_like(model.weight)
    model.register_buffer("ones", ones)
    table = nn.Module()
    table.rows = nn.Parameter(torch.eye(8))
    table.scaled = nn.Parameter(torch.arange(64.0).view(8, 8) / 3)
    table.filled = nn.Parameter(torch.zeros(8, 3))
    model.table = shard(table)
    with torch.no_grad():
        nn.init.normal_(table.rows[:, 1])
        table.scaled.mul_(2)
        nn.init.uniform_(table.scaled[3])
        nn.init.normal_(table.filled)
        ones[:, 2].normal_()
    return model


def same(shard: Shards) -> nn.Module:
    model = shard(nn.Linear(4, 8)).to("cpu").cpu().to(torch.float32).float()
    model.weight.to("cpu")  # with gradients
    model.requires_grad_(False)
    model.weight.requires_grad_(True)
    model.optimizer = torch.optim.SGD([model.weight], lr=1.0)
    return model.to(device="cpu", dtype=torch.float32)


def on_its_memory(shard: Shards) -> nn.Module:
    model = shard(nn.Linear(4, 8))
    model.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.register_buffer("ema", model.bias.detach())
    model.tied = nn.Parameter(model.weight.data)
    model.frozen = nn.Parameter(model.bias.detach(), requires_grad=False)
    return model


FACTORIES: list[Callable[[Shards], nn.Module]] = [
    numbers,
    alike,
    over_values,
    same,
    on_its_memory,
]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("rank", [0, 2])
def test_bits(factory: Callable[[Shards], nn.Module], rank: int) -> None:
    want = fastinit.materialize(lambda: factory(unsharded), key=3)
    got = materialized(lambda: factory(fsdp), rank)
    assert wrong_in(got, want) == []
    assert {*got.state_dict()} == {*want.state_dict()}
    for tensor in (*got.parameters(), *got.buffers()):
        assert isinstance(tensor, DTensor)


def test_what_is_on_its_memory_is_apart_and_shares_it() -> None:
    model = materialized(lambda: on_its_memory(fsdp))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["weight", "bias", "tied"]
    held = model.optimizer.param_groups[0]["params"]
    assert held[0] is model.weight
    assert held[1] is model.bias
    with torch.no_grad():
        model.bias.to_local().fill_(5.0)
        model.weight.to_local().fill_(6.0)
    assert bool((model.ema.to_local() == 5).all())
    assert bool((model.frozen.to_local() == 5).all())
    assert bool((model.tied.to_local() == 6).all())


def test_a_tensor_that_is_distributed_twice() -> None:
    """Into memory of its own each time."""

    def factory(distribute: Callable[[Any], Any]) -> nn.Module:
        template = torch.eye(8)
        first = distribute(template)
        with torch.no_grad():
            first.mul_(0.5)
            second = distribute(template)
            template.add_(9)
            third = distribute(template)
            nn.init.normal_(second)
            first.add_(1)
        return nn.ParameterList([first, second, third])

    def spread(tensor: Any) -> Any:
        mesh = init_device_mesh("cpu", (WORLD,))
        return nn.Parameter(distribute_tensor(tensor, mesh, [Shard(0)]))

    want: Any = fastinit.materialize(lambda: factory(lambda t: nn.Parameter(t.clone())), key=3)
    assert same_bits(want[0].detach(), torch.eye(8) * 0.5 + 1)
    for rank in range(WORLD):
        assert wrong_in(materialized(lambda: factory(spread), rank), want) == []


def change(other: Any) -> None:
    """Without draws, by numbers and by DTensors with values."""
    other.mul_(2).add_(1)
    other.add_(other)
    other.clamp_(max=20)


@pytest.mark.parametrize("size", [8, 3])
def test_dtensors_with_values_are_changed_as_ever(size: int) -> None:
    """Of before the factory or made in it, whether the module holds them or not."""

    def factory() -> nn.Module:
        model = fsdp(nn.Linear(4, 8))
        with torch.no_grad():
            change(outside)
            inside = zeros(size, device_mesh=outside.device_mesh, placements=[Shard(0)])
            change(inside)
        model.register_buffer("inside", inside)
        model.register_buffer("whole", DTensor.from_local(torch.ones(2), mesh, [Replicate()]))
        with torch.no_grad():
            model.whole.add_(1)
        return model

    for rank in range(WORLD):
        with as_rank(rank, WORLD):
            mesh = init_device_mesh("cpu", (WORLD,))
            outside: Any = zeros(size, device_mesh=mesh, placements=[Shard(0)]).add_(7)
            model: Any = fastinit.materialize(factory, key=3)
            assert bool((outside.to_local() == 20).all())
            assert bool((model.inside.to_local() == 2).all())
            assert bool((model.whole.to_local() == 2).all())


def test_an_error_undoes_what_was_changed() -> None:
    def factory() -> nn.Module:
        with torch.no_grad():
            outside.mul_(2)
        raise KeyError("planted")

    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        outside: Any = zeros(8, device_mesh=mesh, placements=[Shard(0)]).add_(7)
        with pytest.raises(KeyError, match="planted"):
            fastinit.materialize(factory, key=3)
        assert bool((outside.to_local() == 7).all())


def test_a_parameter_that_is_distributed_twice() -> None:
    def factory(change: str) -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        weight = nn.Parameter(torch.randn(8, 4))
        model = nn.Module()
        model.first = nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)]))
        if change == "between":
            nn.init.zeros_(model.first)
        model.second = nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)]))
        if change == "afterwards":
            nn.init.zeros_(model.first)
        return model

    model = materialized(lambda: factory("afterwards"))
    assert bool((model.first.to_local() == 0).all())
    assert bool((model.second.to_local() != 0).all())
    with pytest.raises(NotImplementedError, match="distributes a parameter again"):
        materialized(lambda: factory("between"))
