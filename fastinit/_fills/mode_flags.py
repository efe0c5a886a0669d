"""torch's flags that say whether a dispatch mode is on, for modes of several threads at a time.

Each mode puts back on leaving what it found on entering. Of modes that overlap on two threads the
last one to leave finds that the other was on, and says so for ever: compilers then stay out. So the
last of ours puts back what the first has found.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.utils import _python_dispatch as dispatch

from fastinit._users import Use, Users

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
_before: list[bool] = [False] * len(_NAMES)  # the first of ours


def _get() -> list[bool]:
    return [getattr(dispatch, name) for name in _NAMES]


def _set(values: list[bool]) -> None:
    for name, value in zip(_NAMES, values, strict=True):
        setattr(dispatch, name, value)
    if _tell is not None:
        _tell(values[-1])


def _note() -> None:
    global _before
    _before = _get()


_users = Users(_note, lambda: _set(_before))


def entered() -> Use:
    """Note that a mode of ours is about to be entered."""
    return _users.enter()


def told(use: Use) -> list[bool] | None:
    """Give what a mode that is about to be left must not change, as it is not counted any more."""
    return _get() if use.is_over else None


def left(use: Use, before: list[bool] | None) -> None:
    """Note that one has been left, and has put back what it found; there was this before."""
    with _users.lock:
        use.leave()
        if _users:
            _set([True] * len(_NAMES))
        elif before is not None:
            _set(before)


def _after_fork() -> None:
    """Forget modes of threads that are not in a child."""
    global _before
    _before = [False] * len(_NAMES)
    if torch._C._len_torch_dispatch_stack() == 0:
        _set(_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
