"""Objects that a module holds and that refuse to be asked, or say that they are something else."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

from fastinit import Key, initialize_, materialize
from fastinit._models.held import held_tensors
from fastinit._models.snapshot import Snapshot

KEY = Key(3)


class _Proxy:
    """Says that it is what it stands for, as lazy objects do."""

    def __init__(self, held: Any) -> None:
        object.__setattr__(self, "_held", held)

    __class__: Any = property(lambda self: type(self._held))  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held, name)


class _Lazy:
    """Is made by whoever asks what it is."""

    made = 0

    @property
    def __class__(self) -> Any:
        _Lazy.made += 1
        return dict

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise AttributeError("__class__")


class _NoClass:
    __class__: Any = property(lambda self: 1 / 0)  # type: ignore[assignment]


class _NoAttributes:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"not bound: {name}")


class _NoDict:
    __dict__: Any = property(lambda self: 1 / 0)  # type: ignore[assignment]


class _Unhashed(type):
    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("not compared")

    __hash__: Any = None


class _OfUnhashed(metaclass=_Unhashed):
    pass


class _ListOfUnhashed(list, metaclass=_Unhashed):  # type: ignore[type-arg]
    pass


class _Iterates(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        raise RuntimeError("not iterated")


class _Pair(tuple):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        raise RuntimeError("not iterated")


class _Key:
    """A key that has no words, and is like no other."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not compared")

    def __hash__(self) -> int:
        return 1


class _Stateless(random.Random):
    def getstate(self) -> Any:
        raise TypeError("no state")


class _Reference(weakref.ref):  # type: ignore[type-arg]
    def __call__(self) -> Any:
        raise RuntimeError("not looked at")


class _Equal(nn.Linear):
    """A module that has no hash."""

    def __eq__(self, other: object) -> bool:
        return self is other


def _dead() -> Any:
    return weakref.proxy(_OfUnhashed())


_HELD: dict[str, Callable[[], Any]] = {
    "mock of a tensor": lambda: mock.Mock(spec=Tensor),
    "mock of a module": lambda: mock.Mock(spec=nn.Linear),
    "proxy of a tensor": lambda: _Proxy(torch.zeros(2)),
    "proxy of a parameter": lambda: [_Proxy(nn.Parameter(torch.zeros(2)))],
    "proxy of a module": lambda: [_Proxy(nn.Linear(1, 1))],
    "proxy of a dict": lambda: _Proxy({"a": 1}),
    "proxy of a list": lambda: _Proxy([1]),
    "proxy of a tuple": lambda: _Proxy((1,)),
    "proxy of a set": lambda: _Proxy({1}),
    "proxy of an array": lambda: _Proxy(bytearray(2)),
    "proxy of a generator": lambda: _Proxy(random.Random(0)),
    "proxy of a reference": lambda: _Proxy(weakref.ref(_Proxy)),
    "dead weak proxy": _dead,
    "no class": _NoClass,
    "no attributes": _NoAttributes,
    "no dict": _NoDict,
    "class without a hash": _OfUnhashed,
    "such a class itself": lambda: _OfUnhashed,
    "list of such a class": lambda: _ListOfUnhashed([1]),
    "list": lambda: _Iterates([1]),
    "tuple": lambda: _Pair((1,)),
    "key": lambda: {_Key(): [1]},
    "generator": lambda: _Stateless(0),
    "reference": lambda: _Reference(_OfUnhashed),
    "module without a hash": lambda: [_Equal(1, 1)],
    "module half made": lambda: [nn.Linear.__new__(nn.Linear)],
}
_held = pytest.mark.parametrize("make", _HELD.values(), ids=_HELD.keys())


class _Layer(nn.Linear):
    """Holds something, and fails if it is told to."""

    def __init__(self, held: Any, fails: bool = False) -> None:
        super().__init__(2, 2)
        vars(self)["held"] = held
        self.fails = fails

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if getattr(self, "fails", False):
            raise ValueError("the initialiser's own error")


@_held
def test_what_refuses_is_passed_by(make: Callable[[], Any]) -> None:
    layer = _Layer(make())
    same_bits(initialize_(layer, key=KEY).weight, initialize_(nn.Linear(2, 2), key=KEY).weight)


@_held
def test_it_is_in_no_way_of_an_error(make: Callable[[], Any]) -> None:
    layer = _Layer(make(), fails=True)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="own error"):
        initialize_(layer, key=KEY)
    same_bits(layer.weight.detach(), before)


@_held
def test_it_is_in_no_way_of_a_search(make: Callable[[], Any]) -> None:
    own = torch.zeros(2)
    found = [tensor for _, _, tensor in held_tensors(_Layer([make(), own]))]
    assert any(tensor is own for tensor in found)
    assert all(issubclass(type(tensor), Tensor) for tensor in found)


@_held
def test_it_is_in_no_way_of_a_factory(make: Callable[[], Any]) -> None:
    made = materialize(lambda: _Layer(make()), key=KEY)
    same_bits(made.weight, initialize_(nn.Linear(2, 2), key=KEY).weight)


def test_a_lazy_object_is_not_made() -> None:
    initialize_(_Layer(_Lazy()), key=KEY)
    assert _Lazy.made == 0


def test_what_a_proxy_holds_is_put_back() -> None:
    held = torch.zeros(2)
    layer = _Layer(_Proxy([held]))
    snapshot = Snapshot(layer)
    assert [id(tensor) for tensor in snapshot.tensors].count(id(held)) == 1
    vars(layer)["held"]._held.append(1)
    snapshot.restore()
    assert len(vars(layer)["held"]._held) == 1


def test_a_proxy_that_is_a_child_is_put_back() -> None:
    child = nn.Linear(2, 2)
    whole = nn.Sequential(nn.Linear(2, 2))
    whole.add_module("proxy", _Proxy(child))
    before = child.weight
    snapshot = Snapshot(whole)
    child.weight = nn.Parameter(torch.ones(3, 3))
    snapshot.restore()
    assert child.weight is before


@pytest.mark.parametrize("keys", [(_Key(),), (torch.zeros(2), torch.ones(2))])
def test_what_has_keys_that_cannot_be_compared_is_put_back(keys: Any) -> None:
    layer = _Layer({**dict.fromkeys(keys, 0), "set": set(keys)})
    held: Any = vars(layer)["held"]
    snapshot = Snapshot(layer)
    held[keys[0]] = 1
    held["set"].clear()
    held["set"].add(type(keys[0])())
    snapshot.restore()
    assert held[keys[0]] == 0
    assert [*map(id, held["set"])] == [*map(id, set(keys))]


def test_a_hook_that_refuses_is_none_of_torchs() -> None:
    class Hook(_NoClass):
        def __call__(self, module: nn.Module, args: Any) -> None:
            pass

    layer = nn.Linear(2, 2)
    layer.register_forward_pre_hook(Hook())
    initialize_(layer, key=KEY)
    lazy = nn.Sequential(nn.LazyLinear(2))
    lazy.register_forward_pre_hook(Hook())
    lazy[0].register_forward_pre_hook(Hook())
    initialize_(lazy, key=KEY)(torch.zeros(1, 2))
    assert lazy[0].weight.any()
