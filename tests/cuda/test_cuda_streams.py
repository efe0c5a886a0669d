"""CUDA streams and graphs: fills are queued like any kernel, and captured when that is safe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.common import bits
from support.cuda_helpers import (
    F32,
    KEY,
    default_generator,
    keep_busy,
    no_cuda_randomness,
    offset_of,
)
from support.promise_cases import ONE_OF_EACH_SIZE, Case, fill_many

import fastinit

pytestmark = pytest.mark.cuda

COUNT = 700  # tensors, far more than fit in a kernel's parameters


def many(count: int = COUNT) -> tuple[list[Case], list[torch.Tensor]]:
    cases = [ONE_OF_EACH_SIZE[k % len(ONE_OF_EACH_SIZE)] for k in range(count)]
    return cases, [case.empty(50 + k, device="cuda") for k, case in enumerate(cases)]


def assert_filled(cases: list[Case], tensors: list[torch.Tensor], keys: list[int]) -> None:
    for case, tensor, key in zip(cases, tensors, keys, strict=True):
        assert np.array_equal(bits(tensor), case.whole(key, tensor.numel())), case


# ---- streams ------------------------------------------------------------------------------------


def test_the_current_stream_is_used() -> None:
    """Queued behind what the stream does, without waiting for it, and not on another stream."""
    tensor = F32.empty(100_003, device="cuda").fill_(7.0)
    F32.fill(F32.empty(10, device="cuda"), KEY)  # the kernel is loaded
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        keep_busy()
        seen_before = tensor.clone()
        F32.fill(tensor, KEY)
        assert not side.query(), "the call waited for the device"
    assert torch.cuda.current_stream().query(), "something ran on the stream of somebody else"
    side.synchronize()
    assert (seen_before == 7.0).all()
    assert np.array_equal(bits(tensor), F32.whole(KEY, 100_003))


def test_tables_in_flight_are_kept() -> None:
    """Lists queued one behind another, before any of their tables has been read."""
    warm, tensors = many()
    fill_many(tensors, warm, [0] * COUNT)
    torch.cuda.synchronize()
    queued = [(*many(), [KEY + 1000 * n + k for k in range(COUNT)]) for n in range(15)]
    for first in range(0, len(queued), 5):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            keep_busy()
            for cases, tensors, keys in queued[first : first + 5]:
                fill_many(tensors, cases, keys)
    torch.cuda.synchronize()
    for cases, tensors, keys in queued:
        assert_filled(cases, tensors, keys)


def test_staging_memory_is_used_again() -> None:
    cases, tensors = many()
    keys = list(range(COUNT))
    for _ in range(3):
        fill_many(tensors, cases, keys)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        fill_many(tensors, cases, keys)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    assert_filled(cases, tensors, keys)


# ---- graphs -------------------------------------------------------------------------------------


def test_a_key_is_captured() -> None:
    tensor = F32.empty(100_003, device="cuda").zero_()
    graph = torch.cuda.CUDAGraph()
    with no_cuda_randomness(), torch.cuda.graph(graph):
        fastinit.normal_(tensor, key=KEY)
    assert not tensor.any(), "it ran at capture"
    for _ in range(2):
        tensor.zero_()
        graph.replay()
        assert np.array_equal(bits(tensor), F32.whole(KEY, 100_003))


def test_a_list_is_captured() -> None:
    cases, tensors = many()
    keys = [KEY + k for k in range(COUNT)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fill_many(tensors, cases, keys)
    # What a table in memory would be overwritten by.
    others, others_tensors = many()
    fill_many(others_tensors, others, [0] * COUNT)
    torch.cuda.synchronize()
    for _ in range(2):
        for tensor in tensors:
            tensor.zero_()
        graph.replay()
        assert_filled(cases, tensors, keys)


def test_a_draw_is_not_captured() -> None:
    """It says so; the capture can be given up, and neither generator nor tensor is touched."""
    tensor = F32.empty(1000, device="cuda").zero_()
    generator = torch.Generator("cuda").manual_seed(1)
    before = offset_of(default_generator())
    for given in ({}, {"generator": generator}):
        graph = torch.cuda.CUDAGraph()
        with (
            pytest.raises(RuntimeError, match=r"normal_.*CUDA graph.*'key'"),
            torch.cuda.graph(graph),
        ):
            fastinit.normal_(tensor, **given)
    assert offset_of(default_generator()) == before
    assert offset_of(generator) == 0
    torch.cuda.synchronize()
    assert not tensor.any()
    fastinit.normal_(tensor)
    assert tensor.any()
    assert offset_of(default_generator()) == before + 4
    test_a_key_is_captured()


def test_a_refused_draw_leaves_the_capture_usable() -> None:
    tensor = F32.empty(1000, device="cuda").zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with pytest.raises(RuntimeError, match="CUDA graph"):
            fastinit.uniform_(tensor)
        with pytest.raises(RuntimeError, match="CUDA graph"):
            fastinit.reserve_key("cuda")
        fastinit.uniform_(tensor[:0])  # draws nothing
        fastinit.normal_(tensor, key=KEY)
    graph.replay()
    assert np.array_equal(bits(tensor), F32.whole(KEY, 1000))


def test_a_patch_leaves_captured_draws_to_torch() -> None:
    graph = torch.cuda.CUDAGraph()
    with fastinit.patch(), torch.cuda.graph(graph):
        tensor = torch.randn(1000, device="cuda")
    graph.replay()
    first = tensor.clone()
    graph.replay()
    assert not torch.equal(first, tensor)
