"""What no shard of a module is made of: other layouts, and DTensors held otherwise, are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank, dtensor
from support.sharded_models import fsdp, fsdp_over_tensor_parallel, hsdp, tensor_parallel, wrong_in
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

import fastinit
from fastinit._distributed.fill import OBSERVERS

WORLD = 4


class Up(nn.Module):
    """Layers that `support.sharded_models` knows how to shard."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Module()
        layer.up, layer.down = nn.Linear(8, 8), nn.Linear(8, 4)
        self.layers = nn.ModuleList([layer])


# ---- a factory that shards otherwise than the module is sharded ----------------------------------

LAYOUTS: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    "plain": lambda model, world: model,
    "fsdp": fsdp,
    "hsdp": hsdp,
    "tensor_parallel": tensor_parallel,
    "fsdp_over_tensor_parallel": fsdp_over_tensor_parallel,
}


@pytest.mark.parametrize("made", LAYOUTS)
@pytest.mark.parametrize("way", LAYOUTS)
def test_factories_of_other_layouts(way: str, made: str) -> None:
    want = fastinit.materialize(Up, key=3)
    for rank in range(WORLD):
        with as_rank(rank, WORLD):
            model = LAYOUTS[way](Up(), WORLD)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(7)

            def factory() -> nn.Module:
                return LAYOUTS[made](Up(), WORLD)

            if made in ("plain", way):
                fastinit.initialize_(model, factory=factory, key=3)
                assert wrong_in(model, want) == []
                continue
            with pytest.raises(NotImplementedError, match=r"otherwise than the module: layers\.0"):
                fastinit.initialize_(model, factory=factory, key=3)
            for parameter in model.parameters():
                local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                assert (local == 7).all()


def test_a_factory_for_sums_over_ranks_writes_nothing() -> None:
    class Summed(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.register_buffer("total", torch.ones(4))

    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        model = Summed()
        model.total = dtensor(torch.ones(4), (4,), mesh, [Partial()])
        before = model.weight.detach().clone()
        with pytest.raises(NotImplementedError, match=r"total is a DTensor .* sums over ranks"):
            fastinit.initialize_(model, factory=Summed, key=3)
        assert same_bits(model.weight.detach(), before)


# ---- DTensors that a module holds otherwise ------------------------------------------------------


class Holds(nn.Module):
    def __init__(self, change: Callable[[Any, Any], object]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((8, 4), 7.0))
        self.change = [change]
        self.held: list[Any] = []

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        with torch.no_grad():
            self.change[0](self.held[0], self.weight)


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "normal_": lambda held, weight: nn.init.normal_(held),
    "orthogonal_": lambda held, weight: nn.init.orthogonal_(held),
    "bernoulli_": lambda held, weight: held.bernoulli_(),
    "slice": lambda held, weight: held[2:4].fill_(5),
    "select": lambda held, weight: nn.init.normal_(held[3]),
    "fill_": lambda held, weight: held.fill_(2),
    "eye_": lambda held, weight: nn.init.eye_(held),
    "copied": lambda held, weight: held.copy_(weight),
    "read": lambda held, weight: weight.copy_(held),
    "detached": lambda held, weight: held.detach().mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_initialisers_that_change_what_is_held_otherwise(change: str) -> None:
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        model: Any = fully_shard(Holds(CHANGES[change]), mesh=mesh)
        model.held.append(dtensor(torch.ones(2, 4), (8, 4), mesh, [Shard(0)]))
        with pytest.raises(NotImplementedError, match=r"uses held\.0 .* register it as a buffer"):
            fastinit.initialize_(model, key=3)
        assert (model.held[0].to_local() == 1).all()
        assert (model.weight.to_local() == 7).all()


def test_what_is_held_otherwise_and_not_used_stays() -> None:
    want = fastinit.initialize_(nn.Linear(8, 4), key=3)
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        model: Any = fully_shard(nn.Linear(8, 4), mesh=mesh)
        held = dtensor(torch.ones(2, 4), (8, 4), mesh, [Shard(0)])
        model.held, model.weights = {"one": held}, [model.weight]
        fastinit.initialize_(model, key=3)
        assert wrong_in(model, want) == []
        assert model.held["one"] is held and (held.to_local() == 1).all()


@pytest.mark.parametrize("rank", [0, 3])
def test_what_is_held_otherwise_gets_no_memory(rank: int) -> None:
    with as_rank(rank, WORLD):  # the last one has nothing of it
        mesh = init_device_mesh("cpu", (WORLD,))
        model: Any = fully_shard(nn.Linear(8, 4, device="meta"), mesh=mesh)
        model.held = distribute_tensor(torch.empty(3, 4, device="meta"), mesh, [Shard(0)])
        with pytest.raises(NotImplementedError, match="get no values, held, otherwise than as"):
            fastinit.materialize(model, key=3)
        assert model.weight.is_meta


@pytest.mark.parametrize("after", [False, True])
def test_what_a_factory_makes_and_holds_otherwise(after: bool) -> None:
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))

        def factory() -> nn.Module:
            model: Any = nn.Linear(8, 4)
            full = torch.randn(8, 4)
            model.held = [distribute_tensor(full, mesh, [Shard(0)])]
            if after:
                nn.init.normal_(model.held[0])
            return model

        with pytest.raises(NotImplementedError, match=r"get no values, held\.0, otherwise"):
            fastinit.materialize(factory, key=3)


def test_what_of_outside_a_factory_changes_and_holds_otherwise() -> None:
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        outside = dtensor(torch.ones(2, 4), (8, 4), mesh, [Shard(0)])

        def factory() -> nn.Module:
            model: Any = nn.Linear(8, 4)
            model.held = outside
            nn.init.normal_(outside)
            return model

        with pytest.raises(NotImplementedError, match="get no values, held, otherwise"):
            fastinit.materialize(factory, key=3)
        assert (outside.to_local() == 1).all()


# ---- who is told of draws ------------------------------------------------------------------------


def layer(**where: Any) -> nn.Module:
    made = nn.Linear(4, 8, **where)
    result: nn.Module = fully_shard(made, mesh=init_device_mesh("cpu", (WORLD,)))
    return result


ROADS: dict[str, Callable[[], nn.Module]] = {
    "initialize_": lambda: fastinit.initialize_(layer(), key=3),
    "materialize": lambda: fastinit.materialize(layer(device="meta"), key=3),
    "factory": lambda: fastinit.materialize(layer, key=3),
}


@pytest.mark.parametrize("road", ROADS)
def test_each_draw_into_a_shard_is_told_once(road: str) -> None:
    seen: list[Any] = []
    with as_rank(1, WORLD):
        OBSERVERS.append(lambda *call: seen.append(call))
        try:
            model: Any = ROADS[road]()
        finally:
            OBSERVERS.pop()
        assert [call[1] for call in seen] == ["uniform_", "uniform_"]
        assert {id(call[0]) for call in seen} == {id(model.weight), id(model.bias)}
