"""Which draws the values of memory in the end come from, and the order that gives draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastinit._fills.by_region import ByRegion
from fastinit._fills.region import Region
from fastinit._recording.graph import Op, Ref, Storage, without_dead
from fastinit._recording.naming import Names


class _Writers:
    """Who has written to memory, by where.

    Args:
        ops: all that matter, in order.
    """

    def __init__(self, ops: Iterable[Op]) -> None:
        self._of: dict[Storage, ByRegion[list[Op]]] = {}
        for op in ops:
            for ref in op.writes:
                within = self._of.setdefault(ref.storage, ByRegion())
                there = within.get(ref.region)
                if there is None:
                    within.put(ref.region, [op])
                else:
                    there.append(op)

    def before(self, refs: Iterable[Ref]) -> list[Op]:
        """List what some memory may depend on, in order; a little of all there is, as a rule."""
        found: dict[int, Op] = {}
        waiting = [*refs]
        while waiting:
            ref = waiting.pop()
            within = self._of.get(ref.storage)
            for _, ops in () if within is None else within.meeting(ref.region):
                for op in ops:
                    if op.position not in found:
                        found[op.position] = op
                        waiting += op.reads
        return [found[position] for position in sorted(found)]


def _draws(ops: Iterable[Op]) -> set[Any]:
    return {op.draw for op in ops if op.draw is not None}


def _in_place(names: Names, ops: Sequence[Op]) -> set[tuple[Any, str]]:
    """List draws into memory of one name that are not written over as a whole, and that name.

    Those are most, and soon found.
    """
    kept = without_dead(ops, names.holds, looked_at=False, held=names.held, in_place=True)
    found = set[tuple[Any, str]]()
    for op in kept:
        if op.draw is None or len(op.writes) != 1:
            continue
        (ref,) = op.writes
        within = [*names.there.within(ref), *names.others.within(ref)]
        if len(within) == 1:  # so it is there that something is left
            found.add((op.draw, within[0][1]))
    return found


def _own(names: Names, ops: Sequence[Op], goals: Mapping[Any, str]) -> set[tuple[Any, str]]:
    """List draws that the values of what has their name come from, of names with several."""
    counts = Counter(goals.values())
    own = _in_place(names, ops)
    unsure = {name for draw, name in goals.items() if counts[name] > 1 and (draw, name) not in own}
    if not unsure:
        return own
    writers = _Writers(ops)
    for name, regions in names.memory_of(unsure).items():

        def held(
            storage: Storage, regions: Mapping[Storage, Sequence[Region]] = regions
        ) -> Sequence[Region]:
            return regions.get(storage, ())

        refs = [Ref(storage, one) for storage, those in regions.items() for one in those]
        kept = without_dead(writers.before(refs), regions.__contains__, looked_at=False, held=held)
        own |= {(draw, name) for draw in _draws(kept)}
    return own


def ordered(names: Names, log: Sequence[Op], goals: Mapping[Any, str]) -> list[tuple[Any, str]]:
    """Put draws in the order in which they count for their names.

    First those that the values of what has the name come from, whoever keeps others; then what
    other parameters and buffers depend on, then what the module holds beside them, then what
    somebody has only looked at, or may have kept, so that none of this changes a weight.

    Args:
        names: those of memory.
        log: what was done, in order.
        goals: the names of draws, by their numbers, in the order in which they were called.
    """
    found = [*goals.items()]
    if len({*goals.values()}) == len(found):
        return found
    last: list[set[Any]] = []  # the draws that last in what counts, what counts least first
    for held in (names.held, names.there.held) if names.others else (names.there.held,):
        ops = without_dead(log, names.holds, looked_at=False, held=held)
        if not last:
            own = _own(names, ops, goals)
        last.append(_draws(ops))
    found.sort(key=lambda one: (one not in own, *(one[0] not in draws for draws in last[::-1])))
    return found
