"""Generators that are seeded for a while, and put back."""

from __future__ import annotations

import functools
import importlib
import os
import random
import threading
from typing import Any, ClassVar

import torch


class _Python:
    """Python's own generator, with the methods of one of torch's."""

    def get_state(self) -> Any:
        return random.getstate()

    def set_state(self, state: Any) -> None:
        random.setstate(state)

    def manual_seed(self, seed: int) -> None:
        random.seed(seed)


class _NumPy:
    """NumPy's own generator, likewise; `random` is its module."""

    def __init__(self, random: Any) -> None:
        self._random = random

    def get_state(self) -> Any:
        return self._random.get_state()

    def set_state(self, state: Any) -> None:
        self._random.set_state(state)

    def manual_seed(self, seed: int) -> None:
        self._random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])


_PYTHON = _Python()


@functools.cache
def _numpy() -> _NumPy | None:
    """Give NumPy's own generator if NumPy is there.

    It loads the module, as NumPy itself does for whoever is first to draw from it, inside perhaps.
    """
    try:
        return _NumPy(importlib.import_module("numpy.random"))
    except ImportError:
        return None


class Fork:
    """Global generators seeded for a while, and put back.

    Forks of several threads may overlap. One that ends before a later one hands it the states it
    saved: the last to end puts back those from before the first.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _active: ClassVar[list[Fork]] = []

    def __init__(self, seed: int, *, torch_too: bool = True) -> None:
        generators: list[Any] = [_PYTHON]
        if (numpys := _numpy()) is not None:
            generators.append(numpys)
        if torch_too:
            generators.append(torch.default_generator)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                generators.extend(torch.cuda.default_generators)
        self._thread = threading.get_ident()
        with self._lock:
            self._saved = {generator: generator.get_state() for generator in generators}
            self._active.append(self)
            for generator in generators:
                generator.manual_seed(seed)

    @classmethod
    def of_python(cls, seed: int) -> Fork:
        """Fork Python's and NumPy's own generators only."""
        return cls(seed, torch_too=False)

    def __enter__(self) -> Fork:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Put them back."""
        with self._lock:
            for generator, state in self._take_out().items():
                generator.set_state(state)

    def _take_out(self) -> dict[Any, Any]:
        """End it for those that are later; give the states that none of them has to put back."""
        place = self._active.index(self)
        del self._active[place]
        saved = dict(self._saved)
        for later in self._active[place:]:
            for generator in later._saved.keys() & saved.keys():
                later._saved[generator] = saved.pop(generator)
        return saved

    @classmethod
    def forget_others(cls) -> None:
        """Forget those of threads that a forked child has not."""
        cls._lock = threading.Lock()  # which one of them may have held
        for fork in [fork for fork in cls._active if fork._thread != threading.get_ident()]:
            # Python has seeded its own anew, and the locks of others may be held, too.
            fork._take_out()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Fork.forget_others)
