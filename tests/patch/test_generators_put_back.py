"""Global generators that a keyed patch seeds: put back, however several of them overlap."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from support.patch_helpers import in_thread

from fastinit._patch.fork import Fork


def _states() -> tuple[Any, ...]:
    _, words, place, *_ = np.random.get_state()  # noqa: NPY002
    return random.getstate(), np.asarray(words).tolist(), place, torch.get_rng_state().tolist()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("python_only", [None, 0, 1, 2])
def test_forks_of_threads_that_end_in_any_order(
    order: tuple[int, ...], python_only: int | None
) -> None:
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    before = _states()
    forks: list[Fork] = []
    for k in range(3):
        make = Fork.of_python if k == python_only else Fork
        forks.append(in_thread(lambda make=make, k=k: make(k)))
    for k in order:
        in_thread(forks[k].end)
    assert _states() == before
    assert not Fork._active


def test_a_fork_that_ends_inside_another_leaves_that_one_its_numbers() -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    with Fork(7):
        expected = numbers(), numbers()
    with Fork(7):
        first = numbers()
        inner = in_thread(lambda: Fork(8))
        other = numbers()
        in_thread(inner.end)
        second = numbers()
    assert (first, second) == expected
    assert other != second


_FIRST = """
import numpy, torch, fastinit
print("numpy.random" in __import__("sys").modules)
def make():
    layer = torch.nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.from_numpy(numpy.random.randn(2, 2))
    return layer
for _ in range(2):
    print(fastinit.materialize(make, key=0).weight.tolist())
"""


def test_numpy_is_seeded_though_nobody_has_drawn_from_it() -> None:
    """NumPy loads its generators, and seeds them, when somebody first asks for them."""
    found = {
        subprocess.run([sys.executable, "-c", _FIRST], capture_output=True, text=True).stdout
        for _ in range(2)
    }
    (printed,) = found
    *_, first, second = printed.splitlines()
    assert first == second != ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_forgets_the_forks_of_threads_that_it_has_not() -> None:
    before = _states()
    other = in_thread(lambda: Fork(1))
    own = Fork(2)
    with Fork._lock:  # as a thread that is gone may have held it
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                assert Fork._active == [own]
                own.end()
                assert _states() == before
                assert not Fork._active
            except BaseException:
                os._exit(1)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    own.end()
    other.end()
    assert _states() == before
