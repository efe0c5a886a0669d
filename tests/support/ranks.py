"""What the processes of tests/distributed/test_processes.py do: many cases in one start.

    torchrun --standalone --nproc-per-node=4 tests/support/ranks.py FOLDER

Every rank writes FOLDER/<rank>.json: by the name of a case "" or what went wrong.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, empty
from torch.distributed.tensor.debug import CommDebugMode

import fastinit
from support import (  # noqa: F401  they have cases
    collective_ranks,
    distinct_ranks,
    keyless,
    model_ranks,
    pipeline_ranks,
    report_ranks,
    torchtitan_ranks,
    transformers_ranks,
)
from support.common import same_bits
from support.rank_cases import CASES, MESHES, case, mesh_of, rank
from support.shard_cases import CONSTANT, DRAWN, fill, shapes_of, whole


def error_of(function: Callable[[], object]) -> str:
    try:
        function()
    except RuntimeError as error:
        return str(error)
    return ""


# ---- single calls --------------------------------------------------------------------------------


def single_calls(name: str) -> None:
    mesh = mesh_of(name)
    layouts: list[list[Any]] = [[Shard(0)], [Shard(1)], [Replicate()]]
    if mesh.ndim == 2:
        layouts = [[Shard(0), Shard(1)], [Shard(0), Shard(0)], [Replicate(), Shard(1)]]
    for function in [*DRAWN, *CONSTANT]:
        for size in shapes_of(function):
            want = whole(function, size, torch.float32)
            for placements in layouts:
                tensor = empty(*size, device_mesh=mesh, placements=placements)
                with CommDebugMode() as collectives:
                    fill(function, tensor)
                assert collectives.get_total_counts() == 0, function
                if mesh.get_coordinate() is not None:
                    got = tensor.full_tensor()
                    assert same_bits(got, want), (function, size, placements)


for mesh_name in MESHES:
    CASES[f"single_calls_on_{mesh_name}"] = lambda mesh_name=mesh_name: single_calls(mesh_name)


@case
def states_agree_after_calls_without_a_key() -> None:
    torch.manual_seed(0)
    for name in MESHES:
        for function in DRAWN.values():
            if function in (DRAWN["kaiming of experts"], DRAWN["orthogonal experts"]):
                size: tuple[int, ...] = (2, 3, 4)
            elif function is DRAWN["delta_orthogonal_"]:
                size = (3, 2, 3)
            else:
                size = (3, 4)
            placements = [Shard(0)] * mesh_of(name).ndim
            function(empty(*size, device_mesh=mesh_of(name), placements=placements))
    states = [torch.empty_like(torch.get_rng_state()) for _ in range(distributed.get_world_size())]
    distributed.all_gather(states, torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


@case
def shards_of_a_plain_tensor() -> None:
    local = torch.empty(3, 8)
    fastinit.xavier_normal_(fastinit.shard(local, (12, 8), (3 * rank(), 0)), key=1)
    parts = [torch.empty_like(local) for _ in range(4)]
    distributed.all_gather(parts, local)
    assert same_bits(torch.cat(parts), fastinit.xavier_normal_(torch.empty(12, 8), key=1))


# ---- check_ranks() -------------------------------------------------------------------------------


def drawn(*, mesh: str = "4", size: tuple[int, ...] = (8, 6), **how: Any) -> nn.Parameter:
    tensor = empty(*size, device_mesh=mesh_of(mesh), placements=[Shard(0)])
    fastinit.normal_(tensor, **how)
    return nn.Parameter(tensor)


@case
def agreement() -> None:
    torch.manual_seed(1)
    with fastinit.check_ranks(timeout=60):
        drawn()
        if rank() < 2:
            drawn(mesh="2", key=5)
        drawn(key=3)
        fastinit.normal_(empty((), device_mesh=mesh_of("4"), placements=[Replicate()]))
        fastinit.lecun_normal_(
            empty(4, 6, dtype=torch.complex64, device_mesh=mesh_of("4"), placements=[Shard(1)])
        )
        fastinit.delta_orthogonal_(empty(4, 2, 3, device_mesh=mesh_of("4"), placements=[Shard(0)]))
        fastinit.normal_(torch.empty(rank() + 1), key=rank())  # nobody else's
        fastinit.kaiming_uniform_(fastinit.shard(torch.empty(2, 3), (8, 3), (2 * rank(), 0)))
    distributed.barrier()


@case
def another_seed_is_named() -> None:
    torch.manual_seed(1 + (rank() == 2))
    begin = time.monotonic()

    def check() -> None:
        with fastinit.check_ranks():
            drawn(key=7)
            drawn(std=0.5)

    said = error_of(check)
    assert time.monotonic() - begin < 5, time.monotonic() - begin
    assert "rank 2 and ranks 0-1, 3 differ in draw 1" in said, said
    assert "normal_(0.0, 0.5) of shape (8, 6), torch.float32" in said, said
    assert "not the same: the key; were their generators seeded alike" in said, said


@case
def another_seed_of_a_whole_model_is_named() -> None:
    torch.manual_seed(1 + (rank() == 2))
    for function in (fastinit.initialize_, fastinit.materialize):
        layer = nn.Linear(6, 8, device="meta" if function is fastinit.materialize else None)
        fully_shard(layer, mesh=mesh_of("4"))

        def check(function: Any = function, layer: Any = layer) -> None:
            with fastinit.check_ranks(layer):
                function(layer)

        said = error_of(check)
        assert "rank 2 and ranks 0-1, 3 differ in draw 0" in said, said
        assert "of 'weight', shape (8, 6), torch.float32" in said, said
        assert "not the same: the key" in said, said
        with fastinit.check_ranks(layer):
            fastinit.initialize_(layer, key=7)


@case
def another_parameter_is_named() -> None:
    layer = nn.Linear(6, 8)
    fully_shard(layer, mesh=mesh_of("4"))

    def check() -> None:
        with fastinit.check_ranks(layer):
            fastinit.normal_(layer.weight, key=1)
            fastinit.normal_(layer.bias if rank() else layer.weight, key=2)

    said = error_of(check)
    assert "rank 0 and ranks 1-3 differ in draw 1" in said, said
    assert "ranks 1-3: normal_(0.0, 1.0) of 'bias', shape (8,)" in said, said
    assert "rank 0: normal_(0.0, 1.0) of 'weight', shape (8, 6)" in said, said
    assert "not the same: the parameter, the shape" in said, said


@case
def a_call_too_many_is_named() -> None:
    def check() -> None:
        with fastinit.check_ranks():
            drawn(key=1)
            if rank() == 3:
                drawn(key=2)

    said = error_of(check)
    assert "rank 3 and ranks 0-2 differ in draw 1" in said, said
    assert "ranks 0-2: no such call" in said, said


@case
def a_check_that_is_used_again_knows_nothing_of_before() -> None:
    layer = nn.Linear(6, 8)
    fully_shard(layer, mesh=mesh_of("4"))
    check = fastinit.check_ranks(layer)

    def differ() -> None:
        with check:
            fastinit.normal_(layer.weight, std=1.0 + rank(), key=1)

    said = error_of(differ)
    assert "not the same: the arguments" in said, said
    with check:
        fastinit.normal_(layer.weight, key=1)


@case
def an_absent_rank_is_named() -> None:
    begin = time.monotonic()
    if rank() == 1:
        drawn(key=1)
        fastinit._distributed.store._uses["fastinit/check_ranks"] += 1  # as if it had come here
    else:

        def check() -> None:
            with fastinit.check_ranks(timeout=1):
                drawn(key=1)

        said = error_of(check)
        assert "rank 1 did not come to this call" in said, said
        assert "within 1 s" in said, said
        assert time.monotonic() - begin < 5
    distributed.barrier()


@case
def a_rank_that_fails_is_named_where_nothing_was_drawn() -> None:
    def check() -> None:
        with fastinit.check_ranks(nn.Linear(2, 2), timeout=20):
            if rank() == 2:
                raise RuntimeError("out of paint")

    said = error_of(check)
    assert ("rank 2 has left with RuntimeError: out of paint" in said) == (rank() != 2), said


@case
def a_rank_that_fails_is_named() -> None:
    def check() -> None:
        with fastinit.check_ranks():
            drawn(key=1)
            if rank() == 0:
                raise RuntimeError("out of paint")

    said = error_of(check)
    if rank() == 0:
        assert said == "out of paint"
    else:
        assert "rank 0 has left with RuntimeError: out of paint" in said, said


def main(folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    for name in MESHES:
        mesh_of(name)
    found = {}
    for name, function in CASES.items():
        if not transformers_ranks.THERE and name.startswith("transformers"):
            continue
        if not torchtitan_ranks.THERE and name.startswith("torchtitan"):
            continue
        try:
            function()
            found[name] = ""
        except (Exception, pytest.fail.Exception):  # the latter is none of the former
            found[name] = traceback.format_exc()
        distributed.barrier()
    Path(folder, f"{rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
