"""Generators of random numbers that modules hold, and their states."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import torch


def putting_back(value: Any) -> Callable[[], object] | None:
    """Give what puts a generator into the state that it is in; None for all that is none."""
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
