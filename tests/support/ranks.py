"""What the processes of tests/distributed/test_processes.py do: many cases in one start.

    torchrun --standalone --nproc-per-node=4 tests/support/ranks.py FOLDER

Every rank writes FOLDER/<rank>.json: by the name of a case "" or what went wrong.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, empty
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import fastinit
from support import distinct_ranks, pipeline_ranks, sharded_models
from support.common import same_bits
from support.shard_cases import CONSTANT, DRAWN, fill, shapes_of, whole

CASES: dict[str, Callable[[], None]] = {**pipeline_ranks.CASES, **distinct_ranks.CASES}
RULES = {"*.bias": nn.init.zeros_, 1: nn.init.ones_, "default": nn.init.kaiming_normal_}
# One of each world size, and a square.
MESHES = {"1": [0], "2": [0, 1], "3": [0, 1, 2], "4": [0, 1, 2, 3], "2x2": [[0, 1], [2, 3]]}


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


def rank() -> int:
    return int(distributed.get_rank())


_meshes: dict[str, DeviceMesh] = {}


def mesh_of(name: str) -> DeviceMesh:
    """Made on all ranks, those outside of it included; once, for groups are dear."""
    if name not in _meshes:
        _meshes[name] = DeviceMesh("cpu", MESHES[name])
    return _meshes[name]


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


# ---- models of torch's own parallelism -----------------------------------------------------------


class Block(nn.Module):
    """Its weights are initialised one by one, as torchtitan does it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.up.weight, mean=0.0, std=0.02)
        nn.init.zeros_(self.up.bias)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.ones_(self.norm.weight)
        self.norm.bias.data.normal_(0.0, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def initialised(model: nn.Module) -> nn.Module:
    with fastinit.patch(key=5), torch.no_grad():
        for block in model:  # type: ignore[attr-defined]
            block.init_weights()
    return model


def blocks() -> nn.Sequential:
    return nn.Sequential(*(Block(6) for _ in range(3)))


def check_against_whole(sharded: nn.Module) -> None:
    want = dict(initialised(blocks()).named_parameters())
    for name, parameter in sharded.named_parameters():
        whole_one: Any = parameter
        with torch.no_grad():
            assert same_bits(whole_one.full_tensor().cpu(), want[name].detach()), name


def fully_sharded(mesh: DeviceMesh, **options: Any) -> nn.Module:
    with torch.device("meta"):
        model = blocks()
    for block in model:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model.to_empty(device="cpu")


@case
def fsdp() -> None:
    model = initialised(fully_sharded(mesh_of("4")))
    check_against_whole(model)
    # The same again after a step of training.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    check_against_whole(initialised(model))


@case
def fsdp_with_offloading() -> None:
    options = {"offload_policy": CPUOffloadPolicy(pin_memory=False)}
    check_against_whole(initialised(fully_sharded(mesh_of("4"), **options)))


@case
def replicated_groups_of_fsdp() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    check_against_whole(initialised(fully_sharded(mesh)))


@case
def fsdp_over_tensor_parallelism() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    with torch.device("meta"):
        model = blocks()
    for block in model:
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(block, mesh["tp"], plan)
        block.norm.weight = nn.Parameter(
            distribute_tensor(block.norm.weight, mesh["tp"], [Replicate()])
        )
        block.norm.bias = nn.Parameter(
            distribute_tensor(block.norm.bias, mesh["tp"], [Replicate()])
        )
        fully_shard(block, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    check_against_whole(initialised(model.to_empty(device="cpu")))


@case
def torch_draws_the_same_into_every_shard() -> None:
    """What these tests are for: it is seen, where torch draws."""
    torch.manual_seed(0)
    tensor = empty(8, 6, device_mesh=mesh_of("4"), placements=[Shard(0)])
    full = nn.init.trunc_normal_(tensor).full_tensor()
    assert torch.equal(full[:2], full[2:4])
    fastinit.trunc_normal_(tensor)
    full = tensor.full_tensor()
    assert not torch.equal(full[:2], full[2:4])


# ---- whole models --------------------------------------------------------------------------------


def check_full_tensors(model: nn.Module, want: nn.Module) -> None:
    whole = {**dict(want.named_parameters()), **dict(want.named_buffers())}
    mine = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert mine.keys() == whole.keys()
    with torch.no_grad():
        for name, tensor in mine.items():
            full: Any = tensor
            full = full.full_tensor() if hasattr(full, "full_tensor") else full
            assert same_bits(full.detach(), whole[name].detach()), name


def whole_models(way: str) -> None:
    want = sharded_models.initialized()
    for make, function in (
        (sharded_models.on_meta, fastinit.materialize),
        (sharded_models.real, fastinit.initialize_),
    ):
        model = make(way, distributed.get_world_size())
        with CommDebugMode() as collectives:
            function(model, key=3)
        assert collectives.get_total_counts() == 0
        check_full_tensors(model, want)


for way in sharded_models.WAYS:
    CASES[f"whole_models_by_{way}"] = lambda way=way: whole_models(way)


@case
def a_model_that_has_been_trained() -> None:
    want = fastinit.initialize_(nn.Sequential(*(Block(6) for _ in range(3))), RULES, key=4)
    for options in ({}, {"reshard_after_forward": False}):
        with torch.device("meta"):
            model = blocks()
        for block in model:
            fully_shard(block, mesh=mesh_of("4"), **options)
        fully_shard(model, mesh=mesh_of("4"), **options)
        fastinit.materialize(model, rules=RULES, key=4)
        check_full_tensors(model, want)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(2):
            model(torch.ones(2, 6)).sum().backward()
            optimizer.step()
        model(torch.ones(2, 6))  # which leaves full parameters there, where it does not reshard
        fastinit.initialize_(model, RULES, key=4)
        check_full_tensors(model, want)
        optimizer.zero_grad()
        result = model(torch.ones(2, 6))
        assert torch.allclose(result, want(torch.ones(2, 6)), atol=1e-6)
        for block in model:
            block.reshard()
        check_full_tensors(model, want)


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
def an_absent_rank_is_named() -> None:
    begin = time.monotonic()
    if rank() == 1:
        drawn(key=1)
        next(fastinit._distributed.store._uses["check_ranks"])  # as if it had come here
    else:

        def check() -> None:
            with fastinit.check_ranks(timeout=1):
                drawn(key=1)

        said = error_of(check)
        assert "rank 1 did not come to this check" in said, said
        assert "within 1 s" in said, said
        assert time.monotonic() - begin < 5
    distributed.barrier()


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
        try:
            function()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
        distributed.barrier()
    Path(folder, f"{rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
