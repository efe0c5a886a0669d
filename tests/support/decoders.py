"""A model that draws its weights itself, whole and as the stages of a pipeline."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import fastinit
from fastinit import Key
from support.common import same_bits

WIDTH = 6


class Layer(nn.Module):
    """As torchtitan has them, with an initialiser of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.experts = nn.Parameter(torch.empty(3, WIDTH, WIDTH))
        self.register_buffer("noise", torch.empty(5))

    def init_weights(self) -> None:
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(self.qkv.bias)
        nn.init.trunc_normal_(self.up.weight, std=0.02)
        self.up.bias.data.normal_(0.0, 0.1)
        nn.init.kaiming_uniform_(self.down.weight.t(), a=math.sqrt(5))
        self.norm.reset_parameters()
        for expert in self.experts:
            nn.init.orthogonal_(expert)
        self.noise.uniform_(-1, 1)


class Decoder(nn.Module):
    """Its parts are there or not, as in the stages of a pipeline."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.embedding: nn.Module | None = nn.Embedding(9, WIDTH, padding_idx=2)
        self.layers = nn.ModuleDict({str(k): Layer() for k in range(count)})
        self.head: nn.Module | None = nn.Linear(WIDTH, 9, bias=False)

    def init_weights(self) -> None:
        if self.embedding is not None:
            self.embedding.reset_parameters()
        for layer in self.layers.values():
            layer.init_weights()
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)


def values_of(*modules: nn.Module) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for module in modules:
        found |= {n: t.detach() for n, t in (*module.named_parameters(), *module.named_buffers())}
    return found


def assert_same(got: Mapping[str, torch.Tensor], want: Mapping[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    assert [name for name in want if not same_bits(got[name], want[name])] == []


def drawn(*parts: nn.Module, key: int = 3, **how: Any) -> dict[str, torch.Tensor]:
    with fastinit.patch(key, module=parts, **how), torch.no_grad():
        for part in parts:
            part.init_weights()
    return values_of(*parts)


def stages(model: Decoder, count: int) -> list[Decoder]:
    """Take a model apart as torchtitan does: copies of which the rest is deleted."""
    each = len(model.layers) // count
    found = []
    for stage in range(count):
        part = copy.deepcopy(model)
        for number in range(len(model.layers)):
            if number // each != stage:
                del part.layers[str(number)]
        if stage > 0:
            part.embedding = None
        if stage < count - 1:
            part.head = None
        found.append(part)
    return found


class Spread(Decoder):
    """Without what torch has no operator on DTensors for: draws into slices."""

    def init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("experts"):
                nn.init.normal_(parameter, std=0.5)
            elif parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            else:
                nn.init.uniform_(parameter.data)
        for name, buffer in self.named_buffers():
            nn.init.normal_(buffer, std=float(len(name)))


def of(name: str, n: int = 0, key: int = 0) -> Key:
    return Key(key).fold_in(name).fold_in(n)


def uniform(shape: tuple[int, ...], name: str = "weight", n: int = 0) -> torch.Tensor:
    return fastinit.uniform_(torch.empty(shape), key=of(name, n))
