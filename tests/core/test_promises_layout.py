"""P3, memory: the same logical values whatever the strides, and not a byte outside of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import bits
from support.layout_cases import LAYOUTS, meta, strided
from support.promise_cases import ONE_OF_EACH, ONE_OF_EACH_SIZE, Canvas, Case, threads

KEY = 0xDEAD_BEEF_0BAD_F00D


def check(case: Case, view: torch.Tensor, start: int = 5, key: int = KEY) -> None:
    canvas = Canvas(case, view.shape, view.stride(), start)
    case.fill(canvas.tensor, key)
    canvas.expect(case.whole(key, *view.shape))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_layout(case: Case, layout: str) -> None:
    check(case, LAYOUTS[layout])


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
@pytest.mark.parametrize("layout", ["transposed", "stepped", "columns"])
def test_every_kind(case: Case, layout: str) -> None:
    check(case, LAYOUTS[layout])


@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_every_length_and_offset(case: Case) -> None:
    """Odd slices of every length and start, with guards on both sides."""
    for length in range(70):
        check(case, meta(length), start=length % 13, key=length)
    for start in range(17):
        check(case, meta(33), start=start)
        check(case, meta(5, 19)[:, 1:12], start=start)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("layout", ["large, transposed", "columns", "channels last, wide"])
def test_layouts_on_several_threads(layout: str, count: int) -> None:
    with threads(count):
        for case in ONE_OF_EACH_SIZE:
            check(case, LAYOUTS[layout])


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


# ---- other memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_misaligned(case: Case, offset: int) -> None:
    """Tensors over a buffer may start at any byte. (torch cannot even copy some of them.)"""
    whole = case.whole(KEY, 41, 67)
    buffer = bytearray(b"\x99" * (offset + whole.nbytes + 5))
    tensor = torch.frombuffer(buffer, dtype=case.torch_dtype, count=41 * 67, offset=offset)
    views: list[Callable[[Any], Any]] = [
        lambda x: x,
        lambda x: x.swapaxes(0, 1),
        lambda x: x[:, ::2],
        lambda x: x[::2].swapaxes(0, 1),
    ]
    for view in views:
        filled = case.fill(view(tensor.view(41, 67)), KEY)
        written = np.frombuffer(bytes(buffer[offset:-5]), whole.dtype).reshape(whole.shape)
        assert np.array_equal(view(written), case.whole(KEY, *filled.shape))
    assert buffer[:offset] == b"\x99" * offset
    assert buffer[-5:] == b"\x99" * 5


def test_shared_memory() -> None:
    case = Case("float32", "normal", (0.0, 1.0))
    tensor = torch.empty(300, 700).share_memory_()
    assert np.array_equal(bits(case.fill(tensor, KEY)), case.whole(KEY, 300, 700))


def test_mapped_file(tmp_path: Path) -> None:
    """A file of many pages and tiles: its tensor is written, and nothing behind it."""
    case, n = Case("bfloat16", "uniform", (-1.0, 1.0)), 5_000_011
    path = tmp_path / "weights"
    path.write_bytes(b"\x77" * (2 * n + 4096))
    tensor = torch.from_file(str(path), shared=True, size=n, dtype=torch.bfloat16)
    case.fill(tensor, KEY)
    assert np.array_equal(bits(tensor), case.whole(KEY, n))
    del tensor
    written = np.fromfile(path, dtype=np.uint16)
    assert np.array_equal(written[:n], case.whole(KEY, n))
    assert (written[n:] == 0x7777).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs an accelerator")
def test_pinned_memory() -> None:
    case = Case("float32", "normal", (0.0, 1.0))
    tensor = torch.empty(300, 700, pin_memory=True)
    assert np.array_equal(bits(case.fill(tensor, KEY)), case.whole(KEY, 300, 700))


def test_large_untouched_memory() -> None:
    """Many megabytes straight from the system, from an odd start to an odd end."""
    case = Case("float32", "uniform", (0.0, 1.0))
    n = 6 * 2**20 + 12345
    memory = torch.empty(n + 64)
    view = memory[17 : 17 + n]
    case.fill(view, KEY)
    assert np.array_equal(bits(view), case.whole(KEY, n))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_pending_conjugation_and_negation(dtype: str) -> None:
    """What counts are the values a view shows."""
    case = Case(dtype, "normal", (0.25, 1.5))
    tensor = case.empty(6, 35)
    case.fill(tensor.conj().t(), KEY)
    assert np.array_equal(bits(tensor.conj().t().resolve_conj()), case.whole(KEY, 35, 6))
    real = Case("float32" if dtype == "complex64" else "float64", "normal", (0.25, 1.5))
    negated = tensor.conj().imag
    assert negated.is_neg()
    real.fill(negated, KEY)
    assert np.array_equal(bits(negated.resolve_neg().contiguous()), real.whole(KEY, 6, 35))
