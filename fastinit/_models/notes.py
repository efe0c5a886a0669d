"""Saying where an error arose, without changing what it is, whatever classes of others refuse."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

_HAS_NOTES = sys.version_info >= (3, 11)


def note(error: BaseException, text: str) -> None:
    """Add a line to what a traceback says of an exception.

    As `add_note`, which asks the class, and a frozen dataclass lets nobody set anything.
    """
    put: Callable[..., object] = BaseException.__setattr__
    if _HAS_NOTES:
        notes = vars(error).get("__notes__", [])
        if type(notes) is list:
            put(error, "__notes__", [*notes, text])
    elif error.args and isinstance(error.args[0], str):
        put(error, "args", (f"{error.args[0]}\n{text}", *error.args[1:]))


def said(value: Any, say: Callable[[Any], str] = repr) -> str:
    """Give what an object says of itself; its class's name if it fails to."""
    try:
        return say(value)
    except Exception:
        return type(value).__name__


def name_of(function: Any) -> str:
    """Give the qualified name of a function; of other callables, that of their class."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        name = function.__qualname__
    except Exception:
        name = None
    return name if type(name) is str else type(function).__qualname__
