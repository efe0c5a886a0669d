"""The part of a storage that a tensor stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """The elements of a storage that a tensor stands for.

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
        """Describe a strided tensor."""
        return Region(
            tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype
        )

    @property
    def layout(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Its size, stride and offset."""
        return self.size, self.stride, self.offset

    @cached_property
    def numel(self) -> int:
        """How many elements there are."""
        return math.prod(self.size)

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
        return end - begin == self.numel * self.dtype.itemsize and not self.overlaps_itself

    def covers(self, other: Region) -> bool:
        """Whether writing this region leaves nothing of the other."""
        begin, end = self.span
        low, high = other.span
        return begin <= low and high <= end and self.dense

    def meets(self, other: Region) -> bool:
        """Whether the two spans have a byte in common."""
        begin, end = self.span
        low, high = other.span
        return begin < high and low < end

    def on(self, storage: torch.UntypedStorage) -> Tensor:
        """Make the tensor of this region on a storage."""
        with torch._C.DisableTorchFunction():
            empty = torch.empty(0, dtype=self.dtype, device=storage.device)
            return empty.set_(storage, self.offset, self.size, self.stride)
