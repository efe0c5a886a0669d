"""Versions of tensors that torch's operators on lists write to, under the modes of a recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastinit
from fastinit._recording.counting import counting


@pytest.mark.parametrize(
    ("name", "others", "numbers"),
    [
        ("_foreach_mul_", 0, (2.0,)),
        ("_foreach_zero_", 0, ()),
        ("_foreach_copy_", 1, ()),
        # Without an operator that does the same to one.
        ("_foreach_clamp_max_", 0, (2.0,)),
        ("_foreach_maximum_", 1, ()),
        ("_foreach_addcmul_", 2, (2.0,)),
    ],
)
def test_writing_to_each_of_a_list_is_counted(name: str, others: int, numbers: Any) -> None:
    """As torch does, which under a mode does so on some devices only."""

    def factory() -> nn.Module:
        model = nn.Module()
        model.first, model.second = (nn.Parameter(torch.zeros(3)) for _ in range(2))
        both = [model.first, model.second]
        with torch.no_grad():
            getattr(torch, name)(both, *[both[::-1]] * others, *numbers)
        return model

    want = [parameter._version for parameter in factory().parameters()]
    with fastinit.batch():
        batched = factory()
    for model in (fastinit.materialize(factory, key=3), batched):
        assert [parameter._version for parameter in model.parameters()] == want


def test_what_an_operator_on_lists_gives_into_others() -> None:
    """It reads what it is given first, and writes to `out=`."""

    def factory() -> nn.Module:
        model = nn.Module()
        model.first, model.second = (nn.Parameter(torch.empty(3)) for _ in range(2))
        with torch.no_grad():
            nn.init.normal_(model.first)
            torch.ops.aten._foreach_mul.Scalar_out([model.first], 2.0, out=[model.second])
        return model

    for model in (fastinit.materialize(factory, key=3), _batched(factory)):
        assert model.first._version == 1
        assert torch.equal(model.second, 2 * model.first)


def _batched(factory: Callable[[], nn.Module]) -> nn.Module:
    with fastinit.patch(key=3), fastinit.batch():
        return factory()


def test_what_has_been_counted_is_not_counted_again() -> None:
    counted, uncounted = torch.zeros(3), torch.zeros(3)
    with torch.inference_mode():
        never = torch.zeros(3)
    with counting([counted, uncounted, never]):
        counted.add_(1)
    assert (counted._version, uncounted._version) == (1, 1)
