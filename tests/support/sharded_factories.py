"""What tests of factories that shard have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    Shard,
    distribute_tensor,
)

import fastinit
from support.fake_ranks import as_rank
from support.sharded_models import WAYS, Mixed

WORLD = 4


def materialized(factory: Callable[[], nn.Module], rank: int = 1, **how: Any) -> Any:
    with as_rank(rank, WORLD):
        return fastinit.materialize(factory, key=3, **how)


def fsdp(module: Any, **how: Any) -> Any:
    return fully_shard(module, mesh=init_device_mesh("cpu", (WORLD,)), **how)


def spread(tensor: Tensor, *placements: Any) -> nn.Parameter:
    mesh = init_device_mesh("cpu", (WORLD,))
    return nn.Parameter(distribute_tensor(tensor, mesh, placements or [Shard(0)]))


class Holder(nn.Module):
    """Holds one parameter."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)


def plain() -> nn.Module:
    model: Any = Mixed()
    model.experts.reset_parameters()
    return model


def sharded_when_initialised(way: str) -> nn.Module:
    return WAYS[way](plain(), WORLD)
