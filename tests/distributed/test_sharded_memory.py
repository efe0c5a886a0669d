"""Sharded modules: nothing of the full size takes memory."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from support.sharded_models import WAYS, on_meta, real
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit
from fastinit._models.sharded import Twins

WORLD = 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("function", "made"),
    [(fastinit.initialize_, real), (fastinit.materialize, on_meta)],
    ids=["initialize_", "materialize"],
)
def test_nobody_holds_memory_of_the_full_size_in_the_end(
    function: Any, made: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the module is not searched for who does."""

    def search(twins: Twins) -> Any:
        raise AssertionError

    monkeypatch.setattr(Twins, "_others", search)
    with as_rank(1, WORLD):
        function(made(way, WORLD), key=3)


@pytest.mark.parametrize("road", ["meta", "factory"])
def test_no_memory_of_the_full_size(road: str) -> None:
    """16 GiB of weights, of which each of 4096 ranks holds 4 MiB."""

    class Vast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(1 << 17, 1 << 13, bias=False) for _ in range(4))

    with as_rank(70, 4096):
        mesh = init_device_mesh("cpu", (4096,))
        fully_shard(nn.Linear(2, 2), mesh=mesh)  # what torch loads for it is not counted

        def factory() -> Any:
            return fully_shard(Vast(), mesh=mesh)

        given: Any = factory
        if road == "meta":
            with torch.device("meta"):
                given = factory()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model: Any = fastinit.materialize(given, key=3)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10
        want = torch.empty(2, 1 << 17)
        key = fastinit.Key(3).fold_in("layers.2.weight").fold_in(0)
        fastinit.kaiming_uniform_(
            fastinit.shard(want, (1 << 13, 1 << 17), (140, 0)), a=5**0.5, key=key
        )
        assert same_bits(model.layers[2].weight.to_local().detach(), want)


def test_full_tensors_larger_than_the_machine() -> None:
    """8 TiB, which no system promises: it is address space that nobody touches."""
    with as_rank(70, 1 << 18):
        mesh = init_device_mesh("cpu", (1 << 18,))
        with torch.device("meta"):
            model = nn.Linear(1 << 23, 1 << 18, bias=False)
        fastinit.materialize(fully_shard(model, mesh=mesh), key=3)
        want = torch.empty(1, 1 << 23)
        key = fastinit.Key(3).fold_in("weight").fold_in(0)
        part = fastinit.shard(want, (1 << 18, 1 << 23), (70, 0))
        fastinit.kaiming_uniform_(part, a=5**0.5, key=key)
        weight: Any = model.weight
        assert same_bits(weight.to_local().detach(), want)
