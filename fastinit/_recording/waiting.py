"""What initialisers do to memory that can wait until it is known what the memory is for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from fastinit._fills.fill import Fill
from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._recording.copies import copied, in_place, same_layout, waiting_in
from fastinit._recording.graph import Op, Ref, Storage, needed_of
from fastinit._recording.memory import is_real, tensors_in
from fastinit._recording.naming import UNNAMED, Keys, Names
from fastinit._recording.seeded import seeded
from fastinit._recording.values import Values
from fastinit.key import NOTHING, Key, reserve_word

_MANY = 64  # things that wait, from which on it is not worth a look which of them are needed


def spans_of(region: Region) -> Spans:
    """Give the bytes of a region."""
    spans = Spans()
    spans.add_region(region)
    return spans


def has_tensor(values: Any) -> bool:
    """Whether there is a tensor among arguments."""
    return next(tensors_in(values), None) is not None


def name_of(func: Any) -> str:
    """Name an operator."""
    name: str = func._schema.name
    return name.partition("::")[2]


def _source(tensor: Tensor, ref: Ref, generator: Generator | None) -> torch.device:
    """Say of which device a draw's generator must be: of any where memory only stands in."""
    if generator is not None and ref.storage.stands_in:
        return generator.device
    return tensor.device


class OfThread(threading.local):
    """What each thread of a recording has for itself."""

    def __init__(self) -> None:
        self.number: tuple[int, ...] = ()
        self.draws = 0
        self.started = 0  # others
        self.label = ""
        self.busy = 0  # with what the recording itself does


class _Busy:
    """A thread holds a recording, and what it does is none of the recording's business."""

    __slots__ = ("_lock", "_thread")

    def __init__(self, lock: threading.RLock, thread: OfThread) -> None:
        self._lock = lock
        self._thread = thread

    def __enter__(self) -> None:
        self._lock.acquire()
        self._thread.busy += 1

    def __exit__(self, *error: object) -> None:
        self._thread.busy -= 1
        self._lock.release()


