"""P2 where tensors of one call share memory: as if they were filled one after the other."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from support.common import bits
from support.promise_cases import ONE_OF_EACH, Case, fill_many, threads

from fastinit import _compiled

F32, BF16 = Case("float32", "normal", (0.0, 1.0)), Case("bfloat16", "uniform", (-1.0, 1.0))
TRUNC = Case("float32", "trunc_normal", (0.0, 1.0, -2.0, 2.0))
WORDS = Case("int32", "words")


def check(
    memory: torch.Tensor, views: Sequence[torch.Tensor], cases: Sequence[Case], count: int
) -> None:
    """Fills views of the memory in one call and, in a copy of it, in a loop."""
    keys = list(range(len(views)))
    expected = memory.clone()
    flat = expected.untyped_storage()
    for view, case, key in zip(views, cases, keys, strict=True):
        copy = torch.empty(0, dtype=view.dtype).set_(
            flat, view.storage_offset(), view.shape, view.stride()
        )
        case.fill(copy, key)
    with threads(count):
        fill_many(views, cases, keys)
    assert torch.equal(memory, expected)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_later_one_wins(count: int) -> None:
    for _ in range(20):  # a wrong order shows only if threads run at the same time
        memory = torch.zeros(400_000, dtype=torch.uint8)
        whole = memory.view(torch.float32)
        views = [
            whole,
            whole[30_000:70_001],
            whole[69_990:].view(-1, 10).t(),
            whole[::3],
            whole[:7],
        ]
        check(memory, views, [F32, TRUNC, F32, TRUNC, F32], count)


@pytest.mark.parametrize("count", [1, 5])
def test_one_tensor_many_times(count: int) -> None:
    cases = [random.Random(k).choice([F32, TRUNC]) for k in range(60)]
    for _ in range(10):
        memory = torch.zeros(300_000, dtype=torch.uint8)
        check(memory, [memory.view(torch.float32)] * 60, cases, count)


def test_memory_under_several_types() -> None:
    memory = torch.zeros(240_000, dtype=torch.uint8)
    views = [
        memory.view(torch.float32),
        memory[80_000:].view(torch.bfloat16),
        memory[:120_000].view(torch.int32),
        memory.view(torch.bfloat16)[1::2],
    ]
    check(memory, views, [F32, BF16, WORDS, BF16], 3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_interleaved_but_apart(count: int) -> None:
    """Views whose spans overlap and whose elements do not; a view inside of another's gap."""
    memory = torch.zeros(4 * 300 * 400, dtype=torch.uint8)
    matrix = memory.view(torch.float32).view(300, 400)
    views = [matrix[:, k : k + 50] for k in range(0, 400, 50)]
    check(memory, views, [F32, TRUNC] * 4, count)
    memory = torch.zeros(8000, dtype=torch.uint8)
    line = memory.view(torch.float32)
    check(memory, [line[1000:1001], line[::2], line[1:3:2], line[1999:]], [F32] * 4, count)


def test_neighbours_do_not_touch() -> None:
    """Pieces of one buffer, each filled with its own kind, of every length."""
    cases = [case for case in ONE_OF_EACH if case.dtype == "bfloat16"]
    memory = torch.zeros(2 * sum(range(1, 90)), dtype=torch.uint8)
    line, views, start = memory.view(torch.bfloat16), [], 0
    for n in random.Random(5).sample(range(1, 90), 89):
        views.append(line[start : start + n])
        start += n
    check(memory, views, [cases[k % len(cases)] for k in range(89)], 2)


def test_nothing_to_do() -> None:
    fill_many([], [], [])
    fill_many([F32.empty(0), F32.empty(3, 0, 2)], [F32, TRUNC], [1, 2])
    tensors = [F32.empty(0, 4), F32.empty(5), F32.empty(0)]
    fill_many(tensors, [F32] * 3, [1, 2, 3])
    assert np.array_equal(bits(tensors[1]), F32.whole(2, 5))


@pytest.mark.parametrize("expanded", [(4, 1), (1, 4)], ids=str)
def test_a_tensor_that_overlaps_itself_is_an_error(expanded: tuple[int, int]) -> None:
    """A random fill would write an element twice; the others of the call stay as they are."""
    other, narrow = torch.zeros(50), torch.zeros(expanded)
    with pytest.raises(RuntimeError, match="single memory location"):
        fill_many([other, narrow.expand(4, 4)], [F32, F32], [1, 2])
    with pytest.raises(RuntimeError, match="single memory location"):
        F32.fill(narrow.expand(4, 4), 1)
    assert not other.any() and not narrow.any()
    # With one value there is nothing to choose between.
    _compiled.fill_many_op([narrow.expand(4, 4)], [0, 0], [2.5, 0.0, 0.0, 0.0], [0])
    assert (narrow == 2.5).all()


def test_tensors_of_two_devices_are_an_error() -> None:
    for tensors in ([torch.zeros(5), torch.zeros(5, device="meta")],
                    [torch.zeros(5, device="meta"), torch.zeros(5)]):  # fmt: skip
        with pytest.raises(RuntimeError, match="one device"):
            fill_many(tensors, [F32, F32], [1, 2])
        assert not any(t.any() for t in tensors if not t.is_meta)
