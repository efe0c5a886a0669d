"""Initialisers of shards that are no single operator: identities, and what is made of others.

They are operators of their own here, so that torch.compile sees one call, which the handlers below
take apart where a shard is met. Ordinary tensors never come here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastinit._distributed.fill import drawn_on_all, observed, refuse_early, run
from fastinit._distributed.layout import Box
from fastinit._distributed.part import RULES, Part, part_of, written
from fastinit._tensors import check_open

_SPACE = "fastinit_shards"
_library: Any = torch.library.Library(_SPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def _operator(schema: str) -> Callable[[Callable[..., None]], Any]:
    """Make an operator that calls a function for shards, and says that it has written."""

    def define(function: Callable[..., None]) -> Any:
        name = schema.partition("(")[0]
        if not hasattr(getattr(torch.ops, _SPACE), name):  # else this module is loaded again
            _library.define(f"{schema} -> ()")
        op = getattr(getattr(torch.ops, _SPACE), name).default

        def handle(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> None:
            part = part_of(args[0], name)
            check_open(name, part.local)
            with torch.no_grad():  # where an operator has no rule for it, autograd is still on
                function(part, *args, **(kwargs or {}))
            written(part.local)
            written(args[0])

        RULES[op] = handle
        return op

    return define


@_operator("eye_(Tensor(a!) self)")
def eye(part: Part, tensor: Tensor) -> None:
    """Write the identity matrix."""
    part.local.zero_()
    for view, offset in part.views():
        first = max(offset)
        last = min(o + n for o, n in zip(offset, view.shape, strict=True))
        if first < last:
            for dim, o in enumerate(offset):
                view = view.narrow(dim, first - o, last - first)
            view.diagonal().fill_(1)


def _set_ones(view: Tensor, where: Tensor) -> None:
    if view.element_size() == 1 and view.is_floating_point():  # masked_fill_ knows no float8
        one = int(torch.ones(1, dtype=view.dtype).view(torch.uint8).item())
        view.view(torch.uint8).masked_fill_(where, one)
    else:
        view.masked_fill_(where, 1)


def _centre(
    box_offset: tuple[int, ...], box_size: tuple[int, ...], centre: tuple[int, ...]
) -> list[int] | None:
    """Give the centre's place in a box; None if it is not there."""
    places = [c - o for c, o in zip(centre, box_offset, strict=True)]
    inside = all(0 <= place < n for place, n in zip(places, box_size, strict=True))
    return places if inside else None


def _select(view: Tensor, places: list[int]) -> Tensor:
    """Take the (out, in) matrix at one place of the kernel."""
    for place in reversed(places):
        view = view.select(-1, place)
    return view


@_operator("dirac_(Tensor(a!) self, int groups)")
def dirac(part: Part, tensor: Tensor, groups: int) -> None:
    """Write what passes channels on."""
    if 0 in part.size:
        return
    centre = tuple(n // 2 for n in part.size[2:])
    outputs = part.size[0] // groups
    part.local.zero_()
    for view, offset in part.views():
        places = _centre(offset[2:], tuple(view.shape[2:]), centre)
        if places is not None:
            channel = torch.arange(view.shape[0], device=view.device).add_(offset[0]) % outputs
            inputs = torch.arange(view.shape[1], device=view.device).add_(offset[1])
            _set_ones(_select(view, places), channel.unsqueeze(1) == inputs)


@_operator(
    "delta_orthogonal_(Tensor(a!) self, float gain, *, int? key=None, Generator? generator=None)"
)
def delta_orthogonal(part: Part, tensor: Tensor, gain: float, **given: Any) -> None:
    """Write an orthogonal matrix in the middle, zeros around it."""
    matrix = part.size[:2]
    centre = tuple((n - 1) // 2 for n in part.size[2:])
    numbers = gain, 0, "householder"
    refuse_early("orthogonal_", part, numbers, matrix)
    given = observed(tensor, "delta_orthogonal_", part._replace(size=matrix), numbers, given)
    if part.start is not None:
        given = drawn_on_all(part._replace(size=matrix), given)
    for piece in part.as_boxes():
        made = piece.local.new_empty(piece.local.shape[:2])
        middle = []
        for box in piece.boxes:
            places = _centre(box.offset[2:], box.size[2:], centre)
            if places is not None:
                middle.append((Box(box.start[:2], box.size[:2], box.offset[:2]), box, places))
        run("orthogonal_", Part(made, matrix, tuple(b for b, _, _ in middle)), numbers, given)
        piece.local.zero_()
        for flat, box, places in middle:
            at = [start + place for start, place in zip(box.start[2:], places, strict=True)]
            to, source = _select(piece.local, at), made
            for dim in (0, 1):
                to = to.narrow(dim, flat.start[dim], flat.size[dim])
                source = source.narrow(dim, flat.start[dim], flat.size[dim])
            to.copy_(source)


@_operator(
    "trunc_normal_of_parts_(Tensor(a!) self, float[] numbers, *, int? key=None, "
    "Generator? generator=None)"
)
def trunc_normal_of_parts(
    part: Part, tensor: Tensor, numbers: tuple[float, ...], **given: Any
) -> None:
    """Fill real and imaginary parts with truncated normals."""
    real, numbers = part.as_real(), tuple(numbers)
    refuse_early("trunc_normal_", real, numbers)
    run("trunc_normal_", real, numbers, observed(tensor, "trunc_normal_", real, numbers, given))
