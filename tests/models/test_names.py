"""Names of parameters: what is dropped of them, and that every module and tensor has its turn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastinit._models.names import Named, named_modules, named_parameters, named_tensors


class Around(nn.Module):
    """Has nothing but what it is given."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class DataParallel(Around):
    """A wrapper, by its name."""


@pytest.mark.parametrize("segment", ["inner", "net"])
def test_a_wrappers_child_of_another_name_keeps_it(segment: str) -> None:
    names = [name for name, _ in named_modules(DataParallel(**{segment: nn.Linear(2, 2)}))]
    assert names == ["", segment]


def test_modules_after_a_shared_one_are_walked() -> None:
    shared = nn.Linear(2, 2)
    model = Around(first=shared, again=shared, last=nn.Linear(2, 2))
    assert [name for name, _ in named_modules(model)] == ["", "first", "last"]
    assert list(named_parameters(model)) == [
        "first.weight",
        "first.bias",
        "last.weight",
        "last.bias",
    ]


def test_what_is_none_hides_nothing() -> None:
    module = nn.Module()
    module.register_parameter("none", None)
    module.register_parameter("weight", nn.Parameter(torch.empty(2)))
    module.register_buffer("no_buffer", None)
    module.register_buffer("buffer", torch.empty(2))
    assert list(named_parameters(module)) == ["weight"]
    assert list(named_tensors(module).buffers) == ["buffer"]


def test_a_tied_parameter_hides_nothing() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    found = named_parameters(Around(first=first, second=second))
    assert list(found) == ["first.weight", "first.bias", "second.bias"]
    weight: Named = found["first.weight"]
    assert weight.aliases == ["second.weight"]
    assert weight.places == [(first, "weight"), (second, "weight")]
