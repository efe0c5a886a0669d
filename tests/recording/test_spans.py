"""Sets of bytes, those of storages, too: against sets of Python's, with scattered regions."""

from __future__ import annotations

import random

import pytest
import torch

from fastinit._fills import region as regions
from fastinit._fills.by_region import ByRegion
from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._recording.graph import Storage


def _bytes(region: Region) -> set[int]:
    """List the bytes of a region one by one."""
    item = region.dtype.itemsize
    places = torch.empty(0, dtype=torch.int64).set_(
        torch.arange(4000).untyped_storage(), region.offset, region.size, region.stride
    )
    return {item * place + k for place in places.flatten().tolist() for k in range(item)}


def _region(draw: random.Random) -> Region:
    width, rows = draw.randrange(1, 12), draw.randrange(1, 8)
    step = draw.randrange(1, 4)
    stride = (width * step + draw.randrange(4), step)
    kind = draw.choice([torch.uint8, torch.bfloat16, torch.float32])
    if draw.random() < 0.3:
        return Region((width, rows), stride[::-1], draw.randrange(20), kind)
    return Region((rows, width), stride, draw.randrange(20), kind)


@pytest.mark.parametrize("seed", range(40))
def test_sets_of_bytes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "_MOST_RUNS", 3)
    draw = random.Random(seed)
    spans, held = Spans(), set[int]()
    for _ in range(30):
        region = _region(draw)
        begin, end = sorted(draw.randrange(400) for _ in range(2))
        what = draw.randrange(8)
        if what == 5:
            many = [(b, b + draw.randrange(9)) for b in sorted(draw.sample(range(400), 5))]
            spans.add_all(many)
            held |= {b for a, z in many for b in range(a, z)}
        elif what < 3:
            spans.add_region(region)
            held |= _bytes(region)
        elif what > 5:
            spans.remove_region(region)
            held -= _bytes(region)
        elif what == 3:
            spans.add(begin, end) if end > begin else None
            held |= set(range(begin, end))
        else:
            spans.remove(begin, end)
            held -= set(range(begin, end))
        asked = _region(draw)
        assert not _bytes(asked) & held or spans.meets_region(asked)
        if spans._marks or not (spans._scattered or asked.runs is None):
            assert spans.meets_region(asked) == bool(_bytes(asked) & held)
        assert spans.covers_region(asked) == (_bytes(asked) <= held)
        begin, end = sorted(draw.randrange(400) for _ in range(2))
        assert spans.covers(begin, end) == (set(range(begin, end)) <= held)
        if held & set(range(begin, end)):
            assert spans.meets(begin, end)
        assert spans.is_empty == (not held)
        assert {k for k, mark in enumerate(spans.copy().marks(400)) if mark} == held
        spans = spans.copy() if draw.randrange(2) else spans


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_of_a_storage(seed: int) -> None:
    draw = random.Random(seed)
    several = [_region(draw) for _ in range(3)]
    storage, expected = Storage(torch.empty(8000), known=False), set()
    for _ in range(draw.randrange(1, 8)):
        region = draw.choice(several)
        if draw.random() < 0.7:
            storage.write(region)
            expected |= _bytes(region)
        else:
            storage.written.remove_region(region)
            expected -= _bytes(region)
        for other in several:
            assert storage.has_values(other) is (_bytes(other) <= expected)


@pytest.mark.parametrize("seed", range(20))
def test_what_meets_a_region(seed: int) -> None:
    draw = random.Random(seed)
    table = ByRegion[int]()
    expected: dict[frozenset[int], int] = {}  # in the order of their first coming
    for number in range(40):
        region = _region(draw)
        key = frozenset(_bytes(region))
        if draw.random() < 0.8:
            table.put(region, number)
            expected[key] = number
        elif key in expected:
            table.remove(region)
            del expected[key]
        asked = _region(draw)
        met = [value for held, value in expected.items() if held & _bytes(asked)]
        assert [value for _, value in table.meeting(asked)] == met
        assert table.get(asked) == expected.get(frozenset(_bytes(asked)))
        assert len(table) == len(expected)
        if expected:
            assert table.first() == next(iter(expected.values()))
