"""What a recording does with each of torch's operators."""

from __future__ import annotations

import enum
import functools
from typing import Any, NamedTuple

import torch

from fastinit._compiled import fill_many_op, orthogonal_many_op, reserve_key_op
from fastinit._fills.operators import (
    ALLOCATING,
    METADATA_ONLY,
    OVERWRITING,
    TOGETHER,
    WHOLE,
    WHOLE_MANY,
    made_of_others,
    receives,
)
from fastinit._recording.choosing import COPYING, PARTIAL, SCALING
from fastinit._recording.copies import in_place
from fastinit._recording.laying import LAYING

_aten = torch.ops.aten
# Operators that give a tensor other memory, or more of it.
_RESIZING = ("resize_", "resize_as_", "set_")

# Operators on each element for itself that torch does not say so of.
_POINTWISE = frozenset(
    {"_to_copy", "clone", "complex", "copy", "masked_fill", "polar", "tril", "triu"}
)


class Way(enum.Enum):
    """What is done with a call."""

    PASS = enum.auto()  # looks at no values
    MAKE = enum.auto()  # looks at no values, and gives some
    ALLOCATE = enum.auto()  # gives memory nobody has written to
    RESIZE = enum.auto()
    RESERVE = enum.auto()  # wants a key as a number
    WHOLE = enum.auto()  # draws, looking at the whole tensor
    TOGETHER = enum.auto()  # does so on all ranks that share the tensor
    EACH = enum.auto()  # several of these
    FOREACH = enum.auto()  # one of torch's that does to each of a list what another does to one
    DRAW = enum.auto()  # one of torch's own draws into its first argument
    IN_PLACE = enum.auto()  # changes each element of its first argument
    COPY = enum.auto()  # copies its second argument into its first
    ELEMENTWISE = enum.auto()  # makes a tensor of each element of its first argument
    CALL = enum.auto()


class Kind(NamedTuple):
    """What there is to know about an operator.

    Attributes:
        way: what is done with it.
        composite: whether it is to be taken apart first; see `made_of_others`.
        mutable: whether it writes to an argument.
        overwrites: whether what it writes depends on nothing that was there.
        partial: whether it writes to some elements of its first argument; see `PARTIAL`.
        copies: whether it copies some elements; see `COPYING`.
        scales: whether it may ignore its first argument; see `SCALING`.
        pointwise: whether each element of what it makes depends on one of each argument.
        draws: whether it draws.
        keeps: whether it may keep the address of what it is given.
        joins: whether it lays tensors side by side; see `laid_by`.
        lists: whether it is one of torch's that writes to each of a list, its first argument.
        receives: whether what it writes are values of other processes.
        communicates: whether it has to do with others at all.
    """

    way: Way
    composite: bool
    mutable: bool
    overwrites: bool
    partial: bool
    copies: bool
    scales: bool
    pointwise: bool
    draws: bool
    keeps: bool
    joins: bool
    lists: bool
    receives: bool
    communicates: bool


@functools.cache
def single(func: Any) -> Any:
    """Find the operator that does to one tensor what a `_foreach_` one does to each of a list."""
    name, overload = func._schema.name.partition("::")[2], func._schema.overload_name or "default"
    if not name.startswith("_foreach_"):
        return None
    packet = getattr(_aten, name.removeprefix("_foreach_"), None)
    overload = {"List": "Tensor", "ScalarList": "Scalar"}.get(overload, overload)
    found = None if packet is None else getattr(packet, overload, None)
    # `pow.Scalar` takes a number to the power of a tensor.
    of_tensor = found is not None and str(found._schema.arguments[0].type) == "Tensor"
    return found if of_tensor else None


@functools.cache
def kind_of(func: Any) -> Kind:
    """Say what a recording does with an operator."""
    name, given = func._schema.name.partition("::")[2], receives(func)
    mutable = func._schema.is_mutable or given
    draws = torch.Tag.nondeterministic_seeded in func.tags
    ours = func.namespace == "fastinit"
    out = any(argument.is_out for argument in func._schema.arguments)
    overwrites = out or func in OVERWRITING or func in (fill_many_op, orthogonal_many_op) or ours
    keeps = func.namespace not in ("aten", "prim", "prims", "fastinit")
    lists = name.startswith("_foreach_") and mutable and not out
    way = Way.CALL
    if name in _RESIZING:
        way = Way.RESIZE
    elif func in ALLOCATING:
        way = Way.ALLOCATE
    elif func is reserve_key_op:
        way = Way.RESERVE
    elif func in WHOLE:
        way = Way.WHOLE
    elif func in TOGETHER:
        way = Way.TOGETHER
    elif func in WHOLE_MANY:
        way = Way.EACH
    elif (each := single(func)) and (lists or (not mutable and torch.Tag.pointwise in each.tags)):
        way = Way.FOREACH
    elif draws:
        way = Way.DRAW if mutable and func in OVERWRITING and func.namespace == "aten" else way
    elif func in METADATA_ONLY:
        way = Way.MAKE
    elif (func.is_view and func.namespace == "aten") or torch.Tag.inplace_view in func.tags:
        way = Way.PASS
    elif (
        mutable and not overwrites and func.namespace == "aten" and torch.Tag.pointwise in func.tags
    ):
        way = Way.IN_PLACE
    elif func is _aten.copy_.default:
        way = Way.COPY
    elif func is _aten.clone.default or (not mutable and in_place(func) is not None):
        way = Way.ELEMENTWISE
    torchs = func.namespace == "aten"
    pointwise = torch.Tag.pointwise in func.tags
    pointwise = pointwise or (torchs and name.removesuffix("_") in _POINTWISE)
    joins = torchs and name in LAYING
    composite = made_of_others(func)
    return Kind(
        way,
        composite,
        mutable,
        overwrites,
        torchs and name in PARTIAL,
        torchs and name in COPYING,
        torchs and name in SCALING,
        pointwise,
        draws,
        keeps,
        joins,
        lists,
        given,
        communicates=func.namespace in ("c10d", "_c10d_functional"),
    )
