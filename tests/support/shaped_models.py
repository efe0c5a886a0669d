"""Models of the shapes that people shard, initialised by themselves, and how to shard each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from support.worlds import mesh_of

WIDTH = 12


class LlamaLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.kv = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 26, bias=False)
        self.gate = nn.Linear(WIDTH, 26, bias=False)
        self.down = nn.Linear(26, WIDTH, bias=False)

    def reset_parameters(self) -> None:
        for linear in (self.kv, self.up, self.gate):
            nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.orthogonal_(self.q.weight)
        for linear in (self.o, self.down):
            nn.init.normal_(linear.weight, std=0.02)
            with torch.no_grad():
                linear.weight.mul_(0.5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.o(torch.sigmoid(self.q(y)) * self.kv(y))
        return x + self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, WIDTH)
        self.layers = nn.ModuleList(LlamaLayer() for _ in range(2))
        self.head = nn.Linear(WIDTH, 17, bias=False)
        self.register_buffer("cosines", torch.empty(8))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)
        torch.cos(torch.arange(8.0), out=self.cosines)

    def forward(self) -> Tensor:
        x = self.embedding(torch.arange(5))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Experts(nn.Module):
    """Packed, filled one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(6, 10, WIDTH))
        self.down = nn.Parameter(torch.empty(6, WIDTH, 5))

    def reset_parameters(self) -> None:
        for number in range(6):
            nn.init.normal_(self.gate_up[number], std=0.1 * (number + 1))
            nn.init.orthogonal_(self.down[number])

    def forward(self, x: Tensor) -> Tensor:
        gate, up = torch.einsum("eow,bw->ebo", self.gate_up, x).chunk(2, -1)
        return torch.einsum("ewo,ebo->bw", self.down, gate * up)


class MoE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 6, bias=False)
        self.experts = Experts()
        self.shared = nn.Linear(WIDTH, WIDTH)

    def forward(self) -> Tensor:
        x = torch.ones(3, WIDTH)
        return self.experts(self.shared(x)) * self.router(x).sum()


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 3, bias=False)
        self.norm = nn.BatchNorm2d(7)
        self.grouped = nn.Conv2d(7, 14, 3, groups=7)
        self.up = nn.ConvTranspose2d(14, 5, 2)

    def forward(self) -> Tensor:
        return self.up(self.grouped(self.norm(self.stem(torch.ones(2, 3, 8, 8)))))


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(13, WIDTH, padding_idx=5)
        self.places = nn.Embedding(9, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 13, bias=False)
        self.head.weight = self.words.weight

    def forward(self) -> Tensor:
        return self.head(self.norm(self.words(torch.arange(9)) + self.places(torch.arange(9))))


class Recurrent(nn.Module):
    """An orthogonal matrix for each gate, and a forget gate's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True)
        self.head = nn.Linear(10, 11)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for name, parameter in self.lstm.named_parameters():
                if name.startswith("weight_hh"):
                    for gate in parameter.chunk(4):
                        nn.init.orthogonal_(gate)
                elif name.startswith("bias_ih"):
                    parameter[5:10].fill_(1.0)

    def forward(self) -> Tensor:
        return self.head(self.lstm(self.embedding(torch.arange(7)).unsqueeze(1))[0])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": Llama,
    "mixture_of_experts": MoE,
    "conv": Conv,
    "padded_embedding": Padded,
    "lstm": Recurrent,
}


# ---- how they are sharded ------------------------------------------------------------------------


def _plan(model: nn.Module) -> dict[str, ParallelStyle]:
    """What torch's styles know: linear layers and embeddings, the former in pairs."""
    rows = ("o", "down", "head", "places")
    found: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            last = name.rpartition(".")[2]
            found[name] = RowwiseParallel() if last in rows else ColwiseParallel()
    return found


def _by_tensor(model: nn.Module, mesh: Any) -> nn.Module:
    """By torch's plans where there are such, else by hand, in turns over either dimension."""
    tied = isinstance(model, Padded)
    parallelize_module(model, mesh, {} if tied else _plan(model))
    for k, module in enumerate(model.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is None or hasattr(parameter, "placements"):
                continue
            # Not the inputs of grouped convolutions: full_tensor() fails under FSDP2 over shards of
            # tensor parallelism that are empty.
            dim = k % 2 if parameter.dim() > 1 and parameter.shape[1] > 1 else 0
            to = [Shard(dim) if parameter.dim() > 1 else Replicate()]
            spread = nn.Parameter(distribute_tensor(parameter.detach(), mesh, to))
            module.register_parameter(name, spread)
    if tied:
        model.head.weight = model.words.weight  # type: ignore[union-attr]
    return model


def _by_fsdp(model: nn.Module, **options: Any) -> nn.Module:
    for layer in getattr(model, "layers", ()):
        fully_shard(layer, **options)
    result: nn.Module = fully_shard(model, **options)
    return result


def _halves(world: int) -> tuple[int, int]:
    return (2, world // 2) if world % 2 == 0 else (1, world)


def fsdp(model: nn.Module, world: int) -> nn.Module:
    return _by_fsdp(model, mesh=mesh_of(world))


def fsdp_with_offloading(model: nn.Module, world: int) -> nn.Module:
    policy = CPUOffloadPolicy(pin_memory=False)
    return _by_fsdp(model, mesh=mesh_of(world), offload_policy=policy)


def hsdp(model: nn.Module, world: int) -> nn.Module:
    return _by_fsdp(model, mesh=mesh_of(*_halves(world)))


def tensor_parallel(model: nn.Module, world: int) -> nn.Module:
    return _by_tensor(model, mesh_of(world))


def fsdp_over_tensor_parallel(model: nn.Module, world: int) -> nn.Module:
    mesh = mesh_of(*_halves(world)[::-1])
    return _by_fsdp(_by_tensor(model, mesh["b"]), mesh=mesh["a"])


def experts_over_fsdp(model: nn.Module, world: int) -> nn.Module:
    """Experts over one dimension and FSDP2 over the other; what else there is over all ranks."""
    mesh = mesh_of(*_halves(world)[::-1])
    experts: Any = model.experts
    for name, parameter in list(experts._parameters.items()):
        spread = distribute_tensor(parameter.detach(), mesh["b"], [Shard(0)])
        experts.register_parameter(name, nn.Parameter(spread))
    many = int(mesh["a"].size())
    dims = {name: 1 if size % many == 0 else 2 for name, size in (("gate_up", 10), ("down", 12))}
    of = {id(parameter): Shard(dims[name]) for name, parameter in experts.named_parameters()}
    fully_shard(experts, mesh=mesh["a"], shard_placement_fn=lambda parameter: of[id(parameter)])
    return _by_fsdp(model, mesh=mesh_of(world))


WAYS: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    way.__name__: way
    for way in (
        fsdp,
        fsdp_with_offloading,
        hsdp,
        tensor_parallel,
        fsdp_over_tensor_parallel,
        experts_over_fsdp,
    )
}
# What each is for: offloading is FSDP2's business, whatever the model.
FITTING = [
    (model, way)
    for model in MODELS
    for way in WAYS
    if (way != "experts_over_fsdp" or model == "mixture_of_experts")
    and (way != "fsdp_with_offloading" or model == "llama")
]
