"""P3, sharding: a shard holds what the full tensor would hold in its place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import bits
from support.promise_cases import ONE_OF_EACH, ONE_OF_EACH_SIZE, Canvas, Case, fill_many

KEY = 0x1357_9BDF_0246_8ACE
F32, E5M2 = Case("float32", "normal", (0.0, 1.0)), Case("float8_e5m2", "uniform", (-1.0, 1.0))


def boxes(full: Sequence[int], cuts: Sequence[Sequence[int]]) -> list[tuple[tuple[int, ...], ...]]:
    """(offset, shape) of every part when each dimension is cut at the given places."""
    parts = []
    for size, places in zip(full, cuts, strict=True):
        ends = [0, *places, size]
        parts.append([(a, b - a) for a, b in itertools.pairwise(ends)])
    return [tuple(zip(*box, strict=True)) for box in itertools.product(*parts)]


# full size and where each dimension is cut
CUTS = {
    "rows": ((37, 53), ([7, 7, 20], [])),
    "columns": ((37, 53), ([], [1, 3, 4, 40])),
    "wide columns": ((11, 1900), ([], [300, 901, 1600])),
    "blocks": ((37, 53), ([13, 36], [5, 29])),
    "one element each": ((3, 5), ([1, 2], [1, 2, 3, 4])),
    "an empty last part": ((8, 3), ([3, 6, 8], [])),
    "experts": ((6, 20, 30), ([2, 4], [7], [15])),
    "convolution": ((12, 8, 3, 3), ([5], [3, 6], [1], [])),
    "ten dimensions": (
        (2, 3, 1, 2, 3, 2, 1, 2, 2, 3),
        ([1], [2], [], [], [1], [], [], [], [], []),
    ),
    "a vector": ((1001,), ([1, 250, 251, 253, 600],)),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_parts_make_the_whole(case: Case, cut: str) -> None:
    full, places = CUTS[cut]
    want = case.whole(KEY, *full)
    parts = boxes(full, places)
    # All parts in one call; every second one transposed in memory.
    tensors = []
    for k, (_, shape) in enumerate(parts):
        tensor = case.empty(*(shape[::-1] if k % 2 else shape))
        tensors.append(tensor.permute(*range(len(shape))[::-1]) if k % 2 else tensor)
    rows = [case.row(full, offset) for offset, _ in parts]
    fill_many(tensors, [case] * len(parts), [KEY] * len(parts), rows)
    for (offset, shape), tensor in zip(parts, tensors, strict=True):
        there = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
        assert np.array_equal(bits(tensor.contiguous()), want[there]), (offset, shape)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_a_block_of_every_kind(case: Case) -> None:
    want = case.whole(KEY, 41, 77)[9:30, 13:70]
    canvas = Canvas(case, (21, 57), (61, 1))
    case.fill_shard(canvas.tensor, KEY, (41, 77), (9, 13))
    canvas.expect(want)


def test_parts_in_place() -> None:
    """Each part is a view of the full tensor itself."""
    full = F32.empty(60, 90)
    parts = boxes((60, 90), ([17, 40], [31, 32, 80]))
    views = [
        full[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))]
        for offset, shape in parts
    ]
    rows = [F32.row((60, 90), offset) for offset, _ in parts]
    fill_many(views, [F32] * len(parts), [KEY] * len(parts), rows)
    assert np.array_equal(bits(full), F32.whole(KEY, 60, 90))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), case=st.sampled_from(ONE_OF_EACH), key=st.integers(0, 2**64 - 1))
def test_drawn_blocks(data: st.DataObject, case: Case, key: int) -> None:
    full = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    while math.prod(full) > 20_000:
        full[full.index(max(full))] //= 2
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in full]
    offset, shape = [a for a, _ in ends], [b - a for a, b in ends]
    order = data.draw(st.permutations(range(len(full))))
    strides, step = [0] * len(full), 1
    for dim in order:
        strides[dim] = step
        step *= max(1, shape[dim])
    canvas = Canvas(case, shape, strides)
    case.fill_shard(canvas.tensor, key, full, offset)
    there = tuple(slice(a, b) for a, b in ends)
    canvas.expect(np.ascontiguousarray(case.whole(key, *full)[there]))


# ---- beyond 2³¹ ---------------------------------------------------------------------------------

FAR = [2**31 - 9, 2**32 - 9, 2**33 + 5, 2**34 - 9, 2**35 + 1, 2**40 + 3]


def line(case: Case, start: int, n: int) -> np.ndarray:
    """Elements of a very long vector."""
    return bits(case.fill_shard(case.empty(n), KEY, (2**50,), (start,)))


@pytest.mark.parametrize("start", FAR)
@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_far_rows(case: Case, start: int) -> None:
    """A matrix is numbered like a vector, also where indices no longer fit in 32 bits."""
    columns = 2**20 + 7
    row, column = divmod(start, columns)
    shape = (3, min(41, columns - column))
    full, offset = (2**24, columns), (row, column)
    got = bits(case.fill_shard(case.empty(*shape[::-1]).t(), KEY, full, offset).contiguous())
    for k in range(3):
        assert np.array_equal(got[k], line(case, start + k * columns, shape[1])), k


@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_far_lines_overlap_as_they_should(case: Case) -> None:
    for start in FAR:
        longer = line(case, start, 60)
        for skip in (1, 2, 3, 9, 33):
            assert np.array_equal(line(case, start + skip, 60 - skip), longer[skip:])


def memory_available() -> int:
    try:
        with open("/proc/meminfo") as lines:
            sizes = dict(entry.split(":") for entry in lines)
    except OSError:
        return 0
    return int(sizes["MemAvailable"].split()[0]) * 1024


@pytest.mark.skipif(memory_available() < 5 * 2**30, reason="needs 5 GB of free memory")
def test_more_than_two_to_the_31_elements() -> None:
    columns, rows = 2**16 + 1, 2**15 + 11
    tensor = E5M2.empty(rows, columns)
    assert tensor.numel() > 2**31
    E5M2.fill(tensor, KEY)
    flat = tensor.view(-1)
    for start in (0, 2**30 - 50, 2**31 - 50, flat.numel() - 100):
        assert np.array_equal(bits(flat[start : start + 100]), line(E5M2, start, 100)), start

    # Addresses beyond 2³¹ too: three rows a billion bytes apart, and the memory between them.
    gap = 2**30 + 3
    view = flat.as_strided((3, 50), (gap, 1))
    view_t = flat.as_strided((50, 3), (1, gap), 200)
    before = bits(flat[2 * gap - 20 : 2 * gap + 300]).copy()
    E5M2.fill(view, KEY + 1)
    E5M2.fill(view_t, KEY + 2)
    assert np.array_equal(bits(view.contiguous()), E5M2.whole(KEY + 1, 3, 50))
    assert np.array_equal(bits(view_t.contiguous()), E5M2.whole(KEY + 2, 50, 3))
    after = bits(flat[2 * gap - 20 : 2 * gap + 300])
    outside = np.r_[0:20, 70:220, 270:320]
    assert np.array_equal(after[outside], before[outside])
    assert not np.array_equal(after, before)
