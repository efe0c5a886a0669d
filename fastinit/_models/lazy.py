"""Initialisation that waits for shapes: models with lazy modules."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from fastinit._patch.entered import EnteredScope
from fastinit._tensors import is_closed, is_plain, is_put_together

# Weakly on both sides: the module's hooks hold what waits, which is called with the module.
_waiting: weakref.WeakKeyDictionary[nn.Module, weakref.ref[_Deferred]] = weakref.WeakKeyDictionary()


def has_lazy(tensors: Iterable[Tensor]) -> bool:
    """Whether a tensor has no shape yet."""
    lazy = (UninitializedParameter, UninitializedBuffer)
    return any(issubclass(kind, lazy) for kind in set(map(type, tensors)))


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


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


def _is_expanded(tensor: Tensor) -> bool:
    """Whether elements of a tensor share memory, so that torch writes nothing to it."""
    if is_put_together(tensor):
        return False
    return any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


@contextmanager
def kept_state(module: nn.Module) -> Iterator[None]:
    """Put the buffers and torch's generators back afterwards, also after an error.

    So also where a module has put another tensor in a buffer's place, or given a buffer another
    size or other memory, as observers of ranges do.
    """
    held = [
        (owner, name, buffer)
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if not (buffer is not None and is_lazy(buffer))
    ]
    buffers = {id(buffer): buffer for _, _, buffer in held if buffer is not None}
    open_ones = [b for b in buffers.values() if not (is_closed(b) or _is_expanded(b))]
    saved = [(b, b.data, b.clone()) for b in open_ones]
    devices = {t.device.index or 0 for t in module.parameters() if t.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            yield
        finally:
            for owner, name, buffer in held:
                owner._buffers[name] = buffer
            for buffer, memory, before in saved:
                if is_plain(type(buffer)) and not is_put_together(buffer):
                    buffer.data = memory  # it may have another size or other memory now
                buffer.copy_(before)


class _Deferred:
    """One `initialize_` that waits for the first call of its module."""

    def __init__(self, module: nn.Module, run: Callable[[nn.Module, Container[int]], Any]) -> None:
        self._run = run
        self._loaded: set[str] = set()
        self._lazy = [m for m in module.modules() if any(map(is_lazy, _own_tensors(m)))]
        for lazy in self._lazy:
            if callable(getattr(type(lazy), "reset_parameters", None)):
                vars(lazy)["reset_parameters"] = _ResetWithoutDraws(lazy)
        # After the hook by which a lazy module infers its own shapes.
        module.register_forward_pre_hook(self, with_kwargs=True)
        module.register_load_state_dict_pre_hook(self._note_loaded)  # type: ignore[no-untyped-call]

    def _note_loaded(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        """Note what is loaded before the first call, which is to stay."""
        self._loaded |= {k.removeprefix(prefix) for k in state_dict if k.startswith(prefix)}

    def cancel(self, module: nn.Module) -> None:
        """Take everything off the module again."""
        # Not by its handle: a copy of the module has copies of this and of its hooks.
        for number in [n for n, hook in module._forward_pre_hooks.items() if hook is self]:
            del module._forward_pre_hooks[number]
            module._forward_pre_hooks_with_kwargs.pop(number, None)
        hooks = module._load_state_dict_pre_hooks
        for number in [n for n, hook in hooks.items() if _is_of(hook, self)]:
            del hooks[number]
        for lazy in self._lazy:
            vars(lazy).pop("reset_parameters", None)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if has_lazy(_tensors_of(module)):
            with kept_state(module):
                module.forward(*args, **kwargs)
        if has_lazy(_tensors_of(module)):
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
        both = (module.named_parameters(remove_duplicate=False), module.named_buffers())
        loaded = {id(t) for named in both for name, t in named if name in self._loaded}
        self._run(module, loaded)


def _is_of(hook: Any, deferred: _Deferred) -> bool:
    """Whether torch has this hook from there; it wraps those that want the module."""
    inner = getattr(hook, "hook", hook)
    return getattr(inner, "__self__", None) is deferred


def cancel(module: nn.Module) -> None:
    """Forget what waits for this module."""
    waiting = _waiting.pop(module, None)
    deferred = None if waiting is None else waiting()
    if deferred is not None:
        deferred.cancel(module)


def defer(module: nn.Module, run: Callable[[nn.Module, Container[int]], Any]) -> None:
    """Have `run(module, loaded)` called in the first call of a module, when its shapes are known.

    `loaded` has the ids of parameters and buffers that have been loaded meanwhile.
    """
    _waiting[module] = weakref.ref(_Deferred(module, run))


def _own_tensors(module: nn.Module) -> list[Tensor]:
    both = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in both if tensor is not None]
