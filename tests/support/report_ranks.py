"""More of what the processes of tests/distributed/test_processes.py do: reports."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode

import fastinit
from fastinit._report import gather
from support import sharded_models
from support.rank_cases import CASES, case, rank


def world() -> int:
    return int(distributed.get_world_size())


def everybody_s(text: str) -> list[str]:
    texts: list[str] = [""] * world()
    distributed.all_gather_object(texts, text)
    return texts


def reports(way: str) -> None:
    want = {row.name: row for row in fastinit.report(sharded_models.initialized()).parameters}
    model = fastinit.initialize_(sharded_models.real(way, world()), key=3)
    with CommDebugMode() as collectives:
        fastinit.report(model)
    assert collectives.get_total_counts() == 0
    with CommDebugMode() as collectives:
        report = fastinit.report(model, distributed=True)
    counts = {str(op): n for op, n in collectives.get_comm_counts().items()}
    assert collectives.get_total_counts() == 1, counts
    assert "gather" in next(iter(counts)), counts
    texts = everybody_s(repr(report.to_dict()))
    assert set(texts) == {texts[0]}
    for row in report.parameters:
        # All but what two parameters have in common, of which shards do not tell.
        mine, flags = (
            {flag for flag in one.flags if not flag.startswith("same values")}
            for one in (row, want[row.name])
        )
        assert mine == flags, (row.name, mine)
        assert row.expected == want[row.name].expected
        got, whole = row.measured, want[row.name].measured
        assert got is not None
        assert whole is not None
        assert math.isclose(got.mean, whole.mean, rel_tol=1e-12, abs_tol=1e-12), row.name
        assert math.isclose(got.std, whole.std, rel_tol=1e-12), row.name
        assert (got.low, got.high) == (whole.low, whole.high), row.name


for kind in sharded_models.WAYS:
    CASES[f"report_of_{kind}"] = lambda kind=kind: reports(kind)


@case
def what_is_wrong_on_one_rank_is_reported_on_all() -> None:
    mesh = init_device_mesh("cpu", (4,))
    model = fully_shard(nn.Sequential(nn.Linear(64, 64), nn.Embedding(5, 8, 3)), mesh=mesh)
    fastinit.initialize_(model, key=0)
    assert fastinit.report(model, distributed=True).flags == {}
    with torch.no_grad():  # below what counts writes
        if rank() == 2:
            model[0].weight._local_tensor.mul_(3)
        if rank() == 1:
            model[1].weight._local_tensor[1, 0] = 1
    flags = fastinit.report(model, distributed=True).flags
    assert flags["0.weight"][0].startswith("std off by more than chance"), flags
    assert "padding row not zero" in flags["1.weight"], flags
    mine = fastinit.report(model).flags
    assert ("0.weight" in mine) == (rank() == 2), mine


@case
def replicas_that_differ_are_reported() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    layer = fully_shard(nn.Linear(8, 8), mesh=mesh)
    fastinit.initialize_(layer, key=0)
    if rank() == 3:
        layer.bias._local_tensor.data[0] = 9
    assert fastinit.report(layer, distributed=True).flags == {"bias": ("replicas differ",)}


@case
def stages_have_reports_of_their_own() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    place = mesh.get_local_rank("pp")
    stage = nn.Sequential(*(nn.Linear(6, 5) for _ in range(1 + place)))
    fully_shard(stage, mesh=mesh["dp"])
    fastinit.initialize_(stage, key=0)
    report = fastinit.report(stage, distributed=mesh.get_group("dp"))
    want = fastinit.report(
        fastinit.initialize_(nn.Sequential(*(nn.Linear(6, 5) for _ in range(1 + place))), key=0)
    )
    assert len(report.parameters) == 2 * (1 + place)
    for row, whole in zip(report.parameters, want.parameters, strict=True):
        assert row.measured is not None
        assert whole.measured is not None
        assert math.isclose(row.measured.std, whole.measured.std, rel_tol=1e-12)
    others = "ranks 2-3" if place == 0 else "ranks 0-1"
    with pytest.raises(ValueError, match=f"{others} of the process group have other DTensors"):
        fastinit.report(stage, distributed=True)


@case
def a_report_that_came_alone_leaves_later_ones() -> None:
    layer = fully_shard(nn.Linear(6, 8), mesh=init_device_mesh("cpu", (4,)))
    fastinit.initialize_(layer, key=0)
    if rank() == 0:
        before, gather._TIMEOUT = gather._TIMEOUT, 1.0
        with pytest.raises(RuntimeError, match=r"ranks 1-3 did not come"):
            fastinit.report(layer, distributed=True)
        gather._TIMEOUT = before
    distributed.barrier()
    for _ in range(2):
        assert fastinit.report(layer, distributed=True).flags == {}


@case
def a_group_that_does_not_hold_all_is_refused() -> None:
    layer = fully_shard(nn.Linear(6, 8), mesh=init_device_mesh("cpu", (4,)))
    groups = [distributed.new_group([0, 1]), distributed.new_group([2, 3])]
    with pytest.raises(ValueError, match="hold 24 of the 48 numbers of weight"):
        fastinit.report(layer, distributed=groups[rank() // 2])


@case
def a_report_with_inputs_leaves_the_model_divided() -> None:
    mesh = init_device_mesh("cpu", (world(),))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    fastinit.materialize(model, key=3)
    before = [*model.parameters()]
    for _ in range(2):
        fastinit.report(model, torch.ones(2, 8))
        assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
        assert fastinit.report(model).flags == {}
    with torch.no_grad():
        model(torch.ones(2, 8))
    assert fastinit.report(model).flags == {}
    assert fastinit.report(model, distributed=True).flags == {}
