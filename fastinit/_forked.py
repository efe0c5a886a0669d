"""Forked children: torch's operators would wait there for OpenMP's threads, which are gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_waits = False  # whether they would


def waits() -> bool:
    """Whether this is a forked child, outside of `on_one_thread`."""
    return _waits


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Have torch's operators run on this thread alone, in a forked child."""
    global _waits
    threads, _waits = torch.get_num_threads(), False
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _waits = True


def _note() -> None:
    global _waits
    _waits = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
