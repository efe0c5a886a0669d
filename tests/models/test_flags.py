"""Initialisers that remember that they have run, and run again all the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinit

KEY = fastinit.Key(3)


class _Once(nn.Module):
    """As mmengine's modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self._is_init = False

    def init_weights(self) -> None:
        if not self._is_init:
            self._draw()
            self._is_init = True

    def _draw(self) -> None:
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]


class _Made(_Once):
    """Its constructor has run it."""

    def __init__(self) -> None:
        super().__init__()
        self.init_weights()


class _Returns(_Once):
    def init_weights(self) -> None:
        if getattr(self, "_done", False):
            return
        self._draw()
        self._done = True


class _MayLack(_Once):
    def init_weights(self) -> None:
        if hasattr(self, "_done"):
            return
        self._draw()
        self._done = True


class _ForEach(_Once):
    init_weights: Any = None

    def _init_weights(self, module: Any) -> None:
        if not getattr(module, "initialized", False) and module is not self:
            self._draw()
            module.initialized = True


def _draw_once(module: Any) -> None:
    if not getattr(module, "_drawn", False):
        module._draw()
        module._drawn = True


class _ByAFunction(_Once):
    def init_weights(self) -> None:
        _draw_once(self)


class _Above(_Once):
    """What is below runs first, and not again for it."""

    def __init__(self) -> None:
        super().__init__()
        self.below = _Made()
        self.conv = self.below.conv

    def _draw(self) -> None:
        for child in (self.below,):
            if not child._is_init:
                child.init_weights()


@pytest.mark.parametrize("kind", [_Once, _Made, _Returns, _MayLack, _ForEach, _ByAFunction, _Above])
def test_initialisers_that_run_once_run_again(kind: type[_Once]) -> None:
    module = kind()
    first = fastinit.initialize_(module, key=KEY).conv.weight.detach().clone()
    flags = [dict(vars(one)) for one in module.modules()]
    assert 0 < first.std() < 0.002
    fastinit.initialize_(module, key=4)
    assert 0 < module.conv.weight.std() < 0.002
    assert not torch.equal(module.conv.weight, first)
    fastinit.initialize_(copy.deepcopy(module), key=KEY)
    fastinit.initialize_(module, key=KEY)
    assert torch.equal(module.conv.weight, first)
    assert [dict(vars(one)) for one in module.modules()] == flags


def test_on_the_meta_device_a_constructor_has_initialised_nothing() -> None:
    with torch.device("meta"):
        module = _Made()
    fastinit.materialize(module, key=KEY)
    assert torch.equal(module.conv.weight, fastinit.initialize_(_Once(), key=KEY).conv.weight)
    assert module._is_init


def test_an_error_leaves_flags_as_they_were() -> None:
    class Fails(_Made):
        def _draw(self) -> None:
            super()._draw()
            if self._fails:
                raise ValueError("stop")

        _fails = False

    module = Fails()
    before = module.conv.weight.detach().clone()
    module._fails = True
    with pytest.raises(ValueError, match="stop"):
        fastinit.initialize_(module, key=KEY)
    assert module._is_init
    assert torch.equal(module.conv.weight, before)


class _States(nn.Module):
    """What is no such flag: a state, of data, of the module, or a setting."""

    initialized: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("initialized", torch.ones((), dtype=torch.bool))
        self.seen: list[Any] = []
        self.setting = self.is_fused = self.is_ready = True

    def fuse(self) -> None:
        self.is_fused = True

    def split(self) -> None:
        self.is_fused = False

    def reset_parameters(self) -> None:
        self.seen.append((self.setting, self.is_fused, bool(self.initialized)))
        if self.is_fused:
            self.split()
        self.layer.reset_parameters()
        self.fuse()
        self.is_ready = True


def test_other_flags_are_left_alone() -> None:
    module = fastinit.initialize_(_States(), key=KEY)
    assert {*module.seen} == {(True, True, True)}
    assert module.initialized
    assert module.is_ready
