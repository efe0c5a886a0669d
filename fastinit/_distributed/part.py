"""One mechanism for every kind of shard: a tensor of this process as boxes of a larger one."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from fastinit._distributed.layout import (
    Box,
    Split,
    UndecodableError,
    boxes_of,
    boxes_of_range,
)
from fastinit._tensors import check_open, is_plain


class Part(NamedTuple):
    """What a process holds of a tensor.

    Attributes:
        local: the memory.
        size: the shape of the full tensor.
        boxes: what of it is where in `local`.
        start: instead of boxes: `local` is a vector, the row-major elements from this one on.
    """

    local: Tensor
    size: tuple[int, ...]
    boxes: tuple[Box, ...]
    start: int | None = None

    def numbers(self) -> list[int]:
        """Give the boxes as the operators take them."""
        return [n for box in self.boxes for n in itertools.chain(*box)]

    def as_vector(self) -> Part:
        """See a range of elements as a box of the flattened tensor; others are what they are."""
        if self.start is None:
            return self
        length = self.local.shape[0]
        box = Box((0,), (length,), (self.start,))
        return Part(self.local, (math.prod(self.size),), (box,) if length else ())

    def as_boxes(self) -> list[Part]:
        """See a range of elements as boxes of the tensor; others are what they are."""
        if self.start is None:
            return [self]
        found = []
        at, stop = 0, self.start + self.local.shape[0]
        for offset, size in boxes_of_range(self.size, self.start, stop):
            view = self.local.narrow(0, at, math.prod(size)).view(size)
            found.append(Part(view, self.size, (Box((0,) * len(size), size, offset),)))
            at += math.prod(size)
        return found

    def views(self) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Give every box as a view and its offset in the full tensor."""
        for part in self.as_boxes():
            for box in part.boxes:
                view = part.local
                for dim, (start, length) in enumerate(zip(box.start, box.size, strict=True)):
                    if length != view.shape[dim]:
                        view = view.narrow(dim, start, length)
                yield view, box.offset

    def as_real(self) -> Part:
        """See the real and imaginary parts of complex elements, as torch.view_as_real does."""
        real = torch.view_as_real(self.local)
        vector = self.as_vector()
        boxes = (Box((*b.start, 0), (*b.size, 2), (*b.offset, 0)) for b in vector.boxes)
        return Part(real, (*vector.size, 2), tuple(boxes))


class TensorShard(Tensor):
    """What `fastinit.shard` returns: a stand-in of the full size, with the memory of a part.

    It is for initialisers alone; other operations raise NotImplementedError.
    """

    part: Part

    @staticmethod
    def __new__(cls, part: Part) -> TensorShard:
        wrapper: Any = torch.Tensor._make_wrapper_subclass
        local = part.local
        made: TensorShard = wrapper(cls, part.size, dtype=local.dtype, device=local.device)
        made.part = part
        return made

    def __init__(self, part: Part) -> None:
        super().__init__()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        held = self.part.boxes[0].offset if self.part.boxes else self.part.start
        return (
            f"fastinit.shard(<{self.part.local.dtype}, {tuple(self.part.local.shape)}>, "
            f"{self.part.size}, {held})"
        )

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        rule = RULES.get(func)
        if rule is not None:
            return rule(func, types, args, kwargs)
        if func not in _ALIKE:
            raise NotImplementedError(
                f"{func}: what fastinit.shard() returns can be handed to initialisers only; use "
                "the tensor that it was made from"
            )
        tensor: Any = args[0]
        local = tensor.part.local
        check_open(func._schema.name.rpartition("::")[2], local)
        func(local, *args[1:], **(kwargs or {}))
        written(local)
        return tensor


# By operator of fastinit's, what it does where it meets a shard of any kind.
RULES: dict[Any, Callable[..., None]] = {}
# Operators of torch's that do the same to every element.
_ALIKE = (torch.ops.aten.fill_.Scalar, torch.ops.aten.fill_.Tensor, torch.ops.aten.zero_.default)


def written(*tensors: Tensor) -> None:
    """Count a write where torch's own count has not seen it: of a wrapper, or below autograd."""
    counted = [t for t in tensors if not isinstance(t, TensorShard) and not t.is_inference()]
    torch.autograd.graph.increment_version(counted)


# ---- DTensor -------------------------------------------------------------------------------------


def _refuse(name: str, tensor: Any, why: str, advice: str) -> NoReturn:
    where, _, what = name.partition(": ")
    what = what or "argument 'tensor'"
    raise NotImplementedError(
        f"fastinit.{where}: {what} is a DTensor of shape {tuple(tensor.shape)} with "
        f"placements {tuple(tensor.placements)}, {why}; {advice}"
    )


