"""What torch's own layers do to be initialised, which for layers of one kind is looked at once.

A model has hundreds of layers that differ in nothing but their memory. What `reset_parameters` of
the first of them has done is done to the others without a call of it, as long as all that it can
depend on is the same: the class, the numbers in the module, the layout of its tensors, and torch's
own functions.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, rnn

from fastinit._compiled import extension
from fastinit._patch.exchanges import Exchanges, Wanted
from fastinit._patch.scope import current, is_transformed
from fastinit._patch.stubs import code_calling
from fastinit._recording.graph import Op, Storage
from fastinit._recording.memory import is_real
from fastinit._recording.recorder import Recorder
from fastinit._tensors import PLAIN_TYPES

# Methods that write to their module's own tensors, and depend on nothing else.
_METHODS: list[Any] = [
    vars(kind).get(name)
    for kind, name in (
        (nn.Bilinear, "reset_parameters"),
        (conv._ConvNd, "reset_parameters"),
        (nn.Embedding, "reset_parameters"),
        (nn.EmbeddingBag, "reset_parameters"),
        (nn.GroupNorm, "reset_parameters"),
        (nn.LayerNorm, "reset_parameters"),
        (nn.Linear, "reset_parameters"),
        (nn.RMSNorm, "reset_parameters"),
        (batchnorm._NormBase, "reset_parameters"),
        (rnn.RNNBase, "reset_parameters"),
        (rnn.RNNCellBase, "reset_parameters"),
    )
]
# What they call, as torch made it: other libraries exchange it to draw nothing, say.
_CALLED = (
    "_calculate_correct_fan",
    "_calculate_fan_in_and_fan_out",
    "calculate_gain",
    "constant_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "uniform_",
    "zeros_",
)
_INIT: Any = vars(nn.init)
_called_now = operator.itemgetter(*(name for name in _CALLED if name in _INIT))
_AS_MADE = _called_now(_INIT)
_OF_TENSOR = vars(Tensor)


@functools.cache
def _names_read(method: FunctionType, kind: Any) -> tuple[str, ...]:
    """Name the attributes of a module that its method may read, itself or by way of others."""
    names: set[str] = set()
    waiting = [method.__code__]
    while waiting:
        new = set(waiting.pop().co_names) - names
        names |= new
        called = (getattr(getattr(kind, name, None), "__code__", None) for name in new)
        waiting += (code for code in called if code is not None)
    return tuple(sorted(names - _TABLES))


_TABLES = frozenset({"_buffers", "_modules", "_parameters"})  # which are looked at for themselves


class _Kind(NamedTuple):
    """A layer's kind, and its tensors in an order that layers of this kind share."""

    kind: Any
    tensors: list[Tensor]
    storages: list[Storage]


def _kind_of(recorder: Recorder, module: nn.Module, method: FunctionType) -> _Kind | None:
    """Say all that a method of a layer can depend on; None where that may be more."""
    held = vars(module)
    if module._modules:
        return None
    of_class: Any = type(module)
    kind: list[Any] = [method, of_class, recorder.thread.label]
    kind += map(held.get, _names_read(method, of_class))
    held_there = [*module._parameters.values(), *module._buffers.values()]
    tensors = [tensor for tensor in held_there if tensor is not None]
    layouts = [*map(extension.ordinary_layout, held_there)]
    if layouts.count(None) > len(held_there) - len(tensors):
        return None
    storages = [s for s in recorder.storages_of(tensors) if s is not None and not s.escaped]
    if len(storages) < len(tensors):
        return None
    if not PLAIN_TYPES.issuperset(map(type, tensors)) and not all(map(is_real, tensors)):
        return None
    names = (*module._parameters.keys(), None, *module._buffers.keys(), None)
    kind += (*names, *layouts)
    return _Kind(tuple(kind), tensors, storages)


def _is_seen_by_others() -> bool:
    """Whether something else than a recording may want to see what a layer does."""
    for k in range(torch._C._len_torch_function_stack()):
        if not getattr(torch._C._get_function_stack_at(k), "lets_repeat", False):
            return True
    return torch._C._len_torch_dispatch_stack() != 1 or is_transformed()


def _are_torchs() -> bool:
    """Whether the functions that these methods call are those that torch has made."""
    try:
        called = _called_now(_INIT)
    except KeyError:
        return False
    # These torch.Tensor has from C, unless somebody has put others there.
    return called == _AS_MADE and not (
        "fill_" in _OF_TENSOR
        or "normal_" in _OF_TENSOR
        or "uniform_" in _OF_TENSOR
        or "zero_" in _OF_TENSOR
    )


class _Step(NamedTuple):
    """A fill of one of a layer's tensors, or of a part of it."""

    place: int
    op: Op


def _steps(kind: _Kind, ops: list[Op]) -> list[_Step] | None:
    """Tell which tensors fills have been of; None if something else has been done."""
    places = {storage: k for k, storage in enumerate(kind.storages)}
    if len(places) < len(kind.storages):  # some share memory
        return None
    steps = []
    for op in ops:
        place = places.get(op.writes[0].storage) if len(op.writes) == 1 else None
        if place is None or op.fill is None or op.ran or op.reads:
            return None
        steps.append(_Step(place, op))
    return steps


def _call(recorder: Recorder, module: nn.Module, method: FunctionType) -> None:
    """Do what a method of a layer does."""
    thread = recorder.thread
    waits = recorder.waits and not (recorder.ended or thread.busy)
    kind = None
    if waits and not _is_seen_by_others() and _are_torchs():
        with torch._C.DisableTorchFunction():
            kind = _kind_of(recorder, module, method)
    if kind is None:
        method(module)
        return
    try:
        steps = recorder.repeated.get(kind.kind)
    except TypeError:  # something in it has no hash
        method(module)
        return
    if steps is None:
        begin = len(recorder.log)
        method(module)
        found = _steps(kind, recorder.log[begin:])
        if found is not None:
            recorder.repeated[kind.kind] = found
        return
    with recorder.lock, torch._C.DisableTorchFunction():
        torch.autograd.graph.increment_version([kind.tensors[place] for place, _ in steps])
        for place, op in steps:
            recorder.fill_as(op, kind.storages[place])


def _instead(method: FunctionType) -> CodeType:
    saved = FunctionType(method.__code__, method.__globals__, method.__name__, method.__defaults__)

    def dispatch(module: nn.Module) -> None:
        scope = current()
        recorder = None if scope is None else scope.owner
        # Classes of others may compute what torch's hold.
        if isinstance(recorder, Recorder) and type(module).__module__.startswith(
            "torch.nn.modules."
        ):
            _call(recorder, module, saved)
        else:
            saved(module)

    return code_calling(dispatch, saved.__code__, "self", "self")


def _wanted() -> Iterator[Wanted]:
    for method in _METHODS:
        if method is not None:
            yield Wanted(method, method.__module__, _instead)


EXCHANGES = Exchanges(_wanted)
