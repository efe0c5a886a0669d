"""Eager runs of model programs whose draws have the keys that names say.

A run is written down as its operators: which elements each reads and writes. From that, what is
computed, what each draw is for, and what depends on it are plain set operations. It knows nothing
of how fastinit records or waits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastinit import Key
from fastinit._fills.operators import DispatchMode
from support.model_unwritten import Unwritten, in_order

KEY = Key(2024)
Cells = frozenset[tuple[int, int]]


_aten = torch.ops.aten
_OVERWRITING = {
    _aten.fill_.Scalar,
    _aten.fill_.Tensor,
    _aten.zero_.default,
    _aten.copy_.default,
    _aten._foreach_copy_.default,
    _aten._foreach_zero_.default,
    _aten.random_.default,
    _aten.random_.to,
    getattr(_aten.random_, "from"),
    _aten.bernoulli_.float,
    _aten.bernoulli_.Tensor,
    _aten.exponential_.default,
    _aten.geometric_.default,
}
_ELEMENT_BY_ELEMENT = {
    _aten._to_copy.default,
    _aten.complex.default,
    _aten.copy_.default,
    _aten.masked_fill.Tensor,
    _aten.masked_fill_.Scalar,
    _aten.masked_fill_.Tensor,
    _aten.tril.default,
    _aten.tril_.default,
    _aten.triu.default,
    _aten.triu_.default,
}
_FLATTENING = {_aten._cudnn_rnn_flatten_weight.default}
_EMPTY = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty"} | {
    "new_empty_strided"
}
_METADATA = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
_READERS = {
    Tensor.numpy,
    Tensor.__array__,
    Tensor.__dlpack__,
    Tensor.untyped_storage,
    Tensor.data_ptr,
    Tensor.tolist,
    Tensor.__repr__,
    Tensor.__format__,
}
_KEEP = {Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.untyped_storage}


def cells(tensor: Tensor) -> Cells:
    """List the elements of a tensor: their storage, and where they start in it."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return frozenset()
    return frozenset(in_order(tensor))


@dataclass
class Event:
    """One operator: the elements that it reads and writes.

    `each` has what each that it writes is made of, where that is not all that it reads.
    """

    reads: Cells
    writes: Cells
    overwrites: bool = False
    draw: int | None = None
    known: bool = True  # without a draw, or one whose values do not depend on its key
    root: bool = False
    each: dict[tuple[int, int], Cells] | None = None

    def made_of(self, cells: set[tuple[int, int]]) -> Cells:
        """List what it reads of which some of these are made."""
        if self.each is None:
            return self.reads
        return frozenset().union(*(self.each[cell] for cell in self.writes & cells))

    def reach(self, reached: set[tuple[int, int]]) -> Cells:
        """List what it writes that is made of some of these."""
        if self.each is None or not self.reads & reached:
            return self.writes if self.reads & reached else frozenset()
        return frozenset(cell for cell, made_of in self.each.items() if made_of & reached)


@dataclass
class Log:
    """A run, as its operators."""

    keys: list[int | None]
    events: list[Event] = field(default_factory=list)
    draws: int = 0
    escaped: set[int] = field(default_factory=set)
    alive: list[Any] = field(default_factory=list)
    unwritten: Unwritten = field(default_factory=Unwritten)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def next_key(self) -> int | None:
        self.draws += 1
        return self.keys[self.draws - 1] if self.draws <= len(self.keys) else None


