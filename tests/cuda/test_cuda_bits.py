"""P1: a CUDA device writes the bits that the CPU writes, whatever the kind, type and layout."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import bits
from support.cuda_helpers import F32, KEY, check, needs_memory
from support.layout_cases import LAYOUTS, meta, strided
from support.promise_cases import ONE_OF_EACH, ONE_OF_EACH_SIZE, Canvas, Case, fill_many
from support.promise_digests import all_cases, digest

pytestmark = pytest.mark.cuda

FAR = [2**31 - 9, 2**32 - 9, 2**33 + 5, 2**34 - 9, 2**40 + 3]


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_every_kind_and_argument(case: Case) -> None:
    """Lengths 0 … 70, shards around block 2³² of the counter, larger tensors, in one list."""
    assert digest(case, "cuda") == digest(case)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_layout(case: Case, layout: str) -> None:
    check(case, LAYOUTS[layout])


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
@pytest.mark.parametrize(
    "layout", ["transposed", "stepped", "columns", "channels last", "channels last, wide"]
)
def test_every_kind_in_a_layout(case: Case, layout: str) -> None:
    check(case, LAYOUTS[layout])


@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_every_length_and_offset(case: Case) -> None:
    for length in range(70):
        check(case, meta(length), start=length % 13, key=length)
    for start in range(17):
        check(case, meta(33), start=start)
        check(case, meta(5, 19)[:, 1:12], start=start)


@pytest.mark.parametrize("length", [2**16 - 1, 2**20 + 3, 3 * 2**20 + 7])
@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_many_blocks_of_threads(case: Case, length: int) -> None:
    for start in (0, 1, 5):
        check(case, meta(length), start)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    case=st.sampled_from(ONE_OF_EACH),
    layout=strided(),
    start=st.integers(0, 40),
    key=st.integers(0, 2**64 - 1),
)
def test_drawn_layouts(
    case: Case, layout: tuple[tuple[int, ...], tuple[int, ...]], start: int, key: int
) -> None:
    check(case, meta(1).as_strided(*layout), start, key)


def test_an_expanded_tensor_is_refused_or_constant() -> None:
    base = torch.zeros(4, 1, device="cuda")
    with pytest.raises(RuntimeError, match="single memory location"):
        F32.fill(base.expand(4, 3), KEY)
    assert not base.any()
    constant = Case("float32", "constant", (2.5,))
    fill_many([base.expand(4, 3)], [constant], [0])
    assert base.flatten().tolist() == [2.5] * 4


# ---- shards and lists ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_a_block_of_every_kind(case: Case) -> None:
    canvas = Canvas(case, (21, 57), (61, 1), device="cuda")
    case.fill_shard(canvas.tensor, KEY, (41, 77), (9, 13))
    canvas.expect(np.ascontiguousarray(case.whole(KEY, 41, 77)[9:30, 13:70]))


@pytest.mark.parametrize("start", FAR)
@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_far_shards(case: Case, start: int) -> None:
    columns = 2**20 + 7
    row, column = divmod(start, columns)
    shape = (3, min(41, columns - column))
    arguments = (KEY, (2**24, columns), (row, column))
    got = case.fill_shard(case.empty(*shape[::-1], device="cuda").t(), *arguments)
    want = case.fill_shard(case.empty(*shape), *arguments)
    assert np.array_equal(bits(got.contiguous()), bits(want))


def test_many_tensors_at_once() -> None:
    """Five thousand of all kinds, types and sizes in one call, some empty, some of many blocks."""
    draw = random.Random(7)
    cases = [draw.choice(ONE_OF_EACH) for _ in range(5000)]
    sizes = [draw.choice([0, 1, 3, 16, 61, 257, draw.randrange(4000)]) for _ in cases]
    sizes[1234] = 2_000_003
    keys = [draw.getrandbits(64) for _ in cases]
    tensors = [case.empty(n, device="cuda") for case, n in zip(cases, sizes, strict=True)]
    fill_many(tensors, cases, keys)
    for tensor, case, n, key in zip(tensors, cases, sizes, keys, strict=True):
        assert np.array_equal(bits(tensor), case.whole(key, n)), case


def test_a_list_of_strided_tensors() -> None:
    cases = [case for case in ONE_OF_EACH_SIZE for _ in LAYOUTS]
    views = [view for _ in ONE_OF_EACH_SIZE for view in LAYOUTS.values()]
    canvases = [
        Canvas(case, view.shape, view.stride(), device="cuda")
        for case, view in zip(cases, views, strict=True)
    ]
    keys = list(range(len(cases)))
    fill_many([canvas.tensor for canvas in canvases], cases, keys)
    for canvas, case, key in zip(canvases, cases, keys, strict=True):
        canvas.expect(case.whole(key, *canvas.shape))


def test_overlapping_tensors_are_written_in_order() -> None:
    tensor = torch.zeros(8, device="cuda")
    one, two = Case("float32", "constant", (1.0,)), Case("float32", "constant", (2.0,))
    fill_many([tensor, tensor[4:]], [one, two], [0, 0])
    assert tensor.tolist() == [1.0] * 4 + [2.0] * 4


def test_constants_of_every_type() -> None:
    dtypes = ["int64", "bool", "uint8", "float8_e4m3fn", "bfloat16", "complex128"]
    cases = [Case(dtype, "constant", (1.0,)) for dtype in dtypes]
    tensors = [case.empty(1003, device="cuda") for case in cases]
    fill_many(tensors, cases, [0] * len(cases))
    for tensor in tensors:
        want = torch.ones(1003).to(tensor.dtype)
        assert torch.equal(tensor.cpu().view(torch.uint8), want.view(torch.uint8)), tensor.dtype


# ---- beyond 2³¹ ---------------------------------------------------------------------------------


def line(case: Case, start: int, n: int) -> np.ndarray:
    """Elements of a very long vector, from the CPU."""
    return bits(case.fill_shard(case.empty(n), KEY, (2**50,), (start,)))


@pytest.mark.parametrize("dist", ["uniform", "normal"])
@pytest.mark.parametrize("dtype", ["float8_e5m2", "bfloat16", "float32"])
def test_more_than_two_to_the_32_elements(dtype: str, dist: str) -> None:
    case = Case(dtype, dist, (0.0, 1.0))
    n = 2**32 + 1009
    needs_memory(1.1 * n * case.torch_dtype.itemsize / 2**30)
    tensor = case.empty(n, device="cuda")
    case.fill(tensor, KEY)
    for start in (0, 2**30 - 50, 2**31 - 50, 2**32 - 50, n - 100):
        assert np.array_equal(bits(tensor[start : start + 100]), line(case, start, 100)), start


def test_large_and_transposed() -> None:
    case = Case("float8_e5m2", "uniform", (0.0, 1.0))
    rows, columns = 2**16 + 1, 2**15 + 11
    needs_memory(2.5)
    tensor = case.empty(columns, rows, device="cuda").t()
    assert tensor.numel() > 2**31
    case.fill(tensor, KEY)
    for row in (0, 1, 2**15, rows - 1):
        want = line(case, row * columns, columns)
        assert np.array_equal(bits(tensor[row].contiguous()), want), row


def test_addresses_beyond_two_to_the_31() -> None:
    gap = 2**30 + 3
    needs_memory(2.5)
    case = Case("float8_e5m2", "normal", (0.0, 1.0))
    memory = torch.zeros(2 * gap + 1000, dtype=torch.uint8, device="cuda")
    flat = memory.view(torch.float8_e5m2)
    case.fill(flat.as_strided((3, 50), (gap, 1)), KEY)
    case.fill(flat.as_strided((50, 3), (1, gap), 200), KEY + 1)
    want = np.zeros((3, 400), np.uint8)
    want[:, :50] = case.whole(KEY, 3, 50)
    want[:, 200:250] = case.whole(KEY + 1, 50, 3).T
    got = memory.as_strided((3, 400), (gap, 1)).cpu().numpy()
    assert np.array_equal(got, want)
