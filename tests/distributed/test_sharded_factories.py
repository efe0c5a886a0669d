"""`materialize` of a factory that shards what it makes: any rank, seen from this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from support.sharded_factories import (
    WORLD,
    Holder,
    fsdp,
    materialized,
    plain,
    sharded_when_initialised,
    spread,
)
from support.sharded_models import WAYS, Mixed, on_meta, wrong_in
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Shard,
    empty,
    randn,
    zeros,
)
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import fastinit
from fastinit._recording import waiting


def reset(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name in ("_reset_parameters", "reset_parameters"):
            if hasattr(module, name):
                getattr(module, name)()
                break
    return model


def sharded_before(way: str) -> nn.Module:
    """What draws does so into DTensors, after the constructors have."""
    model: Any = WAYS[way](Mixed(), WORLD)
    model.experts.reset_parameters()
    return model


def sharded_on_meta(way: str) -> nn.Module:
    return on_meta(way, WORLD)


def sharded_as_trainers_do(way: str) -> nn.Module:
    model: Any = on_meta(way, WORLD).to_empty(device="cpu")
    model.head.weight = model.embedding.weight
    return reset(model)


def plain_on_meta() -> nn.Module:
    with torch.device("meta"):
        return Mixed()


# What it gives is what a factory that does not shard gives.
WHEN: dict[Callable[[str], nn.Module], Callable[[], nn.Module]] = {
    sharded_when_initialised: plain,
    sharded_before: plain,
    sharded_on_meta: plain_on_meta,
    sharded_as_trainers_do: lambda: reset(Mixed()),
}


@pytest.mark.parametrize("when", WHEN, ids=lambda when: when.__name__)
@pytest.mark.parametrize("way", WAYS)
def test_bits(way: str, when: Callable[[str], nn.Module]) -> None:
    want = fastinit.materialize(WHEN[when], key=3)
    for rank in range(WORLD):
        with as_rank(rank, WORLD):
            with CommDebugMode() as collectives:
                model = fastinit.materialize(lambda: when(way), key=3)
            assert collectives.get_total_counts() == 0
            assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
            assert wrong_in(model, want) == []


def test_a_value_that_is_read_before_sharding() -> None:
    """The first run draws under a guess."""
    runs = []

    def whole() -> nn.Module:
        runs.append(1)
        first, second = torch.randn(8, 4), torch.randn(8, 4)
        return Holder(second * float(first.abs().max()))

    want = fastinit.materialize(whole, key=3)
    many = len(runs)
    for rank in range(WORLD):
        got = materialized(lambda: fsdp(whole()), rank)
        assert len(runs) == many * (rank + 2)  # as often on every rank
        assert wrong_in(got, want) == []


def test_a_number_that_is_read_of_shards() -> None:
    def scaled(layer: nn.Module) -> nn.Module:
        with torch.no_grad():
            weight: Any = layer.weight
            weight.div_(weight.norm())
            if float(weight.sum()) != 0:
                weight.mul_(2)
        return layer

    want = fastinit.materialize(lambda: scaled(nn.Linear(4, 8)), key=3)
    assert wrong_in(materialized(lambda: scaled(fsdp(nn.Linear(4, 8)))), want) == []


def test_slices_of_shards() -> None:
    def sliced(weight: Any) -> nn.Module:
        with torch.no_grad():
            nn.init.normal_(weight)
            weight[2:4].fill_(1)
            weight[:, 1].mul_(3)
            for number, row in enumerate(weight):
                row[0] = number
        return Holder(weight)

    want = fastinit.materialize(lambda: sliced(nn.Parameter(torch.empty(8, 4))), key=3)
    for rank in range(WORLD):
        got = materialized(lambda: sliced(spread(torch.empty(8, 4))), rank)
        assert wrong_in(got, want) == []


@pytest.mark.parametrize(
    ("size", "draw"),
    [
        ((8, 6), fastinit.eye_),
        ((8, 6), nn.init.eye_),
        ((8, 2, 3), fastinit.dirac_),
        ((8, 2, 3), nn.init.dirac_),
        ((8, 2, 3), fastinit.delta_orthogonal_),
        ((8, 6), fastinit.orthogonal_),
        ((8, 6), lambda t: nn.init.sparse_(t, 0.5)),
        ((8, 6), nn.init.kaiming_normal_),
        ((8, 6), fastinit.lecun_normal_),
        ((8, 6), lambda t: t.data.normal_(std=0.5)),
        ((8, 6), lambda t: torch._foreach_zero_([t.data])),
    ],
)
def test_initialisers_of_shards(size: tuple[int, ...], draw: Callable[[Any], object]) -> None:
    def drawn(weight: Any) -> nn.Module:
        with torch.no_grad():
            draw(weight)
        return Holder(weight)

    want = fastinit.materialize(lambda: drawn(nn.Parameter(torch.empty(size))), key=3)
    got = materialized(lambda: drawn(spread(torch.empty(size))), 2)
    assert wrong_in(got, want) == []
    mesh: Any = None
    with as_rank(2, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        made = lambda: drawn(nn.Parameter(empty(*size, device_mesh=mesh, placements=[Shard(0)])))  # noqa: E731
        assert wrong_in(fastinit.materialize(made, key=3), want) == []


def test_numbers_that_are_assigned() -> None:
    """torch makes tensors of them where the shards are: on the meta device."""

    def factory(shard: Callable[[Any], Any]) -> nn.Module:
        weight = shard(torch.empty(8, 6))
        with torch.no_grad():
            nn.init.normal_(weight)
            weight[0] = 1.5
            weight[2:4, 1] = 2
            weight[..., -1] = True
            weight[[4, 6]] = 3.0
            weight[1, [0, 2]] = 4.0
            weight.data[7] = 0
        return Holder(weight)

    want = fastinit.materialize(lambda: factory(lambda tensor: tensor), key=3)
    for rank in range(WORLD):
        assert wrong_in(materialized(lambda: factory(spread), rank), want) == []


def test_shards_whose_address_somebody_has() -> None:
    """As FSDP2 asks for it, whenever it has other memory."""

    def factory() -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        weight: Any = empty(8, 4, device_mesh=mesh, placements=[Shard(0)])
        assert weight.to_local().untyped_storage().data_ptr()
        return Holder(nn.init.normal_(weight))

    want = fastinit.materialize(lambda: Holder(torch.randn(8, 4)), key=3)
    for rank in range(WORLD):
        assert wrong_in(materialized(factory, rank), want) == []


def test_what_gets_memory_beside_what_has_some() -> None:
    """FSDP2 looks at the shards that get some, and not at those whose values wait."""

    def made(shard: Callable[[Any], Any]) -> nn.Module:
        model = shard(nn.Linear(4, 8))
        with torch.no_grad():
            nn.init.normal_(model.weight)
            nn.init.normal_(model.bias)
        model.register_buffer("table", torch.arange(8.0))
        return model

    def sharded(layer: nn.Module) -> nn.Module:
        return fsdp(layer.to("meta")).to_empty(device="cpu")

    def factory() -> nn.Module:
        model = made(sharded)
        model.table = spread(model.table).data
        return model

    want = fastinit.materialize(lambda: made(lambda layer: layer), key=3)
    assert wrong_in(materialized(factory), want) == []


def test_dtensors_that_are_drawn_as_such() -> None:
    want = fastinit.materialize(lambda: Holder(torch.randn(8, 4)), key=3)
    with as_rank(2, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        factory = lambda: Holder(randn(8, 4, device_mesh=mesh, placements=[Shard(0)]))  # noqa: E731
        assert wrong_in(fastinit.materialize(factory, key=3), want) == []


def test_what_stays_of_local_values() -> None:
    with as_rank(2, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))

        def factory() -> nn.Module:
            model = Holder(zeros(8, 4, device_mesh=mesh, placements=[Shard(0)]))
            model.register_buffer("rank", DTensor.from_local(torch.full((2,), 2), mesh, [Shard(0)]))
            return model

        model: Any = fastinit.materialize(factory, key=3)
        assert same_bits(model.weight.to_local().detach(), torch.zeros(2, 4))
        assert same_bits(model.rank.to_local(), torch.full((2,), 2))


def test_what_stays_of_an_empty_shard() -> None:
    def factory() -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        return Holder(zeros(3, 4, device_mesh=mesh, placements=[Shard(0)]))

    for rank in range(WORLD):
        local = materialized(factory, rank).weight.to_local()
        assert local.shape == (int(rank < 3), 4)
        assert not local.any()


def test_writes_to_shards_are_counted() -> None:
    def factory() -> nn.Module:
        weight: Any = spread(torch.empty(8, 4))
        for write in (nn.init.normal_, torch.Tensor.zero_, fastinit.normal_):
            version = weight._version
            with torch.no_grad():
                write(weight)
            assert weight._version > version
        return Holder(weight)

    materialized(factory)


def test_norms_of_sequence_parallelism() -> None:
    """Whose parameters are DTensors of ordinary ones."""

    def norms() -> Any:
        model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        nn.init.normal_(model[0].weight)
        return model

    def factory() -> nn.Module:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        plan: Any = {"0": SequenceParallel(), "1": ColwiseParallel()}
        model = parallelize_module(norms(), mesh["tp"], plan)
        nn.init.uniform_(model[0].bias)
        return fully_shard(model, mesh=mesh["dp"])

    def whole() -> nn.Module:
        model = norms()
        nn.init.uniform_(model[0].bias)
        return model

    want = fastinit.materialize(whole, key=3)
    for rank in range(WORLD):
        assert wrong_in(materialized(factory, rank), want) == []


def test_buffers_that_are_distributed() -> None:
    def buffered(made: Callable[[Tensor], Any]) -> nn.Module:
        model = nn.Linear(4, 8)
        model.register_buffer("table", made(torch.arange(8.0)))
        model.register_buffer("noise", made(torch.randn(8)))
        return model

    want = fastinit.materialize(lambda: buffered(lambda tensor: tensor), key=3)
    assert wrong_in(materialized(lambda: buffered(lambda t: spread(t).data)), want) == []


def test_parameters_are_the_objects_that_a_factory_knows() -> None:
    seen: list[Any] = []

    def factory() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4))
        first, last = model[0].weight, model[2].weight
        fsdp(
            model,
            ignored_params={first},
            shard_placement_fn=lambda parameter: Shard(1) if parameter is last else None,
        )
        assert model[0].weight is first
        seen[:] = [torch.optim.SGD(model.parameters(), lr=0.1), first]
        return model

    model = materialized(factory)
    assert model[0].weight is seen[1]
    assert type(model[0].weight) is nn.Parameter
    assert model[2].weight.placements == (Shard(1),)
    held = seen[0].param_groups[0]["params"]
    assert all(a is b for a, b in zip(held, model.parameters(), strict=True))
    want = fastinit.materialize(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4)), key=3
    )
    assert wrong_in(model, want) == []


def test_ties_of_shards() -> None:
    def tied(shard: Callable[[Any], Any]) -> nn.Module:
        model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
        model[1].weight = model[0].weight
        return shard(model)

    want = fastinit.materialize(lambda: tied(lambda model: model), key=3)
    model = materialized(lambda: tied(fsdp))
    assert model[0].weight is model[1].weight
    assert wrong_in(model, want) == []


def test_a_patch_inside() -> None:
    def factory() -> nn.Module:
        with fastinit.patch():
            return fsdp(nn.Linear(4, 8))

    with as_rank(1, WORLD), CommDebugMode() as collectives:
        torch.manual_seed(0)
        got = fastinit.materialize(factory, key=3)
        assert collectives.get_total_counts() == 0
    assert got.weight.to_local().shape == (2, 4)
    assert bool(got.weight.to_local().abs().max() > 0)


def test_a_generator_of_any_device_may_draw_a_dtensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the whole is on the CPU meanwhile, wherever its mesh is."""
    seen = []

    def source(tensor: Tensor, ref: Any, generator: torch.Generator) -> torch.device:
        seen.append(ref.storage.stands_in)
        return tensor.device

    def factory() -> nn.Module:
        model, mesh = nn.Module(), init_device_mesh("cpu", (WORLD,))
        model.weight = nn.Parameter(empty(8, 3, device_mesh=mesh, placements=[Shard(0)]))
        nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(5))
        return model

    monkeypatch.setattr(waiting, "_source", source)
    want = fastinit.normal_(torch.empty(8, 3), generator=torch.Generator().manual_seed(5))
    with as_rank(1, WORLD):
        weight: Any = fastinit.materialize(factory, key=3).weight
    assert seen == [True]
    rows = 8 // WORLD
    assert same_bits(weight.to_local().detach(), want[rows : 2 * rows])
