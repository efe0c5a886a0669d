"""Telling when modules get other parameters, buffers and children, by torch's own hooks."""

from __future__ import annotations

import weakref
from collections.abc import Container
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

_HOOKS: tuple[Any, ...] = (
    hooks.register_module_buffer_registration_hook,
    hooks.register_module_module_registration_hook,
    hooks.register_module_parameter_registration_hook,
)


class Registrations:
    """Whether there have been some in a family of modules.

    Args:
        family: the modules below others; what is in it may change.
        roots: the modules that are below none.

    Attributes:
        some: whether there have been some, until somebody says that there have not.
    """

    def __init__(self, family: Container[nn.Module], roots: Container[nn.Module]) -> None:
        self.some = False
        self._family = family
        self._roots = roots
        if not _handles:
            _handles.extend(register(_note) for register in _HOOKS)
        _watching.add(self)

    def close(self) -> None:
        """Look at no more; the hooks go with the last that does."""
        _watching.discard(self)
        while _handles and not _watching:
            _handles.pop().remove()

    def note(self, module: nn.Module) -> None:
        """Note that a module gets something."""
        self.some = self.some or module in self._family or module in self._roots


_watching: weakref.WeakSet[Registrations] = weakref.WeakSet()
_handles: list[Any] = []


def _note(module: nn.Module, name: str, value: Any) -> None:
    for one in [*_watching]:
        one.note(module)
