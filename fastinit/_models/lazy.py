"""Initialisation that waits for shapes: models with lazy modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from fastinit._models.tree import modules_of
from fastinit._patch.entered import EnteredScope
from fastinit._tensors import is_closed, is_plain, is_put_together


def has_lazy(module: nn.Module) -> bool:
    """Whether something in a module has no shape yet, or has still to see its inputs."""
    lazy = (LazyModuleMixin, UninitializedParameter, UninitializedBuffer)
    modules = modules_of(module)
    kinds = set(map(type, modules))
    for one in modules:
        kinds.update(map(type, one._parameters.values()), map(type, one._buffers.values()))
    return any(issubclass(kind, lazy) for kind in kinds)


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


class Run(Protocol):
    """Initialises a module, but for parameters that have been loaded or initialised meanwhile."""

    def __call__(self, whole: nn.Module, module: nn.Module, done: Container[int]) -> object:
        """Do it to a part of a whole, given the ids of those parameters."""


_now = threading.local()  # whether a call is made to see shapes


@contextmanager
def _seeing_shapes() -> Iterator[None]:
    before = getattr(_now, "shapes", False)
    _now.shapes = True
    try:
        yield
    finally:
        _now.shapes = before


def _below(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    """List parameters and buffers by all of their names."""
    yield from module.named_parameters(path, remove_duplicate=False)
    yield from module.named_buffers(path, remove_duplicate=False)


def _known(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """List the largest parts of a module that have all of their shapes."""
    if not has_lazy(module):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _known(child, f"{path}.{name}" if path else name)


class _Deferred:
    """One `initialize_` that waits for the first call of its module, or of parts of it.

    It is held by hooks on all that is in the module, and holds that, so it goes, and is copied and
    pickled, with it.
    """

    def __init__(self, module: nn.Module, run: Run) -> None:
        self._module = module
        self._run = run
        self._done: set[str] = set()
        for path, one in module.named_modules():
            if isinstance(one, torch.jit.ScriptModule):
                continue
            hook = _Hook(self, path)
            # After the hook by which a lazy module infers its own shapes.
            one.register_forward_pre_hook(hook, with_kwargs=True)
            one.register_load_state_dict_pre_hook(hook.note_loaded)
            if callable(getattr(type(one), "reset_parameters", None)) and _is_lazy(one):
                vars(one)["reset_parameters"] = _ResetWithoutDraws(one)

    def leave(self, module: nn.Module, path: str) -> None:
        """Leave a part to whoever has initialised it, or is about to."""
        self._done.update(name for name, _ in _below(module, path))

    def loaded(self, names: Iterable[str]) -> None:
        """Note what is loaded before it is initialised, which is to stay."""
        self._done.update(names)

    def cancel(self) -> None:
        """Take everything off the module again."""
        for one in self._module.modules():
            # Not by handles: a copy of the module has copies of this and of its hooks.
            for number, hook in [*one._forward_pre_hooks.items()]:
                if isinstance(hook, _Hook) and hook.deferred is self:
                    del one._forward_pre_hooks[number]
                    one._forward_pre_hooks_with_kwargs.pop(number, None)
            loading = one._load_state_dict_pre_hooks
            for number, hook in [*loading.items()]:
                owner = _owner_of(hook)
                if isinstance(owner, _Hook) and owner.deferred is self:
                    del loading[number]
            if next(_hooks_on(one), None) is None:
                vars(one).pop("reset_parameters", None)

    def called(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> None:
        """Initialise what is about to be called, once its shapes are known."""
        with self._kept(module, path):
            if has_lazy(module):
                with _seeing_shapes(), kept_state(module):
                    module.forward(*args, **kwargs)
            if not path and has_lazy(module):
                raise RuntimeError(
                    f"fastinit.initialize_: the first call of {type(module).__name__} did not "
                    "reach all of its lazy modules, so the shapes of their parameters are not known"
                )
            for one in module.modules():
                reset = vars(one).get("reset_parameters")
                if isinstance(reset, _ResetWithoutDraws) and not has_lazy(one):
                    reset()  # the call has changed its statistics
        if not has_lazy(self._module):
            self.cancel()
            self._initialise(self._module, "")
            return
        for name, part in _known(module, path):
            if not self._done.issuperset(n for n, _ in _below(part, name)):
                for one in part.modules():
                    vars(one).pop("reset_parameters", None)
                self._initialise(part, name)
                self.leave(part, name)

    def _initialise(self, module: nn.Module, path: str) -> None:
        done = {id(tensor) for name, tensor in _below(module, path) if name in self._done}
        with self._kept(module, path):
            self._run(self._module, module, done)

    @contextmanager
    def _kept(self, module: nn.Module, path: str) -> Iterator[None]:
        """Give what has been loaded or initialised the values that it has."""
        tensors = [t for n, t in _below(module, path) if n in self._done and not is_lazy(t)]
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, values in zip(tensors, before, strict=True):
                    if not torch.equal(tensor, values):
                        tensor.copy_(values)


class _Hook:
    """What is on one of the modules that something waits for."""

    def __init__(self, deferred: _Deferred, path: str) -> None:
        self.deferred = deferred
        self.path = path

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not getattr(_now, "shapes", False):
            self.deferred.called(module, self.path, args, kwargs)

    def note_loaded(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        """Note what is loaded of what the module itself holds."""
        stem = f"{self.path}." if self.path else ""
        own = (*module._parameters, *module._buffers)
        self.deferred.loaded(stem + name for name in own if prefix + name in state_dict)


def _owner_of(hook: Any) -> Any:
    """Give the object whose method a hook is; torch wraps those that want the module."""
    return getattr(getattr(hook, "hook", hook), "__self__", None)


def _hooks_on(module: nn.Module) -> Iterator[_Hook]:
    return (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _Hook))


def cancel(module: nn.Module) -> None:
    """Forget what waits for this module, and have what waits for a larger one leave it alone."""
    for hook in [*_hooks_on(module)]:
        if hook.path:
            hook.deferred.leave(module, hook.path)
        else:
            hook.deferred.cancel()


def defer(module: nn.Module, run: Run) -> None:
    """Have something run in the first call of a module, or of a part, when its shapes are known."""
    _Deferred(module, run)


def _own_tensors(module: nn.Module) -> list[Tensor]:
    both = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in both if tensor is not None]


def _is_lazy(module: nn.Module) -> bool:
    """Whether a module itself does; what is loaded into it does not tell it its inputs."""
    return isinstance(module, LazyModuleMixin) or any(map(is_lazy, _own_tensors(module)))