class Waiting(Values):
    """Memory for which fills wait, and what is done to it after them.

    Args:
        key: the key that draws derive theirs from.
        table: keys of draws by their numbers, from an earlier run of the same initialisers.
        waits: whether anything waits; otherwise all is done at once, for who reaches memory in a
            way that the dispatcher does not see.

    Attributes:
        names: of memory that had one when the recording began.
        log: what was done, in order.
        order: draws, by their numbers, in the order in which they were called.
        thread: of the thread that asks.
        guessed: the keys of draws that could not wait.
    """

    def __init__(self, key: Key, table: Mapping[Any, int] = NOTHING, *, waits: bool = True) -> None:
        super().__init__()
        self.waits = waits
        self.key = key
        self.names = Names()
        self.log: list[Op] = []
        self.order: dict[Any, int] = {}
        self.thread = OfThread()
        self._busy = _Busy(self.lock, self.thread)
        self._table = table
        self.runs_again = len(table) > 0
        self._guesses = Keys(key)
        self.guessed: dict[Any, int] = {}

    def new_thread(self) -> tuple[int, ...]:
        """Number a thread that is started by this one, whatever others do meanwhile."""
        self.thread.started += 1
        return (*self.thread.number, self.thread.started)

    def busy(self) -> _Busy:
        """Have operators run as if there were no recording, on this thread."""
        return self._busy

    def _log(self, op: Op) -> None:
        op.position = len(self.log)
        self.log.append(op)

    # ---- draws -----------------------------------------------------------------------------------

    def _next_draw(self) -> Any:
        """Number a draw, those of each thread for themselves: threads take turns as they like."""
        thread = self.thread
        thread.draws += 1
        draw = thread.number, thread.draws
        self.order[draw] = len(self.order)
        return draw

    def _guess(self, draw: Any, refs: Sequence[Ref]) -> int:
        """Give the key of a draw that cannot wait for its name; the same for all copies of it."""
        key = self._table.get(draw) or self.guessed.get(draw)
        if key is None:
            names = (self.names.of(ref) for ref in refs)
            key = self._guesses.next(next(filter(None, names), UNNAMED))
            self.guessed[draw] = key
        return key

    # ---- who cannot wait -------------------------------------------------------------------------

    def compute(self, storage: Storage) -> None:
        """Do what waits for a storage."""
        if storage.pending:
            ops = needed_of(storage)
            for op in ops:
                if op.draw is not None and op.key is None:
                    op.key = self._guess(op.draw, op.writes)
            if storage.outside:
                self.remember(storage)
            self.run(ops)
            storage.pending.clear()
        if storage.is_alive:
            self.unguard(storage)

    def _need(self, ref: Ref) -> None:
        """Compute what is in a region."""
        storage = ref.storage
        pending = storage.pending
        if pending and len(pending) <= _MANY:
            spans = spans_of(ref.region)
            if not any(spans.meets_region(op.writes[0].region) for op in pending):
                untyped = storage.alive()
                if untyped is not None:
                    self.unguard(storage)
                return
        self.compute(storage)

    def _overwrite(self, ref: Ref) -> list[Op]:
        """Forget what waits for a region that is about to be overwritten, and list it.

        Somebody may catch the error if it is not overwritten after all: `_remind` is for that.
        """
        storage = ref.storage
        if not storage.pending:
            self.unguard(storage)
            return []
        spans = spans_of(ref.region)
        kept: list[Op] = []
        forgotten: list[Op] = []
        for op in storage.pending:
            covered = spans.covers_region(op.writes[0].region)
            (forgotten if covered else kept).append(op)
        if any(spans.meets_region(op.writes[0].region) for op in kept):
            forgotten = []  # it would be out of order later
        else:
            storage.pending = kept
        self._need(ref)
        return forgotten

    def _remind(self, ref: Ref, forgotten: Sequence[Op]) -> None:
        """Let wait again what was forgotten for a region that has not been overwritten."""
        for op in forgotten:
            self.wait(op, ref.storage)

    # ---- what can --------------------------------------------------------------------------------

    def _open_to_wait(self, tensor: Any) -> Ref | None:
        """Describe a tensor if what is done to it can wait."""
        if not self.waits or not is_real(tensor) or tensor.is_conj() or tensor.is_neg():
            return None
        region = Region.of(tensor)
        if region.numel == 0 or region.overlaps_itself:
            return None
        storage = self.storage_of(tensor)
        if storage is None:
            storage = self.register(tensor, known=True)
            storage.outside = not self.is_inside(tensor)
        if storage.watched is not None:
            self.clear_watchpoint(storage)
        return None if storage.escaped else Ref(storage, region)

    def _wait(self, op: Op, draws: bool) -> None:
        ref = op.writes[0]
        storage = ref.storage
        self._log(op)
        if op.overwrites:
            storage.write(ref.region)
        if draws:
            storage.drawn = True
        self.wait(op, storage)

    def _fill(self, func: Any, tensor: Tensor, fill: Fill, label: str = "") -> bool:
        """Let a fill wait, under this label if one is given; say whether it could."""
        ref = self._open_to_wait(tensor)
        if ref is None:
            return False
        late = fill.draws and fill.key is None and fill.generator is None
        if fill.draws:
            self.accept(func, ref.region.dtype, fill)
            if not late:
                fill = fill.keyed(_source(tensor, ref, fill.generator))
        if func.namespace != "aten" and not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)
        self._wait(
            Op(
                label or self.thread.label or fill.distribution,
                (),
                (ref,),
                numbers=fill.args,
                overwrites=True,
                fill=fill,
                draw=self._next_draw() if late else None,
                ran=False,
            ),
            fill.draws,
        )
        return True

    def fill_as(self, op: Op, storage: Storage) -> None:
        """Let a fill wait that is to do to memory what another did to some of the same layout."""
        draw = None if op.draw is None else self._next_draw()
        again = Op(op.label, (), (Ref(storage, op.writes[0].region),), overwrites=True, draw=draw)
        again.numbers, again.fill, again.ran = op.numbers, op.fill, False
        self._wait(again, op.fill is not None and op.fill.draws)

    def _wait_to_draw(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], together: bool = False
    ) -> bool:
        """Let another draw into a tensor wait; say whether it could."""
        tensor, rest, given = args[0], args[1:], dict(kwargs)
        ours = func.namespace == "fastinit"
        key, generator = given.pop("key", None), given.pop("generator", None)
        if (generator is not None and not ours) or has_tensor((rest, given)):
            return False
        ref = self._open_to_wait(tensor)
        if ref is None:
            return False
        example = torch.empty(
            tensor.shape if ours else 0, dtype=tensor.dtype, device="meta" if ours else "cpu"
        )
        with torch.no_grad():
            if ours:
                func(example, *rest, **kwargs)
            else:
                func(example, *rest, **given, generator=Generator())
        if generator is not None:
            key = reserve_word(_source(tensor, ref, generator), generator)
        if ours and not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)

        def run(tensor: Tensor, key: int | None) -> Any:
            assert key is not None
            if ours:
                return func(tensor, *rest, **given, key=key)
            return seeded(func, (tensor, *rest), given, key)

        self._wait(
            Op(
                self.thread.label or name_of(func),
                (),
                (ref,),
                numbers=rest,
                overwrites=True,
                run=run,
                shards=ours,
                together=together,
                operator=name_of(func),
                draw=self._next_draw() if key is None else None,
                key=key,
                ran=False,
            ),
            True,
        )
        return True

    def _wait_to_change(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Let arithmetic on what waits wait, too; say whether it could."""
        tensor, rest = args[0], args[1:]
        storage = self.storage_of(tensor)
        if storage is None or not storage.pending or has_tensor((rest, kwargs)):
            return False
        ref = self._open_to_wait(tensor)
        if ref is None or not storage.has_values(ref.region):
            return False
        with torch.no_grad():
            func(torch.empty(0, dtype=tensor.dtype), *rest, **kwargs)
        self._wait_in_place(func, ref, rest, kwargs, self.thread.label or name_of(func))
        return True

    def _wait_in_place(
        self, func: Any, ref: Ref, rest: tuple[Any, ...], kwargs: dict[str, Any], label: str
    ) -> None:
        """Let arithmetic on each element of a region wait."""
        op = Op(
            label,
            (ref,),
            (ref,),
            numbers=rest,
            run=lambda tensor, key: func(tensor, *rest, **kwargs),
            ran=False,
        )
        op.elementwise = True
        self._wait(op, False)

    def _wait_to_copy(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Let a copy of what waits wait, too; say whether it could."""
        tensor, other = args[0], args[1]
        if not isinstance(other, Tensor) or not is_real(other) or not is_real(tensor):
            return False
        source = self.storage_of(other)
        if source is None or not source.pending or not same_layout(tensor, other):
            return False
        if other.is_conj() or other.is_neg() or tensor.device != other.device:
            return False
        of = Region.of(other)
        ops = waiting_in(source, of)
        ref = None if ops is None else self._open_to_wait(tensor)
        if ops is None or ref is None or ref.storage is source:
            return False
        for op in copied(ops, of, ref):
            self._wait(op, op.draw is not None)
        return True

    def _wait_as_copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give what an elementwise operator makes of what waits, waiting; None if it cannot."""
        tensor, rest = args[0], args[1:]
        if not is_real(tensor) or has_tensor((rest, kwargs)):
            return None
        source = self.storage_of(tensor)
        if source is None or not source.pending or tensor.is_conj() or tensor.is_neg():
            return None
        of = Region.of(tensor)
        ops = waiting_in(source, of)
        if ops is None:
            return None
        change = in_place(func)
        example = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        )
        result = func(example, *rest, **kwargs)
        if not isinstance(result, Tensor) or not same_layout(result, tensor):
            return None
        made = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
        storage = self.close(made, stands_in=source.stands_in)
        if storage is None:
            return None
        to = Ref(storage, Region.of(made))
        for op in copied(ops, of, to):
            self._wait(op, op.draw is not None)
        if change is not None:
            self._wait_in_place(change, to, rest, kwargs, name_of(change))
        return made
