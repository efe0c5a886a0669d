"""Initialisers of shards that are no single operator: identities, and what is made of others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import orthogonal_shard_op
from fastinit._distributed.fill import drawn_on_all, observed, refuse_early, run, written
from fastinit._distributed.layout import Box
from fastinit._distributed.part import Part, part_of
from fastinit._untraced import untraced

_BREAKS = "a shard is taken apart; call it outside of the graph"


def _eye(tensor: Tensor) -> None:
    """Write the identity matrix."""
    part = part_of(tensor)
    with torch.no_grad():
        part.local.zero_()
        for view, offset in part.views():
            first = max(offset)
            last = min(o + n for o, n in zip(offset, view.shape, strict=True))
            if first < last:
                for dim, o in enumerate(offset):
                    view = view.narrow(dim, first - o, last - first)
                view.diagonal().fill_(1)
        written(tensor)


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


def _dirac(tensor: Tensor, groups: int) -> None:
    """Write what passes channels on."""
    part = part_of(tensor)
    if 0 in part.size:
        return
    centre = tuple(n // 2 for n in part.size[2:])
    outputs = part.size[0] // groups
    with torch.no_grad():
        part.local.zero_()
        for view, offset in part.views():
            places = _centre(offset[2:], tuple(view.shape[2:]), centre)
            if places is not None:
                channel = torch.arange(view.shape[0], device=view.device).add_(offset[0]) % outputs
                inputs = torch.arange(view.shape[1], device=view.device).add_(offset[1])
                _set_ones(_select(view, places), channel.unsqueeze(1) == inputs)
        written(tensor)


def _delta_orthogonal(tensor: Tensor, gain: float, given: dict[str, Any]) -> None:
    """Write an orthogonal matrix in the middle, zeros around it."""
    part = part_of(tensor)
    matrix = part.size[:2]
    centre = tuple((n - 1) // 2 for n in part.size[2:])
    numbers = gain, 0, "householder"
    refuse_early("orthogonal_", part, numbers, matrix)
    given = observed(tensor, "delta_orthogonal_", part._replace(size=matrix), numbers, given)
    if part.start is not None:
        given = drawn_on_all(part._replace(size=matrix), given)
    with torch.no_grad():
        for piece in part.as_boxes():
            made = piece.local.new_empty(piece.local.shape[:2])
            middle = []
            for box in piece.boxes:
                places = _centre(box.offset[2:], box.size[2:], centre)
                if places is not None:
                    middle.append((Box(box.start[:2], box.size[:2], box.offset[:2]), box, places))
            boxes = Part(made, matrix, tuple(flat for flat, _, _ in middle)).numbers()
            orthogonal_shard_op(made, gain, list(matrix), boxes, **given)
            piece.local.zero_()
            for flat, box, places in middle:
                at = [start + place for start, place in zip(box.start[2:], places, strict=True)]
                to, source = _select(piece.local, at), made
                for dim in (0, 1):
                    to = to.narrow(dim, flat.start[dim], flat.size[dim])
                    source = source.narrow(dim, flat.start[dim], flat.size[dim])
                to.copy_(source)
        written(tensor)


def _trunc_normal_of_parts(
    tensor: Tensor, numbers: tuple[float, ...], given: dict[str, Any]
) -> None:
    """Fill real and imaginary parts with truncated normals."""
    part = part_of(tensor).as_real()
    refuse_early("trunc_normal_", part, numbers)
    with torch.no_grad():
        run("trunc_normal_", part, numbers, observed(tensor, "trunc_normal_", part, numbers, given))
        written(tensor)


eye = untraced(_eye, _BREAKS)
dirac = untraced(_dirac, _BREAKS)
delta_orthogonal = untraced(_delta_orthogonal, _BREAKS)
trunc_normal_of_parts = untraced(_trunc_normal_of_parts, _BREAKS)
