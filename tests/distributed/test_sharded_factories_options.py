"""`materialize` of a factory that shards what it makes: its options, and what it costs."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from support.sharded_factories import fsdp, materialized, plain, sharded_when_initialised
from support.sharded_models import wrong_in
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

import fastinit
from fastinit._distributed.fill import OBSERVERS


def test_offloaded_shards() -> None:
    want = fastinit.materialize(lambda: nn.Linear(4, 8), key=3)
    policy = CPUOffloadPolicy(pin_memory=False)
    model = materialized(lambda: fsdp(nn.Linear(4, 8), offload_policy=policy))
    assert wrong_in(model, want) == []


def test_the_device_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the mesh is: here it says that it is somewhere else."""
    want = fastinit.materialize(lambda: nn.Linear(4, 8), key=3)

    def factory() -> nn.Module:
        layer = fsdp(nn.Linear(4, 8))
        monkeypatch.setattr(DeviceMesh, "device_type", property(lambda _: "meta"))
        return layer

    model = materialized(factory, device="cpu")
    monkeypatch.undo()
    assert wrong_in(model, want) == []


@pytest.mark.parametrize(
    "how",
    [
        {"rules": {"*.bias": nn.init.ones_, nn.Embedding: nn.init.normal_, "default": None}},
        {"prefix": "decoder"},
        {"dtype": torch.bfloat16},
        {"progress": True},
        {"rename": lambda name: f"stage.{name}"},
        {"state_dict": {"embedding.weight": torch.arange(13.0 * 12).view(13, 12)}},
    ],
    ids=lambda how: next(iter(how)),
)
def test_options(how: dict[str, Any]) -> None:
    if "progress" in how:
        pytest.importorskip("tqdm")
    want = fastinit.materialize(plain, key=3, **how)
    model = materialized(lambda: sharded_when_initialised("fsdp_over_tensor_parallel"), **how)
    assert wrong_in(model, want) == []


def test_what_is_skipped_gets_memory() -> None:
    model = materialized(lambda: fsdp(nn.Linear(4, 8)), skip="weight")
    want = fastinit.materialize(lambda: nn.Linear(4, 8), key=3)
    assert wrong_in(model, want) in (["weight"], [])
    assert not model.weight.is_meta


def test_check_ranks_sees_the_draws() -> None:
    seen: list[Any] = []

    def factory() -> nn.Module:
        model = fsdp(nn.Linear(4, 8))
        nn.init.xavier_normal_(model.weight)
        return model

    OBSERVERS.append(lambda *call: seen.append(call[1:3]))
    try:
        materialized(factory, 3)
    finally:
        OBSERVERS.pop()
    assert sorted(name for name, _ in seen) == ["normal_", "uniform_"]


def test_no_memory_of_the_full_size() -> None:
    """16 GiB of weights, of which each of 4096 ranks holds 4 MiB."""

    class Vast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(1 << 17, 1 << 13, bias=False) for _ in range(4))

    with as_rank(70, 4096):
        mesh = init_device_mesh("cpu", (4096,))
        fully_shard(nn.Linear(2, 2), mesh=mesh)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model: Any = fastinit.materialize(lambda: fully_shard(Vast(), mesh=mesh), key=3)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10
        want = torch.empty(2, 1 << 17)
        key = fastinit.Key(3).fold_in("layers.2.weight").fold_in(0)
        fastinit.kaiming_uniform_(
            fastinit.shard(want, (1 << 13, 1 << 17), (140, 0)), a=5**0.5, key=key
        )
        assert same_bits(model.layers[2].weight.to_local().detach(), want)
