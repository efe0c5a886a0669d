"""Which elements of one region stand in the places of some of another, as elementwise operators go.

Both have the same shape, or one that is broadcast to the other's; their strides and types may be
whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastinit._fills.region import Region
from fastinit._fills.spans import Spans

_FEW = 64  # intervals of a part that is no box of the whole; of one with more, all of that is taken

_Box = dict[int, tuple[int, int]]  # the first index and how many, by dimension; others have all
_Dim = tuple[int, int, int]  # stride, size, and which it is


def _dims_of(region: Region) -> list[_Dim]:
    """List the dimensions in which a region has several elements, the largest stride first."""
    both = zip(region.stride, region.size, strict=True)
    return sorted(((s, n, k) for k, (s, n) in enumerate(both) if n > 1), reverse=True)


def _merged(dims: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join steps that go on where others end, the smallest first."""
    merged: list[tuple[int, int]] = []
    for step, size in sorted(dims):
        if merged and step == merged[-1][0] * merged[-1][1]:
            merged[-1] = merged[-1][0], merged[-1][1] * size
        elif size > 1:
            merged.append((step, size))
    return merged


def _box_of(part: Region, whole: Region) -> _Box | None:
    """Say which indices of a whole have the elements of a part; None if those are no box."""
    item, (block, outer) = whole.dtype.itemsize, part.blocks
    begin = part.span[0] - whole.span[0]
    if begin < 0 or any(step % item for step, _ in outer):
        return None
    rest, dims, box = begin // item, _dims_of(whole), _Box()
    for stride, size, place in dims:
        first = rest // stride
        if first >= size:
            return None
        rest -= first * stride
        box[place] = first, 1
    if rest:
        return None
    length = (begin % item + block - 1) // item + 1
    for part_step, part_count in _merged([(1, length), *((step // item, n) for step, n in outer)]):
        step, count = part_step, part_count
        for stride, size, place in reversed(dims):
            first, has = box[place]
            if stride != step or count == 1:
                continue
            if has == 1 and first + count <= size:
                box[place], count = (first, count), 1
            elif has == 1 and first == 0 and count % size == 0:
                box[place], count, step = (0, size), count // size, step * size
            else:
                return None
        if count > 1:
            return None
    return box


def _boxes(low: int, high: int, dims: Sequence[_Dim]) -> Iterator[_Box]:
    """List the boxes of the elements that are at some places, counted from the first."""
    if not dims:
        if low <= 0 < high:
            yield {}
        return
    (stride, size, place), inner = dims[0], dims[1:]
    reach = sum((n - 1) * s for s, n, _ in inner)
    first = max(0, -((reach - low) // stride))  # the first that reaches so far
    last = min(size - 1, (high - 1) // stride)
    # Those in between are in as a whole; so may the outermost be.
    begin = first if low <= first * stride else first + 1
    end = last if high <= last * stride + reach else last + 1
    if begin < end:
        yield {place: (begin, end - begin)}
    for k in sorted({first, last}):
        if first <= k <= last and not begin <= k < end:
            for box in _boxes(low - k * stride, high - k * stride, inner):
                yield {place: (k, 1), **box}


def _box_in(region: Region, box: _Box, dimensions: int) -> Region:
    """Give a box of a region, or of what it is broadcast to, which has so many dimensions."""
    sizes, offset, before = [*region.size], region.offset, dimensions - len(region.size)
    for place, (first, count) in box.items():
        k = place - before
        if k >= 0 and sizes[k] > 1:
            sizes[k] = count
            offset += first * region.stride[k]
    return Region(tuple(sizes), region.stride, offset, region.dtype)


def _is_broadcast(of: Region, to: Region) -> bool:
    """Whether a region has the shape of another, or is broadcast to that."""
    if of.size == to.size:
        return True
    sizes = zip(reversed(of.size), reversed(to.size), strict=False)
    return len(of.size) <= len(to.size) and all(n in (1, m) for n, m in sizes)


def _in_bytes(intervals: Sequence[tuple[int, int]], to: Region, of: Region) -> list[Region]:
    """List what stands in a region where another has its elements in some bytes."""
    item, start, dims = to.dtype.itemsize, to.span[0], _dims_of(to)
    found = []
    for begin, end in intervals:
        low, high = (begin - start) // item, -((start - end) // item)
        found += [_box_in(of, box, len(to.size)) for box in _boxes(low, high, dims)]
    return found


def made_of(part: Region, to: Region, of: Region) -> list[Region]:
    """List what of `of` the elements of `to` that are in a part are made of; perhaps with more.

    Args:
        part: some memory, laid out in whatever way.
        to: what is written, each element by one of `of`.
        of: what is read.
    """
    if not _is_broadcast(of, to) or to.overlaps_itself:
        return [of]
    shift, item = of.span[0] - to.span[0], part.dtype.itemsize
    alike = of.size == to.size and of.stride == to.stride
    if alike and of.dtype.itemsize == to.dtype.itemsize and shift % item == 0 and to.covers(part):
        return [Region(part.size, part.stride, part.offset + shift // item, part.dtype)]
    box = _box_of(part, to)
    if box is not None:
        return [_box_in(of, box, len(to.size))]
    if part.covers(to) or part.runs is None or len(part.runs) > _FEW:
        return [of]
    return _in_bytes(part.runs, to, of)


def rest_of(region: Region, written: Region) -> list[Region]:
    """List what of a region another leaves; perhaps with more, if the two do not fit each other."""
    if written.covers(region):
        return []
    if region.overlaps_itself:
        return [region]
    box, dimensions = _box_of(written, region), len(region.size)
    if box is not None and _box_in(region, box, dimensions).nbytes == written.nbytes:
        # What is before it and behind it, one dimension after the other.
        left, inside = [], _Box()
        for place, (first, count) in box.items():
            behind = first + count
            for begin, size in ((0, first), (behind, region.size[place] - behind)):
                if size > 0:
                    left.append(_box_in(region, {**inside, place: (begin, size)}, dimensions))
            inside[place] = first, count
        return left
    if any(one.runs is None or len(one.runs) > _FEW for one in (region, written)):
        return [region]
    spans = Spans()
    spans.add_region(region)
    spans.remove_region(written)
    intervals = spans.within(*region.span)
    return [region] if intervals is None else _in_bytes(intervals, region, region)


def made_of_bytes(intervals: Sequence[tuple[int, int]], to: Region, of: Region) -> list[Region]:
    """List what of `of` the elements of `to` in some bytes are made of; perhaps with more.

    Args:
        intervals: sorted, of bytes.
        to: what is written, each element by one of `of`.
        of: what is read.
    """
    if not _is_broadcast(of, to) or to.overlaps_itself:
        return [of]
    return _in_bytes(intervals, to, of)
