"""Slices of DTensors under a patch: what is written to them stays.

Code that nobody wrote for shards zeroes a padding row, or fills experts one by one. Of a dimension
that is divided torch makes a slice by a copy, which every rank has, so that this writes to nothing
that lasts. Under a patch a copy knows what it is of: where it has been written, the part that is
here goes back. A copy that torch has divided in turn is put together for that.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import TensorShard, part_of, written
from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._fills.views import View, view_of
from fastinit._tensors import version_of

# Whose results are views of ordinary tensors.
_VIEWS = (
    "adjoint",
    "chunk",
    "detach",
    "diagonal",
    "dsplit",
    "expand",
    "expand_as",
    "flatten",
    "hsplit",
    "moveaxis",
    "movedim",
    "narrow",
    "permute",
    "ravel",
    "reshape",
    "reshape_as",
    "select",
    "split",
    "split_with_sizes",
    "squeeze",
    "swapaxes",
    "swapdims",
    "t",
    "tensor_split",
    "transpose",
    "unbind",
    "unflatten",
    "unsqueeze",
    "view",
    "view_as",
    "vsplit",
)
SLICING: frozenset[Any] = frozenset(
    {
        torch.Tensor.__getitem__,
        *(getattr(torch.Tensor, name).__get__ for name in ("H", "T", "data", "mH", "mT")),
        *(
            getattr(owner, name)
            for owner in (torch, torch.Tensor)
            for name in _VIEWS
            if hasattr(owner, name)
        ),
    }
)
_INDEX = (int, slice, type(None), type(Ellipsis), str)


@dataclass(eq=False)
class _Copy:
    """A copy of a slice, or a view of one.

    Attributes:
        made: what has been made; it may be gone.
        base: what it is a copy of.
        full: what that is, on the meta device, without gaps.
        part: what of `full` it stands for; all of it if that cannot be told.
        view: the same, along the dimensions of the base; None if it cannot be told.
        version: how often the base had been written when it agreed with this.
    """

    made: weakref.ref[Any]
    base: Any
    full: Tensor
    part: Tensor
    view: View | None
    version: int | None


def is_dtensor(tensor: Any) -> bool:
    """Whether this is a DTensor."""
    return type(tensor) is not TensorShard and is_sharded(tensor)


def _memory(tensor: Any) -> Tensor:
    local: Any = tensor._local_tensor
    wait = getattr(local, "trigger_wait", None)  # of a collective that is still under way
    result: Tensor = local if wait is None else wait()
    return result


def _is_basic(values: Any) -> bool:
    if isinstance(values, (tuple, list)):
        return all(map(_is_basic, values))
    return isinstance(values, _INDEX)


class Slices:
    """The copies of parts of DTensors that have been made under a patch.

    Attributes:
        copies: those that may still be there.
    """

    __slots__ = ("copies",)

    def __init__(self) -> None:
        self.copies: list[_Copy] = []

    def slice(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make a slice or another view, and know of what if it is a copy."""
        result = function(*args, **kwargs)
        base: Any = args[0] if args else kwargs.get("input")
        if not is_dtensor(base):
            return result
        self.copies = [copy for copy in self.copies if copy.made() is not None]
        of = self._found(base)
        memory = extension.storage_address(_memory(base))
        found: Sequence[Any] = [result] if isinstance(result, Tensor) else result
        copied = [
            is_dtensor(made)
            and not any(p.is_partial() for p in made.placements)
            and extension.storage_address(_memory(made)) != memory
            for made in found
        ]
        if of is None and not any(copied):
            return result
        call = _on_meta(function, args[1:], kwargs)
        if call is None:
            return result
        as_it_is = torch.empty_strided(base.shape, base.stride(), dtype=base.dtype, device="meta")
        full = torch.empty_like(as_it_is)
        views = parts = None
        with suppress(RuntimeError):  # an ordinary tensor would not let itself be viewed so
            if not _are_views(_called(function, as_it_is, call), as_it_is):
                return result  # it is a copy of an ordinary tensor, too
            views = _views(function, full, call)
            parts = None if of is None else _views(function, of.part, call)
        for k, made in enumerate(found):
            if copied[k]:
                view = None if views is None else views[k]
                self._note(made, base, full, view, version_of(base))
            elif of is not None and is_dtensor(made):
                part = None if parts is None else parts[k]
                self._note(made, of.base, of.full, part, of.version)
        return result

    def assign(self, base: Any, index: Any, value: Any) -> None:
        """Assign to a slice."""
        if not _is_basic(index):
            base[index] = value
            return
        made = self.slice(Tensor.__getitem__, (base, index), {})
        with self.writing(made):
            if isinstance(value, Tensor):
                made.copy_(value)
            else:
                made.fill_(value)

    def _note(
        self, made: Any, base: Any, full: Tensor, part: Tensor | None, version: int | None
    ) -> None:
        if made.numel() == 0:
            return
        view = None
        if part is not None and part.shape == made.shape:
            view = view_of(Region.of(full), Region.of(part))
        part = full if view is None or part is None else part
        self.copies.append(_Copy(weakref.ref(made), base, full, part, view, version))

    def _found(self, tensor: Any) -> _Copy | None:
        return next((copy for copy in self.copies if copy.made() is tensor), None)

    def refuse_to_name(self, tensor: Any) -> None:
        """Raise NotImplementedError for a draw into a copy, of which no rank knows the number."""
        copy = self._found(tensor)
        if copy is not None:
            raise NotImplementedError(
                f"fastinit.patch: with argument 'module', a draw into a slice of shape "
                f"{tuple(tensor.shape)} of a DTensor of shape {tuple(copy.base.shape)} has no key "
                "of its own; draw into all of it, or call fastinit.initialize_"
            )

    @contextmanager
    def writing_by(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[None]:
        """Call a function of torch's inside, which may write to what it is given first."""
        name = getattr(function, "__name__", "")
        changes = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
        given = args[0] if args else kwargs.get("tensor", ())  # torch.nn.init's are by name
        with ExitStack() as stack:
            for value in (given if changes else (), kwargs.get("out", ())):
                for tensor in value if isinstance(value, (list, tuple)) else [value]:
                    stack.enter_context(self.writing(tensor))
            yield

    @contextmanager
    def writing(self, tensor: Any) -> Iterator[None]:
        """Write to what may be a copy inside; then it goes where it is of, too."""
        copy = self._found(tensor)
        if copy is None or (torch.is_grad_enabled() and tensor.requires_grad):
            yield  # that is no initialiser
            return
        if copy.view is None:
            raise NotImplementedError(
                f"fastinit.patch: a view of shape {tuple(tensor.shape)} of a part of a DTensor of "
                f"shape {tuple(copy.base.shape)} that does not lie along its dimensions; write to "
                "a slice, or call fastinit.initialize_"
            )
        if version_of(copy.base) != copy.version:
            raise NotImplementedError(
                f"fastinit.patch: a slice of shape {tuple(tensor.shape)} of a DTensor of shape "
                f"{tuple(copy.base.shape)}, which has been written since it was made; slice anew"
            )
        agree = [
            (other, made)
            for other in self.copies
            if other.base is copy.base
            and other.version == copy.version
            and (made := other.made()) is not None
        ]
        with self.writing(copy.base):  # which may be a copy itself
            yield
            with torch.no_grad(), torch._C.DisableTorchFunction():
                _put(tensor, copy.base, copy.view)
        memory, spans = extension.storage_address(_memory(tensor)), Spans()
        spans.add_around(Region.of(copy.part))
        for other, made in agree:
            same = extension.storage_address(_memory(made)) == memory
            if same or not spans.meets_region(Region.of(other.part)):
                other.version = version_of(copy.base)


_Call = tuple[list[Any], dict[str, Any]]


def _on_meta(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> _Call | None:
    """Give what is to be handed to a function beside a tensor on the meta device; None: nothing."""

    def on_meta(value: Any) -> Any:  # tensors are there for their shapes
        return torch.empty(value.shape, device="meta") if isinstance(value, Tensor) else value

    if function is torch.Tensor.__getitem__ and not _is_basic(args):
        return None
    return [*map(on_meta, args)], {k: on_meta(v) for k, v in kwargs.items() if k != "input"}


def _called(function: Callable[..., Any], tensor: Tensor, call: _Call) -> Sequence[Tensor]:
    args, kwargs = call
    made = function(tensor, *args, **kwargs)
    return [made] if isinstance(made, Tensor) else made


def _are_views(made: Sequence[Tensor], tensor: Tensor) -> bool:
    place = extension.storage_address
    return all(place(view) == place(tensor) for view in made)


def _views(function: Callable[..., Any], tensor: Tensor, call: _Call) -> Sequence[Tensor] | None:
    """Make views of an ordinary tensor; None if it cannot be viewed so."""
    try:
        made = _called(function, tensor, call)
    except RuntimeError:
        return None
    return made if _are_views(made, tensor) else None


def _put(copy: Any, base: Any, view: View) -> None:
    if not all(placement.is_replicate() for placement in copy.placements):
        # Which need not be divided as its base is; all ranks of the mesh come here.
        replicate = sys.modules["torch.distributed.tensor"].Replicate
        copy = copy.redistribute(placements=[replicate()] * copy.device_mesh.ndim)
    part, source = part_of(base, "patch"), _memory(copy)
    local = Region.of(part.local)
    for box in part.boxes:
        found = view.parts(box, local)
        if found is not None:
            to, offset = found
            there = to.on(part.local.untyped_storage())
            there.copy_(_cut(source.reshape(view.size), offset, to.size))
    written(base)


def _cut(tensor: Tensor, start: Any, size: Any) -> Tensor:
    for dim, (first, length) in enumerate(zip(start, size, strict=True)):
        tensor = tensor.narrow(dim, first, length)
    return tensor
