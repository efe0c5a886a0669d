"""What initialisers hang on parameters: attributes, hooks, that they want no gradient.

It stays on the parameter whatever has stood in its place meanwhile: of one that is tied, one that a
factory has made beside others on the meta device, or one that is sharded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit

WORLD = 4


class Marked(nn.Linear):
    """Marks its weight when it is initialised, by what it finds there."""

    fails = False

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        weight: Any = self.weight
        weight.seen = getattr(weight, "before", None)
        weight.scale = 0.1
        weight.state = None
        if hasattr(weight, "goes"):
            del weight.goes
        self.handle = weight.register_hook(lambda grad: grad * 0.1)
        weight.register_post_accumulate_grad_hook(lambda tensor: None)
        weight.requires_grad_(False)
        if self.fails:
            raise KeyError("planted")


def marks_of(tensor: Any) -> tuple[Any, ...]:
    held = {name: value for name, value in vars(tensor).items() if name != "_is_param"}
    hooks = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    return held, *(len(table or ()) for table in hooks), tensor.requires_grad


GIVEN = {"before": 5, "goes": 6}
WANT = {"before": 5, "seen": 5, "scale": 0.1, "state": None}, 1, 1, False


def marked(weight: Tensor) -> Tensor:
    vars(weight).update(GIVEN)
    return weight


def single(layer: Marked) -> tuple[nn.Module, Any]:
    return layer, layer.weight


def tied(layer: Marked) -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Embedding(8, 4, device=layer.weight.device), layer)
    layer.weight = model[0].weight = marked(layer.weight)  # type: ignore[assignment]
    return model, layer.weight


def tied_by_memory(layer: Marked) -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Embedding(8, 4), layer)
    model[0].weight = nn.Parameter(layer.weight.data)
    return model, layer.weight


def sharded(layer: Marked) -> tuple[nn.Module, Any]:
    fully_shard(layer, mesh=init_device_mesh("cpu", (WORLD,)))
    marked(layer.weight)
    return layer, layer.weight


def sharded_and_tied(layer: Marked) -> tuple[nn.Module, Any]:
    model, _ = tied(layer)
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    return model, marked(layer.weight)


WAYS: list[Callable[[Marked], tuple[nn.Module, Any]]] = [
    single,
    tied,
    tied_by_memory,
    sharded,
    sharded_and_tied,
]


def layer_of(device: str = "cpu") -> Marked:
    layer = Marked.__new__(Marked)
    with torch.device(device):
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = 4, 8
        layer.weight = nn.Parameter(torch.zeros(8, 4))
        layer.bias = nn.Parameter(torch.zeros(8))
    marked(layer.weight)
    return layer


@pytest.mark.parametrize("way", WAYS)
def test_in_place(way: Callable[[Marked], tuple[nn.Module, Any]]) -> None:
    with as_rank(1, WORLD):
        layer = layer_of()
        model, weight = way(layer)
        fastinit.initialize_(model, key=3)
        assert layer.weight is weight
        assert marks_of(weight) == WANT
        layer.handle.remove()
        assert marks_of(weight) == (WANT[0], 0, 1, False)


@pytest.mark.parametrize("way", [single, tied, sharded, sharded_and_tied])
def test_from_the_meta_device(way: Callable[[Marked], tuple[nn.Module, Any]]) -> None:
    with as_rank(1, WORLD):
        layer = layer_of("meta")
        model, _ = way(layer)
        fastinit.materialize(model, key=3)
        assert marks_of(layer.weight) == WANT
        if way in (tied, sharded_and_tied):
            assert model[0].weight is layer.weight  # type: ignore[index]


@pytest.mark.parametrize("way", WAYS)
def test_after_an_error(
    way: Callable[[Marked], tuple[nn.Module, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Marked, "fails", True)
    with as_rank(1, WORLD):
        layer = layer_of()
        model, weight = way(layer)
        before = marks_of(weight)
        with pytest.raises(KeyError, match="planted"):
            fastinit.initialize_(model, key=3)
        assert layer.weight is weight
        assert marks_of(weight) == before


@pytest.mark.parametrize("skip", [(), "0.weight"])
def test_beside_others_on_the_meta_device(skip: Any) -> None:
    """A factory has made one, and initialisers run as there are others without memory."""

    def factory() -> nn.Module:
        return nn.Sequential(layer_of(), nn.Linear(3, 3, device="meta"))

    model: Any = fastinit.materialize(factory, key=3, skip=skip)
    assert bool((model[0].weight == 0).all())  # what a factory has made stays
    assert marks_of(model[0].weight) == ((GIVEN, 0, 0, True) if skip else WANT)


def test_hooks_that_were_there_stay() -> None:
    with as_rank(1, WORLD):
        layer = layer_of()
        fully_shard(layer, mesh=init_device_mesh("cpu", (WORLD,)))
        handle = layer.weight.register_hook(lambda grad: grad)
        fastinit.initialize_(layer, key=3)
        assert len(layer.weight._backward_hooks or ()) == 2
        handle.remove()
        assert len(layer.weight._backward_hooks or ()) == 1
