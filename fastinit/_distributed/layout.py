"""Which elements of the full tensor a shard holds: placements on a mesh as boxes.

A dimension of the shard is a list of runs of the full tensor's, for it may hold several (fused
projections); the boxes are what their runs have in common. Arithmetic on numbers alone.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangular part of the full tensor, and where the shard has it.

    Attributes:
        start: its first element in the shard, per dimension.
        size: its shape.
        offset: its first element in the full tensor.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    offset: tuple[int, ...]


class Split(NamedTuple):
    """How one dimension of a mesh divides a tensor.

    Attributes:
        dim: the dimension of the tensor that is divided.
        strided: into how many equal parts it is divided first, each of which is then shared out
            among the ranks; 1 for contiguous shards.
    """

    dim: int
    strided: int = 1


_Run = tuple[int, int]  # the first of the full tensor's, and how many


def _chunk(length: int, count: int, index: int) -> tuple[int, int]:
    """Give the begin and end of a chunk as torch.chunk makes them: the last short or empty."""
    size = -(-length // count)
    return min(length, size * index), min(length, size * (index + 1))


def _cut(runs: Sequence[_Run], begin: int, end: int) -> list[_Run]:
    """Take the elements begin ... end of all runs, one behind the other."""
    taken: list[_Run] = []
    at = 0
    for first, length in runs:
        low, high = max(begin, at) - at, min(end, at + length) - at
        if low < high:
            if taken and sum(taken[-1]) == first + low:
                taken[-1] = (taken[-1][0], taken[-1][1] + high - low)
            else:
                taken.append((first + low, high - low))
        at += length
    return taken


def _length(runs: Sequence[_Run]) -> int:
    return sum(length for _, length in runs)


def _divide(runs: list[_Run], split: Split, count: int, index: int) -> list[_Run]:
    """Give one of `count` ranks its share."""
    whole = _length(runs)
    share: list[_Run] = []
    for k in range(split.strided):
        begin, end = _chunk(whole, split.strided, k)
        low, high = _chunk(end - begin, count, index)
        share += _cut(runs, begin + low, begin + high)
    return _cut(share, 0, whole)  # joins neighbours


def _decoded(splits: dict[int, Split], mesh: Sequence[int]) -> list[int] | None:
    """Read strided splits of one tensor dimension as an order of contiguous ones.

    FSDP2 on top of tensor parallelism divides what the latter has left, although its mesh dimension
    comes first, and says so by a stride: the number of parts there were before.

    Args:
        splits: by the mesh dimensions that divide the tensor dimension, in their order.
        mesh: its shape.

    Returns:
        The mesh dimensions in the order in which they divide; None if there is none that gives
        these strides.
    """
    order: list[int] = []
    for dim in reversed(splits):
        places = itertools.accumulate((mesh[k] for k in order), operator.mul, initial=1)
        place = next((k for k, n in enumerate(places) if n == splits[dim].strided), None)
        if place is None:
            return None
        order.insert(place, dim)
    return order


class UndecodableError(Exception):
    """What a rank holds does not follow from the placements; the argument is the dimension."""


def _runs(
    size: Sequence[int],
    mesh: Sequence[int],
    coordinate: Sequence[int],
    splits: Sequence[Split | None],
    order: Sequence[int] | None,
    decode: bool,
) -> list[list[_Run]]:
    runs = [[(0, n)] if n else [] for n in size]
    for tensor_dim in range(len(size)):
        of_dim = {k: split for k, split in enumerate(splits) if split and split.dim == tensor_dim}
        dims = list(of_dim)
        if all(split.strided == 1 for split in of_dim.values()):
            if order is not None:
                dims = [k for k in order if k in of_dim]
        elif decode:
            decoded = _decoded(of_dim, mesh)
            if decoded is not None:
                dims, of_dim = decoded, dict.fromkeys(decoded, Split(tensor_dim))
            elif len(dims) > 1:
                raise UndecodableError(tensor_dim)
        for k in dims:
            runs[tensor_dim] = _divide(runs[tensor_dim], of_dim[k], mesh[k], coordinate[k])
    return runs


def _boxes(runs: Sequence[Sequence[_Run]]) -> tuple[Box, ...]:
    pieces = []
    for of_dim in runs:
        ends = itertools.accumulate((length for _, length in of_dim), initial=0)
        pieces.append([(at, n, first) for at, (first, n) in zip(ends, of_dim, strict=False)])
    return tuple(
        Box(*(tuple(values) for values in zip(*box, strict=True))) if box else Box((), (), ())
        for box in itertools.product(*pieces)
    )


@lru_cache(maxsize=4096)
def boxes_of(
    size: tuple[int, ...],
    mesh: tuple[int, ...],
    coordinate: tuple[int, ...],
    splits: tuple[Split | None, ...],
    order: tuple[int, ...] | None,
    local: tuple[int, ...],
    decode: bool = True,
) -> tuple[Box, ...]:
    """List what one rank holds.

    Args:
        size: the shape of the full tensor.
        mesh: the shape of the mesh.
        coordinate: the rank's place there.
        splits: what each mesh dimension does; None where it replicates.
        order: in which order contiguous splits apply (default: from left to right).
        local: the shape of the rank's shard.
        decode: whether strided splits stand for an order of contiguous ones where they can; torch
            means them literally in some specifications.

    Raises:
        UndecodableError: if the placements do not say what the shard holds.
    """
    for decoding in (True, False) if decode else (False,):
        runs = _runs(size, mesh, coordinate, splits, order, decoding)
        shape = tuple(map(_length, runs))
        if shape == local or (math.prod(shape) == 0 == math.prod(local)):
            return _boxes(runs) if math.prod(local) else ()
    raise UndecodableError(None)


def boxes_of_range(size: Sequence[int], begin: int, end: int) -> list[tuple[tuple[int, ...], ...]]:
    """Take a range of the row-major elements apart into boxes, in their order.

    Returns:
        The offset and shape of each; at most two per dimension, less one.
    """
    if begin >= end:
        return []
    if len(size) == 1:
        return [((begin,), (end - begin,))]
    row = math.prod(size[1:])
    found: list[tuple[tuple[int, ...], ...]] = []
    while begin < end:
        first, rest = divmod(begin, row)
        if rest == 0 and end - begin >= row:
            rows = (end - begin) // row
            found.append(((first,) + (0,) * (len(size) - 1), (rows, *size[1:])))
            begin += rows * row
        else:
            stop = min(row, rest + end - begin)
            for offset, shape in boxes_of_range(size[1:], rest, stop):
                found.append(((first, *offset), (1, *shape)))
            begin += stop - rest
    return found
