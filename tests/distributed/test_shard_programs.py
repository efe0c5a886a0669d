"""Random programs of draws, changes and copies: sharded they give the bits that they give whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank
from support.shard_programs import WORLD, Programmed, factory
from support.sharded_models import wrong_in
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import fastinit

COUNT = 60


def by_fsdp(module: Any) -> Any:
    return fully_shard(module, mesh=init_device_mesh("cpu", (WORLD,)))


def by_columns(module: Any) -> Any:
    mesh = init_device_mesh("cpu", (WORLD,))
    return fully_shard(module, mesh=mesh, shard_placement_fn=lambda _: Shard(1))


def over_two(module: Any) -> Any:
    """Some over one dimension of a mesh, all over the other."""
    mesh = init_device_mesh("cpu", (2, WORLD // 2), mesh_dim_names=("dp", "tp"))
    made: dict[int, Any] = {}
    for parameter in [*module.parameters()][::2]:
        spread = distribute_tensor(parameter.detach(), mesh["tp"], [Shard(0)], src_data_rank=None)
        made[id(parameter)] = nn.Parameter(spread)
    for name, parameter in [*module._parameters.items()]:
        module._parameters[name] = made.get(id(parameter), parameter)
    return fully_shard(module, mesh=mesh["dp"])


WAYS: list[Callable[[Any], Any]] = [by_fsdp, by_columns, over_two]


def outcome(run: Callable[[], Any]) -> Any:
    """Give what comes out, or the words of the error if the program itself is at fault."""
    try:
        return run()
    except ValueError as error:
        return str(error)


def compare(got: Any, want: Any, seed: int) -> None:
    if isinstance(want, str) or isinstance(got, str):
        assert got == want, seed
        return
    assert [*got.state_dict()] == [*want.state_dict()], seed
    assert not any(tensor.is_meta for tensor in got.state_dict().values()), seed
    assert wrong_in(got, want) == [], seed


def check_factory(seed: int) -> None:
    want = outcome(lambda: fastinit.materialize(lambda: factory(seed, False), key=3))
    with as_rank(seed % WORLD, WORLD):
        got = outcome(lambda: fastinit.materialize(lambda: factory(seed, True), key=3))
        compare(got, want, seed)


def check_module(seed: int, door: str) -> None:
    way = WAYS[seed // WORLD % len(WAYS)]
    want = outcome(lambda: fastinit.initialize_(Programmed(seed), key=3))
    with as_rank(seed % WORLD, WORLD):
        if door == "initialize_":
            module = way(Programmed(seed))
            got = outcome(lambda: fastinit.initialize_(module, key=3))
        else:
            with torch.device("meta"):
                module = way(Programmed(seed))
            got = outcome(lambda: fastinit.materialize(module, key=3))
        compare(got, want, seed)


@pytest.mark.parametrize("begin", range(0, COUNT, 30))
def test_factories_that_shard(begin: int) -> None:
    for seed in range(begin, begin + 30):
        check_factory(seed)


@pytest.mark.parametrize("door", ["initialize_", "meta"])
@pytest.mark.parametrize("begin", range(0, COUNT, 30))
def test_initialisers_of_what_is_sharded(begin: int, door: str) -> None:
    for seed in range(begin, begin + 30):
        check_module(seed, door)
