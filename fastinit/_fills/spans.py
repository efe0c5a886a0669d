"""Sets of bytes of one storage."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import starmap

import torch
from torch import Tensor

from fastinit._fills.marks import Marks
from fastinit._fills.region import Region


class Spans:
    """A set of bytes: sorted intervals that do not touch each other, and scattered regions.

    Those would be too many intervals. They are looked at byte by byte, from when that matters.
    """

    __slots__ = ("_ends", "_marks", "_scattered", "_starts")

    def __init__(self, begin: int = 0, end: int = 0) -> None:
        self._starts = [begin] if end > begin else []
        self._ends = [end] if end > begin else []
        self._scattered: dict[Region, None] | None = None  # not looked at yet
        self._marks: Marks | None = None  # in whose stretch there are no intervals

    def _look(self, region: Region | None = None) -> Marks:
        """Go on byte by byte where there is something scattered, and where a region is."""
        scattered, self._scattered = self._scattered or {}, None
        marks = self._marks
        around = [*scattered, *([region] if region is not None else [])]
        if around:
            begin = min(r.span[0] for r in around)
            end = max(r.span[1] for r in around)
            if marks is None:
                marks = Marks(begin, end)
            else:
                begin, end = min(begin, marks.begin), max(end, marks.end)
                marks.extend(begin, end)
            for first, last in self._between(begin, end):
                marks.put(first, last, True)
            self._remove(begin, end)
            for one in scattered:
                marks.put_region(one, True)
            self._marks = marks
        assert marks is not None
        return marks

    def _between(self, begin: int, end: int) -> list[tuple[int, int]]:
        """List what the intervals have of an interval."""
        first, last = bisect_right(self._ends, begin), bisect_left(self._starts, end)
        both = zip(self._starts[first:last], self._ends[first:last], strict=True)
        return [(max(a, begin), min(b, end)) for a, b in both]

    def marks(self, size: int = 0) -> bytearray:
        """Give so many bytes, at least all up to the last that is in: those that are as ones."""
        looked = self._look() if self._scattered or self._marks else None
        last = 0 if looked is None else looked.end
        marks = bytearray(max([size, *self._ends[-1:], last]))
        if looked is not None:
            looked.onto(marks)
        for begin, end in zip(self._starts, self._ends, strict=True):
            marks[begin:end] = b"\1" * (end - begin)
        return marks

    def views(self, region: Region, nbytes: int, *, removes: bool = False) -> list[Tensor]:
        """Give marks of a region's elements, to be read and written; see `Marks.views`.

        All of the storage is looked at byte by byte from now on, as there may be more of them.

        Args:
            region: the region.
            nbytes: how large the storage is.
            removes: whether some may be taken out.
        """
        marks, (begin, end) = self._marks, region.span
        if self._scattered or marks is None or begin < marks.begin or marks.end < end:
            marks = self._look(Region((nbytes,), (1,), 0, torch.uint8))
        return marks.views(region, removes=removes)

    def add(self, begin: int, end: int) -> None:
        """Put an interval in."""
        marks = self._marks
        if marks is not None and begin < marks.end and end > marks.begin:
            marks.put(begin, end, True)
            if begin < marks.begin:
                self._add(begin, marks.begin)
            if end > marks.end:
                self._add(marks.end, end)
        else:
            self._add(begin, end)

    def _add(self, begin: int, end: int) -> None:
        if not self._starts:
            self._starts, self._ends = [begin], [end]
            return
        first, last = bisect_left(self._ends, begin), bisect_right(self._starts, end)
        if first < last:
            begin, end = min(begin, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [begin], [end]

    def add_all(self, intervals: Iterable[tuple[int, int]]) -> None:
        """Put many intervals in."""
        if self._marks is not None:
            for begin, end in intervals:
                if begin < end:
                    self.add(begin, end)
            return
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
        if self._scattered or self._marks:
            self._look().put(begin, end, False)
        self._remove(begin, end)

    def _remove(self, begin: int, end: int) -> None:
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
        """Whether some of an interval is in; what is scattered and not looked at may be."""
        place = bisect_right(self._ends, begin)
        if place < len(self._starts) and self._starts[place] < end:
            return True
        if self._marks is not None and self._marks.holds(begin, end, True):
            return True
        spans = (region.span for region in self._scattered or ())
        return any(first < end and begin < last for first, last in spans)

    def within(self, begin: int, end: int) -> list[tuple[int, int]] | None:
        """List what of an interval is in; None if that is scattered."""
        if self._scattered or self._marks is not None:
            return None
        return self._between(begin, end)

    def has(self, begin: int, end: int) -> bool:
        """Whether all of an interval is in one of the intervals, which is soon found out."""
        place = bisect_right(self._starts, begin) - 1
        return end <= begin or (place >= 0 and end <= self._ends[place])

    def covers(self, begin: int, end: int) -> bool:
        """Whether all of an interval is in."""
        if self.has(begin, end):
            return True
        if not self._scattered and self._marks is None:
            return False
        marks = self._look()
        if marks.holds(begin, end, False):
            return False
        beside = (begin, min(end, marks.begin)), (max(begin, marks.end), end)
        if not all(a >= b or self._between(a, b) == [(a, b)] for a, b in beside):
            return False
        if begin <= marks.begin and marks.end <= end:  # one interval is enough from now on
            self._marks = None
            self._add(begin, end)
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in."""
        marks = self._marks
        here = marks is not None and marks.holds(marks.begin, marks.end, True)
        return not self._starts and not self._scattered and not here

    def copy(self) -> Spans:
        """Give an equal set."""
        other = Spans()
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        other._scattered = dict(self._scattered) if self._scattered else None
        other._marks = None if self._marks is None else self._marks.copy()
        return other

    def add_region(self, region: Region) -> None:
        """Put in what a region writes."""
        if region.runs is None and self._marks is None:
            self._scattered = self._scattered or {}
            self._scattered[region] = None
        elif region.runs is None:
            self._look(region).put_region(region, True)
        for begin, end in region.runs or ():
            self.add(begin, end)

    def add_around(self, region: Region) -> None:
        """Put in at least what a region reads."""
        for begin, end in region.around:
            self.add(begin, end)

    def remove_region(self, region: Region) -> None:
        """Take out what a region overwrites."""
        if region.runs is None:
            self._look(region).put_region(region, False)
        for begin, end in region.runs or ():
            self.remove(begin, end)

    def meets_region(self, region: Region) -> bool:
        """Whether some of a region is in; what is scattered and not looked at may be."""
        if region.runs is None and self._marks is not None:
            return self._look(region).region_holds(region, True)
        return any(starmap(self.meets, region.around))

    def covers_region(self, region: Region) -> bool:
        """Whether all of a region is in."""
        if region.runs is None and self._marks is None and region in (self._scattered or ()):
            return True
        if region.runs is not None or self.covers(*region.span):
            return all(starmap(self.covers, region.around))
        return self.meets_region(region) and not self._look(region).region_holds(region, False)
