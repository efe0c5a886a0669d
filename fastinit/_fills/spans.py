"""Sets of bytes of one storage."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import starmap

from fastinit._fills.region import Region


def _slices(region: Region) -> Iterator[slice]:
    """List the bytes of a region as few slices, along its longest dimension."""
    item = region.dtype.itemsize
    dims = [(s * item, n) for s, n in zip(region.stride, region.size, strict=True) if n > 1 and s]
    dims.append((1, item))
    dims.sort(key=lambda dim: dim[1])
    step, length = dims.pop()
    starts = [region.offset * item]
    for outer, count in dims:
        starts = [start + k * outer for start in starts for k in range(count)]
    for start in starts:
        yield slice(start, start + (length - 1) * step + 1, step)


class Spans:
    """A set of bytes: sorted intervals that do not touch each other, and scattered regions.

    Those would be too many intervals. They are looked at byte by byte where that matters.
    """

    __slots__ = ("_ends", "_scattered", "_starts")

    def __init__(self, begin: int = 0, end: int = 0) -> None:
        self._starts = [begin] if end > begin else []
        self._ends = [end] if end > begin else []
        self._scattered: dict[Region, None] | None = None

    def marks(self, size: int = 0) -> bytearray:
        """Give so many bytes, at least all up to the last that is in: those that are as ones."""
        scattered = self._scattered or {}
        ends = (region.span[1] for region in scattered)
        marks = bytearray(max([size, *self._ends[-1:], *ends]))
        for begin, end in zip(self._starts, self._ends, strict=True):
            marks[begin:end] = b"\1" * (end - begin)
        for region in scattered:
            for part in _slices(region):
                marks[part] = b"\1" * len(range(part.start, part.stop, part.step))
        return marks

    def _covers_all(self, slices: Iterable[slice]) -> bool:
        marks = self.marks()
        return all(marks[s].count(1) == len(range(s.start, s.stop, s.step or 1)) for s in slices)

    def _resolve(self) -> None:
        """Make intervals of what is scattered."""
        both = self.within(0, len(self.marks()))
        self._scattered = None
        self._starts, self._ends = [a for a, _ in both], [b for _, b in both]

    def add(self, begin: int, end: int) -> None:
        """Put an interval in."""
        if not self._starts:
            self._starts, self._ends = [begin], [end]
            return
        first, last = bisect_left(self._ends, begin), bisect_right(self._starts, end)
        if first < last:
            begin, end = min(begin, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [begin], [end]

    def add_all(self, intervals: Iterable[tuple[int, int]]) -> None:
        """Put many intervals in."""
        both = sorted([*zip(self._starts, self._ends, strict=True), *intervals])
        self._starts, self._ends = [], []
        for begin, end in both:
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            elif begin < end:
                self._starts.append(begin)
                self._ends.append(end)

    def remove(self, begin: int, end: int) -> None:
        """Take an interval out."""
        if self._scattered:
            self._resolve()
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
        if place < len(self._starts) and self._starts[place] < end:
            return True
        spans = (region.span for region in self._scattered or ())
        return any(first < end and begin < last for first, last in spans)

    def covers(self, begin: int, end: int) -> bool:
        """Whether all of an interval is in."""
        place = bisect_right(self._starts, begin) - 1
        if end <= begin or (place >= 0 and end <= self._ends[place]):
            return True
        if not self._scattered or not self._covers_all([slice(begin, end)]):
            return False
        self.add(begin, end)
        spans = {region: region.span for region in self._scattered}
        left = {r: None for r, (a, b) in spans.items() if not (begin <= a and b <= end)}
        self._scattered = left or None
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in."""
        return not self._starts and not self._scattered

    def copy(self) -> Spans:
        """Give an equal set."""
        other = Spans()
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        other._scattered = dict(self._scattered) if self._scattered else None
        return other

    def within(self, begin: int, end: int) -> list[tuple[int, int]]:
        """List what is in, of an interval."""
        if self._scattered:
            marks, found = self.marks(), []
            first = marks.find(1, begin, end)
            while first >= 0:
                last = marks.find(0, first, end)
                last = min(end, len(marks)) if last < 0 else last
                found.append((first, last))
                first = marks.find(1, last, end)
            return found
        both = zip(self._starts, self._ends, strict=True)
        return [(max(a, begin), min(b, end)) for a, b in both if a < end and b > begin]

    def add_region(self, region: Region) -> None:
        """Put in what a region writes."""
        if region.runs is None:
            self._scattered = self._scattered or {}
            self._scattered[region] = None
            return
        for begin, end in region.runs:
            self.add(begin, end)

    def add_around(self, region: Region) -> None:
        """Put in at least what a region reads."""
        for begin, end in region.around:
            self.add(begin, end)

    def remove_region(self, region: Region) -> None:
        """Take out what a region overwrites; nothing if that is too scattered to be followed."""
        for begin, end in region.runs or ():
            self.remove(begin, end)

    def meets_region(self, region: Region) -> bool:
        """Whether some of a region may be in."""
        return any(starmap(self.meets, region.around))

    def covers_region(self, region: Region) -> bool:
        """Whether all of a region is in."""
        if region.runs is None and self._scattered:
            return region in self._scattered or self._covers_all(_slices(region))
        return all(starmap(self.covers, region.around))
