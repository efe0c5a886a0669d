"""Modules whose shapes nothing has shown yet, and a call that does, and leaves nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy
from torch.utils._pytree import tree_map

from fastinit._models.tree import modules_of
from fastinit._patch.entered import EnteredScope
from fastinit._patch.fork import Fork
from fastinit._tensors import is_closed, is_plain, is_put_together


def has_lazy(module: nn.Module) -> bool:
    """Whether something in a module has no shape yet, or has still to see its inputs."""
    kinds = (LazyModuleMixin, UninitializedParameter, UninitializedBuffer)
    modules = modules_of(module)
    found = set(map(type, modules))
    for one in modules:
        found.update(map(type, one._parameters.values()), map(type, one._buffers.values()))
    return any(issubclass(kind, kinds) for kind in found) and any(map(is_lazy_itself, modules))


def _own_tensors(module: nn.Module) -> list[Tensor]:
    both = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in both if tensor is not None]


def is_lazy_itself(module: nn.Module) -> bool:
    """Whether a module has still to see its inputs, whatever has been loaded into it."""
    # Which torch's mixin holds until it has seen them.
    waits = isinstance(module, LazyModuleMixin) and "_initialize_hook" in vars(module)
    return waits or any(map(is_lazy, _own_tensors(module)))


def _zeros(
    fill: Callable[..., Any], tensor: Tensor, arguments: Any, generator: Generator | None
) -> Tensor:
    with torch.no_grad():
        return tensor.zero_()


class ResetWithoutDraws:
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


def stand_in(module: nn.Module) -> ResetWithoutDraws | None:
    reset = vars(module).get("reset_parameters")
    return reset if isinstance(reset, ResetWithoutDraws) else None


@contextmanager
def kept_values(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give tensors the values that they have."""
    held = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in held:
                if not torch.equal(tensor, values):
                    tensor.copy_(values)


def _copied(given: Any) -> Any:
    """Copy what a call may change or use up: tensors, containers, iterators that can be copied."""

    def copy_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone().requires_grad_(value.requires_grad)
        if isinstance(value, Iterator):
            with suppress(TypeError):  # a generator
                return copy.copy(value)
        return value

    return tree_map(copy_of, given)


def see_shapes(
    module: nn.Module, args: Any, kwargs: Any, hooks: Iterable[tuple[Callable[..., Any], bool]]
) -> None:
    """Make the call that is about to be made, to see the shapes that it has.

    Args:
        module: what is about to be called.
        args: its arguments.
        kwargs: likewise.
        hooks: those that come before the call still, and whether they take `kwargs`.
    """
    grad = torch.is_grad_enabled()
    with kept_state(module), torch.set_grad_enabled(grad), Fork.of_python(0):
        args, kwargs = _copied((args, kwargs))
        for hook, with_kwargs in hooks:
            given = hook(module, args, kwargs) if with_kwargs else hook(module, args)
            if given is None:
                continue
            if with_kwargs:
                args, kwargs = given
            else:
                args = given if isinstance(given, tuple) else (given,)
        module.forward(*args, **kwargs)
