"""Models for tests of sharding: what nobody wrote for shards, and how torch shards them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import fastinit
from fastinit._distributed.part import part_of
from support.common import same_bits

WIDTH = 12
device = "cpu"  # of the meshes, and so of what is real


class Experts(nn.Module):
    """Packed weights, filled one by one, in a slice, transposed, and scaled afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.Parameter(torch.empty(6, 10, WIDTH))
        self.qkv = nn.Parameter(torch.empty(3 * WIDTH, WIDTH))
        self.flat = nn.Parameter(torch.empty(7, 6))
        self.gate = nn.Parameter(torch.empty(5, WIDTH))
        self.wide = nn.Parameter(torch.empty(8, WIDTH))
        self.whole = nn.Parameter(torch.empty(4, 6))
        self.copied = nn.Parameter(torch.empty(3 * WIDTH, WIDTH))
        self.read = nn.Parameter(torch.empty(9, 2))
        self.register_buffer("scale", torch.empty(3))

    def reset_parameters(self) -> None:
        for number, expert in enumerate(self.packed):
            nn.init.normal_(expert, std=0.01 * (number + 1))
        with torch.no_grad():
            for part in self.qkv.chunk(3):
                nn.init.xavier_uniform_(part)
            self.qkv[WIDTH : 2 * WIDTH].mul_(0.5)
            nn.init.uniform_(self.flat.view(-1))
            self.flat[::2].zero_()
            self.flat[:, 3].fill_(2.0)
            nn.init.trunc_normal_(self.gate.t(), std=0.1)
            nn.init.orthogonal_(self.wide)
            self.wide.mul_(2.0)
            self.whole.bernoulli_(0.5)
            self.copied.copy_(self.qkv)
            nn.init.normal_(self.read)
            self.read.div_(self.read.norm())
            self.scale.copy_(self.packed[0, 0, :3])


class Layer(nn.Module):
    """As those of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.norm = nn.LayerNorm(WIDTH)

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.up.weight, std=0.02)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))


class Mixed(nn.Module):
    """A padding row, ties, convolutions, an LSTM, experts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, WIDTH, padding_idx=4)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.lstm = nn.LSTM(WIDTH, 3)
        self.experts = Experts()
        self.head = nn.Linear(WIDTH, 13, bias=False)
        self.head.weight = self.embedding.weight


def by_fsdp(model: nn.Module, **options: Any) -> nn.Module:
    for layer in model.layers:  # type: ignore[union-attr]
        fully_shard(layer, **options)
    result: nn.Module = fully_shard(model, **options)
    return result


def by_tensor(model: nn.Module, mesh: Any) -> nn.Module:
    plan: dict[str, Any] = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    for layer in model.layers:  # type: ignore[union-attr]
        parallelize_module(layer, mesh, plan)
    return model


def fsdp(model: nn.Module, world: int) -> nn.Module:
    return by_fsdp(model, mesh=init_device_mesh(device, (world,)))


def hsdp(model: nn.Module, world: int) -> nn.Module:
    names = {"mesh_dim_names": ("replicate", "shard")}
    return by_fsdp(model, mesh=init_device_mesh(device, (2, world // 2), **names))  # type: ignore[arg-type]


def tensor_parallel(model: nn.Module, world: int) -> nn.Module:
    return by_tensor(model, init_device_mesh(device, (world,)))


def fsdp_over_tensor_parallel(model: nn.Module, world: int) -> nn.Module:
    mesh = init_device_mesh(device, (world // 2, 2), mesh_dim_names=("dp", "tp"))
    return by_fsdp(by_tensor(model, mesh["tp"]), mesh=mesh["dp"])


def experts_over_a_mesh_of_their_own(model: nn.Module, world: int) -> nn.Module:
    """Expert parallelism and FSDP2 over two dimensions; layers over one; the rest is plain."""
    mesh = init_device_mesh(device, (world // 2, 2), mesh_dim_names=("dp", "ep"))
    experts: Any = model.experts
    for name, parameter in list(experts.named_parameters()):
        spread = distribute_tensor(parameter, mesh["ep"], [Shard(0)])
        setattr(experts, name, nn.Parameter(spread))
    fully_shard(
        experts,
        mesh=mesh["dp"],
        shard_placement_fn=lambda parameter: Shard(1 if parameter.shape[1] % world == 0 else 0),
    )
    for layer in model.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=init_device_mesh(device, (world,)))
    return model


WAYS: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    way.__name__: way
    for way in (
        fsdp,
        hsdp,
        tensor_parallel,
        fsdp_over_tensor_parallel,
        experts_over_a_mesh_of_their_own,
    )
}


def on_meta(way: str, world: int, make: Callable[[], nn.Module] = Mixed) -> nn.Module:
    with torch.device("meta"):
        model = make()
    return WAYS[way](model, world)


def real(way: str, world: int, make: Callable[[], nn.Module] = Mixed) -> nn.Module:
    model = on_meta(way, world, make).to_empty(device=device)
    if isinstance(model, Mixed):
        model.head.weight = model.embedding.weight  # to_empty() gives plain ones memory each
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(7)
    return model


def wrong_in(model: nn.Module, want: nn.Module) -> list[str]:
    """List parameters and buffers whose part here has other bits than the whole model's."""
    wrong = []
    whole = {**dict(want.named_parameters()), **dict(want.named_buffers())}
    mine = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert mine.keys() == whole.keys()
    for name, tensor in mine.items():
        full = whole[name].detach()
        if not hasattr(tensor, "placements"):
            same = same_bits(tensor.detach().cpu(), full)
        else:
            same = all(_same(view, full, offset) for view, offset in part_of(tensor, name).views())
        if not same:
            wrong.append(name)
    return wrong


def _same(view: Tensor, full: Tensor, offset: tuple[int, ...]) -> bool:
    for dim, (first, length) in enumerate(zip(offset, view.shape, strict=True)):
        full = full.narrow(dim, first, length)
    mine = view.detach().contiguous().cpu()
    return view.dtype is full.dtype and same_bits(mine, full.contiguous())


def initialized(**options: Any) -> nn.Module:
    return fastinit.initialize_(Mixed(), key=3, **options)
