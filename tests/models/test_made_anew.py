"""Rules and `skip=` where initialisers, or constructors, make parameters and children."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import nn

import fastinit
from fastinit import Key

KEY = Key(4)


class Position(nn.Module):
    """Makes new objects whenever it is initialised."""

    def __init__(self) -> None:
        super().__init__()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.weight = nn.Parameter(torch.randn(64))
        self.register_buffer("shift", torch.rand(2))
        self.layer = nn.Linear(2, 2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = Position()
        self.head = nn.Linear(2, 2)


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


DOORS: dict[str, Callable[..., Any]] = {
    "initialize_": lambda **how: fastinit.initialize_(Net(), key=KEY, **how),
    "initialize_(factory=)": lambda **how: fastinit.initialize_(Net(), key=KEY, factory=Net, **how),
    "materialize(factory)": lambda **how: fastinit.materialize(Net, key=KEY, **how),
    "materialize(module)": lambda **how: fastinit.materialize(_on_meta(), key=KEY, **how),
}


@pytest.mark.parametrize("door", DOORS)
def test_rules_are_for_what_has_the_name_in_the_end(door: str) -> None:
    rules = {
        "position.weight": nn.init.zeros_,
        "position.shift": nn.init.ones_,
        "position.layer.bias": fastinit.normal_,
        "default": None,
    }
    made, plain = DOORS[door](rules=rules), DOORS[door]()
    assert torch.equal(made.position.weight, torch.zeros(64))
    assert torch.equal(made.position.shift, torch.ones(2))
    bias = fastinit.normal_(torch.empty(2), key=KEY.fold_in("position.layer.bias").fold_in(0))
    assert same_bits(made.position.layer.bias.data, bias)
    for name in ("position.layer.weight", "head.weight", "head.bias"):
        assert same_bits(made.get_parameter(name).data, plain.get_parameter(name).data), name
    row = next(r for r in fastinit.report(made).parameters if r.name == "position.weight")
    assert (row.rule, row.measured.std) == ("zeros_()", 0)


def test_what_is_skipped_stays_in_children_that_are_made_anew() -> None:
    module = Net()
    kept = {name: module.get_parameter(name) for name in ("position.weight", "position.layer.bias")}
    before = {name: tensor.detach().clone() for name, tensor in kept.items()}
    drawn = module.position.layer.weight.detach().clone()
    fastinit.initialize_(module, key=KEY, skip=list(kept))
    for name, tensor in kept.items():
        assert module.get_parameter(name) is tensor
        assert same_bits(tensor.data, before[name])
    assert not same_bits(module.position.layer.weight.data, drawn)


class Declared(nn.Module):
    """Whose constructor gives some values, and leaves others to who calls `reset_parameters`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2)
        self.table.weight.data = torch.arange(8.0).view(4, 2)
        self.norm = nn.BatchNorm1d(2)
        nn.init.zeros_(self.norm.weight)
        self.real = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.late = nn.Parameter(torch.empty(3))
        self.head = nn.Linear(2, 2)
        self.register_buffer("scale", torch.full((2,), 5.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.late)
        nn.init.uniform_(self.real)
        self.scale.fill_(3)


class Constructed(Declared):
    def __init__(self) -> None:
        super().__init__()
        nn.init.ones_(self.late)


@pytest.mark.parametrize("factory", [Declared, Constructed])
def test_none_is_what_a_factory_has_made(factory: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rules = {"head.weight": nn.init.ones_, "default": None}
        made = fastinit.materialize(factory, key=KEY, rules=rules)
    assert torch.equal(made.head.weight, torch.ones(2, 2))
    assert torch.equal(made.table.weight, torch.arange(8.0).view(4, 2))
    assert torch.equal(made.norm.weight, torch.zeros(2))
    assert torch.equal(made.real, torch.tensor([1.0, 2.0]))
    assert torch.equal(made.late, torch.ones(3))
    assert torch.equal(made.scale, torch.full((2,), 5.0))
    want = fastinit.materialize(Constructed, key=KEY).head.bias
    assert same_bits(made.head.bias.data, want.data)
    again = fastinit.initialize_(factory(), key=KEY, rules=rules, factory=factory)
    for name, value in made.state_dict().items():
        assert same_bits(again.state_dict()[name], value), name


def test_what_modules_hold_of_what_was_set_aside() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.late = nn.LSTM(3, 3), nn.Parameter(torch.empty(2))

        def reset_parameters(self) -> None:
            nn.init.ones_(self.late)

    made = fastinit.materialize(Recurrent, key=KEY, rules={"default": None}, skip="lstm.bias*")
    held = [getattr(made.lstm, name) for name in made.lstm._flat_weights_names]
    assert all(a is b for a, b in zip(made.lstm._flat_weights, held, strict=True))


def test_patterns_of_a_generator() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = module[0].weight.detach().clone()
    fastinit.initialize_(module, key=KEY, skip=(f"{n}.*" for n in "0"))
    assert same_bits(module[0].weight.data, before)
    with torch.device("meta"):
        bare = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fastinit.materialize(bare, key=KEY, skip=iter(["0.bias"]), allow_uninitialized=iter(["0.*"]))
    for allowed in (iter(["weight"]), map(str, ["weight"])):

        class Bare(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.empty(3))

        fastinit.materialize(Bare, key=KEY, allow_uninitialized=allowed)


def test_rules_that_reach_no_buffer_or_write_a_part_are_worded_so() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))
    reached = r"'\*running_mean' matches no parameter, and buffers only"
    with pytest.warns(UserWarning, match=reached):
        fastinit.initialize_(module, {"*running_mean": nn.init.ones_, "default": None}, key=KEY)

    def half(tensor: torch.Tensor) -> None:
        nn.init.ones_(tensor[:2])

    text = re.escape("argument 'rules': half() does not write all of 1.bias")
    with pytest.raises(ValueError, match=text):
        fastinit.initialize_(module, {"1.bias": half, "default": nn.init.ones_}, key=KEY)