def splits_of(name: str, tensor: Any) -> tuple[Split | None, ...]:
    """Say along which dimension each one of the mesh divides a DTensor; None: it replicates.

    Raises:
        NotImplementedError: if it holds partial sums, or something that is not known.
    """
    found: list[Split | None] = []
    for placement in tensor.placements:
        dim = getattr(placement, "dim", None)
        strided = getattr(placement, "split_factor", None)  # such a placement is no Shard
        if placement.is_partial():
            _refuse(
                name,
                tensor,
                "whose values are sums over ranks, so there is nothing one rank could write",
                "redistribute() it to Replicate() or Shard(...) first",
            )
        if placement.is_replicate():
            found.append(None)
        elif isinstance(dim, int) and (strided is not None or placement.is_shard()):
            found.append(Split(dim % max(1, tensor.ndim), 1 if strided is None else int(strided)))
        else:
            _refuse(
                name,
                tensor,
                f"of which {placement!r} is of a kind that fastinit does not know",
                "redistribute() it to Replicate() or Shard(...) first",
            )
    return tuple(found)


def _is_memory(local: Tensor) -> bool:
    """Whether this is an ordinary tensor, or what stands for one while torch.compile traces."""
    functional = sys.modules.get("torch._subclasses.functional_tensor")
    kind = type(local)
    return is_plain(kind) or (functional is not None and kind is functional.FunctionalTensor)


def _part_of_dtensor(name: str, tensor: Any) -> Part:
    local = tensor._local_tensor
    wait = getattr(local, "trigger_wait", None)  # of a collective that is still under way
    if wait is not None:
        local = wait()
    if not _is_memory(local):
        _refuse(
            name,
            tensor,
            f"whose shards are of the class {type(local).__qualname__}",
            "initialise it before it gets shards of that class",
        )
    size = tuple(map(int, tensor.shape))
    return Part(local, size, _boxes_of(name, tensor, size, tuple(map(int, local.shape))))


def _boxes_of(
    name: str, tensor: Any, size: tuple[int, ...], local: tuple[int, ...]
) -> tuple[Box, ...]:
    """List what this rank holds in the first dimensions, as if there were no others.

    Args:
        name: for messages.
        tensor: the DTensor.
        size: its shape, of those dimensions.
        local: the shape of the rank's shard.

    Raises:
        NotImplementedError: if the placements do not say.
    """
    spec = tensor._spec
    splits = splits_of(name, tensor)
    coordinate = spec.mesh.get_coordinate()
    if coordinate is None:  # of a rank outside of the mesh
        return ()
    order, dims = getattr(spec, "shard_order", None), len(size)
    if dims < tensor.ndim:
        splits = tuple(s if s is not None and s.dim < dims else None for s in splits)
    try:
        return boxes_of(
            size,
            tuple(map(int, spec.mesh.shape)),
            tuple(map(int, coordinate)),
            splits,
            None if order is None else tuple(dim for entry in order for dim in entry.mesh_dims),
            local[:dims],
            getattr(spec, "use_strided_shard_as_shard_order", None) is not False,
        )
    except UndecodableError as error:
        (dim,) = error.args
        if dim is None:
            why = f"which do not give the shape {local} that this rank has"
        else:
            why = f"which leave open what of dimension {dim} each rank holds"
        _refuse(
            name,
            tensor,
            why,
            "shard over another dimension, with fully_shard by its shard_placement_fn",
        )


def boxes_of_leading(tensor: Any, name: str, dims: int) -> tuple[Box, ...]:
    """List what this rank holds of a DTensor's first dimensions, however little of the others.

    Raises:
        NotImplementedError: as `part_of` does.
    """
    size = tuple(map(int, tensor.shape))[:dims]
    return _boxes_of(name, tensor, size, tuple(map(int, tensor._local_tensor.shape)))


def is_outside(sharded: Any) -> bool:
    """Whether this rank is not in a DTensor's mesh, and so does not know where others have it."""
    return sharded._spec.mesh.get_coordinate() is None


def are_divided_alike(one: Any, other: Any) -> bool:
    """Whether every rank holds the same of two DTensors of one shape."""
    if one.device_mesh != other.device_mesh or one.placements != other.placements:
        return False
    if any(getattr(p, "split_factor", None) is not None for p in one.placements):
        return True  # these say themselves in which order they apply
    orders = [getattr(tensor._spec, "shard_order", None) for tensor in (one, other)]
    return None in orders or orders[0] == orders[1]


def part_of(tensor: Any, name: str) -> Part:
    """Say what of a DTensor, or of what `fastinit.shard` returns, is here.

    `name`: of the initialiser, for messages; with the tensor's own, "initialize_: weight", say.

    Raises:
        NotImplementedError: if that is partial sums, or the placements do not say.
    """
    return tensor.part if isinstance(tensor, TensorShard) else _part_of_dtensor(name, tensor)
