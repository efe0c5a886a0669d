"""From a recording to values: the keys that draws get in the end, and whether they have them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastinit._recording.flows import names_of_draws
from fastinit._recording.graph import Op, needed_of, without_dead
from fastinit._recording.lasting import ordered
from fastinit._recording.naming import UNNAMED, Keys, Names
from fastinit._recording.recorder import Recorder

_HAS_RUN = operator.attrgetter("ran")


class Settled:
    """What a recording amounts to.

    Attributes:
        names: those of memory.
        ops: what matters of what was done, in order.
        goals: the names that draws have, by their numbers.
        keys: of draws, by their numbers.
        right: whether the draws that have run had these keys.
    """

    right: bool

    def __init__(self, recorder: Recorder, names: Names) -> None:
        self._recorder = recorder
        self.names = names
        self.ops = without_dead(recorder.log, names.holds)
        self._keys = Keys(recorder.key)
        found = names_of_draws(names, self.ops, recorder.order)
        if names.partly:  # what nobody can have any more is nothing that a draw is for
            held_ops = without_dead(recorder.log, names.holds, held=names.held)
            found |= names_of_draws(names, held_ops, recorder.order)
        self.goals: Mapping[Any, str] = found
        self.keys: dict[Any, int] = self._keys.for_draws(ordered(names, recorder.log, found))
        ran = filter(_HAS_RUN, self.ops)
        self.right = all(op.key == self.keys[op.draw] for op in ran if op.draw is not None)

    def waiting(self) -> list[Op]:
        """List what is still to be done, with its keys."""
        ops = [op for op in self.ops if not op.ran]
        for op in ops:
            if op.draw is not None:
                op.key = self.keys[op.draw]
        # Others may hold what the module does not, and what was a parameter's and is so no more.
        for storage in self._recorder.storages():
            if storage.pending and not self.names.holds(storage) and storage.is_alive:
                late = needed_of(storage)
                for op in late:
                    if op.draw is not None and op.key is None:
                        name = self.names.of(op.writes[0]) or UNNAMED
                        known = self.keys.get(op.draw) or self._recorder.guessed.get(op.draw)
                        op.key = known or self._keys.next(name)
                        self._recorder.guessed[op.draw] = op.key
                ops += late
        return ops

    def finish(self, ops: Sequence[Op], written: Callable[[int], object] | None) -> None:
        """Do it, and let everybody at the memory again."""
        recorder = self._recorder
        with recorder.lock:
            recorder.run(ops, written)
            recorder.open_all()


def nbytes_of(ops: Iterable[Op]) -> int:
    """Count the bytes that fills will write."""
    return sum(op.writes[0].region.nbytes for op in ops if op.fill is not None)
