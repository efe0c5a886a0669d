"""`fastinit.patch(key, module=model)` while the module changes: names are right, and found fast."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.decoders import of
from support.patch_helpers import direct, nth, same
from torch import nn

import fastinit
from fastinit._models import named_memory
from fastinit._models.named_draws import NamedDraws
from fastinit._models.named_memory import NamedMemory

COUNT = 30


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each time that all of the module was looked at."""
    seen: list[int] = []
    look = NamedMemory._look
    monkeypatch.setattr(NamedMemory, "_look", lambda self: seen.append(1) or look(self))
    return seen


def linear() -> nn.Linear:
    return nn.Linear(3, 4, bias=False)


class Wrap(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.empty(3))
        nn.init.uniform_(self.scale)  # not of the model yet


def layers_of(count: int = COUNT) -> nn.ModuleList:
    return nn.ModuleList(linear() for _ in range(count))


def uniform(name: str, *shape: int) -> torch.Tensor:
    return direct("uniform_", shape, key=of(name))


# ---- what is looked at once ----------------------------------------------------------------------


def copies(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k, layer in enumerate(layers):
        layer.weight.copy_(torch.rand(4, 3))
        assert same(layer.weight, direct("uniform_", (4, 3), key=nth(0, k)))
    yield from ()


def new_parameters(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k, layer in enumerate(layers):
        layer.scale = nn.Parameter(torch.empty(5))
        yield f"{k}.scale", nn.init.uniform_(layer.scale)
        layer.register_buffer("mask", torch.empty(6))
        yield f"{k}.mask", nn.init.uniform_(layer.mask)


def other_parameters(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k, layer in enumerate(layers):
        yield f"{k}.weight", nn.init.uniform_(layer.weight)
        old, layer.weight = layer.weight, nn.Parameter(torch.empty(2, 3))
        yield f"{k}.weight", nn.init.uniform_(layer.weight)
        assert old.shape == (4, 3)


def thrown_away(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k, layer in enumerate(layers):
        nn.init.uniform_(linear().weight)
        nn.init.uniform_(torch.empty(4))
        yield f"{k}.weight", nn.init.uniform_(layer.weight)


def wrapped(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k, layer in enumerate([*layers]):
        layers[k] = wrap = Wrap(layer)
        yield f"{k}.inner.weight", nn.init.uniform_(layer.weight)
        yield f"{k}.scale", nn.init.uniform_(wrap.scale)


def appended(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k in range(COUNT, COUNT + 10):
        layers.append(nn.Sequential(linear(), nn.Sequential(linear())))
        yield f"{k}.1.0.weight", nn.init.uniform_(layers[k][1][0].weight)
        layers[k].more = linear()
        yield f"{k}.more.weight", nn.init.uniform_(layers[k].more.weight)


def moved(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k in range(0, COUNT, 2):
        layers[k], layers[k + 1] = layers[k + 1], layers[k]
        for n in (k, k + 1):
            yield f"{n}.weight", nn.init.uniform_(layers[n].weight)


def moved_weights(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for k in range(0, COUNT, 2):
        layers[k].weight, layers[k + 1].weight = layers[k + 1].weight, layers[k].weight
        for n in (k, k + 1):
            yield f"{n}.weight", nn.init.uniform_(layers[n].weight)


@pytest.mark.parametrize(
    "program",
    [
        copies,
        new_parameters,
        other_parameters,
        thrown_away,
        wrapped,
        appended,
        moved,
        moved_weights,
    ],
)
@pytest.mark.parametrize("rename", [None, str.upper])
def test_all_is_looked_at_once(program: Any, rename: Any, looks: list[int]) -> None:
    layers = layers_of()
    with fastinit.patch(0, module=layers, rename=rename), torch.no_grad():
        for name, tensor in program(layers):
            want = uniform(name if rename is None else rename(name), *tensor.shape)
            assert same(tensor.detach(), want), name
    assert len(looks) == 1


def test_so_much_is_told_that_all_is_looked_at_again(
    looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_memory, "_MOST_TOLD", 10)
    layers = layers_of(5)
    with fastinit.patch(0, module=layers), torch.no_grad():
        for _ in range(100):
            for k, layer in enumerate(layers):
                layer.weight = nn.Parameter(torch.empty(2, 3))
                got = nn.init.uniform_(layer.weight).detach()
                assert same(got, uniform(f"{k}.weight", 2, 3))
    assert 1 < len(looks) < 60


def test_what_is_let_go_stays_so() -> None:
    """What has come and gone inside is not kept until the modules are looked at again."""
    layers = layers_of(3)
    with fastinit.patch(0, module=layers), torch.no_grad():
        layers[0].more = linear()
        nn.init.uniform_(layers[0].more.weight)
        weak = layers[0].more.weight.untyped_storage()._weak_ref()
        layers[0].more = None
        assert torch.UntypedStorage._expired(weak)
        torch.UntypedStorage._free_weak_ref(weak)


def test_names_that_are_the_same_without_what_wrappers_add() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3))

    model = Model()
    with fastinit.patch(0, module=model):
        model.other = nn.Parameter(torch.empty(2))
        nn.init.uniform_(model.other)
        model._orig_mod = Model()
        with pytest.raises(ValueError, match="two tensors of Model are called 'weight'"):
            nn.init.uniform_(model._orig_mod.weight)


def test_new_names_that_are_renamed_to_others() -> None:
    model = layers_of(3)
    with fastinit.patch(0, module=model, rename=lambda name: name.replace("more", "weight")):
        model[0].another = nn.Parameter(torch.empty(2))
        nn.init.uniform_(model[0].another)
        model[1].more = nn.Parameter(torch.empty(2))
        with pytest.raises(ValueError, match=r"gives 1\.weight and 1\.more one name"):
            nn.init.uniform_(model[1].more)


@pytest.mark.parametrize("whole", [False, True])
def test_what_came_untold_and_then_stands_elsewhere_too(whole: bool) -> None:
    layers, new = layers_of(3), linear()
    with fastinit.patch(0, module=layers), torch.no_grad():
        layers[1].scale = nn.Parameter(torch.empty(2))
        nn.init.uniform_(layers[1].scale)
        layers.insert(0, new)  # which torch has no hook for
        if whole:
            layers.append(new)
        else:
            layers[2].tied = new.weight
        nn.init.uniform_(new.weight)
        assert same(new.weight.detach(), uniform("0.weight", 4, 3))


def test_memory_that_was_replaced_untold_has_no_name() -> None:
    layers = layers_of(3)
    with fastinit.patch(0, module=layers), torch.no_grad():
        old = layers[1].weight.data
        layers[1].weight.data = torch.empty(4, 3)
        nn.init.uniform_(old)
    assert same(old, direct("uniform_", (4, 3), key=nth(0, 0)))


# ---- any changes ---------------------------------------------------------------------------------


class Program:
    """Changes of a model, told by torch's hooks and not, and draws in between."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.model: Any = nn.ModuleDict({"a": layers_of(3), "b": nn.Sequential(linear(), linear())})
        self.gone: list[torch.Tensor] = [torch.empty(3)]
        self.drawn: list[torch.Tensor] = []
        self.count = 0

    def holder(self) -> Any:
        return self.random.choice([m for m in self.model.modules() if self.names(m)])

    def names(self, owner: nn.Module) -> list[str]:
        return [name for name, one in owner._parameters.items() if one is not None]

    def table(self) -> Any:
        return self.random.choice([self.model["a"], self.model["b"]])

    def draw(self) -> None:
        inside = [*self.model.parameters(), *self.model.buffers()]
        tensor = self.random.choice([*inside, *inside, *self.gone])
        if self.random.random() < 0.3:
            tensor = tensor[: self.random.randrange(1, 3)]
        self.drawn.append(nn.init.uniform_(tensor).detach().clone())

    def new_parameter(self) -> None:
        self.count += 1
        setattr(self.holder(), f"new{self.count}", nn.Parameter(torch.empty(3, 2)))

    def new_buffer(self) -> None:
        self.count += 1
        self.holder().register_buffer(f"new{self.count}", torch.empty(4))

    def replace(self) -> None:
        owner = self.holder()
        name = self.random.choice(self.names(owner))
        self.gone.append(owner._parameters[name])
        setattr(owner, name, nn.Parameter(torch.empty(5, 2)))

    def replace_untold(self) -> None:
        owner = self.holder()
        name = self.random.choice(self.names(owner))
        self.gone.append(owner._parameters[name])
        owner._parameters[name] = nn.Parameter(torch.empty(5, 3))

    def other_memory(self) -> None:
        parameter = self.random.choice([*self.model.parameters()])
        self.gone.append(parameter.data)
        parameter.data = torch.empty(4, 4)

    def delete(self) -> None:
        owner = self.holder()
        name = self.random.choice(self.names(owner))
        if len([*self.model.parameters()]) > 3:
            self.gone.append(owner._parameters[name])
            delattr(owner, name)

    def append(self) -> None:
        self.table().append(nn.Sequential(linear(), linear()))

    def insert(self) -> None:
        self.table().insert(self.random.randrange(2), linear())

    def remove(self) -> None:
        table = self.table()
        if len(table) > 2:
            self.gone += [*table[1].parameters()]
            del table[1]

    def wrap(self) -> None:
        table = self.table()
        k = self.random.randrange(len(table))
        table[k] = Wrap(table[k])

    def wrap_untold(self) -> None:
        table = self.table()
        k = str(self.random.randrange(len(table)))
        table._modules[k] = Wrap(table._modules[k])

    def swap(self) -> None:
        one, other = self.table(), self.table()
        k, n = self.random.randrange(len(one)), self.random.randrange(len(other))
        one[k], other[n] = other[n], one[k]

    def tie(self) -> None:
        owner = self.holder()
        name = self.random.choice(self.names(owner))
        self.holder().weight = owner._parameters[name]

    def share(self) -> None:
        self.table().append(self.table()[0])

    def convert(self) -> None:
        self.model.to_empty(device="cpu")

    def run(self) -> list[torch.Tensor]:
        changes = [getattr(self, name) for name, one in vars(Program).items() if one in CHANGES]
        with fastinit.patch(0, module=self.model), torch.no_grad():
            for _ in range(25):
                self.random.choice(changes)()
                for _ in range(self.random.randrange(4)):
                    self.draw()
        return self.drawn


CHANGES: list[Callable[[Program], None]] = [
    Program.new_parameter,
    Program.new_buffer,
    Program.replace,
    Program.replace_untold,
    Program.other_memory,
    Program.delete,
    Program.append,
    Program.insert,
    Program.remove,
    Program.wrap,
    Program.wrap_untold,
    Program.swap,
    Program.tie,
    Program.share,
    Program.convert,
]


@pytest.mark.parametrize("seed", range(60))
def test_names_and_numbers_are_those_of_looking_each_time(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = Program(seed).run()
    find = NamedDraws.find

    def looking(self: NamedDraws, memory: torch.Tensor) -> Any:
        self.look()
        return find(self, memory)

    monkeypatch.setattr(NamedDraws, "find", looking)
    want = Program(seed).run()
    assert len(got) == len(want) > 0
    assert [k for k, pair in enumerate(zip(got, want, strict=True)) if not same(*pair)] == []
