"""What draws are for: what they write, or else what their values flow into first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastinit._fills.by_region import ByRegion
from fastinit._fills.elements import made_of, rest_of
from fastinit._fills.region import Region
from fastinit._recording.graph import Op, Ref, Storage
from fastinit._recording.naming import UNNAMED, Names

_LAST = 1 << 62


class _Goal(NamedTuple):
    """A name, how early what has it was written, and its place among names: the first counts."""

    position: int
    place: int
    name: str


class _Flows:
    """Where the values of memory without a name go, from some moment on.

    Attributes:
        of: that, by region, of each storage of which anything goes anywhere.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self.of: dict[Storage, ByRegion[_Goal]] = {}

    def goal(self, ref: Ref) -> _Goal | None:
        """Say where the values of a region go first."""
        flows = self.of.get(ref.storage)
        if flows is None:
            return None
        return min((goal for _, goal in flows.meeting(ref.region)), default=None)

    def parts(self, ref: Ref, position: int) -> list[tuple[Region, _Goal]]:
        """List the parts of a region that is written, and where the values of each go."""
        named = enumerate(self._names.within(ref))
        found = [(region, _Goal(position, k, name)) for k, (region, name) in named]
        flows = self.of.get(ref.storage)
        return found if flows is None else [*found, *flows.meeting(ref.region)]

    def overwritten(self, ref: Ref) -> None:
        """Note that what was in a region before it is written goes nowhere any more."""
        flows = self.of.get(ref.storage)
        if flows is None:
            return
        for region, goal in flows.meeting(ref.region):
            flows.remove(region)
            for part in rest_of(region, ref.region):
                _put(flows, part, goal)
        if len(flows) == 0:
            del self.of[ref.storage]

    def add(self, storage: Storage, region: Region, goal: _Goal) -> None:
        """Note where the values of a region go, unless it has a name."""
        if region.numel == 0 or self._names.covers(Ref(storage, region)):
            return
        _put(self.of.setdefault(storage, ByRegion()), region, goal)


def _put(flows: ByRegion[_Goal], region: Region, goal: _Goal) -> None:
    known = flows.get(region)
    if known is None or goal < known:
        flows.put(region, goal)


def _own(names: Names, ref: Ref, position: int) -> _Goal | None:
    """Name what is written then; beside what has a name, by that only if it goes nowhere else."""
    name = names.of(ref)
    if name is None:
        return None
    return _Goal(position, 0, name) if names.meets(ref) else _Goal(_LAST, position, name)


def _first(goals: Sequence[_Goal | None], names: Names | None = None) -> _Goal | None:
    """Give the first of some goals; of those that one operator writes, if that is so, by names."""
    found = [goal for goal in goals if goal is not None]
    if len(found) > 1 and names is not None:
        found = [goal._replace(place=names.place(goal.name)) for goal in found]
    return min(found, default=None)


def _copied(names: Names, op: Op) -> _Goal:
    """Name a draw by the first that has a name of what it copies, or by what else holds it."""
    named = None
    for ancestor in op.ancestors:
        named = _own(names, ancestor.writes[0], ancestor.position) or named
    if named is not None:
        return named
    for ref in op.writes:
        other = names.others.of(ref)
        if other is not None:
            return _Goal(_LAST + 1, 0, other)
    return _Goal(_LAST + 2, 0, UNNAMED)


def _is_same(a: Ref, b: Ref) -> bool:
    return a.storage is b.storage and a.region == b.region


def names_of_draws(names: Names, ops: Sequence[Op], order: Mapping[Any, int]) -> dict[Any, str]:
    """Name draws by what they write, or else by what their values first flow into.

    Args:
        names: those of memory.
        ops: all that matter, in order.
        order: which draw was the how manieth, by their numbers.

    Returns:
        The names, by the draws' numbers, in their order.
    """
    flows = _Flows(names)
    found: dict[Any, tuple[int, int, str]] = {}
    for op in reversed(ops):
        if not flows.of and op.overwrites and not op.reads and len(op.writes) == 1:
            # As most are: all of a parameter, whose values nothing else is made of.
            only = names.there.get(op.writes[0].storage)
            if type(only) is tuple and only[0] is op.writes[0].region and op.original is None:
                if op.draw is not None:
                    later = found.get(op.draw)
                    here = op.position, 0, only[1]
                    found[op.draw] = here if later is None else min(here, later)
                continue
        goal = _first([_own(names, ref, op.position) for ref in op.writes], names)
        if flows.of:
            goal = _first([goal, *map(flows.goal, op.writes)])
        if op.draw is not None and goal is not None and op.original is None:
            later = found.get(op.draw)
            found[op.draw] = goal if later is None else min(goal, later)
        elif op.draw is not None:
            known = (_copied(names, op), goal, found.get(op.draw))
            found[op.draw] = min(k for k in known if k is not None)
        to = op.writes[0] if op.elementwise and len(op.writes) == 1 else None
        reads = op.reads
        if to is not None and not op.overwrites:  # what is changed in place goes where it went
            reads = [ref for ref in reads if not _is_same(ref, to)]
        parts = [] if to is None or not reads else flows.parts(to, op.position)
        if op.overwrites:
            for ref in op.writes:
                flows.overwritten(ref)
        if goal is None:
            continue
        for ref in reads:
            if to is not None:
                for part, of_part in parts:
                    for region in made_of(part, to.region, ref.region):
                        flows.add(ref.storage, region, of_part)
            else:
                flows.add(ref.storage, ref.region, goal)
    return {draw: found[draw][2] for draw in sorted(found, key=order.__getitem__)}
