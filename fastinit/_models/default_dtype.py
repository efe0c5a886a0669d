"""torch's default dtype, which is one for all threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastinit._users import Users

# Those that torch lets be its default.
POSSIBLE = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Turns:
    """Threads that want the same default dtype at a time; those that want another wait.

    Args:
        outer: those of the thread inside whose turn these are taken.

    Attributes:
        ended: whether that turn is over.
    """

    def __init__(self, outer: Turns | None = None) -> None:
        self._users = Users(self._set, self._put_back)
        self._dtype: torch.dtype | None = None
        self._before = torch.float32
        self.outer = outer
        self.ended = False

    @contextmanager
    def take(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Set it, or, with None, see that no other of these threads does meanwhile."""
        with self._users.lock:
            while self._users and self._dtype is not dtype:
                self._users.wait()
            if not self._users:
                self._dtype = dtype
            use = self._users.enter()
        try:
            yield
        finally:
            use.leave()

    def _set(self) -> None:
        self._before = torch.get_default_dtype()
        if self._dtype is not None:
            torch.set_default_dtype(self._dtype)

    def _put_back(self) -> None:
        # Otherwise who is around it has done so.
        around = self.outer is None or (not self.ended and self.outer._users)
        if self._dtype is not None and around:
            torch.set_default_dtype(self._before)


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
    turns = current()
    inside = Turns(turns)
    with turns.take(dtype), joined(inside):
        try:
            yield
        finally:
            inside.ended = True


def current() -> Turns:
    """Say whom this thread takes turns with."""
    turns = _here.turns
    while turns.ended and turns.outer is not None:  # it has outlived who started it
        turns = turns.outer
    return turns


@contextmanager
def joined(turns: Turns) -> Iterator[None]:
    """Have this thread take turns with these."""
    before, _here.turns = _here.turns, turns
    try:
        yield
    finally:
        _here.turns = before
