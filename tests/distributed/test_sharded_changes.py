"""What initialisers do to sharded modules beside filling: ties, types, gradients, calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank
from support.sharded_models import wrong_in
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit

WORLD = 4


class Two(nn.Module):
    """Two weights and a layer, which `change` does something to."""

    def __init__(self, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.change = change
        self.first = nn.Parameter(torch.empty(8, 4))
        self.second = nn.Parameter(torch.empty(8, 4))
        self.layer = nn.Linear(4, 8, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.first)
        nn.init.normal_(self.second)
        self.change(self)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) @ (self.first + self.second)
        return result


def all_of_it(model: Any) -> Any:
    return fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))


def all_but_the_layer(model: Any) -> Any:
    mesh = init_device_mesh("cpu", (WORLD,))
    for name in ("first", "second"):
        spread = distribute_tensor(getattr(model, name), mesh, [Shard(0)])
        setattr(model, name, nn.Parameter(spread))
    return model


def initialized(change: Callable[[Any], object], shard: Any, *, rank: int = 1) -> list[Any]:
    """Give a whole module, and two that are sharded, one of them from the meta device."""
    want: Any = fastinit.initialize_(Two(change), key=3)
    with as_rank(rank, WORLD):
        real = shard(Two(change).to("meta")).to_empty(device="cpu")
        fastinit.initialize_(real, key=3)
        made = fastinit.materialize(shard(Two(change).to("meta")), key=3)
        for model in (real, made):
            assert wrong_in(model, want) == []
        for name, parameter in want.named_parameters():
            for model in (real, made):
                got = model.get_parameter(name)
                assert got.requires_grad is parameter.requires_grad
                assert got.dtype is parameter.dtype
    return [want, real, made]


def tie(model: Any) -> None:
    model.second = model.first


def tie_the_layer(model: Any) -> None:
    model.layer.weight = model.first


@pytest.mark.parametrize("shard", [all_of_it, all_but_the_layer])
def test_ties_that_initialisers_make(shard: Any) -> None:
    for model in initialized(tie, shard):
        assert model.first is model.second
    for model in initialized(tie_the_layer, shard):
        assert model.layer.weight is model.first


def test_ties_are_undone_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("fastinit._recording.settle.Settled.finish", fail)

    def change(model: Any) -> None:
        tie(model)
        tie_the_layer(model)
        model.half()

    with as_rank(1, WORLD):
        for function, where in ((fastinit.initialize_, "cpu"), (fastinit.materialize, "meta")):
            model = all_but_the_layer(Two(change).to("meta"))
            if where == "cpu":
                model.to_empty(device="cpu")
            before = {n: (id(p), p.dtype) for n, p in model.named_parameters()}
            with pytest.raises(MemoryError):
                function(model, key=3)
            assert {n: (id(p), p.dtype) for n, p in model.named_parameters()} == before
            assert model.first.device.type == where


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.first.requires_grad_(False),
        lambda model: setattr(model, "first", nn.Parameter(torch.ones(8, 4), requires_grad=False)),
        lambda model: model.to(torch.bfloat16),
        lambda model: setattr(model.first, "data", model.first.data.double()),
    ],
    ids=["frozen", "replaced", "to", "data"],
)
@pytest.mark.parametrize("shard", [all_of_it, all_but_the_layer])
def test_types_and_gradients_that_initialisers_change(
    change: Callable[[Any], object], shard: Any
) -> None:
    for rank in (0, 3):
        initialized(change, shard, rank=rank)


def test_types_that_are_asked_for_are_those_of_initialisers() -> None:
    with as_rank(1, WORLD):
        model = all_of_it(Two(lambda model: model.double()).to("meta"))
        fastinit.materialize(model, dtype=torch.bfloat16, key=3)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# ---- hooks of torch's parallelism ----------------------------------------------------------------


def by_output(model: Any) -> None:
    """Scale by what comes out, as initialisation that depends on data does."""
    with torch.no_grad():
        model.first.div_(model(torch.ones(2, 4)).std())


def load(model: Any) -> None:
    model.load_state_dict({"first": torch.ones(8, 4)}, strict=False)


def _line() -> DeviceMesh:
    named: DeviceMesh = init_device_mesh("cpu", (WORLD,), mesh_dim_names=("replicate",))
    return named  # torch 2.10 asks for the name


@pytest.mark.parametrize("change", [by_output, load])
def test_initialisers_of_replicas(change: Callable[[Any], object]) -> None:
    """What torch has built on FSDP2 puts more classes before those of modules."""
    name = "torch.distributed._composable.replicate_with_fsdp"
    replicate = pytest.importorskip(name).replicate

    def replicated(model: nn.Module) -> nn.Module:
        made: nn.Module = replicate(model, mesh=_line())
        assert isinstance(made, FSDPModule) and type(made).__mro__.index(FSDPModule) == 2
        return made

    for model in initialized(change, replicated)[1:]:
        assert type(model).__name__ == "ReplicateTwo"


@pytest.mark.parametrize("change", [by_output, load])
def test_initialisers_that_call_and_load(change: Callable[[Any], object]) -> None:
    for model in initialized(change, all_of_it)[1:]:
        assert len(model._forward_pre_hooks) == len(model._forward_hooks) == 1
        assert len(model._load_state_dict_post_hooks) == 2


def test_initialisers_that_call_what_is_tensor_parallel() -> None:
    class Scaled(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False))

        def init_weights(self) -> None:
            with torch.no_grad():
                self.get_parameter("1.weight").div_(self(torch.ones(2, 4)).abs().max())

    want = fastinit.initialize_(Scaled(), key=3)
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        plan: Any = {"0": ColwiseParallel(), "1": RowwiseParallel()}
        model: Any = parallelize_module(Scaled().to("meta"), mesh, plan)
        hooks = [list(m._forward_pre_hooks.items()) for m in model]
        fastinit.materialize(model, key=3)
        assert wrong_in(model, want) == []
        assert [list(m._forward_pre_hooks.items()) for m in model] == hooks


def test_hooks_keep_their_order() -> None:
    seen: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda *_: seen.append(name)

    def change(model: Any) -> None:
        model.register_forward_pre_hook(hook("of an initialiser"))
        model(torch.ones(1, 4))

    with as_rank(1, WORLD):
        model = Two(change).to("meta")
        model.register_forward_pre_hook(hook("before"))
        model = all_of_it(model)
        model.register_forward_pre_hook(hook("after"))
        before = list(model._forward_pre_hooks)
        fastinit.materialize(model, key=3)
        assert list(model._forward_pre_hooks)[:3] == before
        assert len(model._forward_pre_hooks) == 4
        assert seen == ["before", "after", "of an initialiser"]


def test_modules_that_nothing_has_changed_are_not_walked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def walk(*_: Any) -> Any:
        raise AssertionError

    with as_rank(1, WORLD):
        model = all_of_it(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)))
        monkeypatch.setattr("fastinit._models.session.named_tensors", walk)
        fastinit.initialize_(model, key=3)
