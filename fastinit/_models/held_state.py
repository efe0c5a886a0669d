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


def is_array(value: Any) -> bool:
    """Whether this is an array of NumPy's."""
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def objects_in(value: Any) -> Iterable[Any]:
    """List the objects that an array of NumPy's holds; mostly it holds numbers."""
    return value.ravel().tolist() if is_array(value) and value.dtype.hasobject else ()


def _putting_array_back(value: Any) -> Callable[[], object] | None:
    if isinstance(value, (bytearray, array.array)):
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
    if isinstance(value, (bytearray, array.array)) or is_array(value):
        return _putting_array_back(value)
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        try:
            return functools.partial(value.setstate, value.getstate())
        except NotImplementedError:  # the system's, which has none
            return None
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is None:
        return None
    if isinstance(value, numpy.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, numpy.Generator):
        value = value.bit_generator
    if isinstance(value, numpy.BitGenerator):
        return functools.partial(setattr, value, "state", value.state)
    return None
