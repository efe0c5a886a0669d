"""Operators that lay what they are given side by side, as what they do with each tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOVING = "_cudnn_rnn_flatten_weight"  # also gives what it is given other memory


class Laid(NamedTuple):
    """A part of a result, and what its elements are copies of; None for constants."""

    part: Tensor
    of: Tensor | None


def _joined(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Tensor], int]:
    """Give what `cat` and `stack` lay side by side, and along which dimension."""
    tensors = args[0] if args else kwargs["tensors"]
    return tensors, args[1] if len(args) > 1 else kwargs.get("dim", 0)


def _cat(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Iterator[Laid]:
    tensors, dim = _joined(args, kwargs)
    # An empty list of numbers may stand beside whatever else.
    tensors = [tensor for tensor in tensors if tensor.dim() == result.dim()]
    parts = torch.split_with_sizes(result, [t.shape[dim] for t in tensors], dim)
    yield from map(Laid, parts, tensors)


def _stack(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Iterator[Laid]:
    tensors, dim = _joined(args, kwargs)
    yield from map(Laid, result.unbind(dim), tensors)


def _pad(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Iterator[Laid]:
    of = args[0] if args else kwargs["self"]
    padding = args[1] if len(args) > 1 else kwargs["pad"]
    part = result
    for k, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        dim = of.dim() - 1 - k
        size = of.shape[dim] + min(before, 0) + min(after, 0)  # less than none is cut off
        of = of.narrow(dim, max(-before, 0), size)
        part = part.narrow(dim, max(before, 0), size)
    if part.shape != result.shape:
        yield Laid(result, None)
    yield Laid(part, of)


def _repeat(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Iterator[Laid]:
    of = args[0] if args else kwargs["self"]
    sizes: list[int] = []  # which of its copies, and where in that
    for size, whole in zip(
        [1] * (result.dim() - of.dim()) + [*of.shape], result.shape, strict=True
    ):
        sizes += [whole // size if size else 0, size]
    result = result.view(sizes)
    for dim in range(of.dim()):
        of = of.unsqueeze(2 * dim)
    yield Laid(result, of)


def _block_diag(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Iterator[Laid]:
    tensors = args[0] if args else kwargs["tensors"]
    yield Laid(result, None)
    row = column = 0
    for tensor in tensors:
        block = tensor if tensor.dim() == 2 else tensor.view(1, -1)
        rows, columns = block.shape
        yield Laid(result[row : row + rows, column : column + columns], block)
        row, column = row + rows, column + columns


def _flatten(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Iterator[Laid]:
    """Of an RNN's weights, which have become views of the result."""
    for weight in args[0] if args else kwargs["weight_arr"]:
        place = result.as_strided(weight.shape, weight.stride(), weight.storage_offset())
        yield Laid(place, weight)


_LAYING: dict[str, Callable[[Sequence[Any], Mapping[str, Any], Tensor], Iterator[Laid]]] = {
    MOVING: _flatten,
    "block_diag": _block_diag,
    "cat": _cat,
    "constant_pad_nd": _pad,
    "repeat": _repeat,
    "stack": _stack,
}
LAYING = frozenset(_LAYING)


def laid_by(
    operator: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor
) -> list[Laid]:
    """List the parts of what such an operator has made, each of which has other elements.

    Args:
        operator: its name, one of `LAYING`.
        args: what it was given.
        kwargs: likewise, by name.
        result: what it has made.
    """
    return [one for one in _LAYING[operator](args, kwargs, result) if one.part.numel() > 0]
