"""What constructors do to their children: repeated from a factory, or said to be missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.constructors import Block
from support.initialize_helpers import assert_same, values
from torch import nn

import fastinit
from fastinit import Key
from fastinit._models.constructed import initialize_from
from fastinit._models.names import named_parameters
from fastinit._models.patterns import Patterns


def from_factory(module: nn.Module, factory: Any, skip: Any = (), **options: Any) -> nn.Module:
    parameters = named_parameters(module, options.get("prefix", ""))
    wanted = {name: named for name, named in parameters.items() if not Patterns(skip).match(name)}
    initialize_from(module, factory, wanted, Key(3), **options)
    return module


# ---- from a factory ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Block, lambda: nn.Sequential(Block(), nn.Dropout(), Block())])
def test_the_values_are_those_of_a_new_module(make: Callable[[], nn.Module]) -> None:
    module = make()
    before = dict(module.named_parameters())
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(9)
    from_factory(module, make)
    assert_same(values(module), values(fastinit.materialize(make, key=3)))
    assert all(before[name] is p for name, p in module.named_parameters())
    assert all(not buffer.any() for name, buffer in module.named_buffers() if "mean" in name)


def test_a_buffer_that_is_expanded() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("places", torch.arange(3.0).view(1, 3, 1).expand(4, 3, 2))

    module = Positions()
    module.places[0, :, 0].zero_()
    from_factory(module, Positions)
    assert_same(values(module), values(fastinit.materialize(Positions, key=3)))
    assert module.places.untyped_storage().nbytes() == 12


def test_wrappers_types_ties_prefixes_and_what_is_skipped() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
            self.head.weight = self.embed.weight

    module = Tied().bfloat16()
    bias = module.head.bias.detach().clone()
    from_factory(nn.DataParallel(module), Tied, skip="big.head.bias", prefix="big")
    expected = fastinit.materialize(Tied, key=3, prefix="big")
    assert module.head.weight is module.embed.weight
    assert same_bits(module.embed.weight.data, expected.embed.weight.data.bfloat16())
    assert same_bits(module.head.bias.data, bias)
    rules = [("*bias", nn.init.ones_), ("default", None)]
    from_factory(module, Tied, rules=rules)
    assert (module.head.bias == 1).all()


def test_report_knows_what_the_new_module_was_given() -> None:
    module = from_factory(Block(), Block)
    rows = {row.name: row for row in fastinit.report(module).parameters}
    assert rows["siren.weight"].rule == "uniform_"
    assert rows["siren.weight"].expected.std == pytest.approx(1e-3 / 3**0.5)
    with torch.no_grad():
        module.get_parameter("siren.weight").mul_(2)
    assert "changed since" in fastinit.report(module).flags["siren.weight"]


@pytest.mark.parametrize(
    ("factory", "error", "text"),
    [
        (lambda: Block(32), ValueError, r"siren\.weight \(\(64, 3\), .*made: \(32, 3\)"),
        (lambda: nn.Sequential(Block()), ValueError, r"has no norm\.weight.*has 0\.norm\.weight"),
        (lambda: Block().to(torch.complex64), ValueError, "complex64"),
        (lambda: 3, TypeError, "must return a torch.nn.Module"),
        (Block(), TypeError, "got Block"),
        (3, TypeError, "got int"),
    ],
)
def test_factories_that_make_something_else(factory: Any, error: type, text: str) -> None:
    module = Block()
    before = values(module)
    with pytest.raises(error, match=text):
        from_factory(module, factory)
    assert_same(values(module), before)


def test_a_factory_whose_buffers_are_others() -> None:
    class Masked(nn.Linear):
        def __init__(self, size: int) -> None:
            super().__init__(4, 4)
            self.register_buffer("mask", torch.ones(size))

    module = Masked(3)
    before = values(module)
    with pytest.raises(ValueError, match=r"the buffers .* others: mask \(\(3,\), .*made: \(5,\)"):
        from_factory(module, lambda: Masked(5))
    assert_same(values(module), before)


def test_a_factory_that_gives_the_module_itself() -> None:
    module = Block()
    with pytest.raises(ValueError, match="must make a new module"):
        from_factory(module, lambda: module)


def test_a_buffer_that_all_modules_share() -> None:
    table = torch.arange(4.0)

    class Tabled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.register_buffer("table", table)

    made = from_factory(Tabled(), Tabled)
    assert made.table is table
    assert same_bits(made.table, torch.arange(4.0))
    only = nn.Module()
    only.register_buffer("table", table)
    with pytest.raises(ValueError, match="must make a new module"):
        from_factory(only, lambda: only)
