"""What is put back when something that puts back, or that is entered, raises itself."""

from __future__ import annotations

import random
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

import fastinit
from fastinit._models.parametrized import Opened
from fastinit._models.snapshot import Snapshot
from fastinit._patch.functions import EXCHANGES
from fastinit._recording.batch import BatchMode
from fastinit._recording.recorder import Recorder


def _fails(*_: Any, **__: Any) -> NoReturn:
    raise KeyError("inside")


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.kept: list[int] = []

    def reset_parameters(self) -> None:
        self.kept.append(1)
        nn.init.normal_(self.weight)
        raise ZeroDivisionError


def test_objects_are_put_back_if_memory_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _Layer()
    monkeypatch.setattr(Recorder, "restore", _fails)
    with pytest.raises(KeyError):
        fastinit.initialize_(layer, key=0)
    assert layer.kept == []


def test_a_module_gets_its_memory_taken_back_if_objects_are_not_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.device("meta"):
        layer = _Layer()
    monkeypatch.setattr(Snapshot, "restore", _fails)
    with pytest.raises(KeyError):
        fastinit.materialize(layer, key=0)
    assert layer.weight.is_meta


def test_twins_are_taken_out_if_objects_are_not_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out: list[int] = []
    monkeypatch.setattr(Snapshot, "restore", _fails)
    monkeypatch.setattr("fastinit._models.sharded.Twins.take_out", lambda self: out.append(1))
    with pytest.raises(KeyError):
        fastinit.initialize_(_Layer(), key=0)
    assert out == [1]


def test_modules_are_closed_if_one_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    parametrize = nn.utils.parametrizations.orthogonal
    module = nn.Sequential(parametrize(nn.Linear(2, 2)), parametrize(nn.Linear(2, 2)))
    kinds, first, open_one = [*map(type, module)], module[0], Opened.open

    def opens(opened: Opened) -> None:
        open_one(opened) if opened._module is first else _fails()

    monkeypatch.setattr(Opened, "open", opens)
    monkeypatch.setattr(Snapshot, "restore", lambda self: None)  # which would hide it
    with pytest.raises(KeyError):
        fastinit.initialize_(module, key=0)
    assert [*map(type, module)] == kinds
    assert "weight" not in first._parameters


@pytest.mark.parametrize("part", ["__enter__", "__init__"])
def test_a_patch_that_cannot_be_entered_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    code, state, users = nn.init.normal_.__code__, random.getstate(), EXCHANGES._users
    monkeypatch.setattr(BatchMode, part, _fails)
    with pytest.raises(KeyError), fastinit.patch(0, batch=True):
        pass
    assert nn.init.normal_.__code__ is code
    assert random.getstate() == state
    assert users == EXCHANGES._users
    assert torch._C._len_torch_dispatch_stack() == torch._C._len_torch_function_stack() == 0


def test_a_property_that_raises_is_named() -> None:
    class Property(nn.Linear):
        @property
        def init_weights(self) -> NoReturn:
            raise RuntimeError("never")

    with pytest.raises(RuntimeError) as raised:
        fastinit.initialize_(nn.Sequential(nn.Linear(2, 2), Property(2, 2)), key=0)
    said = "".join((str(raised.value), *getattr(raised.value, "__notes__", ())))
    assert "for '1' of Sequential" in said
