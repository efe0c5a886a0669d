"""What modules hold that has a state: generators of random numbers, arrays that are no tensors."""

from __future__ import annotations

import array
import functools
import random
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch

_MOST = 1 << 28  # bytes of an array that are copied
_BYTES = (bytearray, array.array)


def is_array(value: Any) -> bool:
    """Whether this is an array of NumPy's."""
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and issubclass(type(value), numpy.ndarray)


def objects_in(value: Any) -> Iterable[Any]:
    """List the objects that an array of NumPy's holds; mostly it holds numbers."""
    return value.ravel().tolist() if is_array(value) and value.dtype.hasobject else ()


def _putting_array_back(value: Any) -> Callable[[], object] | None:
    if issubclass(type(value), _BYTES):
        return functools.partial(_put_bytes_back, value, value[:])
    if not value.flags.writeable or value.nbytes > _MOST:
        return None
    return functools.partial(_put_back, value, value.shape, value.copy())


def _put_back(value: Any, shape: tuple[int, ...], content: Any) -> None:
    """Give an array of NumPy's its shape and content, as far as somebody has not put it beyond."""
    with suppress(ValueError, TypeError):
        value.flags.writeable = True
        if value.size != content.size:
            value.resize(content.size, refcheck=False)
        if value.shape != shape:
            value.shape = shape
        value[...] = content


def _put_bytes_back(value: Any, content: Any) -> None:
    with suppress(BufferError):  # others have it, and it has another size
        value[:] = content


def putting_back(value: Any) -> Callable[[], object] | None:
    """Give what puts a generator or an array into the state that it is in; None for all others."""
    kind = type(value)  # its own: what it calls `__class__` may be another's
    if issubclass(kind, _BYTES) or is_array(value):
        return _putting_array_back(value)
    if issubclass(kind, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if issubclass(kind, random.Random):
        try:
            return functools.partial(value.setstate, value.getstate())
        except Exception:  # the system's has none, and a class may refuse to give it
            return None
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is None:
        return None
    if issubclass(kind, numpy.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if issubclass(kind, numpy.Generator):
        value = value.bit_generator
    if issubclass(type(value), numpy.BitGenerator):
        return functools.partial(setattr, value, "state", value.state)
    return None
