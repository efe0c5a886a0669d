"""`report` on DTensors: of a shard what can be said of it, of all ranks together the whole."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank, dtensor
from support.sharded_models import WAYS, initialized, real
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Replicate, Shard

import fastinit
from fastinit._distributed.part import part_of
from fastinit._models.names import named_parameters
from fastinit._report.gather import Whole, row_here, whole_of
from fastinit._report.moments import Summary, measure, summarise

WORLD = 8
CHANCE = ("std off", "mean off", "constant where", "fan computed")


def chance_flags(report: fastinit.Report) -> list[tuple[str, str]]:
    flags = [(name, flag) for name, found in report.flags.items() for flag in found]
    return [pair for pair in flags if pair[1].startswith(CHANCE)]


# ---- a shard -------------------------------------------------------------------------------------


class Parts(nn.Module):
    """Of which the shards are not alike, and a bias of one element a shard."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.weight = nn.Parameter(torch.empty(64, 64))
        self.one = nn.Parameter(torch.empty(64))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=2.0)
        nn.init.zeros_(self.weight[:32])
        nn.init.normal_(self.weight[32:48], mean=5.0)
        nn.init.uniform_(self.one)


@pytest.mark.parametrize("rank", [0, 1, 33, 63])
def test_a_shard_is_no_wrong_draw(rank: int) -> None:
    with as_rank(rank, 64):
        model = fully_shard(Parts(), mesh=init_device_mesh("cpu", (64,)))
        report = fastinit.report(fastinit.initialize_(model, key=0))
    assert chance_flags(report) == []
    assert all(row.measured is not None for row in report.parameters)


def test_a_shard_that_is_a_wrong_draw_is_said() -> None:
    with as_rank(1, 4):
        layer = fully_shard(nn.Linear(64, 64), mesh=init_device_mesh("cpu", (4,)))
        fastinit.initialize_(layer, {"default": lambda w: fastinit.normal_(w, std=0.5)}, key=0)
        assert chance_flags(fastinit.report(layer)) == []
        local = layer.weight._local_tensor
        for change, said in (
            (lambda: local.mul_(1.5), "std off by more than chance (+"),
            (lambda: local.add_(1), "mean off"),
            (lambda: local.zero_(), "constant where random was expected"),
        ):
            with torch.no_grad():  # below what counts writes to the DTensor
                kept = local.clone()
                change()
                found = chance_flags(fastinit.report(layer))
                local.copy_(kept)
            assert any(flag.startswith(said) for name, flag in found if name == "weight"), found


@pytest.mark.parametrize("sharded", [False, True])
def test_of_what_was_skipped_nothing_is_expected(sharded: bool) -> None:
    with as_rank(1, 2):
        layer: Any = nn.Linear(64, 64)
        if sharded:
            fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
        with torch.no_grad():
            layer.weight.detach().mul_(50)
        fastinit.initialize_(layer, key=0, skip="weight")
        report = fastinit.report(layer)
        assert report.flags == {}
        assert [row.expected is None for row in report.parameters] == [True, False]
        # Unless it is known from before.
        fastinit.initialize_(layer, key=0)
        fastinit.initialize_(layer, key=1, skip="weight")
        report = fastinit.report(layer)
        assert report.flags == {}
        assert all(row.expected is not None for row in report.parameters)


def test_of_what_materialize_leaves_it_is_known_what_was() -> None:
    layer = fastinit.initialize_(nn.Linear(64, 64), key=0)
    layer.bias = nn.Parameter(torch.empty(64, device="meta"))
    report = fastinit.report(fastinit.materialize(layer, key=1))
    assert report.flags == {}
    assert [row.rule for row in report.parameters] == ["kaiming_uniform_", "uniform_"]


# ---- all ranks -----------------------------------------------------------------------------------


def together(make: Any, world: int) -> dict[str, Whole]:
    """Measure every rank's shards, and put them together as the ranks would."""
    rows: dict[str, list[list[float]]] = {}
    for rank in range(world):
        with as_rank(rank, world):
            for name, named in named_parameters(make()).items():
                if hasattr(named.tensor, "placements"):
                    rows.setdefault(name, []).append(row_here(name, named))
    return {name: whole_of(found) for name, found in rows.items()}


def assert_measured(got: Summary, full: torch.Tensor) -> None:
    want = measure(full)
    assert got.n == full.numel() * (2 if full.is_complex() else 1)
    found = got.moments
    assert (found is None) == (want is None)
    if found is not None and want is not None:
        assert found.mean == pytest.approx(want.mean, rel=1e-14, abs=1e-13, nan_ok=True)
        assert found.std == pytest.approx(want.std, rel=1e-12, nan_ok=True)
        for one, other in ((found.low, want.low), (found.high, want.high)):
            assert one == other or (math.isnan(one) and math.isnan(other))


@pytest.mark.parametrize("way", WAYS)
def test_models(way: str) -> None:
    """Uneven and empty shards; replicas, and ranks that have the same part, count once."""
    whole = dict(initialized().named_parameters())
    found = together(lambda: fastinit.initialize_(real(way, WORLD), key=3), WORLD)
    assert len(found) > 3
    for name, got in found.items():
        assert_measured(got.summary, whole[name].detach())
        assert not got.padding
        assert got.alike


