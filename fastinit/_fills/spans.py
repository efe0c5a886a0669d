"""Sets of bytes of one storage."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import starmap

from fastinit._fills.region import Region


class Spans:
    """A set of bytes, as sorted intervals that do not touch each other."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, begin: int = 0, end: int = 0) -> None:
        self._starts = [begin] if end > begin else []
        self._ends = [end] if end > begin else []

    def add(self, begin: int, end: int) -> None:
        """Put an interval in."""
        if not self._starts:
            self._starts, self._ends = [begin], [end]
            return
        first, last = bisect_left(self._ends, begin), bisect_right(self._starts, end)
        if first < last:
            begin, end = min(begin, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [begin], [end]

    def remove(self, begin: int, end: int) -> None:
        """Take an interval out."""
        first, last = bisect_right(self._ends, begin), bisect_left(self._starts, end)
        if first >= last:
            return
        low, high = self._starts[first], self._ends[last - 1]
        starts, ends = [], []
        if low < begin:
            starts.append(low)
            ends.append(begin)
        if high > end:
            starts.append(end)
            ends.append(high)
        self._starts[first:last], self._ends[first:last] = starts, ends

    def meets(self, begin: int, end: int) -> bool:
        """Whether some of an interval is in."""
        place = bisect_right(self._ends, begin)
        return place < len(self._starts) and self._starts[place] < end

    def covers(self, begin: int, end: int) -> bool:
        """Whether all of an interval is in."""
        place = bisect_right(self._starts, begin) - 1
        return end <= begin or (place >= 0 and end <= self._ends[place])

    def copy(self) -> Spans:
        """Give an equal set."""
        other = Spans()
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        return other

    def within(self, begin: int, end: int) -> list[tuple[int, int]]:
        """List what is in, of an interval."""
        both = zip(self._starts, self._ends, strict=True)
        return [(max(a, begin), min(b, end)) for a, b in both if a < end and b > begin]

    def add_region(self, region: Region) -> None:
        """Put in what a region writes; nothing if that is too scattered to be followed."""
        for begin, end in region.runs or ():
            self.add(begin, end)

    def add_around(self, region: Region) -> None:
        """Put in at least what a region reads."""
        for begin, end in region.around:
            self.add(begin, end)

    def remove_region(self, region: Region) -> None:
        """Take out what a region overwrites."""
        for begin, end in region.runs or ():
            self.remove(begin, end)

    def meets_region(self, region: Region) -> bool:
        """Whether some of a region may be in."""
        return any(starmap(self.meets, region.around))

    def covers_region(self, region: Region) -> bool:
        """Whether all of a region is in."""
        return all(starmap(self.covers, region.around))
