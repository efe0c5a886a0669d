"""Which arguments callables take; nothing is kept of them, which may hold the modules of users."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

# By what a function says that its signature is that of another, or not that of its code.
_OTHERWISE = frozenset({"__signature__", "__partialmethod__", "_partialmethod"})
_OF_ANOTHER = _OTHERWISE | {"__wrapped__"}


def is_as_its_code(function: Any) -> bool:
    """Whether this is a function whose signature is that of its code."""
    return type(function) is FunctionType and vars(function).keys().isdisjoint(_OF_ANOTHER)


def _is_outermost(function: Any) -> bool:
    """Whether what this wraps does not tell its signature."""
    return type(function) is not FunctionType or not vars(function).keys().isdisjoint(_OTHERWISE)


def accepts(function: Callable[..., Any], count: int) -> bool:
    """Whether a callable can be called with so many arguments, by position."""
    try:
        inner = inspect.unwrap(function, stop=_is_outermost)
        if not is_as_its_code(inner):
            inspect.signature(function).bind(*[None] * count)
            return True
    except (TypeError, ValueError):
        return False
    code, given = inner.__code__, inner.__kwdefaults__ or {}
    names = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    needed = code.co_argcount - len(inner.__defaults__ or ())
    most = count if code.co_flags & inspect.CO_VARARGS else code.co_argcount
    return needed <= count <= most and given.keys() >= {*names}
