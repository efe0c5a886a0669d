"""What is known of classes, for as long as they are there.

A class that a function has made holds what that had: a model of some gigabytes, say.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def by_class(function: Callable[Concatenate[Any, _P], _T]) -> Callable[Concatenate[Any, _P], _T]:
    """Remember what a function says of a class, which must not hold that class.

    By identity: metaclasses may compare their classes as they like.
    """
    known: dict[tuple[Any, ...], tuple[weakref.ref[type], _T]] = {}

    @functools.wraps(function)
    def remembered(kind: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        place = (id(kind), *args)
        found = known.get(place)
        if found is not None and found[0]() is kind:
            return found[1]
        value = function(kind, *args, **kwargs)
        known[place] = weakref.ref(kind, lambda _: known.pop(place, None)), value
        return value

    return remembered
