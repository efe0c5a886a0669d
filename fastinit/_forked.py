"""Forked children: torch's operators would wait there for OpenMP's threads, which are gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.compiler import is_compiling

from fastinit._users import Users

_forked = False


class _Here(threading.local):
    inside = False


class _Threads:
    """How many threads torch has outside of `on_one_thread`."""

    def __init__(self) -> None:
        self.count = 1

    def take(self) -> None:
        self.count = torch.get_num_threads()
        torch.set_num_threads(1)

    def put_back(self) -> None:
        torch.set_num_threads(self.count)


_here, _threads = _Here(), _Threads()
_users = Users(_threads.take, _threads.put_back)


def waits() -> bool:
    """Whether torch's operators would wait: in a forked child, outside of `on_one_thread`."""
    return _forked and not is_compiling() and not _here.inside


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Have torch's operators run on this thread alone, in a forked child."""
    with _users.inside():
        _here.inside = True
        try:
            yield
        finally:
            _here.inside = False


def _note() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
