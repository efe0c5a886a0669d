"""`materialize` of a factory that shards what it makes: its options, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.sharded_factories import fsdp, materialized, plain, sharded_when_initialised
from support.sharded_models import wrong_in
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy

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
