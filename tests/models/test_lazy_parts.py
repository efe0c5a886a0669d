"""`initialize_` before shapes are known, where parts of the module are called, loaded, or drawn."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import nn

import fastinit
from fastinit import initialize_

X = torch.linspace(-1, 1, 20).view(4, 5)


def _linear(lazy: bool, inputs: int, outputs: int) -> nn.Module:
    return nn.LazyLinear(outputs) if lazy else nn.Linear(inputs, outputs)


class Trainer(nn.Module):
    """Which calls its net, and never itself."""

    def __init__(self, lazy: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(_linear(lazy, 5, 8), nn.ReLU(), _linear(lazy, 8, 2))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


class Pair(nn.Module):
    """Two nets that are called in turns, and a parameter of its own."""

    def __init__(self, lazy: bool) -> None:
        super().__init__()
        norm = nn.LazyBatchNorm1d() if lazy else nn.BatchNorm1d(8)
        self.first = nn.Sequential(_linear(lazy, 5, 8), norm)
        self.second = nn.Sequential(_linear(lazy, 8, 3))
        self.scale = nn.Parameter(torch.empty(2))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.scale)


def _nothing_waits(module: nn.Module) -> None:
    for one in module.modules():
        assert not one._forward_pre_hooks
        assert not one._load_state_dict_pre_hooks
        assert "reset_parameters" not in vars(one)


@pytest.mark.parametrize("call", [lambda m: m.net(X), lambda m: m.forward(X), lambda m: m(X)])
def test_a_call_of_what_has_all_the_lazy_modules(call: Any) -> None:
    known, module = (initialize_(Trainer(lazy), key=0) for lazy in (False, True))
    assert torch.equal(call(module), call(known))
    _nothing_waits(module)
    with torch.no_grad():
        module.net[2].bias.add_(1)
    trained = module.net[2].bias.detach().clone()
    module(X)
    assert same_bits(module.net[2].bias.data, trained)


RULES = {"first.0.weight": nn.init.ones_, "second.*": fastinit.normal_, "default": None}


@pytest.mark.parametrize("rules", [None, RULES])
def test_calls_of_parts_one_after_another(rules: Any) -> None:
    known, module = (
        initialize_(Pair(lazy), rules, key=1, skip="first.0.bias") for lazy in (False, True)
    )
    with torch.no_grad():
        known.first[0].bias.zero_()  # what a lazy layer has until somebody initialises it
    middle, want = module.first(X), known.first(X)
    assert torch.equal(middle, want)
    assert torch.equal(module.first(X), known.first(X))
    with torch.no_grad():
        module.first[0].weight.add_(1)
        known.first[0].weight.add_(1)
    assert torch.equal(module.second(middle), known.second(want))
    for name, value in module.state_dict().items():
        assert same_bits(value, known.state_dict()[name]), name
    _nothing_waits(module)


def test_a_factory_needs_all_shapes() -> None:
    module = initialize_(Pair(True), key=1, factory=lambda: Pair(False))
    with pytest.raises(
        RuntimeError, match=r"first has been called, .* call the whole module first"
    ):
        module.first(X)


@pytest.mark.parametrize("before", [False, True])
def test_what_is_loaded_into_parts_stays(before: bool) -> None:
    for part, loaded in enumerate((nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))):
        module = nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.LazyLinear(2))
        if isinstance(loaded, nn.BatchNorm1d):
            nn.init.constant_(loaded.running_mean, 7)
        if before:
            module[part].load_state_dict(loaded.state_dict())
        initialize_(module, key=0)
        if not before:
            module[part].load_state_dict(loaded.state_dict())
        module.eval()(X)
        known = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        initialize_(known, key=0)
        if not before:  # otherwise it is initialised like the others
            known[part].load_state_dict(loaded.state_dict())
        for name, value in module.state_dict().items():
            assert same_bits(value, known.state_dict()[name]), name


@pytest.mark.parametrize("lazy", [0, 1])
def test_another_call_for_a_part_counts(lazy: int) -> None:
    module = nn.Sequential(_linear(True, 5, 8), _linear(bool(lazy), 8, 2))
    known = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 2))
    for one in (module, known):
        initialize_(one, key=0)
        initialize_(one[lazy], {"default": nn.init.ones_}, key=5, prefix="part")
    module(X)
    for name, value in module.state_dict().items():
        assert same_bits(value, known.state_dict()[name]), name
    _nothing_waits(module)


def _pickled(module: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled])
def test_copies_wait_by_themselves(copied: Any) -> None:
    module = initialize_(nn.Sequential(nn.LazyLinear(8)), {"default": nn.init.ones_}, key=0)
    other, third = copied(module), copied(module)
    initialize_(third, {"default": nn.init.zeros_}, key=0)
    for one, value in ((other, 1), (third, 0), (module, 1)):
        one(X)
        assert torch.equal(one[0].weight, torch.full((8, 5), float(value)))
        _nothing_waits(one)
