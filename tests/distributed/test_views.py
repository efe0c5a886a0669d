"""Views of a full tensor, as far as a shard holds them: against indices sliced the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastinit._distributed.layout import Box
from fastinit._fills.region import Region
from fastinit._fills.views import view_of, with_ones

SIZE = (6, 4, 10)
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda t: t,
    "one": lambda t: t[3, 2, 5],
    "row": lambda t: t[2],
    "rows": lambda t: t[1:5],
    "columns": lambda t: t[..., 3:7],
    "steps": lambda t: t[1::2, ::3, 2::4],
    "transposed": lambda t: t.permute(2, 0, 1),
    "expert transposed": lambda t: t[4].t(),
    "flat": lambda t: t.view(-1),
    "flat rows": lambda t: t[2:4].view(-1),
    "joined": lambda t: t.view(24, 10),
    "apart": lambda t: t.view(2, 3, 4, 2, 5)[:, :, :, 1],
    "steps that go on with the next row": lambda t: t[1:3, :, 1::5],
    "steps of rows": lambda t: t[:, ::2],
    "with ones": lambda t: t[2:3].unsqueeze(0),
}
BOXES = [
    Box((0, 0, 0), (6, 4, 10), (0, 0, 0)),
    Box((0, 0, 0), (2, 4, 10), (3, 0, 0)),
    Box((1, 0, 2), (2, 3, 4), (2, 1, 5)),
    Box((0, 1, 0), (1, 1, 1), (5, 3, 9)),
]


def spread(tensor: Tensor, layout: str) -> Tensor:
    """The same elements, laid out in memory otherwise."""
    if layout == "rows first":
        return tensor
    return tensor.permute(2, 1, 0).contiguous().permute(2, 1, 0)


@pytest.mark.parametrize("layout", ["rows first", "columns first"])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("name", VIEWS)
def test_what_of_a_view_lies_in_a_box(name: str, box: Box, layout: str) -> None:
    full = spread(torch.arange(240).view(SIZE), layout)
    try:
        region = VIEWS[name](full)
    except RuntimeError:  # no view of this layout
        return
    view = view_of(Region.of(full), Region.of(region))
    assert view is not None
    shape = [start + size for start, size in zip(box.start, box.size, strict=True)]
    local = torch.full(shape, -1)
    held = local[tuple(slice(s, s + n) for s, n in zip(box.start, box.size, strict=True))]
    held.copy_(full[tuple(slice(o, o + n) for o, n in zip(box.offset, box.size, strict=True))])
    found = view.parts(box, Region.of(local))
    inside = sorted(set(region.flatten().tolist()) & set(held.flatten().tolist()))
    if found is None:
        assert inside == []
        return
    to, offset = found
    ours = to.on(local.untyped_storage())
    theirs = region.reshape(view.size)
    for dim, (first, length) in enumerate(zip(offset, to.size, strict=True)):
        theirs = theirs.narrow(dim, first, length)
    assert torch.equal(ours, theirs)
    assert sorted(ours.flatten().tolist()) == inside


def test_what_is_no_view_along_dimensions() -> None:
    full = torch.arange(240).view(SIZE)
    flat = full.view(-1)
    for other in (full[0].diagonal(), flat[5:30], flat[5:25], flat[::7]):
        assert view_of(Region.of(full), Region.of(other)) is None
    assert view_of(Region.of(full), Region.of(full.view(torch.int32))) is None
    first = torch.arange(480)[:240].view(SIZE)
    for other in (torch.arange(480), torch.arange(480).view(12, 40)):  # more than is there
        assert view_of(Region.of(first), Region.of(other)) is None
    gaps = torch.arange(240).view(SIZE)[:, :, ::2]
    assert view_of(Region.of(gaps), Region.of(gaps[1])) is None


def test_dimensions_of_size_one() -> None:
    box = Box((0, 0), (2, 3), (4, 1))
    assert with_ones((6, 5), [box], (1, 6, 1, 5)) == [Box((0, 0, 0, 0), (1, 2, 1, 3), (0, 4, 0, 1))]
    assert with_ones((6, 5), [box], (30,)) is None
