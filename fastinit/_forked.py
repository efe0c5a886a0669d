"""Forked children: torch's operators would wait there for OpenMP's threads, which are gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.compiler import is_compiling

_forked = False


class _Here(threading.local):
    inside = False


class _Threads:
    """How many threads torch has outside of `on_one_thread`, and how many of ours are inside."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.count = 1


_here, _threads = _Here(), _Threads()


def waits() -> bool:
    """Whether torch's operators would wait: in a forked child, outside of `on_one_thread`."""
    return _forked and not is_compiling() and not _here.inside


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Have torch's operators run on this thread alone, in a forked child."""
    with _threads.lock:
        if _threads.users == 0:
            _threads.count = torch.get_num_threads()
            torch.set_num_threads(1)
        _threads.users += 1
    _here.inside = True
    try:
        yield
    finally:
        _here.inside = False
        with _threads.lock:
            _threads.users -= 1
            if _threads.users == 0:
                torch.set_num_threads(_threads.count)


def _note() -> None:
    global _forked, _here, _threads
    _forked, _here, _threads = True, _Here(), _Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
