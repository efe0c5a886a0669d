"""Whole models by four processes: torch's own parallelism, factories, training in between."""

from __future__ import annotations

import math
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
    SequenceParallel,
    parallelize_module,
)

import fastinit
from support import sharded_models
from support.common import same_bits
from support.rank_cases import CASES, case, check_full_tensors, mesh_of

RULES = {"*.bias": nn.init.zeros_, 1: nn.init.ones_, "default": nn.init.kaiming_normal_}


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


def factories(mesh: str) -> None:
    """A factory shards what it makes, reads a value, and trains afterwards."""
    inside = mesh_of(mesh).get_coordinate() is not None

    def read() -> nn.Module:
        model = blocks()
        for block in model:
            with torch.no_grad():
                block.down.weight.div_(block.down.weight.abs().max())
        return model

    def by_fsdp() -> nn.Module:
        model = read()
        for block in model:
            fully_shard(block, mesh=mesh_of(mesh))
        return fully_shard(model, mesh=mesh_of(mesh))

    def by_tensor() -> nn.Module:
        model = read()
        for block in model:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(block, mesh_of(mesh), plan)
        return model

    def as_trainers_do() -> nn.Module:
        return initialised_by_itself(fully_sharded(mesh_of(mesh)))

    want, anew = (
        fastinit.materialize(read, key=3),
        fastinit.materialize(lambda: initialised_by_itself(blocks()), key=3),
    )
    for factory, like in ((by_fsdp, want), (by_tensor, want), (as_trainers_do, anew)):
        if not inside and factory is not by_tensor:
            continue  # FSDP2 refuses it
        with CommDebugMode() as collectives:
            model: Any = fastinit.materialize(factory, key=3)
        assert collectives.get_total_counts() == 0
        if inside:
            check_full_tensors(model, like)
            result = model(torch.ones(2, 6))
            assert torch.allclose(result, like(torch.ones(2, 6)), atol=1e-6), factory.__name__
            result.sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()


def initialised_by_itself(model: Any) -> nn.Module:
    with torch.no_grad():
        for block in model:
            block.init_weights()
            nn.init.zeros_(block.norm.bias)
    return model  # type: ignore[no-any-return]


for mesh_name in ("2", "4"):
    CASES[f"factories_on_{mesh_name}"] = lambda mesh_name=mesh_name: factories(mesh_name)


@case
def factories_of_both_parallelisms() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def factory() -> nn.Module:
        model = blocks()
        for block in model:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(block, mesh["tp"], plan)
            block.norm = parallelize_module(block.norm, mesh["tp"], SequenceParallel())
            fully_shard(block, mesh=mesh["dp"])
        return fully_shard(model, mesh=mesh["dp"])

    check_full_tensors(fastinit.materialize(factory, key=3), fastinit.materialize(blocks, key=3))
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = fastinit.materialize(lambda: fully_shard(blocks(), mesh=mesh), key=3)
    check_full_tensors(model, fastinit.materialize(blocks, key=3))


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


# ---- slices under a patch ------------------------------------------------------------------------


def write_slices(weight: Any) -> Any:
    """What initialisers do to parts of a parameter, of shape (9, 6, 5)."""
    with torch.no_grad():
        nn.init.normal_(weight)
        weight[2].fill_(1)
        weight[3:6].mul_(2)
        nn.init.uniform_(weight[4])
        weight[:, 3].zero_()
        for number in range(3):
            nn.init.constant_(weight[6 + number], number)
        weight[7, 1:3, 2] = 4.0
        weight[8, 5] = weight[0, 5] * 1
        weight[1][4].copy_(weight[3][4] * 1)
        weight.narrow(1, 0, 2).normal_(std=0.1)
        nn.init.trunc_normal_(weight.select(0, 5)[2:4])
        for number, part in enumerate(weight[6:9].transpose(1, 2).chunk(3, dim=2)):
            nn.init.normal_(part, std=number + 1)
        nn.init.uniform_(weight[:, 1::2][2:4].data)
        nn.init.eye_(weight[0][1:5, 1:4])
        weight[-1, ..., None, 0].add_(1)
        first, *_ = weight.split(4, dim=1)
        first.clamp_(max=1.5)
        weight.add_(0.25)
    return weight


@case
def slices_under_a_patch() -> None:
    flat, square = mesh_of("4"), mesh_of("2x2")
    layouts: list[tuple[DeviceMesh, list[Any]]] = [
        (flat, [Shard(0)]),
        (flat, [Shard(1)]),
        (flat, [Replicate()]),
        (square, [Shard(0), Shard(1)]),
        (square, [Shard(2), Shard(0)]),
        (square, [Shard(0), Shard(0)]),
        (square, [Replicate(), Shard(1)]),
    ]
    for key in (None, 3):
        torch.manual_seed(1)
        with fastinit.patch(key=key):
            want = write_slices(torch.empty(9, 6, 5))
        for mesh, placements in layouts:
            torch.manual_seed(1)
            shard = empty(9, 6, 5, device_mesh=mesh, placements=placements)
            parameter: Any = nn.Parameter(shard)
            with fastinit.patch(key=key):
                write_slices(parameter)
            with torch.no_grad():
                assert same_bits(parameter.full_tensor(), want), (key, placements)


@case
def padding_rows_under_a_patch() -> None:
    with fastinit.patch(key=3):
        want = nn.Embedding(13, 6, padding_idx=4).weight.detach()
    with torch.device("meta"):
        model = nn.Embedding(13, 6, padding_idx=4)
    fully_shard(model, mesh=mesh_of("4")).to_empty(device="cpu")
    with fastinit.patch(key=3):
        model.reset_parameters()
    weight: Any = model.weight
    with torch.no_grad():
        assert same_bits(weight.full_tensor(), want)
