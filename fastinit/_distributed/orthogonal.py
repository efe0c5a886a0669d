"""`orthogonal_(..., distributed=True)`: ranks make the matrices that they share together.

What all parts of a matrix have in common is a sum over the rows of a Gaussian (docs/orthogonal.md,
Parts). Each rank sums over its share of these rows, whatever it holds; the ranks add their sums up,
and each makes its own part. They add integers, whose sum does not depend on the order, so that all
go on with the same bits, replicas that add up among themselves included.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, distributed

from fastinit._compiled import (
    orthogonal_of_reflectors_op,
    orthogonal_reflect_op,
    orthogonal_sums_op,
)
from fastinit._distributed.fill import drawn_on_all, is_sharded, observed, refuse_early, run
from fastinit._distributed.part import (
    Part,
    TensorShard,
    boxes_of_leading,
    part_of,
    splits_of,
    written,
)
from fastinit._tensors import on_handled_device
from fastinit._untraced import untraced

_AT_ONCE = 1 << 22  # numbers that one collective adds up, and of sums that are held together
_LARGEST_SQUARE = 256  # of an element: normals are shorter than 10, of complex ones each part
_COMPUTED_IN = {
    torch.float64: torch.float64,
    torch.complex64: torch.complex64,
    torch.complex128: torch.complex128,
}


def _refuse(tensor: Any, *_: Any, **__: Any) -> NoReturn:
    raise TypeError(
        "fastinit.orthogonal_: argument 'distributed' is for a DTensor, which says what other "
        f"ranks hold; argument 'tensor' is a {type(tensor).__name__} of shape "
        f"{tuple(tensor.shape)}, which each rank fills by itself: leave 'distributed' out"
    )


_library: Any = torch.library.Library("fastinit_shards", "FRAGMENT")  # type: ignore[no-untyped-call]
if not hasattr(torch.ops.fastinit_shards, "orthogonal_together_"):  # else this is loaded again
    _library.define(
        "orthogonal_together_(Tensor(a!) self, float gain=1., int batch_dims=0, *, int? key=None, "
        "Generator? generator=None) -> ()"
    )
    _library.impl("orthogonal_together_", _refuse, "CompositeExplicitAutograd")
# What a recording sees of a call; it knows which tensors stand for DTensors.
orthogonal_together_op = torch.ops.fastinit_shards.orthogonal_together_.default


class _Sharers(NamedTuple):
    """The ranks that hold parts of the same matrices.

    Attributes:
        mesh: of the DTensor.
        dims: those of the mesh along which matrices are spread.
        world: how many ranks there are along them.
        number: this rank's among these.
    """

    mesh: Any
    dims: tuple[int, ...]
    world: int
    number: int

    def add_up(self, numbers: Tensor) -> Tensor:
        """Add integers up over the ranks; where the mesh is, as the shards may lie elsewhere."""
        there = numbers.to(self.mesh.device_type)
        for dim in self.dims:
            distributed.all_reduce(there, group=self.mesh.get_group(dim))
        return there.to(numbers.device)


def _sharers_of(tensor: Any, batch_dims: int) -> _Sharers | None:
    """Find who shares the matrices of this rank; None if this rank is not in the mesh."""
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return None
    dims = tuple(
        dim
        for dim, split in enumerate(splits_of("orthogonal_", tensor))
        if split is not None and split.dim >= batch_dims and mesh.size(dim) > 1
    )
    index = 0
    for dim in dims:
        index = index * int(mesh.size(dim)) + int(coordinate[dim])
    return _Sharers(mesh, dims, math.prod(int(mesh.size(dim)) for dim in dims), index)


def _check_alike(sharers: _Sharers, call: tuple[Any, ...]) -> None:
    """Have all ranks see whether they make the same call, before anything is written.

    Numbers are all the same if and only if the sum of their squares, times how many they are, is
    the square of their sum.

    Raises:
        RuntimeError: if they do not.
    """
    digest = hashlib.blake2b(repr(call).encode(), digest_size=6).digest()
    hashes = [int.from_bytes(half, "little") for half in (digest[:3], digest[3:])]
    numbers = torch.tensor([[h, h * h] for h in hashes], dtype=torch.int64)
    for total, squares in sharers.add_up(numbers).tolist():
        if squares * sharers.world != total * total:
            key, gain, size, batch_dims, dtype = call
            raise RuntimeError(
                f"fastinit.orthogonal_: the {sharers.world} ranks that share a DTensor with "
                "distributed=True do not make the same call: they differ in the key (without key=, "
                "were their generators seeded alike, and has each drawn as often?), gain, "
                f"batch_dims, shape or dtype. Here: key {key % 2**64}, gain {gain}, batch_dims "
                f"{batch_dims}, shape {tuple(size)}, {dtype}. fastinit.check_ranks() says which "
                "ranks differ. Nothing has been written"
            )


class _Piece(NamedTuple):
    """Numbers that ranks add up; with `rest`, each is the sum of two."""

    values: Tensor
    rest: Tensor | None = None

    def as_integers(self, scale: float) -> Tensor:
        numbers = self.values.to(torch.float64)
        if self.rest is not None:
            numbers += self.rest
        return numbers.mul_(scale).round_().to(torch.int64).flatten()

    def take(self, integers: Tensor, scale: float) -> None:
        numbers = integers.view(self.values.shape).to(torch.float64).div_(scale)
        self.values.copy_(numbers)
        if self.rest is not None:
            self.rest.copy_(numbers.sub_(self.values))


def _pieces(sums: Tensor) -> Iterator[_Piece]:
    """Take the sums of a matrix apart: lengths of columns, and the upper triangle of products."""
    real = torch.view_as_real(sums) if sums.is_complex() else sums
    width = sums.shape[1]
    yield _Piece(real[width], real[width + 1])
    step = max(1, _AT_ONCE // 16 // width)
    for row in range(0, width, step):
        yield _Piece(real[row : min(row + step, width), row:])


def _add_up(sharers: _Sharers, matrices: Sequence[Tensor], longer: int) -> None:
    """Add up sums over all ranks, some numbers at a time."""
    # Products of columns are no larger than their squares, and those of all ranks fit.
    scale = 2.0 ** (62 - math.ceil(math.log2(_LARGEST_SQUARE * longer)))
    pieces: list[_Piece] = []
    count = 0

    def flush() -> None:
        integers = torch.cat([piece.as_integers(scale) for piece in pieces])
        sizes = [piece.values.numel() for piece in pieces]
        for piece, added in zip(pieces, torch.split(sharers.add_up(integers), sizes), strict=True):
            piece.take(added, scale)

    for piece in itertools.chain.from_iterable(map(_pieces, matrices)):
        if pieces and count + piece.values.numel() > _AT_ONCE:
            flush()
            pieces, count = [], 0
        pieces.append(piece)
        count += piece.values.numel()
    flush()


def _numbers_of(tensor: Any, part: Part, batch_dims: int) -> list[int]:
    """Number the matrices of which this rank, or one that shares them, holds something."""
    batch = part.size[:batch_dims]
    strides = [math.prod(batch[k + 1 :]) for k in range(batch_dims)]
    return [
        sum(place * stride for place, stride in zip(places, strides, strict=True))
        for box in boxes_of_leading(tensor, "orthogonal_", batch_dims)
        for places in itertools.product(
            *(range(first, first + n) for first, n in zip(box.offset, box.size, strict=True))
        )
    ]


def fill_together(tensor: Any, part: Part, gain: float, batch_dims: int, key: int) -> None:
    """Fill a DTensor, every rank its part, all that share a matrix at once.

    Raises:
        RuntimeError: if they do not make the same call.
    """
    sharers = _sharers_of(tensor, batch_dims)
    if sharers is None or 0 in part.size:
        return
    if not sharers.dims or part.local.is_meta:
        run("orthogonal_", part, (gain, batch_dims, "householder"), {"key": key})
        return
    local = part.local
    here = local if on_handled_device(local) else torch.empty_like(local, device="cpu")
    _check_alike(sharers, (key, gain, part.size, batch_dims, local.dtype))
    matrix = part.size[batch_dims:]
    rows, columns = matrix[0], math.prod(matrix[1:])
    longer, narrower = max(rows, columns), min(rows, columns)
    share = [longer * k // sharers.world for k in (sharers.number, sharers.number + 1)]
    options: dict[str, Any] = {
        "dtype": _COMPUTED_IN.get(local.dtype, torch.float32),
        "device": here.device,
    }
    numbers = _numbers_of(tensor, part, batch_dims)
    at_once = max(1, _AT_ONCE // (narrower * (narrower + 2)))
    for first in range(0, len(numbers), at_once):
        some = numbers[first : first + at_once]
        sums = [torch.zeros(narrower + 2, narrower, **options) for _ in some]
        for number, of_one in zip(some, sums, strict=True):
            orthogonal_sums_op(of_one, matrix, number, *share, key=key)
        _add_up(sharers, sums, longer)
        for number, of_one in zip(some, sums, strict=True):
            if part.boxes:
                orthogonal_reflect_op(of_one, gain, matrix, number, key=key)
                boxes = part.numbers()
                orthogonal_of_reflectors_op(
                    here, of_one, gain, part.size, boxes, batch_dims, number, key=key
                )
    if here is not local:
        local.copy_(here)


def _together(tensor: Tensor, gain: float, batch_dims: int, given: dict[str, Any]) -> None:
    if isinstance(tensor, TensorShard):
        _refuse(tensor)
    if not is_sharded(tensor):
        orthogonal_together_op(tensor, gain, batch_dims, **given)
        return
    part = part_of(tensor, "orthogonal_")
    numbers = gain, batch_dims, "householder"
    refuse_early("orthogonal_", part, numbers)
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "fastinit.orthogonal_: distributed=True needs the process group of the DTensor's mesh, "
            "and there is none; call torch.distributed.init_process_group()"
        )
    given = drawn_on_all(part, observed(tensor, "orthogonal_", part, numbers, given))
    with torch.no_grad():
        fill_together(tensor, part, gain, batch_dims, given.get("key") or 0)
    written(tensor)


together = untraced(_together, "distributed=True communicates; call it outside of the graph")
