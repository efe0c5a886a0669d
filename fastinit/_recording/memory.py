"""Memory on which things wait to be done: real, guarded, and computed for whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import extension
from fastinit._fills.fill import BYTES_PER_STEP, Fill, run_fills, steps
from fastinit._recording.graph import Op, Storage
from fastinit._recording.huge_pages import HugePages
from fastinit._tensors import PLAIN_TYPES, is_fake, is_plain

_LARGE = 1 << 20  # bytes, from which memory is large enough to be asked for again
_YOUNG = 16


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """List the tensors among arguments or results, inside lists, tuples and dicts, too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def is_real(tensor: Any) -> bool:
    """Whether this is an ordinary tensor with memory of its own, on a device that is handled."""
    if extension.handled_dtype(tensor) is None or tensor.is_meta:
        return False
    kind = type(tensor)
    return kind in PLAIN_TYPES or (is_plain(kind) and not is_fake(tensor))


class Memory:
    """The storages that something may wait for.

    What waits is guarded: whoever reaches the memory past torch's dispatcher gets an error instead
    of what is not there yet. Memory for which nothing waits yet is watched; see `set_watchpoint`.

    Attributes:
        lock: held while something is done to it; threads may share it.
        ended: whether nothing waits any more.
        parts: what sends operators and draws here, each by a method `end` not any more.
        huge_pages: what asks for them.
        space: the address space of tensors that nobody touches, mostly.
    """

    def __init__(self) -> None:
        self._storages: dict[int, Storage] = {}  # by address
        self._large: list[Storage] = []
        self._many = _YOUNG  # how many of these there have to be for all to be looked at
        self._accepted: set[Any] = set()
        self.ended = False
        self.parts: list[Any] = []
        self.lock = threading.RLock()
        self.huge_pages = HugePages()
        self.space = extension.AddressSpace()

    def storage_of(self, tensor: Tensor) -> Storage | None:
        """Find the storage of a tensor; None if it is not among them."""
        return self._storages.get(extension.storage_address(tensor))

    def storages_of(self, tensors: Iterable[Tensor]) -> Iterator[Storage | None]:
        """Find the storages of several tensors, as `storage_of` does, each when it is asked for."""
        return map(self._storages.get, map(extension.storage_address, tensors))

    def register(self, tensor: Tensor, *, known: bool, lasts: bool = False) -> Storage:
        """Make a tensor's storage one of them.

        Args:
            tensor: the tensor.
            known: whether it has values.
            lasts: whether somebody holds it until the end.
        """
        storage = Storage(tensor, known=known)
        self._storages[storage.address] = storage
        if not lasts and storage.nbytes >= _LARGE:
            self._forget_dead()
            self._large.append(storage)
        return storage

    def _forget_dead(self) -> None:
        """Let go of what is left of large memory that nobody has any more.

        It is little, but lies where the memory was, so that the next would not fit there. What goes
        is mostly young, so the youngest are looked at, and all whenever there are twice as many.
        """
        begin = 0 if len(self._large) >= self._many else max(0, len(self._large) - _YOUNG)
        young = self._large[begin:]
        for storage in young:
            if not storage.is_alive:
                self._storages.pop(storage.address, None)  # a batch has forgotten what was read
                self.huge_pages.touched(storage.address, storage.alive)
                storage.pending.clear()
                storage.forget()
        self._large[begin:] = [storage for storage in young if storage.is_alive]
        if begin == 0:
            self._many = 2 * len(self._large) + _YOUNG

    def storages(self) -> list[Storage]:
        """List the storages that have been met."""
        return list(self._storages.values())

    def open_all(self, but: Collection[Storage] = ()) -> None:
        """Let everybody at all memory again but this; what still waits is not done any more."""
        self.ended = True
        while self.parts:  # of threads that outlive it
            self.parts.pop().end()
        self.huge_pages.end()
        for storage in list(self._storages.values()):
            if storage in but:
                continue
            storage.pending.clear()
            storage.poison = None  # histories keep what has been done, not what memory held
            if (storage.guarded or storage.watched is not None) and storage.is_alive:
                self.unguard(storage)

    def let_go(self) -> None:
        """Let the addresses go when all is done; who keeps what has been done has them no more."""
        for storage in self._storages.values():
            storage.forget()
        self._storages.clear()

    def close(
        self,
        tensor: Tensor,
        *,
        lasts: bool = False,
        stands_in: bool = False,
        watched: bool = False,
    ) -> Storage | None:
        """Guard memory that has just been allocated, until it has been written and read.

        Args:
            tensor: the tensor.
            lasts: whether somebody holds it until the end, and mostly nothing touches it.
            stands_in: whether it stands for memory that may be on another device.
            watched: whether to watch it as long as nothing waits for it, if that can be done.
        """
        if not is_real(tensor) or tensor.numel() == 0:
            return None
        storage = self.register(tensor, known=False, lasts=lasts)
        storage.stands_in = stands_in
        if not lasts and storage.nbytes >= _LARGE:
            self.huge_pages.ask(tensor.untyped_storage())
        if not (watched and self.set_watchpoint(storage)):
            self.guard(storage)
        return storage

    def set_watchpoint(self, storage: Storage) -> bool:
        """See to it that it can be told whether memory has been reached; say whether it can.

        Of memory that an operator allocates nobody knows what for. Operators that torch makes of
        others in C++ allocate some, too, and then write it through a pointer, which is no harm as
        long as nothing waits for it. Nor can these be told from those that have it filled by other
        operators, as `dropout` does, whose fills are to wait. So a fill waits only if nobody has
        had a pointer to write with before, who might have written what it would overwrite later.
        """
        storage.watched = extension.watch_storage(storage.address)
        return storage.watched is not None

    def clear_watchpoint(self, storage: Storage) -> bool:
        """Do not watch memory any more; say whether it has been reached."""
        watch, storage.watched = storage.watched, None
        if watch is None or not extension.unwatch_storage(watch):
            return False
        storage.escaped = True
        return True

    def guard(self, storage: Storage, *message: str) -> None:
        """Make reaching the memory past the dispatcher an error, which may say something else."""
        if storage.watched is not None:
            self.clear_watchpoint(storage)
        storage.guarded = True
        extension.guard_storage(storage.address, True, *message)

    def unguard(self, storage: Storage) -> None:
        """Let everybody at the memory again."""
        if storage.watched is not None:
            self.clear_watchpoint(storage)
        if storage.guarded:
            storage.guarded = False
            extension.guard_storage(storage.address, False)
        self.huge_pages.touched(storage.address, storage.alive)

    def accept(self, func: Any, dtype: torch.dtype, fill: Fill) -> None:
        """Have an operator say now what it would complain about; nothing is drawn on meta."""
        call = (fill.distribution, fill.args, dtype)
        if call not in self._accepted or fill.generator is not None:
            example = torch.empty(0, dtype=dtype, device="meta")
            func(example, *fill.args, key=fill.key, generator=fill.generator)
            self._accepted.add(call)

    def wait(self, op: Op, storage: Storage) -> None:
        """Let something wait that is to be done to a storage."""
        storage.pending.append(op)
        if not storage.guarded:
            self.guard(storage)

    def run(self, ops: Sequence[Op], written: Callable[[int], object] | None = None) -> None:
        """Do what waited, in this order; fills that follow each other all at once.

        Whatever stops it half-way, memory that is not as it should be stays guarded.

        Args:
            ops: what to do; each writes to one storage, and reads nothing else.
            written: told the number of bytes after each launch of fills.
        """
        refs = [op.writes[0] for op in ops]
        tensors = [ref.storage.tensor(ref.region) for ref in refs]
        try:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                self._run(ops, tensors, written)
        except BaseException:
            for ref, tensor in zip(refs, tensors, strict=True):
                if tensor is not None:
                    self.guard(ref.storage)
            raise

    def _run(
        self,
        ops: Sequence[Op],
        tensors: Sequence[Tensor | None],
        written: Callable[[int], object] | None,
    ) -> None:
        fills: list[tuple[Tensor, Fill]] = []
        of_fills: list[Storage] = []
        waiting: set[Storage] = set()
        for op, tensor in zip(ops, tensors, strict=True):
            op.ran = True
            if tensor is None:
                continue
            storage = op.writes[0].storage
            if op.fill is not None:
                fills.append((tensor, op.fill if op.key is None else op.fill.under(op.key)))
                of_fills.append(storage)
                waiting.add(storage)
                continue
            if storage in waiting:
                self._launch(fills, of_fills, written)
                fills, of_fills, waiting = [], [], set()
            self.unguard(storage)
            assert op.run is not None
            op.run(tensor, op.key)
        self._launch(fills, of_fills, written)

    def _launch(
        self,
        fills: Sequence[tuple[Tensor, Fill]],
        storages: Sequence[Storage],
        written: Callable[[int], object] | None,
    ) -> None:
        begin = 0
        pages = self.huge_pages
        in_steps = written is not None or pages.is_timed

        def limit() -> int:
            return min(pages.trusted, BYTES_PER_STEP) if pages.is_timed else BYTES_PER_STEP

        for step in steps(fills, limit) if in_steps else [fills]:
            for storage in storages[begin : begin + len(step)]:
                self.unguard(storage)
            begin += len(step)
            run_fills(step)
            if written is not None:
                written(sum(tensor.nbytes for tensor, _ in step))
