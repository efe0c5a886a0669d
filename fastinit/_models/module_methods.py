"""What modules themselves define for their initialisation, and running it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch import nn

from fastinit._models.names import named_parameters
from fastinit._models.notes import note

_FLAG = "_is_hf_initialized"


@functools.lru_cache(maxsize=1024)
def _accepts(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _takes(method: Callable[..., Any], count: int) -> bool:
    """Whether a method can be called with so many arguments; asked once for each class."""
    function = getattr(method, "__func__", None)
    if function is not None:
        return _accepts(function, count + 1)
    try:
        return _accepts(method, count)
    except TypeError:  # not hashable
        return _accepts.__wrapped__(method, count)


def _callable_without_arguments(method: Callable[..., Any]) -> bool:
    return _takes(method, 0)


def _takes_one_module(method: Callable[..., Any]) -> bool:
    return _takes(method, 1) and not _takes(method, 0)


def is_pretrained(module: nn.Module) -> bool:
    """Whether this is a model of transformers, which initialises all below it in its own order."""
    return callable(getattr(module, "_init_weights", None)) and callable(
        getattr(module, "initialize_weights", None)
    )


def _names_in(code: CodeType) -> set[str]:
    """Collect the names that code uses, with the functions defined in it."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


@functools.lru_cache(maxsize=1024)
def _constructor_calls(kind: type[nn.Module], name: str) -> bool:
    """Whether a method is one that the constructor calls, itself or by way of other methods."""
    seen = {"__init__"}
    waiting = ["__init__"]
    while waiting:
        caller = waiting.pop()
        for base in kind.__mro__:
            function: Any = vars(base).get(caller)
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is None:
                continue
            names = _names_in(code)
            if name in names:
                return True
            called = {n for n in names - seen if hasattr(kind, n)}
            seen |= called
            waiting += called
    return False


def _method(module: nn.Module, name: str, framework: bool) -> Callable[..., Any] | None:
    """Return a method of a module, but not what nobody calls inside a model of transformers.

    That calls none of these methods itself, so what counts there is whether constructors do.
    """
    kind: Any = type(module)
    method: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(method) or (framework and not _constructor_calls(kind, name)):
        return None
    return method


def initialisers(module: nn.Module, inside_pretrained: bool = False) -> list[Callable[[], Any]]:
    """List what a module defines for itself, to be called in this order."""
    found: list[Callable[[], Any]] = []
    pretrained = is_pretrained(module)
    framework = inside_pretrained or pretrained
    for name in ("reset_parameters", "_reset_parameters"):
        method = _method(module, name, framework)
        if method is not None and _callable_without_arguments(method):
            found.append(method)
            break
    if pretrained:
        if not inside_pretrained:
            found.append(module.initialize_weights)  # type: ignore[arg-type]
        return found
    for name in ("init_weights", "_init_weights"):
        method = _method(module, name, framework)
        if method is None:
            continue
        if _callable_without_arguments(method):
            found.append(method)
            break
        if name == "_init_weights" and _takes_one_module(method):
            found.append(functools.partial(module.apply, method))
            break
    return found


def _children_first(
    module: nn.Module, inside: bool, seen: set[nn.Module]
) -> Iterator[tuple[nn.Module, bool]]:
    if module in seen:
        return
    seen.add(module)
    for child in module.children():
        yield from _children_first(child, inside or is_pretrained(module), seen)
    yield module, inside


@contextmanager
def _untied(module: nn.Module) -> Iterator[None]:
    """Give tied parameters other memory in all places but the first.

    Models tie what they have initialised; doing both at once, the last place would decide.
    """
    apart = []
    for named in named_parameters(module).values():
        for owner, attribute in named.others:
            twin = nn.Parameter(torch.empty_like(named.tensor), named.tensor.requires_grad)
            owner._parameters[attribute] = twin
            apart.append((owner, attribute, named.tensor))
    try:
        yield
    finally:
        for owner, attribute, tensor in apart:
            owner._parameters[attribute] = tensor  # type: ignore[assignment]


def run(module: nn.Module) -> None:
    """Call what the module and all below it define, children first, as constructors do.

    For each module `reset_parameters` or `_reset_parameters`, then `init_weights`, or
    `_init_weights` applied to all below it; a model of transformers runs its `initialize_weights`,
    and what is inside only what constructors call. Methods that need further arguments are left to
    those that call them. To be called while a recording is on.
    """
    with _cleared_flags(module), _untied(module):
        for current, inside in _children_first(module, False, set()):
            for initialiser in initialisers(current, inside):
                try:
                    initialiser()
                except Exception as error:
                    note(error, f"in {_worded(initialiser, current, module)}")
                    raise


def _worded(initialiser: Callable[[], Any], current: nn.Module, module: nn.Module) -> str:
    """Word a module's own initialiser for a message."""
    if isinstance(initialiser, functools.partial):
        (initialiser,) = initialiser.args  # a method applied to all below
    method = getattr(initialiser, "__qualname__", repr(initialiser))
    name = next((name for name, found in module.named_modules() if found is current), "")
    return f"{method}, called for {name!r} of {type(module).__name__}"


@contextmanager
def _cleared_flags(module: nn.Module) -> Iterator[None]:
    """Take away the flags by which transformers skips what it has initialised or loaded before."""
    removed = []
    for current in module.modules():
        for holder in (current, *current._parameters.values(), *current._buffers.values()):
            if holder is not None and _FLAG in vars(holder):
                removed.append((holder, vars(holder).pop(_FLAG)))
    try:
        yield
    finally:
        for holder, flag in removed:
            vars(holder).setdefault(_FLAG, flag)