LAYOUTS = [
    ((4,), [Shard(0)]),
    ((4,), [Replicate()]),
    ((2, 3), [Shard(1), Shard(0)]),
    ((2, 3), [Replicate(), Shard(0)]),
    ((3, 2), [Shard(0), Shard(0)]),
    ((2, 2, 2), [Replicate(), Shard(0), Replicate()]),
]


@pytest.mark.parametrize(("mesh", "placements"), LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_layouts(mesh: Any, placements: Any, dtype: torch.dtype, value: float | None) -> None:
    full = fastinit.normal_(torch.empty(5, 3, dtype=dtype), 3.0, key=1)
    if value is not None:
        full[4, 1] = value
    world, rows = math.prod(mesh), []
    for rank in range(world):
        with as_rank(rank, world):
            device_mesh = init_device_mesh("cpu", mesh)
            rows.append(row_here("w", spread(full, device_mesh, placements)["w"]))
    whole = whole_of(rows)
    assert_measured(whole.summary, full)
    assert whole.alike


def test_replicas_that_differ() -> None:
    full = fastinit.normal_(torch.empty(5, 3), key=1)
    for wrong in range(5):
        rows = []
        for rank in range(4):
            with as_rank(rank, 4):
                values = full.clone()
                if rank == wrong:
                    values[2] += 1e-3
                mesh = init_device_mesh("cpu", (2, 2))
                rows.append(row_here("w", spread(values, mesh, [Replicate(), Shard(0)])["w"]))
        # The first of two ranks has rows 0 to 2.
        assert whole_of(rows).alike is (wrong not in (0, 2)), wrong


def spread(full: torch.Tensor, mesh: DeviceMesh, placements: Any) -> Any:
    """Give a module's parameter that is this rank's part."""
    local = full
    for dim, placement in enumerate(placements):
        if isinstance(placement, Shard):
            pieces = torch.chunk(local, mesh.shape[dim], placement.dim)
            place = mesh.get_coordinate()[dim]
            empty = local.narrow(placement.dim, 0, 0)
            local = pieces[place] if place < len(pieces) else empty
    module = nn.Module()
    made = dtensor(local.contiguous(), tuple(full.shape), mesh, placements)
    module.w = nn.Parameter(made)
    return named_parameters(module)


def test_ranks_outside_of_the_mesh_add_nothing() -> None:
    full = fastinit.normal_(torch.empty(5, 3), key=1)
    rows = []
    for rank in range(4):
        with as_rank(rank, 4):
            mesh = DeviceMesh("cpu", [1, 2])
            if mesh.get_coordinate() is None:
                part = spread(full[:0], mesh, [Replicate()])["w"]
            else:
                part = spread(full, mesh, [Shard(0)])["w"]
            rows.append(row_here("w", part))
    assert rows[0] == rows[3] == [*Summary(), 0.0, -1]
    assert_measured(whole_of(rows).summary, full)


def test_padding_rows() -> None:
    """Whoever holds what is wrong of one, all say it."""
    for dirty in (None, 0, 3):
        rows = []
        for rank in range(4):
            with as_rank(rank, 4):
                table = nn.Embedding(7, 6, padding_idx=3)
                fully_shard(table, mesh=init_device_mesh("cpu", (4,)))
                fastinit.initialize_(table, key=0)
                with torch.no_grad():
                    for view, offset in part_of(table.weight, "").views():
                        if dirty is not None and offset[0] <= dirty < offset[0] + view.shape[0]:
                            view[dirty - offset[0], 2] = 1.0
                rows.append(row_here("weight", named_parameters(table)["weight"]))
        assert whole_of(rows).padding is (dirty == 3)


def test_merging_is_exact() -> None:
    values = fastinit.normal_(torch.empty(1000, dtype=torch.float64), 1e6, 1e-3, key=2)
    found = Summary()
    for part in values.split([0, 1, 400, 0, 599]):
        found |= summarise(part)
    assert found.n == 1000
    assert found.moments is not None
    assert found.moments.mean == pytest.approx(float(values.mean()), rel=1e-15)
    assert found.moments.std == pytest.approx(values.numpy().std(), rel=1e-7)
    assert Summary().moments is None
    assert Summary() | Summary() == Summary()


def test_partial_sums_have_no_statistics() -> None:
    with as_rank(0, 2):
        mesh = init_device_mesh("cpu", (2,))
        module = nn.Module()
        module.w = nn.Parameter(dtensor(torch.ones(3), (3,), mesh, [Partial()]))
        with pytest.raises(NotImplementedError, match=r"fastinit.report: w is a DTensor"):
            fastinit.report(module, distributed=True)


# ---- wrong arguments -----------------------------------------------------------------------------


def test_wrong_arguments() -> None:
    layer = nn.Linear(2, 2)
    for wrong in ("all", 1, None, [0]):
        with pytest.raises(TypeError, match="'distributed' must be a bool or a process group"):
            fastinit.report(layer, distributed=wrong)
    with pytest.raises(ValueError, match="'distributed': there is no process group"):
        fastinit.report(layer, distributed=True)
    outside: Any = distributed.GroupMember.NON_GROUP_MEMBER
    with pytest.raises(ValueError, match="this rank is not in the process group"):
        fastinit.report(layer, distributed=outside)


def test_rows_are_what_they_were_without_dtensors() -> None:
    layer = fastinit.initialize_(nn.Linear(20, 20), key=0)
    want = fastinit.report(layer)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert fastinit.report(layer, distributed=True) == want
    finally:
        distributed.destroy_process_group()
    assert want.flags == {}
