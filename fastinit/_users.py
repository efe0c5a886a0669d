"""What is on for the whole process for as long as somebody uses it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Use:
    """One user's use of it, on the thread that has entered."""

    __slots__ = ("_users", "thread")

    def __init__(self, users: Users) -> None:
        self._users = users
        self.thread = threading.get_ident()

    @property
    def is_over(self) -> bool:
        """Whether it has been ended."""
        return self not in self._users._uses

    def leave(self) -> None:
        """End it, on whatever thread; nothing is done the second time."""
        self._users._leave(self)


class Users:
    """Those who use something: the first turns it on, the last off, in whatever order they leave.

    A forked child has the users of the thread that forked: the other threads are not there.

    Args:
        on: turns it on.
        off: turns it off, however far `on` has come.

    Attributes:
        lock: held while that happens.
    """

    def __init__(self, on: Callable[[], object], off: Callable[[], object]) -> None:
        self._on = on
        self._off = off
        self._uses: set[Use] = set()
        self.lock = threading.RLock()
        self._free: threading.Condition | None = None  # which few wait for
        _all.add(self)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._uses)

    def enter(self) -> Use:
        """Begin to use it; if it cannot be turned on, nobody does."""
        with self.lock:
            use, first = Use(self), not self._uses
            self._uses.add(use)
            try:
                if first:
                    self._on()
            except BaseException:
                self._leave(use)
                raise
        return use

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Use it while what is inside runs."""
        use = self.enter()
        try:
            yield
        finally:
            use.leave()

    def wait(self) -> None:
        """Let go of the lock until there are none."""
        if self._free is None:
            self._free = threading.Condition(self.lock)
        while self._uses:
            self._free.wait()

    def _leave(self, *uses: Use) -> None:
        with self.lock:
            if self._uses.isdisjoint(uses):
                return
            self._uses.difference_update(uses)
            if not self._uses:
                try:
                    self._off()
                finally:
                    if self._free is not None:
                        self._free.notify_all()

    def _forked(self) -> None:
        self.lock, self._free = threading.RLock(), None  # who is gone may have held the other one
        here = threading.get_ident()
        self._leave(*[use for use in self._uses if use.thread != here])


_all: weakref.WeakSet[Users] = weakref.WeakSet()


def _forked() -> None:
    for users in list(_all):
        users._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
