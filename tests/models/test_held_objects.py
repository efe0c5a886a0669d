"""Objects that a module holds: what is in their slots, and modules that are nobody's children."""

from __future__ import annotations

import functools
import weakref
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

from fastinit import Key, initialize_, materialize, normal_

KEY = Key(3)


@dataclass(slots=True)
class _Slots:
    tensor: Tensor
    count: int = 0

    def bound(self) -> Tensor:
        return self.tensor


class _Child(nn.Module):
    """Is nobody's child where it stands in a list."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = nn.Parameter(tensor)
        vars(self.tensor).update(vars(tensor))


class _InSlot(nn.Module):
    __slots__ = ("state",)


def _module_with_slot(tensor: Tensor) -> nn.Module:
    module: Any = _InSlot()
    module.state = {"tensor": tensor}
    return module


def _marked(value: Any, tensor: Tensor) -> Any:
    value.mark = tensor
    return value


def _with_keyword(tensor: Tensor) -> Callable[..., Tensor]:
    def function(*, given: Tensor = tensor) -> Tensor:
        return given

    return function


_Pair = namedtuple("_Pair", ["tensor", "rest"])
_HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "slots": _Slots,
    "namedtuple": lambda tensor: _Pair(tensor, 0),
    "partial": lambda tensor: functools.partial(torch.add, other=tensor),
    "method": lambda tensor: _Slots(tensor).bound,
    "attribute of a tensor": lambda tensor: [_marked(torch.zeros(2), tensor)],
    "attribute of a parameter": lambda tensor: [_Child(_marked(torch.zeros(2), tensor))],
    "keyword": _with_keyword,
    "attribute of a function": lambda tensor: _marked(_with_keyword(torch.zeros(2)), tensor),
    "module in a list": lambda tensor: [_Child(tensor)],
    "module's slot": lambda tensor: [_module_with_slot(tensor)],
}


class _Holds(nn.Module):
    def __init__(self, holder: Callable[[Tensor], Any], make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.tensor = make()
        self.held = holder(self.tensor)
        del self.tensor


@pytest.mark.parametrize("holder", _HOLDERS.values(), ids=_HOLDERS)
def test_what_objects_hold_has_to_be_written(holder: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ValueError, match=r"writes held\S* \(attribute\)"):
        materialize(lambda: _Holds(holder, lambda: torch.empty(3)), key=KEY)


@pytest.mark.parametrize("holder", _HOLDERS.values(), ids=_HOLDERS)
def test_nothing_that_they_hold_stays_on_the_meta_device(holder: Callable[[Tensor], Any]) -> None:
    with torch.device("meta"):
        module = _Holds(holder, lambda: torch.empty(3))
    with pytest.raises(ValueError, match=r"writes held\S* \(attribute\)"):
        materialize(module, key=KEY)


def test_layers_in_a_list_have_keys_of_their_names() -> None:
    class Model(nn.Module):
        def __init__(self, more: int) -> None:
            super().__init__()
            self.others = [nn.Linear(2, 2) for _ in range(more)]
            self.layers = [nn.Linear(2, 2)]

    few, many = (materialize(functools.partial(Model, n), key=KEY) for n in (0, 3))
    assert same_bits(few.layers[0].weight, many.layers[0].weight)


class _Part(nn.Module):
    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.whole = whole


def test_what_a_module_is_a_part_of_or_looks_at_is_not_its_own() -> None:
    with torch.device("meta"):
        whole, other = nn.ModuleList(), nn.Linear(3, 3)
        for held in ([whole], weakref.ref(other)):
            whole.append(_Part(held))
        whole.append(nn.Linear(4, 4))
    for part in whole[:2]:
        materialize(part, key=KEY)
        assert not part.layer.weight.is_meta  # type: ignore[union-attr]
    assert whole[2].weight.is_meta
    assert other.weight.is_meta


class _Changes(nn.Module):
    """Changes an object each time that it is initialised, once with an error."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.fails = fails
        self.state = _Slots(torch.ones(3))
        self.pair = _Pair(torch.ones(3), 0)

    def reset_parameters(self) -> None:
        self.state.count += 1
        self.state.tensor = torch.zeros(3)
        self.pair.tensor.requires_grad_()
        drawn = nn.init.normal_(torch.empty(4))
        if self.fails or float(drawn.sum()) == 0:
            raise RuntimeError("as asked for")
        self.weight.copy_(drawn[:3])


def test_an_error_puts_back_what_objects_hold() -> None:
    module = _Changes(True)
    tensor = module.state.tensor
    with pytest.raises(RuntimeError, match="as asked for"):
        initialize_(module, key=KEY)
    assert module.state.count == 0
    assert module.state.tensor is tensor
    assert not module.pair.tensor.requires_grad


def test_a_further_run_finds_what_objects_held() -> None:
    assert initialize_(_Changes(False), key=KEY).state.count == 1


class _Marks(nn.Module):
    """Hangs something on its parameter, as what trains with gradients of its own does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.weight.mark = torch.empty(3)  # type: ignore[attr-defined]

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)


def test_what_hangs_on_a_parameter_has_to_be_written() -> None:
    with pytest.raises(ValueError, match=r"writes weight\.mark \(attribute\)"):
        materialize(_Marks, key=KEY)
    with torch.device("meta"):
        module = _Marks()
    with pytest.raises(ValueError, match=r"writes weight\.mark \(attribute\)"):
        materialize(module, key=KEY)


@pytest.mark.parametrize("on_meta", [True, False])
def test_what_a_module_holds_otherwise_may_be_left_to_be_loaded(on_meta: bool) -> None:
    with torch.device("meta" if on_meta else "cpu"):
        given: Any = _Marks() if on_meta else _Marks
    made: Any = materialize(given, key=KEY, allow_uninitialized="weight.mark")
    assert not made.weight.mark.is_meta
    with pytest.raises(ValueError, match=r"'weight\.other' matches no"):
        materialize(_Marks, key=KEY, allow_uninitialized="weight.other")


def test_graphs_hold_examples_of_tensors() -> None:
    """Which are nobody's: those of modules that were traced on the meta device."""
    with torch.device("meta"):
        model, given = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.zeros(2, 4)
    traced = torch.export.export(model, (given,)).module()
    materialize(traced, rules={1: nn.init.zeros_, 2: nn.init.normal_}, key=KEY)
    want = torch.empty(4, 4)
    normal_(want, key=KEY.fold_in("0.weight").fold_in(0))
    assert same_bits(traced.get_parameter("0.weight").detach(), want)
