"""Who holds what: the objects that can be reached from a module, tensors above all."""

from __future__ import annotations

import functools
import logging
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._models.names import named_modules
from fastinit._models.tree import modules_of
from fastinit._tensors import PLAIN_TYPES

CONTAINERS = (dict, list, set, deque)
PLAIN = frozenset({OrderedDict, *CONTAINERS})
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)
ATOMS_SET = frozenset(_ATOMS)
# What is the whole process's, not a module's: from here one comes to everything.
_SHARED = (ModuleType, logging.Logger)
_TABLES = frozenset({"_parameters", "_buffers", "_modules"})


def _is_torchs_own(value: Any) -> bool:
    """Whether this is what torch keeps of shards, whose memory is that of parameters, or of graphs.

    In these are examples of tensors, which are nobody's.
    """
    return str(type(value).__module__).startswith(("torch.distributed.", "torch.fx."))


def slots_of(value: Any) -> tuple[tuple[str, MemberDescriptorType], ...]:
    """List what holds the attributes of an object that are not in its `__dict__`.

    Those of `__slots__`, and what a `functools.partial` or a bound method is made of.
    """
    kind: Any = type(value)
    return slots_of_class(kind)


@functools.lru_cache(maxsize=1024)
def slots_of_class(kind: Any) -> tuple[tuple[str, MemberDescriptorType], ...]:
    """List what `slots_of` does for the instances of a class."""
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


def inside(value: Any) -> Iterator[tuple[str, Any]]:
    """List what a container, a function or another object holds; a tensor, as attributes."""
    if isinstance(value, dict):
        yield from ((str(key), item) for key, item in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((str(k), item) for k, item in enumerate(list(value)))
    elif isinstance(value, FunctionType):
        yield from (("", item) for item in held_by(value))
        yield from list(vars(value).items())
    elif type(value) in PLAIN_TYPES:
        yield from list(vars(value).items())
    elif isinstance(value, weakref.ref):
        held = value()
        if not isinstance(held, nn.Module):  # which is somebody else's
            yield "()", held
    if has_attributes(value):
        yield from list(getattr(value, "__dict__", {}).items())
        yield from in_slots(value)


_APART = (*_ATOMS, *_SHARED, Tensor, nn.Module, FunctionType, weakref.ref)


def has_attributes(value: Any) -> bool:
    """Whether this is an object whose attributes may be a module's."""
    return not isinstance(value, _APART) and not _is_torchs_own(value)


def _parts_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """List what a module holds, its parameters, buffers and children under their own names."""
    for name, value in vars(module).items():
        yield from list(value.items()) if name in _TABLES else [(name, value)]
    yield from in_slots(module)


def held_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Find the tensors that modules hold otherwise than as parameters and buffers.

    They may be in lists, dicts, objects, closures and modules that are nobody's children, and have
    the name of the way there.
    """
    seen: set[int] = set()
    family = {*modules_of(module)}
    for path, owner in named_modules(module, prefix):
        # Most of what modules hold is numbers, and tables of hooks without any.
        waiting = [
            (a, owner, v)
            for a, v in (*vars(owner).items(), *in_slots(owner))
            if (kind := type(v)) not in ATOMS_SET and (kind not in PLAIN or v) and a not in _TABLES
        ]
        for table in (owner._parameters, owner._buffers):
            for attribute, tensor in table.items():
                if type(tensor) in PLAIN_TYPES and (marks := vars(tensor)):
                    waiting += [(f"{attribute}.{a}", owner, v) for a, v in marks.items()]
        waiting.reverse()
        while waiting:
            way, holder, value = waiting.pop()
            if isinstance(value, _ATOMS) or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Tensor):
                yield f"{path}.{way}".removeprefix("."), holder, value
            parts = inside(value)
            if issubclass(type(value), nn.Module):
                if value in family or not family.isdisjoint(modules_of(value)):
                    continue  # what this one is a part of
                holder, parts = value, _parts_of(value)
            found = [
                (f"{way}.{a}" if a else way, holder, item)
                for a, item in parts
                if type(item) not in ATOMS_SET
            ]
            waiting += reversed(found)
        for attribute, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_leaf and parameter.grad is not None:
                yield f"{path}.{attribute}.grad".removeprefix("."), owner, parameter.grad
