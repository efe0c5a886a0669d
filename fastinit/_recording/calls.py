"""Running operators at once, after what they need, and writing down what they have done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import extension
from fastinit._fills.operators import saved_arguments, written_arguments
from fastinit._fills.region import Region
from fastinit._recording.choosing import Given, copied, given_to, ignored, on_marks
from fastinit._recording.graph import Op, Ref
from fastinit._recording.kinds import Kind
from fastinit._recording.laying import MOVING, laid_by
from fastinit._recording.left import Left
from fastinit._recording.memory import is_real, tensors_in
from fastinit._recording.seeded import seeded
from fastinit._recording.values import all_marked, marked, marks_of
from fastinit._recording.waiting import name_of
from fastinit._tensors import is_put_together, parts_of


class Calls(Left):
    """A recording of what does not wait. Arguments as those of `Waiting`."""

    def _call(self, func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator, after what it needs."""
        tensors = list(tensors_in((args, kwargs)))
        if any(map(is_put_together, tensors)):  # whose elements are not where those of parts are
            kind = kind._replace(pointwise=False, joins=False, partial=False, copies=False)
            tensors = [part for one in tensors for part in parts_of(one)]
        written = written_arguments(func, args, kwargs) if kind.mutable else []
        for tensor in written:
            self._meet(tensor)
        pairs = [(t, s) for t in tensors if (s := self.storage_of(t)) is not None]
        draws = kind.draws and kwargs.get("generator") is None and kwargs.get("key") is None
        draws = draws and not kwargs.get("keys")
        run = self._run_unlocked if kind.keeps else _run
        if not pairs and not draws:
            return self.made(run(func, args, kwargs), tensors)
        times: dict[int, int] = {}
        for tensor in tensors:
            times[id(tensor)] = times.get(id(tensor), 0) + 1
        saved = saved_arguments(func, args, kwargs) if kind.mutable else []
        beside = {self.storage_of(tensor) for tensor in saved}
        if args and isinstance(args[0], Tensor) and not kind.receives:
            beside.discard(self.storage_of(args[0]))
        name = name_of(func)
        given: dict[str, Any] = {}
        if kind.partial or kind.copies or kind.scales:
            given = given_to(func, args, kwargs)
        unread = ignored(given) if kind.scales else None
        if unread is not None and kind.mutable and not kind.overwrites:  # and writes over it
            kind = kind._replace(overwrites=True)
        elif unread is not None:
            times[id(unread)] = times.get(id(unread), 0) - 1
        some = copied(name, given) if kind.partial or kind.copies else {}
        partial = kind.partial and len(some) > 0
        reads: list[Ref] = []
        read: list[Tensor] = []
        writes: list[Ref] = []
        for tensor, storage in pairs:
            ref = Ref(storage, Region.of(tensor))
            writing = any(tensor is w for w in written)
            if writing:
                writes.append(ref)
            if times[id(tensor)] > (writing and kind.overwrites):
                reads.append(ref)
                read.append(tensor)
            elif not writing:  # but its memory has to be open
                self._need(ref)
        for ref in reads:
            self._need(ref)
        # Where what is laid side by side was, if it is elsewhere afterwards.
        moved = {id(t): Ref(s, Region.of(t)) for t, s in pairs} if name == MOVING else {}
        forgotten: list[tuple[Ref, list[Op]]] = []
        for ref in writes:
            if ref.storage.outside:
                self.remember(ref.storage)
            if kind.overwrites:
                forgotten.append((ref, self._overwrite(ref)))
        lacking = [
            tensor
            for tensor, ref in zip(read, reads, strict=True)
            if not (partial and tensor is given["self"] and times[id(tensor)] == 1)
            # Memory without values that is given to be written to, beside what is worked on.
            and ref.storage not in beside
            and not self.has_values(ref)
        ]
        missing = not all(any(t is one for one in some.values()) for t in lacking)
        drawn = kind.draws or any(ref.storage.drawn for ref in reads)
        op = Op(
            self.thread.label or name,
            reads,
            numbers=[x for x in args[1:] if isinstance(x, (int, float))],  # no tensor lives longer
            overwrites=kind.overwrites,
            operator=name,
        )
        op.elementwise = kind.pointwise
        marks: Tensor | None = None
        if missing and kind.pointwise and not draws:
            marks = self._marks(reads, tensors)
        try:
            if draws:
                op.draw = self._next_draw()
                op.key = self._guess(op.draw, writes)
                result = run(seeded, (func, args, kwargs, op.key), {})
            elif partial and not missing:
                if lacking:
                    writes += self._met(written)
                    for ref in writes:
                        self._see(ref.storage, ref.region)
                result = run(func, args, kwargs)
                self._write_some(func, name, given, writes, removes=len(lacking) > 0)
            elif lacking and not missing:
                result = run(func, args, kwargs)
                marks = on_marks(func, name, given, self._marks_of)
                missing = True
            else:
                result = run(func, args, kwargs)
                if missing and kind.joins:
                    marks = torch.ones(result.shape, dtype=torch.bool)
                    for part, of, where in self._laid(name, args, kwargs, marks, moved):
                        if of is not None and where:
                            part.copy_(marked(where, of.shape))
        except BaseException:
            for ref, ops in forgotten:
                self._remind(ref, ops)
            raise
        self._note(op, kind, tensors, written, saved, missing, drawn, result, marks)
        if op.writes or (op.read and drawn):
            laid = self._laid(name, args, kwargs, result, moved) if kind.joins else None
            if kind.receives:
                self._log_each(op)
            else:
                for one in [op] if laid is None else _pieces(op, laid):
                    self._log(one)
        return result

    def _run_unlocked(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operator that may be somebody's Python, and wait for threads of this recording."""
        lock: Any = self.lock  # which this thread may have several times
        held = lock._release_save()
        try:
            return func(*args, **kwargs)
        finally:
            lock._acquire_restore(held)

    def _log_each(self, op: Op) -> None:
        """Log what was received: where that is what was sent, each element for itself."""
        sent = {(ref.storage, ref.region) for ref in op.reads}
        if sent != {(ref.storage, ref.region) for ref in op.writes}:
            self._log(op)
            return
        for ref in op.writes:
            piece = Op(op.label, [ref], [ref], operator=op.operator)
            piece.elementwise = True
            self._log(piece)

    def _laid(
        self,
        name: str,
        args: Any,
        kwargs: Mapping[str, Any],
        into: Tensor,
        moved: Mapping[int, Ref],
    ) -> Iterator[tuple[Tensor, Tensor | None, list[Ref]]]:
        """List what an operator lays side by side: where in a tensor, what of, and where that was.

        Of constants nothing is known.
        """
        for part, of in laid_by(name, args, kwargs, into):
            storage = None if of is None else self.storage_of(of)
            if id(of) in moved:
                yield part, of, [moved[id(of)]]
            else:
                yield part, of, [Ref(storage, Region.of(of))] if of is not None and storage else []

    def _met(self, tensors: Iterable[Tensor]) -> Iterator[Ref]:
        """Register memory that has had values all along, and is to lose some."""
        for tensor in tensors:
            if self.storage_of(tensor) is None and is_real(tensor) and tensor.numel() > 0:
                yield Ref(self.register(tensor, known=True), Region.of(tensor))

    def _write_some(
        self, func: Any, name: str, given: Given, writes: Iterable[Ref], *, removes: bool
    ) -> None:
        """Note which elements an operator has written that writes to some, and has done so.

        Args:
            func: the operator.
            name: its name.
            given: its arguments.
            writes: what it has written to.
            removes: whether what it has written there may have no values.
        """

        def mark(marks: Tensor) -> None:
            def marks_of(tensor: Tensor) -> Tensor:
                return marks if tensor is given["self"] else self._marks_of(tensor)

            on_marks(func, name, given, marks_of)

        for ref in writes:
            self.write_some(ref, mark, removes=removes)

    def _marks_of(self, tensor: Tensor) -> Tensor:
        """Mark the elements of a tensor that have values; see `marks_of`."""
        storage = self.storage_of(tensor)
        if storage is None:
            return all_marked(tensor.shape)
        return marks_of(Ref(storage, Region.of(tensor)))

    def _marks(self, reads: Sequence[Ref], tensors: Sequence[Tensor]) -> Tensor | None:
        """Mark the elements that a pointwise operator makes of elements with values."""
        shapes = [tensor.shape for tensor in tensors]
        try:
            shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        except RuntimeError:  # the operator will say so
            return None
        for ref in reads:
            self._see(ref.storage, ref.region)
        return marked(reads, shape)

    def _meet(self, tensor: Tensor) -> None:
        """Keep what memory of outside holds that is about to be written for the first time."""
        if is_real(tensor) and tensor.numel() > 0 and self.storage_of(tensor) is None:
            inside = self.is_inside(tensor)
            if not inside:
                self.register(tensor, known=True).outside = True

    def _note(
        self,
        op: Op,
        kind: Kind,
        given: list[Tensor],
        written: list[Tensor],
        saved: list[Tensor],
        missing: bool,
        drawn: bool,
        result: Any,
        marks: Tensor | None,
    ) -> None:
        """Write down what an operator has done.

        Args:
            op: what it was.
            kind: what there is to know of it.
            given: its arguments.
            written: those that it has written to.
            saved: those of them that it has overwritten beside what it works on.
            missing: whether it has read what has no values.
            drawn: whether its results depend on a draw.
            result: its result.
            marks: the elements that have values all the same, if `missing`.
        """
        writes: list[Ref] = []
        results = list(tensors_in((result,)))
        if any(map(is_put_together, results)):  # perhaps of arguments, which have their values
            old = {extension.storage_address(tensor) for tensor in given}
            parts = [part for one in results for part in parts_of(one)]
            address = extension.storage_address
            results = [p for p in parts if self.storage_of(p) or address(p) not in old]
        written = [part for one in written for part in parts_of(one)]
        for tensor in (*written, *(r for r in results if all(r is not w for w in written))):
            storage = self.storage_of(tensor)
            made = storage is None
            if storage is None:
                if not (drawn or missing) or not is_real(tensor) or tensor.numel() == 0:
                    self.made(tensor)
                    continue
                # What was there before has values, which nobody has had to write down.
                storage = self.register(tensor, known=any(tensor is w for w in written))
            elif all(tensor is not w for w in written):
                continue  # a view of an argument
            ref = Ref(storage, Region.of(tensor))
            writes.append(ref)
            op.overwrites = op.overwrites or made
            if missing:
                self.unwrite(storage, ref.region, marks)
            elif kind.overwrites or made or any(tensor is s for s in saved):
                storage.write(ref.region)
            storage.drawn = storage.drawn or drawn
            storage.escaped = storage.escaped or kind.keeps
        op.writes = writes
        op.read = not results and not written


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _pieces(op: Op, laid: Iterable[tuple[Tensor, Tensor | None, list[Ref]]]) -> Iterator[Op]:
    """Divide the joining of tensors into what has been done with each."""
    for part, _, read in laid:
        write = Ref(op.writes[0].storage, Region.of(part))
        piece = Op(op.label, read, [write], overwrites=op.overwrites, operator=op.operator)
        piece.elementwise = True
        yield piece
