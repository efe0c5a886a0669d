"""torch's flags that say whether a dispatch mode is on, for modes of several threads at a time.

Each mode puts back on leaving what it found on entering. Of modes that overlap on two threads the
last one to leave finds that the other was on, and says so for ever: compilers then stay out.
"""

from __future__ import annotations

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


def _set(value: bool) -> None:
    for name in _NAMES:
        setattr(dispatch, name, value)
    if _tell is not None:
        _tell(value)


def entered() -> None:
    """Note that a mode of ours has been entered."""
    global _users
    with _lock:
        _users += 1


def left() -> None:
    """Note that one has been left, and has put the flags back."""
    global _users
    with _lock:
        _users -= 1
        if _users > 0:
            _set(True)
        elif torch._C._len_torch_dispatch_stack() == 0:
            _set(False)
