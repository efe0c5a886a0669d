"""Telling when modules get parameters, buffers and children, by torch's own hooks."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from torch import nn
from torch.nn.modules import module as hooks

_HOOKS: tuple[Any, ...] = (
    hooks.register_module_buffer_registration_hook,
    hooks.register_module_module_registration_hook,
    hooks.register_module_parameter_registration_hook,
)


class Watching(Protocol):
    """Who wants to know."""

    def note(self, module: nn.Module, name: str, value: Any) -> None:
        """Note that a module, which may be half made, gets something under a name."""


_watching: weakref.WeakSet[Any] = weakref.WeakSet()
_handles: list[Any] = []


def watch(one: Watching) -> None:
    """Tell this of registrations, until it is closed."""
    if not _handles:
        _handles.extend(register(_note) for register in _HOOKS)
    _watching.add(one)


def close(one: Watching) -> None:
    """Tell it no more; the hooks go with the last that wants to know."""
    _watching.discard(one)
    while _handles and not _watching:
        _handles.pop().remove()


def _note(module: nn.Module, name: str, value: Any) -> None:
    for one in [*_watching]:
        one.note(module, name, value)
