"""Values that hold for regions of one storage, found by what shares memory with these."""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from typing import Any, Generic, NamedTuple, TypeVar

from fastinit._fills.region import Region
from fastinit._fills.spans import Spans

T = TypeVar("T")

_FEW = 64  # intervals, of which a hash is soon made


class _Entry(NamedTuple):
    """A region and its value; `number` counts entries, so the first has the least."""

    begin: int
    end: int
    number: int
    region: Region
    value: Any


class ByRegion(Generic[T]):
    """Values by region: regions of the same bytes are the same, unless they are scattered.

    What meets a region is found in time in proportion to how much that is.
    """

    __slots__ = ("_by_bytes", "_by_length", "_count")

    def __init__(self) -> None:
        self._by_bytes: dict[Any, _Entry] = {}
        # By the number of bits of their lengths, sorted by where they begin: of none in a list is
        # the beginning far away if it reaches a place.
        self._by_length: dict[int, list[_Entry]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._by_bytes)

    @property
    def regions(self) -> list[Region]:
        """List them, in no order in particular."""
        return [entry.region for entry in self._by_bytes.values()]

    @staticmethod
    def _bytes(region: Region) -> Any:
        if region.dense:
            return region.span
        runs = region.runs
        return region if runs is None or len(runs) > _FEW else runs

    def _alike(self, begin: int, end: int) -> list[_Entry]:
        return self._by_length.setdefault((end - begin).bit_length(), [])

    def get(self, region: Region) -> T | None:
        """Give the value of a region itself."""
        found = self._by_bytes.get(self._bytes(region))
        return None if found is None else found.value

    def put(self, region: Region, value: T) -> None:
        """Give a region a value; it keeps its place among the others if it had one."""
        key, (begin, end) = self._bytes(region), region.span
        number = self._count
        if key in self._by_bytes:
            number = self._by_bytes[key].number
            self.remove(region)
        entry = self._by_bytes[key] = _Entry(begin, end, number, region, value)
        insort(self._alike(begin, end), entry, key=_place)
        self._count += 1

    def remove(self, region: Region) -> None:
        """Forget a region."""
        entry = self._by_bytes.pop(self._bytes(region))
        entries = self._alike(entry.begin, entry.end)
        del entries[bisect_left(entries, _place(entry), key=_place)]

    def meeting(self, region: Region) -> list[tuple[Region, T]]:
        """List the regions that share memory with one, and their values, the first first."""
        if region.numel == 0:
            return []
        low, high = region.span
        found: list[_Entry] = []
        for bits, entries in self._by_length.items():
            first = bisect_left(entries, (low - (1 << bits), 0), key=_place)
            last = bisect_left(entries, (high, 0), key=_place)
            found += [entry for entry in entries[first:last] if entry.end > low]
        if not region.dense or not all(entry.region.dense for entry in found):
            spans = Spans()
            spans.add_region(region)
            found = [entry for entry in found if spans.meets_region(entry.region)]
        found.sort(key=_number)
        return [(entry.region, entry.value) for entry in found]

    def first(self) -> T:
        """Give the value of the region that came first."""
        value: T = min(self._by_bytes.values(), key=_number).value
        return value


def _place(entry: _Entry) -> tuple[int, int]:
    return entry.begin, entry.number


_number = operator.attrgetter("number")
