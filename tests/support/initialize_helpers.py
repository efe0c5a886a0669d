"""A small model, and how the tests of `initialize_` compare."""

from __future__ import annotations

import functools

import torch
from torch import nn

import fastinit
from fastinit import Key
from support.common import same_bits

NORMAL = functools.partial(fastinit.normal_, std=0.02)


def drawn(name: str, n: int = 0, key: int = 3) -> Key:
    return Key(key).fold_in(name).fold_in(n)


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert same_bits(tensor, b[name]), name


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.second = nn.Linear(width, width, bias=False)


class Model(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([Block() for _ in range(layers)])
        self.head = nn.Linear(8, 20, bias=False)
