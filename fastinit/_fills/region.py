"""The part of a storage that a tensor stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from fastinit._compiled import extension

_MOST_RUNS = 1 << 14
_MOST_TRIED = 8

Layout = tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype]


@dataclass(frozen=True, eq=False)
class Region:
    """The elements of a storage that a tensor stands for.

    Those of tensors are one object for each layout, as long as there are not too many: what has
    been worked out for one need not be again.

    Attributes:
        size: the tensor's shape.
        stride: its strides, in elements.
        offset: its first element.
        dtype: their type.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Region:
        """Describe a strided tensor; of a nested one, which has no strides, all of its memory."""
        try:
            return _of_layout(extension.layout_of(tensor))
        except RuntimeError:
            if not tensor.is_nested:
                raise
            return Region((tensor.untyped_storage().nbytes(),), (1,), 0, torch.uint8)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Region):
            return NotImplemented
        return self.layout == other.layout

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.layout)

    @cached_property
    def layout(self) -> Layout:
        """Its size, stride, offset and type."""
        return self.size, self.stride, self.offset, self.dtype

    @cached_property
    def numel(self) -> int:
        """How many elements there are."""
        return math.prod(self.size)

    @cached_property
    def nbytes(self) -> int:
        """How many bytes they have."""
        return self.numel * self.dtype.itemsize

    @cached_property
    def span(self) -> tuple[int, int]:
        """The bytes from the first element to the last, as a half-open interval."""
        item = self.dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        return self.offset * item, (self.offset + last + 1) * item

    @cached_property
    def overlaps_itself(self) -> bool:
        """Whether two elements may share memory (some that do not are counted, too)."""
        if len(self.size) == 1:
            return self.stride[0] == 0 and self.size[0] > 1
        reach = 0
        for stride, size in sorted(zip(self.stride, self.size, strict=True)):
            if size > 1:
                if stride <= reach:
                    return True
                reach += (size - 1) * stride
        return False

    @cached_property
    def dense(self) -> bool:
        """Whether every byte of the span belongs to exactly one element."""
        begin, end = self.span
        return end - begin == self.nbytes and not self.overlaps_itself

    @cached_property
    def blocks(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """How many bytes it has in one piece, and in what steps such pieces are, how often each."""
        block = item = self.dtype.itemsize
        outer: list[tuple[int, int]] = []
        for stride, size in sorted(zip(self.stride, self.size, strict=True)):
            step = stride * item
            if size == 1 or step == 0:
                continue
            if step <= block and not outer:
                block += (size - 1) * step
            else:
                outer.append((step, size))
        return block, tuple(outer)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...] | None:
        """The bytes of its elements, as sorted, disjoint intervals; None if there are too many."""
        if self.numel == 0:
            return ()
        block, outer = self.blocks
        if math.prod(size for _, size in outer) > _MOST_RUNS:
            return None
        starts = [self.offset * self.dtype.itemsize]
        for step, size in outer:
            starts = [start + k * step for start in starts for k in range(size)]
        merged: list[tuple[int, int]] = []
        for start in sorted(starts):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], start + block))
            else:
                merged.append((start, start + block))
        return tuple(merged)

    @cached_property
    def around(self) -> tuple[tuple[int, int], ...]:
        """The bytes of its elements; those of its span if there are too many intervals."""
        return (self.span,) if self.runs is None else self.runs

    def meets(self, other: Region) -> bool:
        """Whether another shares memory with it; some are counted that are too many pieces."""
        (low, high), (begin, end) = self.span, other.span
        if self.numel == 0 or other.numel == 0 or low >= end or begin >= high:
            return False
        if self.dense and other.dense:
            return True
        (block, outer), (other_block, other_outer) = self.blocks, other.blocks
        most: dict[int, list[int]] = {}  # how often each step may go forth, and back
        for k, of in enumerate((outer, other_outer)):
            for step, size in of:
                most.setdefault(step, [0, 0])[k] += size - 1
        steps = sorted(((step, a, b) for step, (a, b) in most.items()), reverse=True)
        found = _reaches(begin - low - block, begin - low + other_block, steps)
        if found is None:
            return self.runs is None or other.runs is None or _share(self.runs, other.runs)
        return found

    def with_dtype(self, dtype: torch.dtype) -> Region:
        """Give the same elements as another type."""
        return Region(self.size, self.stride, self.offset, dtype)

    def covers(self, other: Region) -> bool:
        """Whether writing this region leaves nothing of the other."""
        if self is other or self == other:
            return True
        if self.runs is not None and len(self.runs) == 1:
            (low, high), (begin, end) = self.runs[0], other.span
            return other.numel == 0 or (low <= begin and end <= high)
        if self.runs is None or other.runs is None:
            return self._has_pieces_of(other)
        place = 0
        for low, high in other.runs:
            while place < len(self.runs) and self.runs[place][1] < high:
                place += 1
            if place == len(self.runs) or self.runs[place][0] > low:
                return False
        return True

    def _has_pieces_of(self, other: Region) -> bool:
        """Whether the pieces of another, in steps that this one has, too, are within its own."""
        (block, outer), (other_block, other_outer) = self.blocks, other.blocks
        counts, place = dict(other_outer), other.span[0] - self.span[0]
        known = len(counts) == len(other_outer) and counts.keys() <= dict(outer).keys()
        for step, count in sorted(outer, reverse=True):
            first = place // step
            known = known and 0 <= first <= count - counts.get(step, 1)
            place -= first * step
        return known and place + other_block <= block

    def on(self, storage: torch.UntypedStorage) -> Tensor:
        """Make the tensor of this region on a storage."""
        tensor = extension.tensor_on(storage._cdata, self.layout)
        if tensor is None:
            raise RuntimeError(f"fastinit: a storage of {storage.nbytes()} bytes is too small")
        return tensor


def _reaches(low: int, high: int, steps: Sequence[tuple[int, int, int]]) -> bool | None:
    """Whether steps, each so often forth and back, can add up to something in between.

    None if they do not divide each other, so that there is too much to try.
    """
    if low < 0 < high:
        return True
    if not steps:
        return False
    (step, forth, back), inner = steps[0], steps[1:]
    most = sum(s * n for s, n, _ in inner)
    least = -sum(s * n for s, _, n in inner)
    first, last = max(-back, (low - most) // step + 1), min(forth, -((least - high) // step) - 1)
    if last - first >= _MOST_TRIED:
        return None
    tried = [_reaches(low - k * step, high - k * step, inner) for k in range(first, last + 1)]
    return True if True in tried else None if None in tried else False


def _share(runs: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> bool:
    """Whether sorted intervals share bytes with others."""
    place = 0
    for begin, end in runs:
        while place < len(others) and others[place][1] <= begin:
            place += 1
        if place < len(others) and others[place][0] < end:
            return True
    return False


@lru_cache(maxsize=1 << 12)
def _of_layout(layout: Layout) -> Region:
    return Region(*layout)
