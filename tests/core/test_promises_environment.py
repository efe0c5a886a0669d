"""FTZ, DAZ and every rounding mode, on the caller and on pool threads: no bit changes, and every
thread gets its own mode back.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from support.common import bits
from support.native_build import build_library
from support.promise_cases import COMPLEX, ONE_OF_EACH, REAL, Case, threads
from support.stream_cases import ALL_TRUNCATIONS, INF

KEY = 0x600D_5EED
ROUNDINGS = ("to nearest", "down", "up", "to zero")
FLUSH = 4 + 8  # FTZ and DAZ
# Other processors than x86-64 have one switch for both.
FLUSHES = (0, FLUSH, 4, 8) if platform.machine() == "x86_64" else (0, FLUSH)
MODES = [flush | rounding for flush in FLUSHES for rounding in range(4)]
WORKERS = 3

# Arguments and results in the subnormals, and constants that take many roundings to compute.
DELICATE = [
    *(Case(dtype, "normal", (1e-45, 3e-42)) for dtype in ("float32", "bfloat16", "complex64")),
    *(Case(dtype, "uniform", (-1e-40, 2e-40)) for dtype in ("float32", "bfloat16")),
    *(Case(dtype, "normal", (1 / 3, 2 / 3)) for dtype in COMPLEX),
    *(Case(dtype, "normal", (0.0, 1e-6)) for dtype in REAL),
    *(Case("float64", "normal", (0.0, std)) for std in (5e-324, 1e-310)),
    Case("float64", "uniform", (-3e-310, 1e-310)),
    Case("float64", "uniform", (5e-324, 1e-323)),
    Case("float64", "trunc_normal", (0.0, 1e-308, -1e-309, 3e-309)),
    Case("float32", "trunc_normal", (0.0, 1e-39, -1e-40, 3e-40)),
    Case("bfloat16", "trunc_normal", (0.0, 1.0, -1e-40, INF)),
    Case("float16", "uniform", (1e-8, 6e-5)),
    *(Case(dtype, "trunc_normal", args) for args in ALL_TRUNCATIONS for dtype in REAL[:2]),
    *(Case(dtype, "constant", (x,)) for x in (1 / 3, 1e-40, -1e-8) for dtype in REAL),
]
CASES = [*ONE_OF_EACH, *DELICATE]


@cache
def library() -> ctypes.CDLL:
    modes = ctypes.CDLL(str(build_library("fp_modes")))
    modes.fp_pool.argtypes = [ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 3]
    return modes


class Pool:
    """What the threads of the pool said when they were asked (and, perhaps, given a new mode)."""

    def __init__(self, count: int, new_mode: int = -1) -> None:
        modes = np.full(count, -1, np.int32)
        ids = np.zeros(count, np.int64)
        probes = np.zeros((count, 3), np.float32)
        places = [array.ctypes.data for array in (modes, ids, probes)]
        self.count = library().fp_pool(count, new_mode, *places)
        self.modes = [int(mode) for mode in modes]
        self.threads = {int(thread) for thread in ids}
        self.probes = {tuple(bits_of) for bits_of in probes.view(np.uint32).tolist()}


@contextmanager
def caller_mode(mode: int) -> Iterator[None]:
    before = library().fp_get_mode()
    library().fp_set_mode(mode)
    try:
        yield
    finally:
        library().fp_set_mode(before)


def process_threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def fill_all(n: int) -> list[torch.Tensor]:
    """Every case, alone where there is an op for it, and in the end all at once."""
    filled = []
    for case in CASES:
        tensor = case.empty(n)
        if case.dist == "constant":
            case.fill_shard(tensor, KEY, (), ())
        else:
            case.fill(tensor, KEY)
        filled.append(tensor)
    return filled


@cache
def undisturbed(n: int) -> list[np.ndarray]:
    with threads(1):
        return [bits(tensor) for tensor in fill_all(n)]


def check(filled: list[torch.Tensor], n: int) -> None:
    for case, tensor, want in zip(CASES, filled, undisturbed(n), strict=True):
        assert np.array_equal(bits(tensor), want), case


def name_of(mode: int) -> str:
    flags = [word for bit, word in ((4, "FTZ"), (8, "DAZ")) if mode & bit]
    return " ".join(["rounding", ROUNDINGS[mode & 3], *flags])


def test_modes_are_there_to_be_set() -> None:
    """The helper does change modes, arithmetic notices, and the probes tell the modes apart."""
    probes = set()
    for mode in MODES[:8]:
        with caller_mode(mode):
            assert library().fp_get_mode() == mode
            probes |= Pool(1).probes
    assert library().fp_get_mode() == 0
    assert len(probes) == 8


@pytest.mark.parametrize("mode", MODES, ids=name_of)
def test_on_the_caller(mode: int) -> None:
    undisturbed(67)
    with threads(1), caller_mode(mode):
        filled = fill_all(67)
        after = library().fp_get_mode()
    assert after == mode
    check(filled, 67)


def test_flush_denormal_of_torch() -> None:
    undisturbed(67)
    assert torch.set_flush_denormal(True)
    try:
        filled = fill_all(67)
        mode = library().fp_get_mode()
    finally:
        torch.set_flush_denormal(False)
    assert mode == FLUSH
    check(filled, 67)


@pytest.mark.parametrize("mode", MODES[1:8], ids=name_of)
def test_on_pool_threads(mode: int) -> None:
    """The threads that fill are the ones whose mode was set, and they still have it afterwards."""
    n = 120_011
    cases = [case for case in CASES if "trunc" not in case.dist or case in ONE_OF_EACH][::3]
    with threads(1):
        want = [bits(case.fill_shard(case.empty(n), KEY, (), ())) for case in cases]
    most, long = 0, Case("float32", "trunc_normal", (0.0, 1e-39, -3e-39, 2e-39))
    long_want = long.whole(KEY, 2**21)
    with threads(WORKERS):
        before = Pool(WORKERS)
        assert before.count == len(before.threads) == WORKERS and before.modes == [0] * WORKERS
        Pool(WORKERS, mode)
        try:
            changed = Pool(WORKERS)
            # Really changed: each thread says so, and so does what it computes.
            assert changed.threads == before.threads and changed.modes == [mode] * WORKERS
            assert len(changed.probes) == 1 and changed.probes != before.probes
            alive = process_threads()
            filled = []
            for case in cases:
                filled.append(case.fill_shard(case.empty(n), KEY, (), ()))
            for _ in range(50):  # a busy machine may start the other threads late
                tensor = long.fill(long.empty(2**21), KEY)
                assert np.array_equal(bits(tensor), long_want)
                most = max(most, torch.ops.fastinit_testing.last_fill_threads())
                if most == WORKERS:
                    break
            after = Pool(WORKERS)
            assert process_threads() <= alive  # nobody else has done the work
        finally:
            Pool(WORKERS, 0)
    assert most > 1
    assert after.threads == before.threads and after.modes == [mode] * WORKERS
    for case, tensor, right in zip(cases, filled, want, strict=True):
        assert np.array_equal(bits(tensor), right), case


@pytest.mark.parametrize("mode", [FLUSH, 1, 2], ids=name_of)
def test_what_is_an_error_does_not_depend_on_the_mode(mode: int) -> None:
    least = 5e-324
    for case in [
        Case("float64", "normal", (0.0, -least)),
        Case("float64", "uniform", (least, 0.0)),
        Case("float64", "uniform", (-1e308, 1e308)),
        Case("float64", "trunc_normal", (0.0, 1.0, least, -least)),
    ]:
        tensor = torch.ones(20, dtype=torch.float64)
        with caller_mode(mode):
            try:
                case.fill(tensor, KEY)
            except RuntimeError:
                refused = True
            else:
                refused = False
            after = library().fp_get_mode()
        assert refused, case
        assert after == mode
        assert (tensor == 1).all()


def test_a_mode_set_between_fills_does_not_linger() -> None:
    case = Case("float32", "normal", (0.0, 1e-40))
    want = case.whole(KEY, 1000)
    for mode in (FLUSH, 2, 0):
        with caller_mode(mode):
            tensor = case.fill(case.empty(1000), KEY)
        assert np.array_equal(bits(tensor), want)
    assert library().fp_get_mode() == 0
