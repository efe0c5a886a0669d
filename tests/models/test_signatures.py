"""How many arguments callables take: as `inspect.signature` has it."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastinit._models.signatures import accepts


class Object:
    def __call__(self, first: Any) -> None: ...

    def method(self, first: Any, second: Any = 1) -> None: ...

    of_class = classmethod(lambda kind, first: None)
    of_none = staticmethod(lambda first=1: None)
    partial = functools.partialmethod(method, 3)


def other(first: Any) -> None: ...


def signed(*given: Any) -> None: ...


def wrapping(*given: Any) -> None: ...


def itself(*given: Any) -> None: ...


signed.__signature__ = inspect.signature(other)
functools.update_wrapper(wrapping, signed)
itself.__wrapped__ = itself

CALLABLES: list[Any] = [
    lambda: None,
    lambda a: None,
    lambda a, b=1, /: None,
    lambda a, b=1, *c: None,
    lambda *a: None,
    lambda **a: None,
    lambda a, *, b: None,
    lambda a, *, b=1: None,
    lambda a, *b, c, d=2: None,
    torch.no_grad()(other),
    functools.partial(other, 1),
    functools.partial(lambda a, b: None, b=1),
    types.MethodType(functools.partial(other), 1),
    Object(),
    Object().method,
    Object().of_class,
    Object().of_none,
    Object().partial,
    Object.partial,
    signed,
    wrapping,
    itself,
    functools.lru_cache(other),
    functools.singledispatch(other),
    torch.zeros,
    len,
    dict.update,
    object(),
]


def want(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("count", range(4))
def test_accepts(count: int) -> None:
    every = [*CALLABLES, *(f.__func__ for f in CALLABLES if isinstance(f, types.MethodType))]
    wrong = [f for f in every if accepts(f, count) != want(f, count)]
    assert wrong == []
