"""Which of its memory has values, and which it had before: what nobody wrote is never garbage."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import extension
from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._recording.graph import Ref, Storage
from fastinit._recording.memory import Memory, tensors_in
from fastinit._recording.storage_set import StorageSet

# Not a number in any of the types that NumPy has, and the same after arithmetic: whoever leaves
# something else there has written it. As integers its halves are 32763, which tables hardly hold.
_POISON = 0x7FFB7FFB
_WORDS = {2: torch.int16, 4: torch.int32}  # in which it is told, by their bytes
_ZERO = torch.zeros(1, dtype=torch.int8)
_MARK = torch.ones((), dtype=torch.bool)


def bytes_of(untyped: torch.UntypedStorage) -> Tensor:
    """Give all of a storage as bytes."""
    return Region((untyped.nbytes(),), (1,), 0, torch.uint8).on(untyped)


def _word_of(dtype: torch.dtype) -> int:
    """Give the bytes of the words in which poison is told: half a float might look like it."""
    return 2 if dtype.itemsize == 2 else 4


def _poison_of(size: int) -> Tensor:
    """Give so many bytes of poison."""
    return torch.full((-(-size // 4),), _POISON, dtype=torch.int32).view(torch.uint8)[:size]


def _changed(
    now: Tensor, before: Tensor, word: int, begin: int = 0, end: int | None = None
) -> list[tuple[int, int]]:
    """List where bytes are not what they were, in words of this size; the last may be shorter.

    Bytes before `begin`, and from `end` on, need not be looked at.
    """
    size = min(now.numel(), before.numel())
    first, kind = begin - begin % word, _WORDS[word]
    last = size if end is None else min(size, end - end % -word)
    whole = last - last % word
    differ = now[first:whole].view(kind) != before[first:whole].view(kind)
    spans = [(first + a, first + b) for a, b in _spans_of(differ.cpu(), word)]
    if whole < last and (spans or bool((now[whole:last] != before[whole:last]).any())):
        spans.append((whole, last))
    return spans


def _spans_of(marks: Tensor, size: int) -> Iterator[tuple[int, int]]:
    """List where words of this size are marked, in bytes."""
    edges = torch.diff(marks.to(torch.int8), prepend=_ZERO, append=_ZERO).nonzero().flatten()
    yield from ((size * begin, size * end) for begin, end in edges.view(-1, 2).tolist())


def all_marked(shape: Sequence[int]) -> Tensor:
    """Mark all elements of a shape; to be read only."""
    return _MARK.expand(shape)


def marks_of(ref: Ref) -> Tensor:
    """Mark the elements of a region that have values, in its shape."""
    region = ref.region
    if region.numel == 0 or ref.storage.has_values(region):
        return all_marked(region.size)
    return functools.reduce(torch.logical_and, ref.storage.marks(region))


def _marks_on(spans: Spans, memory: Tensor) -> Tensor:
    """Mark the bytes of memory that are in a set."""
    size = memory.numel()
    marks = torch.frombuffer(spans.marks(size), dtype=torch.bool)
    return marks[:size].to(memory.device)


def marked(refs: Iterable[Ref], shape: Sequence[int]) -> Tensor:
    """Mark the elements that a pointwise operator makes of elements with values alone."""
    marks = torch.ones(tuple(shape), dtype=torch.bool)
    for ref in refs:
        marks &= marks_of(ref)
    return marks


class Values(Memory):
    """Memory of which it is known what has values.

    Attributes:
        left: what still waits although all else has been undone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._inside = StorageSet()  # what was made since it began
        self._before: dict[Storage, tuple[torch.UntypedStorage, Tensor]] = {}
        # Generators as they were before they were drawn from, by address: torch gives operators
        # further objects for one.
        self._states: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._past_torch: set[Storage] = set()
        self.left: set[Storage] = set()

    def made(self, result: Any, given: Iterable[Tensor] = ()) -> Any:
        """Note that an operator has made memory: what it returns, but for what it was given."""
        old = {extension.storage_address(tensor) for tensor in given}
        for tensor in tensors_in((result,)):
            if extension.storage_address(tensor) not in old:
                self._inside.add(tensor)
        return result

    def is_inside(self, tensor: Tensor) -> bool:
        """Whether a tensor's memory was made since this began."""
        return tensor in self._inside

    # ---- what there was before -------------------------------------------------------------------

    def remember(self, storage: Storage) -> None:
        """Keep what memory of before the recording holds, which is about to be written."""
        untyped = storage.alive()
        if untyped is not None and storage not in self._before:
            guarded = storage.guarded
            self.unguard(storage)
            self._before[storage] = untyped, bytes_of(untyped).clone()
            if guarded:
                self.guard(storage)

    def remember_state(self, generator: torch.Generator | None) -> None:
        """Keep the state of a generator that is about to be drawn from."""
        if generator is None:
            return
        address: int = generator._cdata  # type: ignore[attr-defined]
        if address not in self._states:
            self._states[address] = generator, generator.get_state()

    def before(self, storage: Storage) -> Tensor | None:
        """Give the bytes that a storage held before it was written, if it was."""
        found = self._before.get(storage)
        return None if found is None else found[1]

    def restore(self) -> None:
        """Undo what was written, and forget what waits, but for memory that was made meanwhile.

        For that who has called `leave` when he has let go of what he had of it.
        """
        self.left = {s for s in self.storages() if s.pending and not s.outside and s.is_alive}
        self.open_all(self.left)
        for untyped, before in self._before.values():
            size = before.numel()
            if untyped.nbytes() != size and untyped.resizable():
                untyped.resize_(size)
            size = min(size, untyped.nbytes())
            bytes_of(untyped)[:size].copy_(before[:size])
        for generator, state in self._states.values():
            generator.set_state(state)

    # ---- what has been written -------------------------------------------------------------------

    def clear_watchpoint(self, storage: Storage) -> bool:
        reached = super().clear_watchpoint(storage)
        if reached:  # by who has filled it, as operators do with what they allocate
            storage.written.add(0, storage.nbytes)
        return reached

    def has_values(self, ref: Ref) -> bool:
        """Whether every element of a region has a value, or will have one."""
        if ref.storage.has_values(ref.region):
            return True
        if self.clear_watchpoint(ref.storage):
            return True
        if ref.storage.poison is None:
            return False
        self._see(ref.storage, ref.region)
        return ref.storage.has_values(ref.region)

    def _watch(self, storage: Storage, dtype: torch.dtype) -> None:
        """See to it that what is written can be told, where no operator tells."""
        untyped = storage.alive()
        if untyped is None or storage.poison is not None:
            return
        if storage.outside:
            self.remember(storage)
            storage.written.add(0, untyped.nbytes())
            return
        if not storage.is_full:
            self._poison(storage, untyped, dtype)

    @staticmethod
    def _poison(storage: Storage, untyped: torch.UntypedStorage, dtype: torch.dtype) -> None:
        now = bytes_of(untyped)
        with torch.inference_mode(False):  # which is written to later, wherever that is
            poison = _poison_of(now.numel()).to(now.device)
            if not storage.written.is_empty:
                poison = torch.where(_marks_on(storage.written, now), now, poison)
        now.copy_(poison)
        storage.poison, storage.word = poison, _word_of(dtype)

    def unwrite(self, storage: Storage, region: Region, marks: Tensor | None = None) -> None:
        """Note that an operator has written to a region what depends on no values.

        Args:
            storage: of the region.
            region: the region.
            marks: which of its elements depend on values all the same.
        """
        if region.numel == 0:
            return
        self._see(storage, region)
        self._write_down(storage)
        if marks is None or marks.shape != region.size or region.overlaps_itself:
            storage.written.remove_region(region)
        else:
            for some in storage.marks(region, removes=True):
                some.copy_(marks)
        self._look_from_now(storage, region)

    def write_some(self, ref: Ref, mark: Callable[[Tensor], object], *, removes: bool) -> None:
        """Note that an operator has written to some elements of a region.

        Args:
            ref: the region.
            mark: does to marks of those that have values what the operator has done to them.
            removes: whether it may have written what depends on no values.
        """
        storage, region = ref.storage, ref.region
        full = storage.known or storage.written.has(*region.span)
        if region.numel == 0 or (full and not removes):
            return
        self._write_down(storage)
        for some in storage.marks(region, removes=removes):
            mark(some)
        if removes:
            self._look_from_now(storage, region)

    @staticmethod
    def _write_down(storage: Storage) -> None:
        """Write down that memory has values which has had them all along."""
        untyped = storage.alive() if storage.known else None
        if untyped is not None:
            storage.written.add(0, untyped.nbytes())
        storage.known = False

    @staticmethod
    def _look_from_now(storage: Storage, region: Region) -> None:
        """Tell what is written to a region, where no operator tells, from what is there now."""
        untyped, poison = storage.alive(), storage.poison
        if untyped is None or poison is None:
            return
        begin, end = region.span
        begin, end = begin - begin % storage.word, min(poison.numel(), end - end % -storage.word)
        poison[begin:end].copy_(bytes_of(untyped)[begin:end])

    def see_past_torch(self, storage: Storage) -> None:
        """Have a change that no operator makes count as a write of all that is remembered.

        Where it leaves what there was, nothing tells whether it has been written.
        """
        before = self.before(storage)
        storage.poison = None if before is None else before.clone()
        self._past_torch.add(storage)

    def see_written(self) -> None:
        """Count what has been written where no operator told."""
        for storage in self.storages():
            if storage.watched is not None:
                self.clear_watchpoint(storage)
            if storage.poison is None:
                continue
            told = storage.written.copy() if storage in self._past_torch else None
            changed = self._see(storage)
            if told is not None and not all(told.covers(*span) for span in changed):
                storage.written.add(0, storage.nbytes)

    @staticmethod
    def _see(storage: Storage, region: Region | None = None) -> list[tuple[int, int]]:
        """Count what is not poison any more, of a region or of all, and list where it is."""
        untyped, poison = storage.alive(), storage.poison
        if untyped is None or poison is None:
            return []
        span = () if region is None else region.span
        changed = _changed(bytes_of(untyped), poison, storage.word, *span)
        storage.written.add_all(changed)
        return changed