class Operators(DispatchMode):
    """Writes operators down, and gives draws their keys."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunction():
            return self._call(func, args, kwargs)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [v for v in torch.utils._pytree.tree_leaves((args, kwargs)) if _is_tensor(v)]
        written: list[Tensor] = []
        names = func._schema.arguments
        for place, argument in enumerate(names):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                written += value if isinstance(value, (list, tuple)) else [value]
        written = [value for value in written if value is not None]
        ours = func.namespace == "fastinit"
        draws = ours or torch.Tag.nondeterministic_seeded in func.tags
        draws = draws and kwargs.get("generator") is None
        draw, known = None, True
        before = {value.untyped_storage()._cdata for value in given}
        pure = ours or func in _OVERWRITING or any(a.is_out for a in names if a.alias_info)
        # What is copied to itself is read.
        read = [
            v
            for v in given
            if not (pure and any(v is w for w in written)) or sum(v is o for o in given) > 1
        ]
        flattened = [in_order(v) for v in given] if func in _FLATTENING else []
        lost = self.log.unwritten.read(read)
        reads = frozenset().union(*(cells(v) for v in read))
        if draws:
            key, draw = self.log.next_key(), self.log.draws - 1
            known = _is_constant(func, args)
            result = _keyed(func, args, kwargs, key, ours)
        else:
            result = func(*args, **kwargs)
            if (
                func._schema.name.startswith("aten::_foreach_")
                and written
                and not written[0].is_cuda
            ):
                # Which its operators do, unless there is a mode.
                torch.autograd.graph.increment_version(written)
        made = [v for v in torch.utils._pytree.tree_leaves(result) if _is_tensor(v)]
        self.log.alive += [v.untyped_storage() for v in (*given, *made)]
        fresh = [v for v in made if v.untyped_storage()._cdata not in before]
        if func._schema.name.partition("::")[2] in _EMPTY:
            self.log.unwritten.allocated(fresh)
            fresh, reads, lost = [], frozenset(), []
        if func._schema.name.partition("::")[2] in _METADATA:
            reads, lost = frozenset(), []
        if func._schema.name == "aten::set_":  # other memory, whose values stay
            written, fresh, lost = [], [], []
        if torch.Tag.inplace_view in func.tags and "resize" not in func._schema.name:
            written, reads, lost = [], frozenset(), []
        writes = frozenset().union(*(cells(v) for v in (*written, *fresh)))
        self.log.unwritten.made(func, lost, [*written, *fresh], result)
        ends_here = not made and not written
        if func._schema.name.endswith("_local_scalar_dense"):
            ends_here = True
        if func._schema.name.startswith("aten::_foreach_") and written:
            for k in range(len(args[0])):
                each = [v[k] for v in args if isinstance(v, (list, tuple)) and _is_tensor(v[k])]
                self.log.add(_of_one(each, pure))
        elif writes or ends_here:
            whole = pure or (not written and draw is None)
            if flattened:  # cuDNN's weights, which lie elsewhere now
                for weight, before in zip(given, flattened, strict=True):
                    each = dict(zip(in_order(weight), map(_only, before), strict=True))
                    self.log.add(Event(frozenset(before), frozenset(each), True, each=each))
                return result
            if func in (_aten.cat.default, _aten.stack.default):
                for each in _joined(func, args, fresh[0]):
                    self.log.add(
                        Event(frozenset().union(*each.values()), frozenset(each), True, each=each)
                    )
                return result
            each = None if draws else _each(func, args, written or fresh)
            self.log.add(Event(reads, writes, whole or bool(fresh), draw, known, ends_here, each))
        return result


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def _of_one(tensors: list[Tensor], pure: bool) -> Event:
    """Tell what is done to each element of the first of some tensors of one shape."""
    places = map(in_order, (tensors[0], *(tensors[1:] if pure else tensors)))
    made_of = {cell: frozenset(of) for cell, *of in zip(*places, strict=True)}
    return Event(frozenset().union(*made_of.values()), frozenset(made_of), pure, each=made_of)


def _only(cell: tuple[int, int]) -> Cells:
    return frozenset({cell})


def _joined(func: Any, args: Any, made: Tensor) -> list[dict[tuple[int, int], Cells]]:
    """Tell of each tensor that is laid beside others what is made of its elements."""
    tensors = args[0]
    numbers = [torch.full(t.shape, k, device="cpu") for k, t in enumerate(tensors)]
    which = func(numbers, *args[1:]).flatten().tolist()
    left = [iter(in_order(t)) for t in tensors]
    found: list[dict[tuple[int, int], Cells]] = [{} for _ in tensors]
    for cell, k in zip(in_order(made), which, strict=True):
        found[k][cell] = frozenset({next(left[k])})
    return found


def _each(func: Any, args: Any, written: list[Tensor]) -> dict[tuple[int, int], Cells] | None:
    """Tell what each element that is written is made of; None for all that is read."""
    if len(written) != 1:
        return None
    to = in_order(written[0])
    if torch.Tag.pointwise in func.tags or func in _ELEMENT_BY_ELEMENT:
        given = args[1:] if func is _aten.copy_.default else args
        tensors = [value.expand(written[0].shape) for value in given if _is_tensor(value)]
        return {c: frozenset(of) for c, *of in zip(to, *map(in_order, tensors), strict=True)}
    return None


def _is_constant(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a draw gives the same whatever its key."""
    name = func._schema.name.partition("::")[2]
    numbers = [*args[1:]]
    if name == "uniform_":
        return len(numbers) == 2 and numbers[0] == numbers[1]
    if name in ("normal_", "trunc_normal_"):
        return len(numbers) >= 2 and numbers[1] == 0
    if name == "random_":
        return len(numbers) == 2 and numbers[1] == numbers[0] + 1
    return (
        name == "bernoulli_" and len(numbers) == 1 and bool(torch.as_tensor(numbers[0] == 1).all())
    )


