"""Which bytes of a stretch of memory are in a set, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import torch
from torch import Tensor

from fastinit._fills.region import Region

_MANY = 256  # marks in a slice, from which on it is better that they are close


def _parts(region: Region, begin: int, unit: int) -> Iterator[slice]:
    """List the marks of a region as few slices, each along close elements if they are many."""
    item = region.dtype.itemsize
    dims = [(s * item, n) for s, n in zip(region.stride, region.size, strict=True) if n > 1 and s]
    dims.append((unit, item // unit))
    dims.sort(key=lambda dim: (min(dim[1], _MANY), -dim[0]))
    step, length = dims.pop()
    starts = [region.offset * item - begin]
    for outer, count in dims:
        starts = [start + k * outer for start in starts for k in range(count)]
    for start in starts:
        yield slice(start // unit, (start + (length - 1) * step) // unit + 1, step // unit)


_LARGEST = 16  # bytes of an element


class Marks:
    """The bytes of a stretch, each in or not.

    A mark stands for as many bytes as are always in or out together: for tensors of one type, an
    element. So it takes no more memory than they have elements.

    Args:
        begin: the first byte.
        end: the end of the stretch.

    Attributes:
        begin: the first byte.
        end: the end of the stretch.
    """

    __slots__ = ("_full", "_marks", "_tensor", "_unit", "begin", "end")

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self._unit = gcd(begin, end, _LARGEST)
        self._marks = bytearray((end - begin) // self._unit)
        # So many are in, from the first on: nobody looks through these again and again.
        self._full = 0
        self._tensor: Tensor | None = None  # on the same memory

    def copy(self) -> Marks:
        """Give an equal one."""
        other = Marks.__new__(Marks)
        other.begin, other.end = self.begin, self.end
        other._unit, other._marks, other._full = self._unit, self._marks.copy(), self._full
        other._tensor = None
        return other

    def _divide(self, *places: int) -> None:
        """Let marks stand for so little that none goes across these places."""
        unit = gcd(self._unit, *places)
        times = self._unit // unit
        if times > 1:
            old, self._marks = self._marks, bytearray(len(self._marks) * times)
            for k in range(times):
                self._marks[k::times] = old
            self._unit, self._tensor = unit, None
            self._full *= times

    def extend(self, begin: int, end: int) -> None:
        """Make the stretch longer; what is new is not in."""
        begin, end = min(begin, self.begin), max(end, self.end)
        self._divide(begin, end)
        before, after = (self.begin - begin) // self._unit, (end - self.end) // self._unit
        # Others, as there may be views of these.
        self._marks, self._tensor = bytearray(before) + self._marks + bytearray(after), None
        self._full = 0 if before else self._full
        self.begin, self.end = begin, end

    def _within(self, begin: int, end: int) -> tuple[int, int]:
        """Find the marks of what there is here of an interval."""
        begin, end = max(begin, self.begin), min(end, self.end)
        if begin >= end:
            return 0, 0
        self._divide(begin, end)
        return (begin - self.begin) // self._unit, (end - self.begin) // self._unit

    def put(self, begin: int, end: int, value: bool) -> None:
        """Put what there is here of an interval in or out."""
        first, last = self._within(begin, end)
        self._marks[first:last] = (b"\1" if value else b"\0") * (last - first)
        self._full = self._full if value else min(self._full, first)

    def put_region(self, region: Region, value: bool) -> None:
        """Put a region, all of which has to be here, in or out."""
        mark = b"\1" if value else b"\0"
        for part in self._parts(region):
            self._marks[part] = mark * len(range(part.start, part.stop, part.step))
            self._full = self._full if value else min(self._full, part.start)

    def _parts(self, region: Region) -> Iterator[slice]:
        self._divide(region.dtype.itemsize)
        return _parts(region, self.begin, self._unit)

    def holds(self, begin: int, end: int, value: bool) -> bool:
        """Whether some of an interval is here, and in or out."""
        first, last = self._within(begin, end)
        known = not value and first <= self._full
        place = self._marks.find(value, max(first, self._full) if known else first, last)
        if known:
            self._full = place if place >= 0 else max(last, self._full)
        return place >= 0

    def region_holds(self, region: Region, value: bool) -> bool:
        """Whether some of a region, all of which has to be here, is in or out."""
        return any(self._marks[part].find(value) >= 0 for part in self._parts(region))

    def views(self, region: Region, *, removes: bool = False) -> list[Tensor]:
        """Give the marks of a region, all of which has to be here, to be read and written.

        Args:
            region: the region.
            removes: whether some may be taken out.

        Returns:
            A tensor of the region's shape for each mark that an element has: for most types one.
        """
        self._divide(region.dtype.itemsize)
        count = region.dtype.itemsize // self._unit
        first = region.offset * count - self.begin // self._unit
        self._full = min(self._full, first) if removes else self._full
        marks = self._tensor
        if marks is None:
            with torch.inference_mode(False):  # others write there later
                marks = self._tensor = torch.frombuffer(self._marks, dtype=torch.bool)
        steps = [step * count for step in region.stride]
        return [marks.as_strided(region.size, steps, first + k) for k in range(count)]

    def onto(self, marks: bytearray) -> None:
        """Mark what is in, byte by byte, where the first stands for the first of the storage."""
        for k in range(self._unit):
            marks[self.begin + k : self.end : self._unit] = self._marks
