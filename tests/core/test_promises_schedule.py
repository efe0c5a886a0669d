"""P2: threads, chunks and batching decide who computes an element, never what it is."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from support.common import bits
from support.promise_cases import (
    KIND_ARGS,
    ONE_OF_EACH,
    ONE_OF_EACH_SIZE,
    REAL,
    Case,
    fill_many,
    threads,
)

KEY = 0xA5A5_0123_4567_89AB
TILE = 16 * 1024  # elements of a tile that is written in place (csrc/cpu/tiles.h)


def large_views(case: Case) -> list[torch.Tensor]:
    """Tensors of many tiles, written in place, transposed, and row by row."""
    image = torch.empty((9, 33, 31, 29), dtype=case.torch_dtype, memory_format=torch.channels_last)
    return [
        case.empty(9 * TILE + 77),
        case.empty(521, 479).t(),
        case.empty(301, 700)[:, 11:650],
        image,
    ]


def views_filled(case: Case, count: int) -> list[np.ndarray]:
    with threads(count):
        return [bits(case.fill(view, KEY).contiguous()) for view in large_views(case)]


@pytest.mark.parametrize("case", ONE_OF_EACH_SIZE, ids=str)
def test_any_number_of_threads(case: Case) -> None:
    alone = views_filled(case, 1)
    for count in (2, 3, 7):
        for got, want in zip(views_filled(case, count), alone, strict=True):
            assert np.array_equal(got, want), count


@pytest.mark.parametrize("count", [1, 2, 5])
def test_many_tensors_at_once(count: int) -> None:
    """Three thousand tensors of all kinds, types and sizes, against one op call each."""
    draw = random.Random(count)
    cases = [draw.choice(ONE_OF_EACH) for _ in range(3000)]
    sizes = [draw.choice([0, 1, 3, 16, 61, 257, draw.randrange(4000)]) for _ in cases]
    sizes[1234] = 3 * TILE + 5
    keys = [draw.getrandbits(64) for _ in cases]
    together = [case.empty(n) for case, n in zip(cases, sizes, strict=True)]
    with threads(count):
        fill_many(together, cases, keys)
    for tensor, case, n, key in zip(together, cases, sizes, keys, strict=True):
        assert np.array_equal(bits(tensor), case.whole(key, n)), case


def test_constants_among_random_fills() -> None:
    case, constant = Case("float32", "normal", (0.0, 1.0)), Case("bfloat16", "constant", (1.3,))
    tensors = [case.empty(5000), constant.empty(70, 30), case.empty(40)]
    fill_many(tensors, [case, constant, case], [1, 2, 3])
    assert np.array_equal(bits(tensors[0]), case.whole(1, 5000))
    assert torch.equal(tensors[1], torch.full((70, 30), 1.3, dtype=torch.bfloat16))
    assert np.array_equal(bits(tensors[2]), case.whole(3, 40))


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_prefix(case: Case) -> None:
    """A shorter tensor is the beginning of a longer one."""
    longest = case.whole(KEY, 2 * TILE + 3)
    for n in (1, 2, 3, 4, 5, 31, 32, 33, 255, 1023, 1024, 1025, TILE - 1, TILE, TILE + 1):
        assert np.array_equal(case.whole(KEY, n), longest[:n]), n


def most_threads(attempts: int, n: int) -> int:
    """The most threads seen at work in a fill; a busy machine may start the second one late."""
    case, most = Case("float64", "trunc_normal", (0.0, 1.0, -2.0, 2.0)), 0
    tensor = case.empty(n)
    for _ in range(attempts):
        case.fill(tensor, KEY)
        most = max(most, torch.ops.fastinit_testing.last_fill_threads())
        if most > 1:
            break
    return most


def test_more_than_one_thread_works() -> None:
    with threads(2):
        assert most_threads(50, 2**23) == 2
    with threads(1):
        assert most_threads(3, 2**20) == 1


def test_small_fills_stay_on_the_calling_thread() -> None:
    with threads(4):
        assert most_threads(20, 1000) == 1


def concurrently(jobs: Sequence[threading.Thread]) -> None:
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()


def test_python_threads_at_once() -> None:
    """Fills do not share state, and release the GIL while they run."""
    cases = [Case(dtype, dist, args) for dtype in REAL[:4] for dist, args in KIND_ARGS[:4]]
    results: dict[int, np.ndarray] = {}
    start = threading.Barrier(len(cases))

    def work(k: int) -> None:
        start.wait()
        for repeat in range(3):
            tensor = cases[k].fill(cases[k].empty(7, 30_011), k + 100 * repeat)
        results[k] = bits(tensor)

    concurrently([threading.Thread(target=work, args=(k,)) for k in range(len(cases))])
    for k, case in enumerate(cases):
        assert np.array_equal(results[k], case.whole(k + 200, 7, 30_011)), case


def turns_taken_during(work: threading.Thread, started: threading.Event) -> int:
    """How often this thread came to run Python until the other one had finished."""
    work.start()
    started.wait()
    turns = 0
    while work.is_alive():
        work.join(0.001)
        turns += 1
    return turns


def test_the_gil_is_released() -> None:
    """While one thread fills a large tensor, another one runs Python."""
    case = Case("float64", "trunc_normal", (0.0, 1.0, -2.0, 2.0))
    tensor = case.empty(2**24)

    def attempt() -> int:
        started = threading.Event()

        def work() -> None:
            started.set()
            case.fill(tensor, KEY)

        return turns_taken_during(threading.Thread(target=work), started)

    with threads(1):
        # A call that kept the GIL would leave one turn before it and one after.
        assert any(attempt() > 3 for _ in range(10))
