"""Names of memory, and the keys that draws get by them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._recording.graph import Op, Ref, Storage
from fastinit.key import Key, key_of

# What a draw is called that nothing with a name depends on.
UNNAMED = "fastinit: read while building"


_LAST = 1 << 62


class _Found(NamedTuple):
    """A name, and how early what has it was written: the first counts."""

    position: int
    name: str


class _Within:
    """The names of the regions of one storage."""

    __slots__ = ("_first", "_reach", "_sorted", "_starts")

    def __init__(self) -> None:
        self._first: dict[Region, str] = {}
        self._sorted: list[tuple[int, int, str]] | None = None
        self._starts: Sequence[int] = ()
        self._reach: Sequence[int] = ()  # the furthest end so far

    def add(self, region: Region, name: str) -> None:
        self._first.setdefault(region, name)
        self._sorted = None

    def of(self, region: Region) -> str:
        """Name what holds a region; the first of the storage if that is not one."""
        exact = self._first.get(region)
        if exact is not None:
            return exact
        if self._sorted is None:
            self._sorted = sorted((*r.span, name) for r, name in self._first.items())
            self._starts = [begin for begin, _, _ in self._sorted]
            self._reach = list(accumulate((end for _, end, _ in self._sorted), max))
        low, high = region.span
        place = bisect_right(self._starts, high - 1)
        held: list[str] = []
        while place > 0 and len(held) < 2 and self._reach[place - 1] > low:
            place -= 1
            _, end, name = self._sorted[place]
            if end > low:
                held.append(name)
        return held[0] if len(held) == 1 else next(iter(self._first.values()))


class _Table(dict[Storage, tuple[Region, str] | _Within]):
    """Names of regions, by storage; most storages have but one."""

    def add(self, ref: Ref, name: str) -> None:
        """Name a region, unless it has a name."""
        found = self.get(ref.storage)
        if found is None:
            self[ref.storage] = ref.region, name
        elif isinstance(found, _Within):
            found.add(ref.region, name)
        elif found[0] != ref.region:
            within = self[ref.storage] = _Within()
            within.add(*found)
            within.add(ref.region, name)

    def of(self, ref: Ref) -> str | None:
        """Name what holds a region, or else the storage; None if nothing in that has a name."""
        found = self.get(ref.storage)
        if type(found) is tuple:
            return found[1]
        return None if found is None else found.of(ref.region)  # type: ignore[union-attr]


class Names:
    """The names of memory: of whole storages, or of several parameters within one.

    Attributes:
        there: what is there in the end as a parameter or buffer.
        others: what is held otherwise.
        before: what there was, which is asked where nothing of these has a storage.
    """

    def __init__(self) -> None:
        self.there = _Table()
        self.others = _Table()
        self.before = _Table()

    def holds(self, storage: Storage) -> bool:
        """Whether something that there is in the end has a storage."""
        return storage in self.there or storage in self.others

    def of(self, ref: Ref) -> str | None:
        """Name what holds a region; None if nothing in the storage has a name."""
        found = self.there.get(ref.storage)
        if type(found) is tuple:
            return found[1]
        if found is not None:
            return found.of(ref.region)  # type: ignore[union-attr]
        return self.before.of(ref) if self.before else None

    def _found(self, op: Op) -> _Found:
        """Name a draw by the first that has a name of what it copies, or by what else holds it."""
        named = None
        for ancestor in op.ancestors:
            name = self.of(ancestor.writes[0])
            if name is not None:
                named = _Found(ancestor.position, name)
        if named is not None:
            return named
        for ref in op.writes:
            other = self.others.of(ref)
            if other is not None:
                return _Found(_LAST, other)
        return _Found(_LAST + 1, UNNAMED)

    def of_draws(self, ops: Sequence[Op], order: Mapping[Any, int]) -> dict[Any, str]:
        """Name draws by what they write, or else by what their values first flow into.

        Args:
            ops: all that matter, in order.
            order: which draw was the how manieth, by their numbers.

        Returns:
            The names, by the draws' numbers, in their order.
        """
        flows: dict[Storage, tuple[_Found, Region]] = {}
        found: dict[Any, _Found] = {}
        for op in reversed(ops):
            name = None
            for ref in op.writes:
                own, flow = self.of(ref), flows.get(ref.storage)
                if flow is not None and op.overwrites and ref.region.covers(flow[1]):
                    del flows[ref.storage]  # what was there before flows elsewhere
                if own is not None:
                    name = _Found(op.position, own)
                elif flow is not None:
                    name = flow[0]
                if name is not None:
                    break
            if op.draw is not None and name is not None and op.original is None:
                later = found.get(op.draw)
                found[op.draw] = name if later is None else min(name, later)
            elif op.draw is not None:
                known = (self._found(op), name, found.get(op.draw))
                found[op.draw] = min(k for k in known if k is not None)
            if name is not None:
                for ref in op.reads:
                    if ref.storage not in self.there and ref.storage not in self.before:
                        known_flow = flows.get(ref.storage)
                        if known_flow is None or name < known_flow[0]:
                            flows[ref.storage] = name, ref.region
        return {draw: found[draw].name for draw in sorted(found, key=order.__getitem__)}


class Keys:
    """Hands out the keys of draws: the n-th for a name gets `fold_in(name).fold_in(n)`."""

    def __init__(self, key: Key) -> None:
        self._word = int(key)
        self._counts: dict[str, int] = {}

    def next(self, name: str) -> int:
        """Give the next key of a name, in [-2**63, 2**63)."""
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return key_of(self._word, name, count)

    def for_draws(self, names: Iterable[tuple[Any, str]]) -> dict[Any, int]:
        """Give each draw its key, in this order."""
        return {draw: self.next(name) for draw, name in names}


class Live:
    """Which draws into memory of one name have values that are still there, by their numbers.

    For who has to number a draw when it is made, and cannot wait to see which are overwritten. The
    numbers are those of `Keys` unless that takes foresight.
    """

    __slots__ = ("_anywhere", "_least", "_regions")

    def __init__(self) -> None:
        self._regions: dict[int, Region] = {}
        self._anywhere = Spans()  # what any of them may be in
        self._least = 0

    def _under(self, region: Region) -> list[int]:
        """List those of which nothing is left once a region is written."""
        if region.numel > 0 and not self._anywhere.meets_region(region):
            return []
        return [number for number, other in self._regions.items() if region.covers(other)]

    def next(self, region: Region) -> int:
        """Give a draw the least number that no other will have then."""
        return min([self._least, *self._under(region)])

    def add(self, region: Region, number: int) -> None:
        """Note a draw that has been made."""
        for other in self._under(region):
            del self._regions[other]
            self._least = min(self._least, other)
        self._regions[number] = region
        self._anywhere.add_around(region)
        while self._least in self._regions:
            self._least += 1
