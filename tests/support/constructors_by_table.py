"""Constructors that are handed tables, or initialise by ways that only some code shows."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.init import xavier_uniform_ as xavier
from torch.nn.utils import parametrizations

TABLE = torch.arange(20.0).view(5, 4)
_INITIALISERS = {"zero": nn.init.zeros_, "one": nn.init.ones_}


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.more()

    def more(self) -> None: ...


class FromPretrained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(TABLE.clone(), freeze=False)


class MadeInPlace(nn.Module):
    """A table that is built row by row."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros(5, 4)
        table[0] = 1
        self.words = nn.EmbeddingBag.from_pretrained(table, freeze=False)


class MayBePretrained(nn.Module):
    def __init__(self, table: Tensor | None = None, freeze: bool = True) -> None:
        super().__init__()
        if table is not None:
            self.words = nn.Embedding.from_pretrained(table, freeze=freeze)
        else:
            self.words = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5)


class ReturnsBeforeATable(nn.Module):
    def __init__(self, table: Tensor | None = None) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.words = nn.Embedding(5, 4)
        if table is None:
            return
        self.words.weight = nn.Parameter(table)


class ChoosesPretrained(nn.Module):
    def __init__(self, table: Tensor | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4) if table is None else nn.Embedding.from_pretrained(table)
        self.head = nn.Linear(4, 5)


class GivesAWeight(nn.Module):
    def __init__(self, table: Tensor | None = None) -> None:
        super().__init__()
        size = (5, 4) if table is None else table.shape
        self.words = nn.Embedding(*size, _weight=table)
        self.head = nn.Linear(4, 5)


class Replaces(nn.Module):
    def __init__(self, table: Tensor = TABLE) -> None:
        super().__init__()
        self.words = nn.Embedding(*table.shape)
        self.words.weight = nn.Parameter(table.clone(), requires_grad=False)


class ReplacesByAGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.tags = nn.Embedding(5, 4), nn.Embedding(5, 4)
        self.words.weight = nn.Parameter(TABLE)
        self.tags.weight = nn.Parameter(TABLE)


class SetsAGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.words.weight.data = TABLE.clone()


class MayReplace(nn.Module):
    def __init__(self, table: Tensor | None = None, tied: bool = False) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        if table is not None:
            self.words.weight = nn.Parameter(table)
        if tied:
            self.head.weight = nn.Parameter(self.words.weight)


class ReplacesByACall(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.words.weight = nn.Parameter(_sines(5, 4), requires_grad=False)


def _sines(length: int, width: int) -> Tensor:
    return torch.arange(length * width).view(length, width).sin()


class ReplacesByAFunction(nn.Module):
    def __init__(self, table: Tensor | None = None) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        if table is not None:
            _put(self.words, table)


def _put(layer: Any, table: Tensor) -> None:
    layer.weight = nn.Parameter(table)


class ReplacesOwn(nn.Linear):
    def __init__(self, weight: Tensor) -> None:
        super().__init__(4, 4)
        self.weight = nn.Parameter(weight)


class ByAnAlias(_Layer):
    def more(self) -> None:
        [xavier(p) for p in self.parameters() if p.dim() > 1]


class ByATable(_Layer):
    ways: Any = _INITIALISERS

    def more(self) -> None:
        _INITIALISERS["zero"](self.layer.weight)


class ByAnyOfATable(ByATable):
    def more(self, how: str = "one") -> None:
        self.ways[how](self.layer.weight)


class HandsOn(nn.Module):
    def __init__(self, std: float = 0.001) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.init_weights(std)

    def init_weights(self, std: float = 1.0) -> None:
        nn.init.normal_(self.layer.weight, std=std)
        nn.init.zeros_(self.layer.bias)


class HandsOnTheSame(HandsOn):
    def __init__(self, std: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Linear(4, 4)
        self.init_weights(std)


class HandsOnWhatItMayHave(HandsOn):
    def __init__(self, std: float | None = None) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Linear(4, 4)
        self.init_weights(std)  # type: ignore[arg-type]

    def init_weights(self, std: float = 1.0) -> None:
        super().init_weights(std or 1.0)


class Running(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_var.fill_(4.0)  # type: ignore[union-attr]


class OwnRunning(nn.BatchNorm1d):
    def __init__(self) -> None:
        super().__init__(4)
        self.running_mean.add_(1.0)  # type: ignore[union-attr]


class KeepsRunning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean.zero_()  # type: ignore[union-attr]
        self.register_buffer("running", torch.zeros(3))
        self.running.fill_(3.0)  # type: ignore[operator]


class _Block(_Layer):
    def zero_out(self) -> None:
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class OfALocal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = _Block()
        block.zero_out()
        self.block = block


class Normalised(_Layer):
    def more(self) -> None:
        self.layer.weight.data.normal_(0, 0.001)
        self.layer = parametrizations.spectral_norm(self.layer)


class SetsCopies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = nn.Linear(4, 4), nn.Linear(4, 4)
        for (_, p), (_, q) in zip(
            self.online.named_parameters(), self.target.named_parameters(), strict=True
        ):
            q.data = p.data.clone()


class OfAllWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4)
        for weight in self.rnn.all_weights[0]:
            weight.data.fill_(0)


class Trains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = _Block()
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.block(torch.ones(1, 4)).sum().backward()
        optimizer.step()


class TiesInPairs(nn.Module):
    """And converts, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        for (_, p), (_, q) in zip(
            self.a.named_parameters(), self.b.named_parameters(), strict=True
        ):
            q.data = p.data
        for _, p in self.named_parameters():
            p.data = p.data.clone()
        self.b.weight = nn.Parameter(self.a.weight.data)


class Tied(nn.Module):
    """To what others have, which it is given."""

    def __init__(self, words: nn.Embedding | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.head = _Head(self.words.weight)


class _Head(nn.Module):
    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5, bias=False)
        self.layer.weight = nn.Parameter(weight)


class KeepsWhatItIsHanded(nn.Module):
    """As a parameter that nothing else draws."""

    def __init__(self, scale: Tensor = TABLE) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = nn.Parameter(scale.clone(), requires_grad=False)


class MakesAndDraws(nn.Module):
    """What it is handed says how large it is."""

    def __init__(self, like: Tensor = TABLE) -> None:
        super().__init__()
        self.weight = nn.Parameter(like.clone())
        self.layer = nn.Linear(4, 5)
        self.layer.weight = nn.Parameter(like.clone())
        self.layer.bias = nn.Parameter(torch.empty(5))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter)


def copied() -> nn.Module:
    """Give a module whose weights nobody has written since they were made."""
    return copy.deepcopy(MayBePretrained())


def trained_at_the_head() -> nn.Module:
    """Give a module of which only the last layer is not frozen."""
    module = nn.Sequential(MayBePretrained(), nn.Linear(5, 3)).requires_grad_(False)
    return module.append(nn.Linear(3, 3))


def frozen() -> nn.Module:
    """Give a module of which all is frozen."""
    return MayReplace().requires_grad_(False)
