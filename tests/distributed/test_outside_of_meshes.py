"""Ranks that are not in the mesh of some DTensors: they hold nothing, and do what all others do.

What torch gives them is an empty DTensor on the CPU, also where it is on the meta device elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank
from support.sharded_models import wrong_in
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

import fastinit


class Derived(nn.Module):
    """A weight, and a plain one that is made of it."""

    def __init__(self, shard: Callable[[Any], Any] = lambda tensor: tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(shard(torch.empty(4, 3)))
        self.plain = nn.Parameter(torch.empty(3, 2))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        with torch.no_grad():
            self.weight[1:3].mul_(2)
            self.plain.copy_(self.weight.view(-1)[:6].view(3, 2))


@pytest.fixture(params=[0, 1, 3])
def shard(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    with as_rank(request.param, 4):
        mesh = DeviceMesh("cpu", [0, 1])
        yield lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])


def on_meta(shard: Callable[[Any], Any]) -> nn.Module:
    with torch.device("meta"):
        return Derived(shard)


@pytest.mark.parametrize(
    "make",
    [
        lambda shard, rules: fastinit.materialize(on_meta(shard), rules=rules, key=3),
        lambda shard, rules: fastinit.materialize(lambda: on_meta(shard), rules=rules, key=3),
        lambda shard, rules: fastinit.initialize_(
            on_meta(shard).to_empty(device="cpu"), rules, key=3
        ),
    ],
    ids=["materialize", "a factory", "initialize_"],
)
@pytest.mark.parametrize("rules", [None, {"weight": nn.init.xavier_normal_, "default": None}])
def test_what_is_made_of_their_weights(shard: Any, make: Any, rules: Any) -> None:
    want = fastinit.initialize_(Derived(), rules, key=3)
    assert wrong_in(make(shard, rules), want) == []


def test_a_module_of_which_nothing_is_here(shard: Any) -> None:
    want = fastinit.initialize_(nn.Linear(3, 4), key=3)
    with torch.device("meta"):
        layer = nn.Linear(3, 4)
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(shard(parameter.detach())))
    assert wrong_in(fastinit.materialize(layer, key=3), want) == []


def test_what_stays_elsewhere_needs_no_values_here(shard: Any) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loaded = nn.Parameter(shard(torch.ones(4, 3)))
            self.scale = nn.Parameter(torch.empty(3, device="meta"))

        def reset_parameters(self) -> None:
            nn.init.normal_(self.scale)

    model = fastinit.materialize(Beside(), key=3)
    assert torch.equal(model.scale.detach(), fastinit.normal_(torch.empty(3), key=key_of("scale")))


def key_of(name: str) -> fastinit.Key:
    return fastinit.Key(3).fold_in(name).fold_in(0)


def test_what_is_skipped(shard: Any) -> None:
    want = fastinit.initialize_(nn.Linear(3, 4), key=3)
    with torch.device("meta"):
        layer: Any = nn.Linear(3, 4)
    layer.weight = nn.Parameter(shard(layer.weight.detach()))
    fastinit.materialize(layer, skip="weight", key=3)
    assert torch.equal(layer.bias, want.bias)
