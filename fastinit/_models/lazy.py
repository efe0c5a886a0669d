"""Modules whose shapes nothing has shown yet, and a call that does, and leaves nothing else."""

from __future__ import annotations

import copy
import itertools
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy
from torch.utils._pytree import tree_map

from fastinit._models.held import held_tensors
from fastinit._models.tree import modules_of
from fastinit._patch.entered import EnteredScope
from fastinit._patch.fork import Fork
from fastinit._tensors import copy_values, is_closed, is_plain, is_put_together


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
    return reset if type(reset) is ResetWithoutDraws else None


@contextmanager
def kept_values(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give tensors the values that they have."""
    held = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in held:
                if not _are_equal(tensor, values):
                    copy_values(tensor, values)


def _are_equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except NotImplementedError:  # of half complex numbers and sparse tensors
        return False


class _Arguments:
    """The arguments of a call, for a call before it that leaves them as they are.

    Tensors, containers and what can be read but once are copied, what is one object to one. An
    iterator that cannot be is another one afterwards.

    Attributes:
        copies: for the call before.
        own: for the call itself.
    """

    def __init__(self, given: Any) -> None:
        self._made: dict[int, Any] = {}
        self._instead: dict[int, Any] = {}
        self._generators: list[tuple[Generator, Tensor]] = []
        self.copies = self._copy_of(given)
        self.own = given
        if self._instead:
            self.own = tree_map(lambda value: self._instead.get(id(value), value), given)

    def put_back(self) -> None:
        """Give torch's generators among them the states that they had."""
        for generator, state in self._generators:
            generator.set_state(state)

    def _copy_of(self, given: Any) -> Any:
        return tree_map(self._copy_once, given)

    def _copy_once(self, value: Any) -> Any:
        if id(value) not in self._made:
            self._made[id(value)] = self._copy(value)
        return self._made[id(value)]

    def _copy(self, value: Any) -> Any:
        made: Any
        if isinstance(value, Tensor):
            return _copied(value)
        if isinstance(value, Generator):
            self._generators.append((value, value.get_state()))
        elif isinstance(value, Iterator):
            try:
                return copy.copy(value)
            except TypeError:  # Python's generators
                made, self._instead[id(value)] = itertools.tee(value)
                return made
        elif is_dataclass(value) and not isinstance(value, type):
            made = copy.copy(value)
            for field in fields(value):
                if hasattr(value, field.name):
                    copied = self._copy_of(getattr(value, field.name))
                    object.__setattr__(made, field.name, copied)
            return made
        elif isinstance(value, UserDict):
            made = copy.copy(value)
            made.data = self._copy_of(value.data)
            return made
        return value


def _copied(tensor: Tensor) -> Tensor:
    """Copy a tensor; what is no leaf of a graph may be written, and its copy is none, either."""
    made = tensor.detach().clone()
    if tensor.requires_grad:
        made.requires_grad_()
        if not tensor.is_leaf:
            with torch.enable_grad():
                made = made.clone()
    return made


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def see_shapes(
    module: nn.Module, args: Any, kwargs: Any, hooks: Iterable[tuple[Callable[..., Any], bool]]
) -> tuple[Any, Any]:
    """Make the call that is about to be made, to see the shapes that it has.

    Args:
        module: what is about to be called.
        args: its arguments.
        kwargs: likewise.
        hooks: those that come before the call still, and whether they take `kwargs`.

    Returns:
        The arguments that the call is to be made with, then.
    """
    grad, given = torch.is_grad_enabled(), _Arguments((args, kwargs))
    args, kwargs = given.copies
    held = [tensor for _, _, tensor in held_tensors(module) if is_plain(type(tensor))]
    try:
        with (
            kept_state(module),
            kept_values(t for t in held if not (t.is_meta or is_closed(t) or is_put_together(t))),
            torch.set_grad_enabled(grad),
            torch.autograd.graph.saved_tensors_hooks(_itself, _itself),  # not those of checkpoints
            Fork.of_python(0),
        ):
            for hook, with_kwargs in hooks:
                made = hook(module, args, kwargs) if with_kwargs else hook(module, args)
                if made is None:
                    continue
                if with_kwargs:
                    args, kwargs = made
                else:
                    args = made if isinstance(made, tuple) else (made,)
            module.forward(*args, **kwargs)
    finally:
        given.put_back()
        torch.clear_autocast_cache()  # which holds what weights were
    own: tuple[Any, Any] = given.own
    return own
