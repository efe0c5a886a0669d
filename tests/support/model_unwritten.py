"""What depends on memory that nobody has written, where NaN does not tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


def in_order(tensor: Tensor) -> list[tuple[int, int]]:
    """List the elements of a tensor, in its order: their storage, and the byte they start at."""
    storage = tensor.untyped_storage()._cdata
    return [(storage, o) for o in offsets(tensor)]


def offsets(tensor: Tensor) -> list[int]:
    """Give the byte in its storage where each element of a tensor starts, in its order."""
    found = [tensor.storage_offset()]
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = [o + k * stride for o in found for k in range(size)]
    return [o * tensor.itemsize for o in found]


def _holds_nan(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


class Lost(NamedTuple):
    """Which elements of something depend on unwritten memory, and whether NaN tells."""

    mask: Tensor
    is_nan: bool


# These do the same to each element, too, though torch has no mark for it.
_EACH = {
    torch.ops.aten.copy_.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.masked_fill_.Scalar,
    torch.ops.aten.masked_fill_.Tensor,
}


class Unwritten:
    """Follows what depends on unwritten memory through operators.

    Such memory is NaN, and NaN passes through arithmetic. Comparisons, and whatever else gives
    booleans or integers, swallow it: these elements are noted here, and what is made of them is
    made NaN again.

    Attributes:
        decides: whether Python has got a value that depends on it and is not NaN: what the program
            did then means nothing.
    """

    def __init__(self) -> None:
        self.decides = False
        self._cells: set[tuple[int, int]] = set()

    def mask(self, tensor: Tensor) -> Tensor:
        """Tell which elements of a tensor depend on what nobody has written."""
        if _holds_nan(tensor):
            return tensor.isnan()
        if not self._cells:
            return torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
        marks = [cell in self._cells for cell in in_order(tensor)]
        return torch.tensor(marks, dtype=torch.bool, device=tensor.device).view(tensor.shape)

    def read(self, tensors: Sequence[Tensor]) -> list[Lost]:
        """Tell it of these that an operator is about to read; give it back to `made`."""
        found = [Lost(self.mask(tensor), _holds_nan(tensor)) for tensor in tensors]
        return [lost for lost in found if lost.mask.any()]

    def allocated(self, tensors: Iterable[Tensor]) -> None:
        """Note memory that nobody has written and that cannot be NaN."""
        for tensor in tensors:
            if not _holds_nan(tensor):
                self._cells.update(in_order(tensor))

    def made(self, func: Any, read: list[Lost], tensors: list[Tensor], result: Any) -> None:
        """Note what an operator has made of what depends on unwritten memory.

        Args:
            func: the operator.
            read: what `read` gave.
            tensors: those that it has written to, and those that it has made.
            result: what it returned.
        """
        if read and not tensors and not isinstance(result, (float, Tensor)):
            self.decides = True
        if not read and not self._cells:
            return
        unseen = [lost for lost in read if not lost.is_nan]
        for tensor in tensors:
            if not _holds_nan(tensor):
                marks = _reached(func, read, tensor).flatten().tolist()
                for cell, is_lost in zip(in_order(tensor), marks, strict=True):
                    (self._cells.add if is_lost else self._cells.discard)(cell)
            elif unseen:
                tensor[_reached(func, unseen, tensor)] = float("nan")


def _reached(func: Any, read: list[Lost], tensor: Tensor) -> Tensor:
    """Tell which elements of a result depend on what was lost of what was read."""
    each = torch.Tag.pointwise in func.tags or func in _EACH
    if not each or any(lost.mask.shape != tensor.shape for lost in read):
        return torch.full(tensor.shape, bool(read), device=tensor.device)
    found = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    for lost in read:
        found |= lost.mask.to(tensor.device)
    return found
