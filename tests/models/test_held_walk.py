"""What modules and containers hold, as it is walked and compared in C."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import pytest
import torch

from fastinit import _C


def test_what_objects_hold_is_followed() -> None:
    class Dict(dict):
        pass

    class Thing:
        pass

    own, thing, empty = Dict(a=[1]), Thing(), {}
    inner = [3, thing, empty, {"set": {"x"}}]
    table = OrderedDict(b=own, c=inner, d=inner)
    thing.table, thing.other = table, None
    waiting, seen = [thing, "text"], {id(None)}
    lists: tuple[list[Any], ...] = [], [], []
    plain, atoms = frozenset({list, dict, set, OrderedDict}), frozenset({int, type(None), str})
    others = _C.walk_held(waiting, seen, *lists, plain, atoms, Thing)
    # What was given is not asked whether it may hold something.
    assert [id(one) for one in others] == [id("text"), id(own)]
    assert not waiting
    containers, copies, found_empty = lists
    expected = [vars(thing), table, inner, inner[3], inner[3]["set"]]
    assert [id(one) for one in containers] == [id(one) for one in expected]
    assert copies == expected
    assert [type(one) for one in copies] == [type(one) for one in expected]
    assert not {id(one) for one in copies} & {id(one) for one in expected}
    assert [id(one) for one in found_empty] == [id(empty)]
    assert {id(table), id(inner), id(own), id(thing)} < seen
    assert id(empty) not in seen  # met as often as it is held: it is cleared in the end, no more
    waiting.append(table)
    assert _C.walk_held(waiting, seen, *lists, plain, atoms, Thing) == []
    assert len(containers) == 5


def test_what_cannot_be_copied_raises() -> None:
    class List(list):
        def copy(self) -> Any:
            raise ZeroDivisionError

    walk = functools.partial(_C.walk_held, [List([1])], set(), [], [], [])
    with pytest.raises(ZeroDivisionError):
        walk(frozenset({List}), frozenset(), int)
    with pytest.raises(TypeError, match="walk_held: expects a list, a set"):
        walk(frozenset({List}), [], int)


def test_which_containers_hold_the_same() -> None:
    x, y = torch.zeros(1), torch.zeros(1)
    moved = OrderedDict(a=x, b=y)
    moved.move_to_end("a")
    for now, before, same in (
        ([x, y], [x, y], True),
        ([x, y], [y, x], False),
        ([x], [x, y], False),
        ([x], [y], False),
        ({"a": x, "b": y}, {"a": x, "b": y}, True),
        ({"a": x, "b": y}, {"b": y, "a": x}, False),
        ({"a": x, "b": x}, {"a": x, "c": x}, False),
        ({"a": x}, {"a": y}, False),
        ({"a": x}, {"a": x, "b": y}, False),
        ({}, {}, True),
        ({}, [], False),
        (OrderedDict(a=x), OrderedDict(a=x), True),
        (OrderedDict(a=x), OrderedDict(a=y), False),
        (OrderedDict(a=x), OrderedDict(b=x), False),
        (OrderedDict(a=x, b=y), OrderedDict(b=y, a=x), False),
        (moved, OrderedDict(a=x, b=y), False),
        (moved, OrderedDict(b=y, a=x), True),
        (OrderedDict(a=x), {"a": x}, False),
        ({1}, {1}, False),  # not known
    ):
        assert _C.holds_same(now, before) is same
        assert _C.all_hold_same([[], now], [[], before], {}) is same
        # What is held instead of what was before.
        assert _C.all_hold_same([[], now], [[], {}], {id(now): before}) is same
    assert _C.all_hold_same([], [], {})
    assert _C.all_hold_same([{"a": x}], [{"a": x}], {id(moved): {}})  # which is not among them
    with pytest.raises(TypeError, match="all_hold_same: expects two lists and a dict"):
        _C.all_hold_same([], [], [])  # type: ignore[arg-type]


def test_modules_are_listed_once() -> None:
    shared = torch.nn.Linear(2, 2)
    inner = torch.nn.Sequential(shared, torch.nn.Sequential(shared))
    inner.register_module("nothing", None)
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    root = torch.nn.ModuleDict({"a": inner, "b": shared, "c": scripted})
    root["itself"] = root
    found = _C.modules_of(root)
    assert len(found) == 6
    assert {*map(id, found)} >= {*map(id, (root, inner, inner[1], shared, scripted))}
    with pytest.raises(AttributeError, match="_modules"):
        _C.modules_of(3)  # type: ignore[arg-type]
