"""Initialisation that waits for shapes: models with lazy modules."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit._patch.entered import EnteredScope
from fastinit._tensors import is_closed

# Weakly on both sides: the module's hooks hold what waits, which is called with the module.
_waiting: weakref.WeakKeyDictionary[nn.Module, weakref.ref[_Deferred]] = weakref.WeakKeyDictionary()


def has_lazy(module: nn.Module) -> bool:
    """Whether a parameter or buffer has no shape yet."""
    return any(is_lazy(t) for t in (*module.parameters(), *module.buffers()))


def _zeros(
    fill: Callable[..., Any], tensor: Tensor, arguments: Any, generator: Generator | None
) -> Tensor:
    with torch.no_grad():
        return tensor.zero_()


class _ResetWithoutDraws:
    """Stands in for a module's `reset_parameters` while only its shapes matter."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> None:
        scope = EnteredScope(self, None, take=_zeros)
        try:
            kind: Any = type(self.module)
            kind.reset_parameters(self.module)
        finally:
            scope.end()


@contextmanager
def kept_state(module: nn.Module) -> Iterator[None]:
    """Put the buffers and torch's generators back afterwards."""
    buffers = [b for b in module.buffers() if not (is_lazy(b) or is_closed(b))]
    saved = [buffer.clone() for buffer in buffers]
    devices = {t.device.index or 0 for t in module.parameters() if t.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad():
        yield
        for buffer, before in zip(buffers, saved, strict=True):
            buffer.copy_(before)


class _Deferred:
    """One `initialize_` that waits for the first call of its module."""

    def __init__(self, module: nn.Module, run: Callable[[nn.Module], Any]) -> None:
        self._run = run
        self._lazy = [m for m in module.modules() if any(map(is_lazy, _own_tensors(m)))]
        for lazy in self._lazy:
            if callable(getattr(type(lazy), "reset_parameters", None)):
                vars(lazy)["reset_parameters"] = _ResetWithoutDraws(lazy)
        # After the hook by which a lazy module infers its own shapes.
        module.register_forward_pre_hook(self, with_kwargs=True)

    def cancel(self, module: nn.Module) -> None:
        """Take everything off the module again."""
        # Not by its handle: a copy of the module has copies of this and of its hooks.
        for number in [n for n, hook in module._forward_pre_hooks.items() if hook is self]:
            del module._forward_pre_hooks[number]
            module._forward_pre_hooks_with_kwargs.pop(number, None)
        for lazy in self._lazy:
            vars(lazy).pop("reset_parameters", None)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if has_lazy(module):
            with kept_state(module):
                module.forward(*args, **kwargs)
        if has_lazy(module):
            raise RuntimeError(
                f"fastinit.initialize_: the first call of {type(module).__name__} did not reach "
                "all of its lazy modules, so the shapes of their parameters are not known"
            )
        for lazy in self._lazy:
            reset = vars(lazy).get("reset_parameters")
            if reset is not None:
                reset()  # the call has changed its statistics
        self.cancel(module)
        _waiting.pop(module, None)
        self._run(module)


def cancel(module: nn.Module) -> None:
    """Forget what waits for this module."""
    waiting = _waiting.pop(module, None)
    deferred = None if waiting is None else waiting()
    if deferred is not None:
        deferred.cancel(module)


def defer(module: nn.Module, run: Callable[[nn.Module], Any]) -> None:
    """Have `run(module)` called in the first call of a module, when its shapes are known."""
    _waiting[module] = weakref.ref(_Deferred(module, run))


def _own_tensors(module: nn.Module) -> list[Tensor]:
    both = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in both if tensor is not None]
