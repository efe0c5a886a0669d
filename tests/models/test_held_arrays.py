"""Arrays of NumPy and Python that modules hold: put back, and told from, as tensors are."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.common import same_bits
from torch import nn

import fastinit
from fastinit._models import held_state

HOLDERS: dict[str, Callable[[], Any]] = {
    "numpy": lambda: np.arange(6),
    "strided": lambda: np.arange(12)[::2],
    "matrix": lambda: np.arange(6).reshape(2, 3),
    "single": lambda: np.array(3.0),
    "records": lambda: np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
    "objects": lambda: np.array([[1, 2], "text", None], dtype=object),
    "array": lambda: array.array("d", [1, 2, 3]),
    "bytearray": lambda: bytearray(b"abc"),
}


def change(held: Any) -> None:
    if isinstance(held, np.ndarray):
        if held.dtype == object:
            held[0].append(3)
            held[1] = "other"
        else:
            held[...] = np.ones((), held.dtype)
    else:
        held[0] = 7


def content(held: Any) -> Any:
    return held.tolist() if hasattr(held, "tolist") else bytes(held)


class Holds(nn.Linear):
    """Changes what it holds each time it is initialised, and weighs what it finds."""

    def __init__(self, held: Any, reads: bool = False, fails: bool = False) -> None:
        super().__init__(3, 3)
        self.held, self.reads, self.fails = [held], reads, fails

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if not hasattr(self, "held"):
            return
        self.found = str(content(self.held[0]))
        change(self.held[0])
        if self.reads:
            with torch.no_grad():
                drawn = torch.randn(3, 3)
                self.weight.copy_(drawn / float(drawn.norm()))
        if self.fails:
            raise KeyError("planted")


@pytest.mark.parametrize("kind", HOLDERS)
def test_initialisers_that_run_again_find_what_there_was(kind: str) -> None:
    held = HOLDERS[kind]()
    before = str(content(held))
    module = fastinit.initialize_(Holds(held, reads=True), key=3)
    assert module.found == before
    changed = HOLDERS[kind]()
    change(changed)
    assert str(content(module.held[0])) == str(content(changed))
    assert module.held[0] is held


@pytest.mark.parametrize("kind", HOLDERS)
def test_after_an_error(kind: str) -> None:
    held = HOLDERS[kind]()
    before = str(content(held))
    with pytest.raises(KeyError, match="planted"):
        fastinit.initialize_(Holds(held, fails=True), key=3)
    assert str(content(held)) == before


def test_what_cannot_be_written_or_is_large_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = np.arange(3)
    fixed.flags.writeable = False
    assert held_state.putting_back(fixed) is None
    monkeypatch.setattr(held_state, "_MOST", 16)
    assert held_state.putting_back(np.arange(3)) is None


class Viewed(nn.Module):
    """Has an array on the memory of its parameter."""

    def __init__(self, write: Callable[[Any], object]) -> None:
        super().__init__()
        self.write = write
        self.weight = nn.Parameter(torch.full((4, 4), 2.0))
        self.array = self.weight.detach().numpy()

    def reset_parameters(self) -> None:
        self.write(self)


class Owned(Viewed):
    """Has a parameter on the memory of its array."""

    def __init__(self, write: Callable[[Any], object]) -> None:
        super().__init__(write)
        self.array = np.full((4, 4), 2.0, dtype="f4")
        self.weight = nn.Parameter(torch.from_numpy(self.array))


def all_of_it(module: Any) -> None:
    module.array[:] = np.arange(16).reshape(4, 4)


def nothing_of_it(module: Any) -> None:
    module.array.sum()


def without_values(module: Any) -> None:
    with torch.no_grad():
        module.weight.copy_(torch.empty(4, 4))


def fails(module: Any) -> None:
    all_of_it(module)
    raise KeyError("planted")


@pytest.mark.parametrize("kind", [Viewed, Owned])
def test_a_parameter_that_an_array_writes(kind: Any) -> None:
    module = kind(all_of_it)
    fastinit.initialize_(module, key=3)
    assert same_bits(module.weight.detach(), torch.arange(16.0).view(4, 4))
    module.array[0] = -1
    assert bool((module.weight[0] == -1).all())
    drawn = fastinit.initialize_(kind(lambda one: nn.init.normal_(one.weight)), key=3)
    want = torch.empty(4, 4)
    fastinit.normal_(want, key=fastinit.Key(3).fold_in("weight").fold_in(0))
    assert same_bits(drawn.weight.detach(), want)


@pytest.mark.parametrize("kind", [Viewed, Owned])
@pytest.mark.parametrize(
    ("write", "error"),
    [(nothing_of_it, ValueError), (without_values, ValueError), (fails, KeyError)],
)
def test_a_parameter_that_an_array_writes_and_an_error(kind: Any, write: Any, error: Any) -> None:
    module = kind(write)
    with pytest.raises(error):
        fastinit.initialize_(module, key=3)
    assert bool((module.weight == 2).all())
    assert bool((module.array == 2).all())


@pytest.mark.parametrize("kind", [Viewed, Owned])
def test_beside_others_on_the_meta_device(kind: Any) -> None:
    module = nn.ModuleList([kind(all_of_it), nn.Linear(2, 2, device="meta")])
    fastinit.materialize(module, key=3)  # what is real stays
    assert bool((module[0].weight == 2).all())
    assert bool((module[0].array == 2).all())


def turn(held: Any) -> None:
    held.shape = (2, 3)


def lock(held: Any) -> None:
    held[0] = 9
    held.flags.writeable = False


@pytest.mark.parametrize(
    "change",
    [turn, lock, lambda held: held.resize(8, refcheck=False)],
    ids=["turn", "lock", "resize"],
)
@pytest.mark.parametrize("fails", [False, True])
def test_arrays_that_become_others(change: Callable[[Any], object], fails: bool) -> None:
    """What is raised comes through, all else is put back, and a second run finds what there was."""

    class Changes(nn.Linear):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            if not hasattr(self, "held"):
                return
            found.append((self.held.shape, self.held.tolist(), self.held.flags.writeable))
            change(self.held)
            self.flag = True
            with torch.no_grad():
                drawn = torch.randn(3)
                self.bias.copy_(drawn / float(drawn.norm()))
            if fails:
                raise KeyError("planted")

    found: list[Any] = []
    module = Changes(3, 3)
    module.held = np.arange(6.0)
    before = module.held.shape, module.held.tolist(), True
    if fails:
        with pytest.raises(KeyError, match="planted"):
            fastinit.initialize_(module, key=3)
        assert (module.held.shape, module.held.tolist(), module.held.flags.writeable) == before
        assert not hasattr(module, "flag")
        assert found == [before]
    else:
        fastinit.initialize_(module, key=3)
        assert found == [before, before]
