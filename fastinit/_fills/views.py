"""Where a view of the full tensor meets the parts of it that are here.

An initialiser may write to a slice, a transpose or one expert of a parameter. What of that a shard
holds is again a view, of the shard's memory, and a box of the view that was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from fastinit._distributed.layout import Box
from fastinit._fills.region import Region


class Axis(NamedTuple):
    """One dimension of a view, as steps along a dimension of the full tensor.

    Attributes:
        dim: of the full tensor.
        begin: its first index there.
        step: from one to the next.
        size: how many there are.
    """

    dim: int
    begin: int
    step: int
    size: int


class View(NamedTuple):
    """A view of the full tensor whose dimensions lie along its own.

    Attributes:
        axes: its dimensions; its elements in row-major order are those of the view it stands for.
        fixed: of each dimension of the full tensor, the index of the view's first element.
    """

    axes: tuple[Axis, ...]
    fixed: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(axis.size for axis in self.axes)

    def parts(self, box: Box, local: Region) -> tuple[Region, tuple[int, ...]] | None:
        """Give what of it lies in a box.

        Args:
            box: what of the full tensor is here.
            local: the shard.

        Returns:
            The region of the shard's memory, and its offset in the view. None: nothing.
        """
        first = list(self.fixed)
        size, offset, stride = [], [], []
        for axis in self.axes:
            begin, end = box.offset[axis.dim], box.offset[axis.dim] + box.size[axis.dim]
            low = max(0, -((axis.begin - begin) // axis.step))
            high = min(axis.size, -((axis.begin - end) // axis.step))
            if low >= high:
                return None
            first[axis.dim] = axis.begin + low * axis.step
            size.append(high - low)
            offset.append(low)
            stride.append(axis.step * local.stride[axis.dim])
        at = local.offset
        for dim, index in enumerate(first):
            place = index - box.offset[dim]
            if not 0 <= place < box.size[dim]:
                return None
            at += (box.start[dim] + place) * local.stride[dim]
        return Region(tuple(size), tuple(stride), at, local.dtype), tuple(offset)


def _places(full: Region, region: Region) -> list[int] | None:
    """Give the index of a region's first element in each dimension of the full tensor."""
    rest = region.offset - full.offset
    places = [0] * len(full.size)
    reach = full.numel
    for stride, dim in sorted(zip(full.stride, range(len(full.size)), strict=True), reverse=True):
        if full.size[dim] == 1:
            continue
        if stride * full.size[dim] != reach:  # it has gaps
            return None
        reach = stride
        places[dim], rest = divmod(rest, stride)
        if not 0 <= places[dim] < full.size[dim]:
            return None
    return places if rest == 0 and reach == 1 else None


def _joined(region: Region) -> list[tuple[int, int]]:
    """Give sizes and strides, those as one whose elements follow each other."""
    joined: list[tuple[int, int]] = []
    for size, stride in zip(region.size, region.stride, strict=True):
        if size == 1:
            continue
        if joined and joined[-1][1] == size * stride:
            joined[-1] = joined[-1][0] * size, stride
        else:
            joined.append((size, stride))
    return joined


def _split(full: Region, places: Sequence[int], size: int, stride: int) -> list[Axis] | None:
    """See one dimension of a view as steps along dimensions of the full tensor."""
    axes: list[Axis] = []
    while size > 1:
        below = [d for d in range(len(full.size)) if full.size[d] > 1 and full.stride[d] <= stride]
        if not below:
            return None
        dim = max(below, key=lambda d: full.stride[d])
        step, rest = divmod(stride, full.stride[dim])
        length = full.size[dim]
        if rest:
            return None
        if places[dim] + (size - 1) * step < length:
            axes.insert(0, Axis(dim, places[dim], step, size))
            break
        # Steps that go on with the next row as if it were this one.
        count = length // step
        if step >= length or length % step or places[dim] >= step or size % count:
            return None
        axes.insert(0, Axis(dim, places[dim], step, count))
        size, stride = size // count, stride * count
    return axes


@lru_cache(maxsize=1 << 12)
def view_of(full: Region, region: Region) -> View | None:
    """See a region of the full tensor's memory as a view along its dimensions; None if it is none.

    A view whose elements are the same in the same order may have another shape: what is drawn into
    an element depends on its place in that order alone.
    """
    if full.dtype is not region.dtype or region.numel == 0:
        return None
    places = _places(full, region)
    if places is None:
        return None
    axes: list[Axis] = []
    for size, stride in _joined(region):
        found = _split(full, places, size, stride)
        if found is None:
            return None
        axes += found
    dims = [axis.dim for axis in axes]
    return View(tuple(axes), tuple(places)) if len(set(dims)) == len(dims) else None


def with_ones(size: Sequence[int], boxes: Sequence[Box], shape: Sequence[int]) -> list[Box] | None:
    """See boxes of a view as boxes of one that has dimensions of size 1, too."""
    if [n for n in shape if n != 1] != [n for n in size if n != 1]:
        return None

    def spread(numbers: Sequence[int], one: int) -> tuple[int, ...]:
        left: Iterator[int] = iter(n for n, of in zip(numbers, size, strict=True) if of != 1)
        return tuple(one if n == 1 else next(left) for n in shape)

    return [Box(spread(b.start, 0), spread(b.size, 1), spread(b.offset, 0)) for b in boxes]
