"""Who holds what: the objects that can be reached from a module, tensors above all.

What an object is its own class says, not its `__class__`: that of proxies and mocks is another, and
may run code or fail. Nor are objects asked for anything else that their classes could refuse.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from fastinit._compiled import extension
from fastinit._models.by_class import by_class
from fastinit._models.names import named_modules
from fastinit._models.notes import said
from fastinit._models.tree import modules_of

CONTAINERS = (dict, list, set, deque)
PLAIN = frozenset({OrderedDict, *CONTAINERS})
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)
ATOMS_SET = frozenset(_ATOMS)
PLAIN_IDS = frozenset(map(id, PLAIN))  # a class that is looked up may have no hash
# What is the whole process's, not a module's: from here one comes to everything.
_SHARED = (ModuleType, logging.Logger)
_TABLES = frozenset({"_parameters", "_buffers", "_modules"})


def _is_torchs_own(kind: type) -> bool:
    """Whether torch keeps such objects of shards, whose memory is that of parameters, or of graphs.

    In these are examples of tensors, which are nobody's.
    """
    return str(kind.__module__).startswith(("torch.distributed.", "torch.fx."))


def slots_of(value: Any) -> tuple[tuple[str, MemberDescriptorType], ...]:
    """List what holds the attributes of an object that are not in its `__dict__`.

    Those of `__slots__`, and what a `functools.partial` or a bound method is made of.
    """
    kind: Any = type(value)
    return slots_of_class(kind)


@by_class
def _has_slots(kind: Any) -> bool:
    return any(type(one) is MemberDescriptorType for b in kind.__mro__ for one in vars(b).values())


def slots_of_class(kind: Any) -> tuple[tuple[str, MemberDescriptorType], ...]:
    """List what `slots_of` does for the instances of a class."""
    if not _has_slots(kind):
        return ()
    return tuple(
        (name, slot)
        for base in kind.__mro__
        for name, slot in vars(base).items()
        if type(slot) is MemberDescriptorType
    )


def in_slots(value: Any) -> Iterator[tuple[str, Any]]:
    """List what an object holds there."""
    for name, slot in slots_of(value):
        try:
            yield name, slot.__get__(value)
        except AttributeError:  # nothing is in it
            continue


def put_in_slots(value: Any, held: Mapping[str, Any]) -> None:
    """Have an object hold this there, and nothing else."""
    now = dict(in_slots(value))
    for name, slot in slots_of(value):
        try:
            if name in held and now.get(name) is not held[name]:
                slot.__set__(value, held[name])
            elif name in now and name not in held:
                slot.__delete__(value)
        except (AttributeError, TypeError):  # read-only, and made anew for whoever asks
            continue


def held_by(function: FunctionType) -> list[Any]:
    """List what a function holds: in its closure, as defaults."""
    held: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not bound yet
            continue
    held += function.__defaults__ or ()
    held += (function.__kwdefaults__ or {}).values()
    return held


_SEQUENCES = (*CONTAINERS[1:], tuple, frozenset)


def kind_of(container: Any) -> Any:
    """Find the class of Python's whose methods a container is handled by; its own may refuse."""
    own = type(container)
    if own is tuple or id(own) in PLAIN_IDS:
        return own
    return next(kind for kind in (OrderedDict, dict, *_SEQUENCES) if issubclass(own, kind))


def inside(value: Any) -> Iterator[tuple[str, Any]]:
    """List what a container, a function or another object holds; a tensor, as attributes."""
    kind: Any = type(value)
    if issubclass(kind, dict):
        for key, item in list(kind_of(value).items(value)):
            yield key if type(key) is str else said(key, str), item
    elif issubclass(kind, _SEQUENCES):
        items = list(kind_of(value).__iter__(value))
        yield from ((str(k), item) for k, item in enumerate(items))
    elif kind is FunctionType:
        yield from (("", item) for item in held_by(value))
        yield from list(vars(value).items())
    elif kind is Parameter or kind is Tensor:
        yield from list(vars(value).items())
    elif issubclass(kind, weakref.ref):
        held = weakref.ref.__call__(value)
        if not issubclass(type(held), nn.Module):  # which is somebody else's
            yield "()", held
    if has_attributes(kind):
        yield from list((extension.attributes_of(value) or {}).items())
        yield from in_slots(value)


_APART = (*_ATOMS, *_SHARED, Tensor, nn.Module, FunctionType, weakref.ref)


def has_attributes(kind: type) -> bool:
    """Whether objects of a class are such whose attributes may be a module's."""
    return not issubclass(kind, _APART) and not _is_torchs_own(kind)


def _parts_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """List what a module holds, its parameters, buffers and children under their own names."""
    for name, value in vars(module).items():
        yield from list(value.items()) if name in _TABLES else [(name, value)]
    yield from in_slots(module)


def _that_may_hold(named: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Leave out most of what modules hold: numbers, and tables of hooks without any."""
    try:
        return [
            (name, value)
            for name, value in named
            if (kind := type(value)) not in ATOMS_SET and (kind not in PLAIN or value)
        ]
    except Exception:  # a metaclass refuses to hash its class
        return [one for one in named if not issubclass(type(one[1]), _ATOMS)]


def held_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Find the tensors that modules hold otherwise than as parameters and buffers.

    They may be in lists, dicts, objects, closures and modules that are nobody's children, and have
    the name of the way there.
    """
    seen: set[int] = set()
    family = set(map(id, modules_of(module)))
    for path, owner in named_modules(module, prefix):
        own = _that_may_hold((*vars(owner).items(), *in_slots(owner)))
        waiting = [(a, owner, v) for a, v in own if a not in _TABLES]
        for table in (owner._parameters, owner._buffers):
            for attribute, tensor in table.items():
                kind = type(tensor)
                if (kind is Parameter or kind is Tensor) and (marks := vars(tensor)):
                    waiting += [(f"{attribute}.{a}", owner, v) for a, v in marks.items()]
        waiting.reverse()
        while waiting:
            way, holder, value = waiting.pop()
            kind = type(value)
            if issubclass(kind, _ATOMS) or id(value) in seen:
                continue
            seen.add(id(value))
            if issubclass(kind, Tensor):
                yield f"{path}.{way}".removeprefix("."), holder, value
            parts = inside(value)
            if issubclass(kind, nn.Module):
                try:
                    below = modules_of(value)
                except AttributeError:  # half made, or what is below is
                    continue
                if not family.isdisjoint(map(id, below)):
                    continue  # what this one is a part of
                holder, parts = value, _parts_of(value)
            found = _that_may_hold((*parts,))
            waiting += [(f"{way}.{a}" if a else way, holder, v) for a, v in reversed(found)]
        for attribute, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_leaf and parameter.grad is not None:
                yield f"{path}.{attribute}.grad".removeprefix("."), owner, parameter.grad
