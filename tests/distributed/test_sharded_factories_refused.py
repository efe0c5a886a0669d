"""Factories that shard: what they may not do, and what an error leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank
from support.sharded_factories import WORLD, Holder, fsdp, materialized, spread
from support.sharded_models import wrong_in
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    empty,
    zeros,
)

import fastinit


def refused(change: Callable[[Any], object]) -> str:
    def factory() -> nn.Module:
        model = fsdp(nn.Linear(4, 8))
        with torch.no_grad():
            change(model)
        return model

    with pytest.raises(NotImplementedError) as error:
        materialized(factory)
    return str(error.value)


def test_values_of_shards_are_not_there() -> None:
    said = refused(lambda model: model.weight * model.weight)
    assert "the factory makes others of the values (aten.mul.Tensor) of a DTensor" in said
    assert "initialise before sharding" in said
    said = refused(lambda model: model.weight.to_local().fill_(1))
    assert "the factory writes to the shard of a DTensor" in said


def test_what_has_values_of_its_own_is_not_changed() -> None:
    def factory() -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        weight = zeros(8, 4, device_mesh=mesh, placements=[Shard(0)])
        weight.masked_fill_(torch.eye(8, 4, dtype=torch.bool), 1.0)  # by a full tensor
        return Holder(weight)

    with pytest.raises(NotImplementedError, match=r"changes what is there; it is sharded"):
        materialized(factory)


def test_dtensors_without_values_are_not_copied_from() -> None:
    with pytest.raises(ValueError, match=r"nothing that Linear defines writes weight"):
        refused(lambda model: model.weight.copy_(torch.empty_like(model.weight)))


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.add_(torch.ones(8, 4, device=w.device)),
        lambda w: w.mul_(torch.tensor(0.5, device=w.device)),
        lambda w: w[0].mul_(torch.tensor(0.5, device=w.device)),
        lambda w: w.masked_fill_(torch.ones(8, 4, dtype=torch.bool, device=w.device), 2.0),
        lambda w: w.fill_(w.new_tensor(2.0)),
        lambda w: w.__setitem__(torch.tensor([0], device=w.device), 1.0),
    ],
    ids=["add", "mul", "of a slice", "mask", "new_tensor", "index"],
)
def test_what_is_made_where_shards_are_has_no_values(change: Callable[[Any], object]) -> None:
    said = refused(lambda model: change(model.weight))
    assert "on the meta device" in said
    assert "make it on the CPU" in said


def test_partial_sums_are_not_drawn() -> None:
    def draw(_: Any) -> None:
        mesh = init_device_mesh("cpu", (WORLD,))
        nn.init.normal_(DTensor.from_local(torch.ones(4), mesh, [Partial()]))

    assert "whose values are sums over ranks" in refused(draw)


def test_shards_of_shards_are_no_shards() -> None:
    def factory() -> nn.Module:
        model = Holder(spread(torch.randn(8, 4)))
        weight: Any = model.weight
        turned = weight.to_local().detach().t()
        model.turned = nn.Parameter(DTensor.from_local(turned, weight.device_mesh, [Shard(1)]))
        return model

    with pytest.raises(ValueError, match=r"nothing that Holder defines writes turned"):
        materialized(factory)


def test_shards_that_were_on_another_device_are_not_read() -> None:
    """What has memory, since the factory asked for it, has no values either."""

    def factory() -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        model = Holder(empty(8, 4, device_mesh=mesh, placements=[Shard(0)]))
        nn.init.normal_(model.weight)
        local: Any = model.weight
        local.to_local().sum().item()
        return model

    with pytest.raises(NotImplementedError, match=r"the factory reads the values of a DTensor"):
        materialized(factory)


def test_draws_into_shards_alone_are_refused() -> None:
    def factory() -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        return Holder(DTensor.from_local(torch.randn(2, 4), mesh, [Shard(0)]))

    with pytest.raises(NotImplementedError, match=r"has drawn shards, .* for weight, so that"):
        materialized(factory)


def test_replicas_that_are_drawn_are_whole() -> None:
    def factory() -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        return Holder(DTensor.from_local(torch.randn(2, 4), mesh, [Replicate()]))

    want = fastinit.materialize(lambda: Holder(torch.randn(2, 4)), key=3)
    assert wrong_in(materialized(factory), want) == []


def test_what_nobody_writes_is_named() -> None:
    for rank in range(WORLD):
        with pytest.raises(ValueError, match=r"nothing that Holder defines writes weight"):
            materialized(lambda: Holder(spread(torch.empty(8, 4))), rank)


def test_an_error_leaves_what_is_outside() -> None:
    outside = nn.Linear(4, 8)
    before = outside.weight.detach().clone()

    def factory() -> nn.Module:
        fsdp(outside)
        raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"):
        materialized(factory)

    def bad() -> nn.Module:
        other = nn.Sequential(nn.Linear(4, 8))
        other[0].weight = nn.Parameter(before.t())
        return fsdp(other)  # which is not contiguous

    with pytest.raises(NotImplementedError, match="contiguous"):
        materialized(bad)


def test_an_error_leaves_a_module_of_outside() -> None:
    def fail(tensor: Tensor) -> None:
        raise RuntimeError("out of paint")

    with as_rank(1, WORLD):
        with torch.device("meta"):
            layer: Any = nn.Linear(4, 8)
        layer = fully_shard(layer, mesh=init_device_mesh("cpu", (WORLD,)))
        before, kind = layer.weight, type(layer)
        with pytest.raises(RuntimeError, match="out of paint"):
            fastinit.materialize(lambda: layer, rules={"default": fail}, key=3)
        assert type(layer) is kind
        assert layer.weight is before
        assert layer.weight.is_meta


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (
            lambda w: w.to_local(),
            "has taken of a DTensor (to_local), 0.weight, which has no values",
        ),
        (lambda w: w.to_local().t(), "has taken of a DTensor (to_local), 0.weight"),
        (lambda w: w.to_local() * 2, "makes others of the values (aten.mul"),
        (lambda w: w.full_tensor(), "makes others of the values (_c10d_functional.all_gather"),
        (lambda w: w.redistribute(placements=[Shard(1)]), "makes others of the values"),
        (lambda w: w.redistribute(placements=[Replicate()]), "makes others of the values"),
        (
            lambda w: torch.empty_like(w.to_local(), device="cpu"),
            "asks for memory for the shard",
        ),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_shards_alone_have_no_values_to_take(
    take: Callable[[Any], Tensor], said: str, rank: int
) -> None:
    def factory() -> nn.Module:
        layer = nn.Linear(4, 8, bias=False)
        nn.init.constant_(layer.weight, 7.0)
        layer.weight = nn.Parameter(take(spread(layer.weight.detach()).detach()))
        return nn.Sequential(layer)

    with pytest.raises(NotImplementedError) as error:
        materialized(factory, rank)
    assert said in str(error.value)


def test_what_asks_a_shard_for_no_values_is_fine() -> None:
    def factory() -> nn.Module:
        layer = nn.Linear(4, 8, bias=False)
        nn.init.constant_(layer.weight, 7.0)
        layer.weight = spread(layer.weight.detach())
        sharded: Any = layer.weight
        layer.local = sharded.to_local().shape
        sharded.redistribute(placements=[Shard(0)])
        return layer

    made = materialized(factory)
    assert made.local == (2, 4)
    assert bool((made.weight._local_tensor == 7).all())


def outside(shape: tuple[int, ...] = (8, 4), value: float = 7.0) -> Any:
    """A DTensor of before the factory, with values."""
    mesh = init_device_mesh("cpu", (WORLD,))
    return zeros(*shape, device_mesh=mesh, placements=[Shard(0)]).add_(value)


@pytest.mark.parametrize(
    "write",
    [
        lambda model, other: model.weight.copy_(other),
        lambda model, other: model.weight.add_(other),
        lambda model, other: model.weight.lerp_(other, 0.5),
        lambda model, other: model.weight.addcmul_(other, other),
        lambda model, other: torch.add(other, other, out=model.weight),
        lambda model, other: model.weight.__setitem__(slice(None), other),
        lambda model, other: model.weight.copy_(other.clone()),
        lambda model, other: model.weight.copy_(zeros_of(other)),
        lambda model, other: model.weight.copy_(DTensor.from_local(torch.randn(2, 4), *how(other))),
    ],
    ids=["copy", "add", "lerp", "addcmul", "out", "index", "clone", "zeros", "from_local"],
)
def test_values_of_other_dtensors_do_not_reach_shards(write: Callable[[Any, Any], object]) -> None:
    """What is written waits, for a full tensor; of the other there is a part here."""

    def factory() -> nn.Module:
        model = fsdp(nn.Linear(4, 8))
        with torch.no_grad():
            write(model, other)
        return model

    with as_rank(1, WORLD):
        other = outside()
        with pytest.raises(NotImplementedError, match=r"the factory needs the values") as error:
            fastinit.materialize(factory, key=3)
        assert "what is loaded is given as argument 'state_dict'" in str(error.value)
        assert bool((other.to_local() == 7).all())


def zeros_of(other: Any) -> Any:
    return zeros(*other.shape, device_mesh=other.device_mesh, placements=other.placements)


def how(other: Any) -> tuple[Any, ...]:
    return other.device_mesh, other.placements


def test_what_is_drawn_into_dtensors_of_before_is_not_lost() -> None:
    def factory(drawn: Any) -> nn.Module:
        nn.init.normal_(drawn)
        return fsdp(nn.Linear(4, 8))

    with as_rank(1, WORLD):
        other = outside()
        with pytest.raises(NotImplementedError, match=r"does not hold, with shards of .*\(2, 4\)"):
            fastinit.materialize(lambda: factory(other), key=3)
        with pytest.raises(NotImplementedError, match=r"does not hold"):
            fastinit.materialize(lambda: (factory(other), nn.Linear(2, 2))[1], key=3)
        assert bool((other.to_local() == 7).all())


@pytest.mark.parametrize("plain", [nn.Parameter, lambda view: view], ids=["parameter", "buffer"])
def test_views_of_shards_are_no_ordinary_tensors(plain: Callable[[Tensor], Tensor]) -> None:
    def factory() -> nn.Module:
        model = fsdp(nn.Linear(4, 8))
        held = plain(model.weight.detach().t())
        if isinstance(held, nn.Parameter):
            model.turned = held
        else:
            model.register_buffer("turned", held)
        model.rows = [model.weight.detach()[:2]]
        return model

    with pytest.raises(NotImplementedError, match=r"holds views of DTensors, turned, rows\.0, whi"):
        materialized(factory)


def test_gradients_are_set_afterwards() -> None:
    def factory() -> nn.Module:
        model = fsdp(nn.Linear(4, 8))
        model.bias.grad = torch.zeros_like(model.bias)
        return model

    with pytest.raises(NotImplementedError, match=r"bias\.grad; set gradients when it has values"):
        materialized(factory)
