"""What stands in the places of a part of a tensor, element by element: against index tensors."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from fastinit._fills import elements
from fastinit._fills import region as regions
from fastinit._fills.by_region import ByRegion
from fastinit._fills.elements import made_of, made_of_bytes, rest_of
from fastinit._fills.region import Region

_TYPES = [torch.uint8, torch.bfloat16, torch.float32, torch.complex64]


def _laid_out(draw: random.Random, shape: list[int]) -> Tensor:
    """Make a tensor of a shape in some order of dimensions, perhaps with gaps."""
    order = draw.sample(range(len(shape)), len(shape))
    sizes = [shape[k] + draw.choice([0, 0, 2]) for k in order]
    made = torch.empty(draw.choice([0, 3]) + torch.Size(sizes).numel(), dtype=draw.choice(_TYPES))
    made = made[made.numel() - torch.Size(sizes).numel() :].view(sizes)
    for dim, k in enumerate(order):
        made = made.narrow(dim, draw.randrange(made.shape[dim] - shape[k] + 1), shape[k])
    return made.permute([order.index(k) for k in range(len(shape))])


def _numbers(region: Region) -> Tensor:
    """Give where in the memory each element of a region is, in elements."""
    return torch.arange(20_000).as_strided(region.size, region.stride, region.offset)


def _bytes(region: Region) -> set[int]:
    item = region.dtype.itemsize
    return {item * k + b for k in _numbers(region).flatten().tolist() for b in range(item)}


def _part(draw: random.Random, whole: Region) -> Region:
    """Choose some of a tensor, or of the memory around it, as another type perhaps."""
    if draw.random() < 0.4:
        begin, end = whole.span
        first = draw.randrange(max(0, begin - 9), end)
        return Region((draw.randrange(1, end - first + 9),), (1,), first, torch.uint8)
    size, offset = [*whole.size], whole.offset
    for k, stride in enumerate(whole.stride):
        first = draw.randrange(size[k])
        size[k] = draw.randrange(1, size[k] - first + 1)
        offset += first * stride
    item = whole.dtype.itemsize
    if draw.random() < 0.3:  # the first byte of each element
        strides = tuple(stride * item for stride in whole.stride)
        return Region(tuple(size), strides, offset * item, torch.uint8)
    return Region(tuple(size), whole.stride, offset, whole.dtype)


@pytest.mark.parametrize("seed", range(300))
def test_what_a_part_is_made_of(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "_FEW", 10**6)
    draw = random.Random(seed)
    shape = [draw.randrange(1, 5) for _ in range(draw.randrange(1, 4))]
    to = Region.of(_laid_out(draw, shape))
    kept = shape[draw.choice([0, 0, 0, len(shape) - 1]) :]
    of = Region.of(_laid_out(draw, [draw.choice([n, n, n, 1]) for n in kept]))
    part = _part(draw, to)
    written, read = _numbers(to), _numbers(of).expand(to.size)
    item, size, met = to.dtype.itemsize, of.dtype.itemsize, _bytes(part)
    at_least, at_most = set[int](), set[int]()
    for a, b in zip(written.flatten().tolist(), read.flatten().tolist(), strict=True):
        here = {k for k in range(item) if item * a + k in met}
        if here:
            at_most |= {size * b + k for k in range(size)}
            at_least |= {size * b + k for k in (here if item == size else range(size))}
    for found in (made_of(part, to, of), made_of_bytes(part.runs or (), to, of)):
        assert at_least <= set().union(*map(_bytes, found)) <= at_most


def test_a_box_is_one_region_and_what_is_no_elementwise_copy_is_taken_whole() -> None:
    to, of = Region.of(torch.empty(400, 3, 50)), Region.of(torch.empty(50, 3, 400).mT.mT)
    part = Region.of(torch.empty(400, 3, 50)[7:300, 1:, 10:20])
    assert made_of(part, to, to) == [part]
    assert made_of(part, to, of) == [of]
    doubled = Region.of(torch.empty(400, 3, 50, dtype=torch.float64))
    assert made_of(Region.of(torch.empty(60_000)[150:300]), to, doubled) == [
        Region.of(torch.empty(400, 3, 50, dtype=torch.float64)[1:2])
    ]


@pytest.mark.parametrize("seed", range(300))
def test_which_regions_meet(seed: int) -> None:
    draw = random.Random(seed)
    shape = [draw.randrange(1, 6) for _ in range(draw.randrange(1, 4))]
    one = Region.of(_laid_out(draw, shape))
    other = _part(draw, one) if draw.random() < 0.5 else Region.of(_laid_out(draw, shape[::-1]))
    shifted = Region(other.size, other.stride, other.offset + draw.randrange(5), other.dtype)
    for a, b in ((one, shifted), (shifted, one), (one, other)):
        assert a.meets(b) is (not _bytes(a).isdisjoint(_bytes(b)))


@pytest.mark.parametrize("most", [1, 1 << 14])
@pytest.mark.parametrize("seed", range(200))
def test_what_writing_a_region_leaves_nothing_of(
    seed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "_MOST_RUNS", most)
    draw = random.Random(seed)
    shape = [draw.randrange(1, 5) for _ in range(draw.randrange(1, 4))]
    whole = Region.of(_laid_out(draw, shape))
    whole = Region(whole.size, whole.stride, whole.offset, whole.dtype)  # nothing known of it
    for _ in range(4):
        part = _part(draw, whole)
        assert not whole.covers(part) or _bytes(part) <= _bytes(whole)
        assert not part.covers(whole) or _bytes(whole) <= _bytes(part)
        if most > 1:
            assert whole.covers(part) is (_bytes(part) <= _bytes(whole))


@pytest.mark.parametrize("most", [0, 10**6])
@pytest.mark.parametrize("seed", range(300))
def test_what_writing_a_region_leaves(
    seed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The elements of which something is left; more only where many pieces do not fit."""
    monkeypatch.setattr(elements, "_FEW", most)
    draw = random.Random(seed)
    shape = [draw.randrange(1, 5) for _ in range(draw.randrange(1, 4))]
    whole = Region.of(_laid_out(draw, shape))
    part, item = _part(draw, whole), whole.dtype.itemsize
    left = _bytes(whole) - _bytes(part)
    found = set().union(*map(_bytes, rest_of(whole, part)))
    assert left <= found <= _bytes(whole)
    inside = _bytes(part) <= _bytes(whole)
    box = inside and part.dtype is whole.dtype and len(part.size) == len(shape)
    if box or most:
        elements_left = {b // item for b in left}
        assert {b // item for b in found} == elements_left
    if box:
        assert sum(one.numel for one in rest_of(whole, part)) == whole.numel - part.numel


@pytest.mark.parametrize("seed", range(10))
def test_what_meets_one_of_many_columns(seed: int) -> None:
    draw = random.Random(seed)
    table, held = ByRegion[int](), dict[int, Region]()
    for number, first in enumerate(draw.sample(range(300), 150)):
        width, rows = draw.randrange(1, 4), draw.randrange(2, 7)
        row = draw.randrange(8 - rows)
        region = Region((rows, width), (300, 1), 300 * row + first, torch.float32)
        if table.get(region) is None:
            table.put(region, number)
            held[number] = region
    for number in draw.sample(sorted(held), 20):
        table.remove(held.pop(number))
    for _ in range(60):
        rows, width, step = draw.randrange(1, 5), draw.randrange(1, 9), draw.choice([300, 600, 310])
        asked = Region((rows, width), (step, 1), draw.randrange(300), torch.float32)
        expected = [k for k, one in held.items() if not _bytes(one).isdisjoint(_bytes(asked))]
        assert [number for _, number in table.meeting(asked)] == expected


@pytest.mark.parametrize("stride", [(0, 1), (1, 1)])
def test_of_what_overlaps_itself_all_is_taken(stride: tuple[int, int]) -> None:
    to, of = Region((3, 4), stride, 0, torch.float32), Region((3, 4), (4, 1), 0, torch.float32)
    assert made_of(Region((2,), (1,), 0, torch.float32), to, of) == [of]
    assert made_of_bytes([(0, 8)], to, of) == [of]
    assert rest_of(to, Region((2,), (1,), 0, torch.float32)) == [to]


def test_of_many_pieces_that_are_written_over_nothing_is_left() -> None:
    table = torch.empty(400, 6)
    assert rest_of(Region.of(table[:, :3]), Region.of(table)) == []
    assert rest_of(Region.of(table), Region.of(table[:, :3])) == [Region.of(table[:, 3:])]