def default_generator(device: str | torch.device) -> torch.Generator:
    """Give the generator that torch draws from on a device."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.default_generator
    found: torch.Generator = torch.cuda.default_generators[device.index or 0]
    return found


def _keyed(func: Any, args: Any, kwargs: dict[str, Any], key: int | None, ours: bool) -> Any:
    word = int(KEY.fold_in("oracle: no key yet")) if key is None else key
    if ours:
        signed = word - 2**64 if word >= 2**63 else word
        return func(*args, **{**kwargs, "key": signed})
    device = kwargs.get("device") or next((v.device for v in args if _is_tensor(v)), "cpu")
    generator = default_generator(device)
    before = generator.get_state()
    try:
        generator.manual_seed(word)
        return func(*args, **kwargs)
    finally:
        generator.set_state(before)


class Functions(TorchFunctionMode):
    """Sees what reads memory without an operator."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _READERS:
            with torch._C.DisableTorchFunction():
                found = cells(args[0])
                self.log.add(Event(found, frozenset(), root=True))
                self.log.alive.append(Tensor.untyped_storage(args[0]))
                if func in _KEEP:
                    self.log.escaped |= {storage for storage, _ in found}
        return func(*args, **(kwargs or {}))


def _computed(log: Log, final: Cells, looked_at: bool) -> list[Event]:
    """List the operators whose results are used before they are overwritten, or, too, looked at."""
    live = set(final)
    found = []
    for event in reversed(log.events):
        if event.writes & live or (event.root and looked_at):
            found.append(event)
            reads = event.made_of(live)
            if event.overwrites:
                live -= event.writes
            live |= reads
    return found[::-1]


def _name(
    events: list[Event], names: dict[tuple[int, int], str], first: dict[int, str], final: Cells
) -> Any:
    """Name the draw that is first of these by where it is written or else what it reaches first.

    What nobody holds any of and goes nowhere has the first name of its storage.
    """
    beside = None
    reached: set[tuple[int, int]] = set()
    for event in events:
        writes = event.writes if event is events[0] else event.reach(reached)
        if writes:
            reached |= writes
            held = {names[cell] for cell in writes if cell in names}
            if held:
                return next(name for name in names.values() if name in held)
            others = sorted(writes) if event.each is None and not writes & final else ()
            storages = [first[s] for s, _ in others if s in first]
            beside = beside or next(iter(storages), None)
        elif event.overwrites:
            reached -= event.writes
    return beside


def keys_by_name(
    log: Log, named: list[tuple[str, Tensor]], there: list[tuple[str, Tensor]], final: Cells
) -> list[int | None]:
    """Give each draw of a run the key that the names say; None where they say nothing.

    Args:
        log: the run.
        named: what has a name, or had one.
        there: what has one in the end.
        final: those of all that there is in the end.
    """
    names: dict[tuple[int, int], str] = {}
    first: dict[int, str] = {}
    for name, tensor in named:
        for cell in cells(tensor):
            names.setdefault(cell, name)
            first.setdefault(cell[0], name)
    count: dict[str, int] = {}
    keys: list[int | None] = [None] * log.draws
    own = {name: cells(tensor) for name, tensor in there}
    held = frozenset().union(*own.values())
    events = _computed(log, final, True)
    found = [
        (event.draw, _name(events[k:], names, first, final))
        for k, event in enumerate(events)
        if event.draw is not None
    ]
    last = {
        of: {event.draw for event in _computed(log, of, False)}
        for of in {held, final, *(own.get(name, held) for _, name in found)}
    }

    def late(draw: int, name: Any) -> tuple[bool, ...]:
        """First what it is named by, then what else has a name, is held, and was looked at."""
        return tuple(draw not in last[of] for of in (own.get(name, held), held, final))

    for draw, name in sorted(found, key=lambda one: late(*one)):
        if name is not None:
            keys[draw] = int(KEY.fold_in(name).fold_in(count.get(name, 0)))
            count[name] = count.get(name, 0) + 1
    return keys


@dataclass
class Tainted:
    """What depends on draws without a key: elements, and whether somebody has read such values."""

    cells: set[tuple[int, int]] = field(default_factory=set)
    read: bool = False


def tainted(log: Log, keys: list[int | None] | None) -> Tainted:
    """Find what depends on draws without a key, or, if `keys` is None, on any key."""
    found = Tainted()
    for event in log.events:
        unsaid = event.draw is not None and not event.known
        if keys is not None and event.draw is not None:
            unsaid = keys[event.draw] is None
        if unsaid or event.reads & found.cells:
            found.cells |= event.writes
            found.read |= event.root
        elif event.overwrites:
            found.cells -= event.writes
    return found
