"""`fastinit.shard()`: shards for code that has no DTensor."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from fastinit._distributed.layout import Box
from fastinit._distributed.part import Part, TensorShard
from fastinit._tensors import in_transform, is_plain
from fastinit._untraced import untraced

_MOST_ELEMENTS = 2**63 - 1  # that torch can count
_Numbers = SupportsIndex | Sequence[SupportsIndex]


def _listed(value: Any, name: str, *, single: bool = False) -> tuple[int, ...]:
    """Give a number, or numbers, as a tuple.

    Args:
        value: the number or, unless `single`, a sequence of them.
        name: of the argument.
        single: whether it has to be one number.

    Raises:
        TypeError: if they are no integers.
        ValueError: if one is negative.
    """
    try:
        one = single or isinstance(value, SupportsIndex)
        numbers = tuple(operator.index(n) for n in ([value] if one else value))
    except TypeError:
        kinds = "an integer" if single else "an integer or a sequence of them"
        raise TypeError(
            f"fastinit.shard: argument '{name}' must be {kinds}, got {value!r}"
        ) from None
    if any(n < 0 for n in numbers):
        raise ValueError(f"fastinit.shard: argument '{name}' must not be negative, got {value!r}")
    return numbers


def _shard(
    tensor: Tensor,
    full_size: _Numbers,
    offset: _Numbers | None = None,
    *,
    start: SupportsIndex | None = None,
) -> Tensor:
    """Say of which larger tensor this one is a part; hand the result to any initialiser.

    For code that shards by hand. The initialiser writes into `tensor` what it would write there
    into the full tensor: the same bits under the same key (of large orthogonal matrices to
    rounding), fans of the full size, and nothing is communicated. Without `key=` one key is drawn
    wherever the full tensor has elements, so that the generators of ranks that make the same calls
    stay equal, whatever they hold.

    A part is a box: `tensor.shape` elements from `offset` on. Or it is a range of the elements, as
    flattened and fused buffers hold them (FSDP1, ZeRO, Megatron's optimizer): then `tensor` is a
    vector, whose first element has the row-major index `start`.

    Args:
        tensor: the memory of this part, any strides; without elements if there are none here.
        full_size: the shape of the full tensor; a number for a vector's.
        offset: where in it the box begins, one number per dimension.
        start: in place of `offset`, where the range begins.

    Returns:
        A stand-in that has the full size, and `tensor`'s memory, dtype and device. Initialisers of
        fastinit take it, and those of torch under `fastinit.patch()`; they return it. It can be
        used again. Torch's operators other than `fill_` and `zero_` raise NotImplementedError.

    Raises:
        TypeError: if `tensor` is no ordinary strided tensor, or a conjugate or negative view that
            is not resolved, or a number is no integer.
        NotImplementedError: inside torch.func transforms.
        ValueError: if a number is negative, the full tensor has 2**63 elements or more, the part
            does not lie in it or has another number of dimensions, or not exactly one of `offset`
            and `start` is given.

    Examples:
        >>> rows = torch.empty(1024, 4096)  # rank 3's of (4096, 4096), row by row
        >>> fastinit.kaiming_uniform_(fastinit.shard(rows, (4096, 4096), (3072, 0)), key=key)
        >>> flat = torch.empty(5_000_000)
        >>> fastinit.normal_(fastinit.shard(flat, (4096, 4096), start=10_000_000), key=key)
    """
    if not isinstance(tensor, Tensor) or not is_plain(type(tensor)):
        raise TypeError(
            "fastinit.shard: argument 'tensor' must be an ordinary tensor, got "
            f"{type(tensor).__name__}"
        )
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise TypeError(
            f"fastinit.shard: argument 'tensor' must be strided, got layout {tensor.layout}"
        )
    if tensor.is_conj() or tensor.is_neg():
        raise TypeError(
            "fastinit.shard: argument 'tensor' is a view whose conjugate or negative is still to "
            "be taken; pass what it is a view of, or resolve_conj().resolve_neg()"
        )
    if in_transform():
        raise NotImplementedError(
            "fastinit.shard: not inside torch.func transforms (vmap, grad, jvp, functionalize), "
            "whose tensors have no memory of their own; describe and fill the shard outside"
        )
    if (offset is None) == (start is None):
        raise ValueError("fastinit.shard: pass either 'offset', of a box, or 'start', of a range")
    size, shape = _listed(full_size, "full_size"), tuple(tensor.shape)
    if max(math.prod(size), *size, 0) > _MOST_ELEMENTS:
        raise ValueError(
            f"fastinit.shard: argument 'full_size' must have fewer than 2**63 elements, got {size}"
        )
    if start is not None:
        (begin,) = _listed(start, "start", single=True)
        if len(shape) != 1:
            raise ValueError(
                "fastinit.shard: argument 'tensor' must have 1 dimension to be a range of "
                f"elements, got shape {shape}"
            )
        if begin + shape[0] > math.prod(size):
            raise ValueError(
                f"fastinit.shard: {shape[0]} elements from 'start' = {begin} on are not in a "
                f"tensor of size {size}, which has {math.prod(size)}"
            )
        return TensorShard(Part(tensor, size, (), begin))
    first = _listed(offset, "offset")
    if not len(shape) == len(size) == len(first):
        raise ValueError(
            "fastinit.shard: argument 'tensor' and arguments 'full_size' and 'offset' must have "
            f"one number of dimensions, got shape {shape}, {size} and {first}"
        )
    if any(o + n > full for o, n, full in zip(first, shape, size, strict=True)):
        raise ValueError(
            f"fastinit.shard: a part of shape {shape} at offset {first} is not in a tensor of "
            f"size {size}"
        )
    box = Box((0,) * len(shape), shape, first)
    return TensorShard(Part(tensor, size, (box,) if 0 not in shape else ()))


shard = untraced(_shard, "a shard is described; call it outside of the graph")
shard.__name__ = shard.__qualname__ = "shard"
