"""torch's flags that say whether a dispatch mode is on, for modes of several threads at a time.

Each mode puts back on leaving what it found on entering. Of modes that overlap on two threads the
last one to leave finds that the other was on, and says so for ever: compilers then stay out. So the
last of ours puts back what the first has found.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import torch
from torch.utils import _python_dispatch as dispatch

_NAMES = [
    name
    for name in (
        "_is_in_torch_dispatch_mode",
        "_is_in_non_infra_torch_dispatch_mode",
        "_is_in_any_mode_without_ignore_compile_internals",
    )
    if hasattr(dispatch, name)
]
_tell: Any = getattr(dispatch, "set_is_in_mode_without_ignore_compile_internals", None)
_lock = threading.Lock()
_users = 0
_before: list[bool] = [False] * len(_NAMES)  # the first of ours


def _set(values: list[bool]) -> None:
    for name, value in zip(_NAMES, values, strict=True):
        setattr(dispatch, name, value)
    if _tell is not None:
        _tell(values[-1])


def entered() -> None:
    """Note that a mode of ours is about to be entered."""
    global _users, _before
    with _lock:
        if _users == 0:
            _before = [getattr(dispatch, name) for name in _NAMES]
        _users += 1


def left() -> None:
    """Note that one has been left, and has put the flags back."""
    global _users
    with _lock:
        _users -= 1
        _set([True] * len(_NAMES) if _users > 0 else _before)


def _after_fork() -> None:
    """Forget modes of threads that are not in a child."""
    global _lock, _users, _before
    here = map(torch._C._get_dispatch_stack_at, range(torch._C._len_torch_dispatch_stack()))
    _lock, _before = threading.Lock(), [False] * len(_NAMES)
    _users = sum(getattr(mode, "tells_flags", False) for mode in here)
    if torch._C._len_torch_dispatch_stack() == 0:
        _set(_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
