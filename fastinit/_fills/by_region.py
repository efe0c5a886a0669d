"""Values that hold for regions of one storage, found by what shares memory with these."""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from typing import Any, Generic, NamedTuple, TypeVar

from fastinit._fills.region import Region

T = TypeVar("T")

_FEW = 64  # intervals, of which a hash is soon made, and regions, which are soon looked through


class _Entry(NamedTuple):
    """A region and its value; `number` counts entries, so the first has the least."""

    number: int
    region: Region
    value: Any


class _Placed(NamedTuple):
    """An entry, and where its interval begins."""

    begin: int
    number: int
    entry: _Entry


_place = operator.itemgetter(0, 1)
_number = operator.attrgetter("number")


class _Intervals:
    """Entries by intervals.

    They are sorted by where these begin, apart by the number of bits of their lengths: of none is
    the beginning far away if it reaches a place.
    """

    def __init__(self) -> None:
        self._by_bits: dict[int, list[_Placed]] = {}

    def add(self, begin: int, end: int, entry: _Entry) -> None:
        placed = _Placed(begin, entry.number, entry)
        insort(self._by_bits.setdefault((end - begin).bit_length(), []), placed, key=_place)

    def remove(self, begin: int, end: int, entry: _Entry) -> None:
        entries = self._by_bits[(end - begin).bit_length()]
        del entries[bisect_left(entries, (begin, entry.number), key=_place)]

    def around(self, begin: int, end: int) -> list[tuple[list[_Placed], int, int]]:
        """Find those that may meet an interval: from one place to another of each of some lists."""
        return [
            (
                entries,
                bisect_left(entries, (begin - (1 << bits), 0), key=_place),
                bisect_left(entries, (end, 0), key=_place),
            )
            for bits, entries in self._by_bits.items()
        ]


class _Group:
    """Entries whose regions are pieces in one step, or in multiples of it.

    Those of columns of one table are all over it, but all pieces of a column are in the same place
    of a step.

    Args:
        step: the step; 0 for regions that are otherwise.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._spans = _Intervals()
        self._places = _Intervals()

    def _place_of(self, region: Region) -> tuple[int, int]:
        begin = region.span[0] % self._step
        return begin, begin + region.blocks[0]

    def add(self, entry: _Entry) -> None:
        self._spans.add(*entry.region.span, entry)
        if self._step:
            self._places.add(*self._place_of(entry.region), entry)

    def remove(self, entry: _Entry) -> None:
        self._spans.remove(*entry.region.span, entry)
        if self._step:
            self._places.remove(*self._place_of(entry.region), entry)

    def around(self, region: Region) -> dict[int, _Entry]:
        """Give those that may meet a region, by their numbers."""
        found, step = self._spans.around(*region.span), self._step
        count = sum(last - first for _, first, last in found)
        if step and count > _FEW and all(s % step == 0 for s, _ in region.blocks[1]):
            begin, end = self._place_of(region)
            placed = [
                one
                for shift in (-step, 0, step)
                for one in self._places.around(begin + shift, end + shift)
            ]
            if sum(last - first for _, first, last in placed) < count:
                found = placed
        return {
            placed.number: placed.entry
            for entries, first, last in found
            for placed in entries[first:last]
        }


def _step_of(region: Region) -> int:
    steps = [step for step, _ in region.blocks[1]]
    least = min(steps, default=0)
    return least if all(step % least == 0 for step in steps) else 0


class ByRegion(Generic[T]):
    """Values by region: regions of the same bytes are the same, unless they are scattered.

    What meets a region is found in time in proportion to how much that is, among pieces that lie
    one after the other and among columns of one table.
    """

    __slots__ = ("_by_bytes", "_by_step", "_count")

    def __init__(self) -> None:
        self._by_bytes: dict[Any, _Entry] = {}
        self._by_step: dict[int, _Group] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._by_bytes)

    @property
    def regions(self) -> list[Region]:
        """List them, in no order in particular."""
        return [entry.region for entry in self._by_bytes.values()]

    @property
    def items(self) -> list[tuple[Region, T]]:
        """List them, and their values."""
        return [(entry.region, entry.value) for entry in self._by_bytes.values()]

    @staticmethod
    def _bytes(region: Region) -> Any:
        if region.dense:
            return region.span
        runs = region.runs
        return region if runs is None or len(runs) > _FEW else runs

    def _group(self, region: Region) -> _Group:
        step = _step_of(region)
        found = self._by_step.get(step)
        if found is None:
            found = self._by_step[step] = _Group(step)
        return found

    def get(self, region: Region) -> T | None:
        """Give the value of a region itself."""
        found = self._by_bytes.get(self._bytes(region))
        return None if found is None else found.value

    def put(self, region: Region, value: T) -> None:
        """Give a region a value; it keeps its place among the others if it had one."""
        key, number = self._bytes(region), self._count
        if key in self._by_bytes:
            number = self._by_bytes[key].number
            self.remove(region)
        entry = self._by_bytes[key] = _Entry(number, region, value)
        self._group(region).add(entry)
        self._count += 1

    def remove(self, region: Region) -> None:
        """Forget a region."""
        entry = self._by_bytes.pop(self._bytes(region))
        self._group(entry.region).remove(entry)

    def meeting(self, region: Region) -> list[tuple[Region, T]]:
        """List the regions that share memory with one, and their values, the first first."""
        if region.numel == 0:
            return []
        found: list[_Entry] = []
        for group in self._by_step.values():
            found += [e for e in group.around(region).values() if region.meets(e.region)]
        found.sort(key=_number)
        return [(entry.region, entry.value) for entry in found]

    def first(self) -> T:
        """Give the value of the region that came first."""
        value: T = min(self._by_bytes.values(), key=_number).value
        return value
