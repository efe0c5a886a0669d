"""A fixed sample of the zoo, on every road; the whole of it is `make zoo`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import zoo_roads
from support.zoo_roads import CONSTRUCTOR, REFUSED, RIGHT, ROADS, SEEDED, WRONG, Family, examine
from support.zoo_sources import LIBRARIES
from torch import nn

TORCH = ("Transformer", "LSTM", "GRU", "MultiheadAttention", "MultiheadAttention kv")
TORCH += ("ConvTranspose2d", "Embedding", "EmbeddingBag", "Bilinear", "BatchNorm")
SAMPLE = [f"torch/{name}" for name in TORCH]
# What is not right on the roads that know only what modules define.
EXPECTED: dict[str, dict[str, str]] = {}


@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name: str) -> None:
    source, _, family = name.partition("/")
    for package in LIBRARIES[source]:
        pytest.importorskip(package)
    row = examine(source, family)
    assert "not built" not in row, row["not built"]
    verdicts = {road: row[road]["verdict"] for road in ROADS}
    expected = dict.fromkeys(ROADS, RIGHT) | EXPECTED.get(name, {})
    assert verdicts == expected, {road: row[road]["differences"] for road in ROADS}


class Net(nn.Module):
    """Of each sort of tensor that is compared one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.embedding = nn.Embedding(32, 16, padding_idx=0)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps", torch.arange(4))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.norm(self.first(x)))


class Customised(Net):
    """What a constructor does to its children."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.norm.weight)
        nn.init.normal_(self.first.weight, std=3.0)


class Tempered(Net):
    """A parameter that no module initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.5))


class Seeded(Net):
    """Draws that are the same for every seed of torch's."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("fixed", torch.randn(16, 16, generator=generator))


def family(monkeypatch: pytest.MonkeyPatch, factory: Callable[[], nn.Module]) -> Family:
    monkeypatch.setattr(zoo_roads, "factory_of", lambda *_: factory)
    monkeypatch.setattr(zoo_roads, "first_accepted", lambda *_: ((torch.ones(3, 16),), {}))
    return Family("torch", "")


@pytest.mark.parametrize(
    "factory, verdicts",
    [
        (Net, (RIGHT, RIGHT)),
        (Customised, (RIGHT, CONSTRUCTOR)),
        (Tempered, (RIGHT, REFUSED)),
        (Seeded, (SEEDED, RIGHT)),
    ],
)
def test_verdicts(
    monkeypatch: pytest.MonkeyPatch,
    factory: Callable[[], nn.Module],
    verdicts: tuple[str, str],
) -> None:
    found = family(monkeypatch, factory)
    for road, verdict in zip(("materialize(factory)", "initialize_"), verdicts, strict=True):
        assert found.judge(road)["verdict"] == verdict, found.judge(road)


def _garbage(net: Net) -> None:
    net.first.bias[3] = float("nan")


def _constant(net: Net) -> None:
    net.norm.weight[5] = 1.25


def _padding(net: Net) -> None:
    net.embedding.weight[0] = 0.01


def _buffer(net: Net) -> None:
    net.steps += 1  # type: ignore[operator]


def _scale(net: Net) -> None:
    net.first.weight *= 1.5


def _tie(net: Net) -> None:
    net.head.weight = nn.Parameter(net.head.weight.detach().clone())


def _kind(net: Net) -> None:
    net.first.weight.requires_grad_(False)


def _name(net: Net) -> None:
    net.register_buffer("more", torch.zeros(1))


def _undrawn(net: Net) -> None:
    net.first.bias.zero_()


def _unkeyed(net: Net) -> None:
    generator = torch.Generator()
    generator.seed()
    net.first.weight.uniform_(-0.25, 0.25, generator=generator)


def _left_on_meta(net: Net) -> None:
    net.cache = {"steps": torch.arange(4, device="meta")}  # type: ignore[assignment]


@pytest.mark.parametrize(
    "defect",
    [
        *(_garbage, _constant, _padding, _buffer, _scale, _tie, _kind, _name, _undrawn, _unkeyed),
        _left_on_meta,
    ],
)
@pytest.mark.parametrize("road", ["patch", "initialize_"])
def test_defects_are_seen(
    monkeypatch: pytest.MonkeyPatch, road: str, defect: Callable[[Net], None]
) -> None:
    build = ROADS[road]

    def spoilt(factory: Callable[[], nn.Module], key: int) -> nn.Module:
        model = build(factory, key)
        with torch.no_grad():
            defect(model)  # type: ignore[arg-type]
        return model

    found = family(monkeypatch, Net)
    monkeypatch.setitem(ROADS, road, spoilt)
    assert found.judge(road)["verdict"] == WRONG
