"""torch's default dtype, which is one for all threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Turns:
    """Threads that want the same default dtype at a time; those that want another wait."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._users = 0
        self._dtype: torch.dtype | None = None
        self._before = torch.float32

    @contextmanager
    def take(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Set it, or, with None, see that no other of these threads does meanwhile."""
        with self._free:
            while self._users and self._dtype is not dtype:
                self._free.wait()
            self._users += 1
            if self._users == 1:
                self._dtype, self._before = dtype, torch.get_default_dtype()
                if dtype is not None:
                    torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            with self._free:
                self._users -= 1
                if self._users == 0:
                    if dtype is not None:
                        torch.set_default_dtype(self._before)
                    self._free.notify_all()


class _Here(threading.local):
    """Whom a thread takes turns with."""

    def __init__(self) -> None:
        self.turns = _of_all


_of_all = Turns()
_here = _Here()


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Set torch's default dtype, or, with None, see that nobody else here does meanwhile.

    Threads that want another one wait for each other; but those that start inside take turns among
    themselves, for who has started them may wait for them.
    """
    turns = _here.turns
    with turns.take(dtype), joined(Turns()):
        yield


def current() -> Turns:
    """Say whom this thread takes turns with."""
    return _here.turns


@contextmanager
def joined(turns: Turns) -> Iterator[None]:
    """Have this thread take turns with these."""
    before, _here.turns = _here.turns, turns
    try:
        yield
    finally:
        _here.turns = before
