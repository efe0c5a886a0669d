"""The CUDA kernels without a GPU: compiled as C++ (tests/native/cuda_shim.h), run on the host.

All of memory is compared with what the CPU's scalar lanes make, byte for byte, under the address
and undefined-behaviour sanitizers where the compiler has them. That proves indexing and arithmetic;
what only hardware shows (races, the processor's own conversions) is for the tests marked ``cuda``.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.native_build import build_cuda_exact, build_cuda_host


@pytest.fixture(scope="module")
def program() -> Path:
    return build_cuda_host()


def output_of(program: Path, *what: str) -> dict[str, int]:
    # As in test_native.py: leaks are not what is looked for.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program, *what], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {name: int(value) for name, value in (x.split(": ") for x in done.stdout.splitlines())}


def test_lengths_and_alignments(program: Path) -> None:
    """Every kind and type at every short length, around tiles, misaligned, at every phase."""
    output = output_of(program, "lengths")
    assert output["wrong"] == 0
    assert output["fills"] > 4000


def test_layouts(program: Path) -> None:
    """Strided, permuted, transposed, sharded and misaligned tensors, single and in lists."""
    output = output_of(program, "layouts")
    assert output["wrong"] == 0
    assert output["fills"] > 4000


def test_channels(program: Path) -> None:
    """What lies in memory as channels_last has it, written by way of shared memory."""
    output = output_of(program, "channels")
    assert output["wrong"] == 0
    assert output["of channels"] > 150


def test_many_tasks_are_one_launch(program: Path) -> None:
    """Twenty thousand tasks of all kinds and types, empty ones among them."""
    output = output_of(program, "many")
    assert output["wrong"] == 0
    assert output["launches"] == 1


def test_indices_beyond_32_bits(program: Path) -> None:
    """Elements beyond 2^31 and 2^32 of a tensor that crosses block 2^32 of its stream."""
    output = output_of(program, "far")
    assert output["wrong"] == 0
    assert output["fills"] > 30


def test_clamping_pairs(program: Path) -> None:
    """Samples of 16 bits are clamped after rounding, in pairs; zeros keep their signs."""
    output = output_of(program, "clamps")
    assert output["wrong"] == 0
    assert output["fills"] > 10**6


def test_small_orthogonal_matrices(program: Path) -> None:
    """Drawn and given, in batches and lists, to rounding as the CPU makes them."""
    output = output_of(program, "orthogonal")
    assert output["wrong"] == 0
    assert output["fills"] > 250


def test_square_root_and_division() -> None:
    """The device's square root and quotient are correctly rounded for every estimate it may get."""
    output = output_of(build_cuda_exact())
    assert output["wrong"] == 0
    assert output["square roots"] > 3 * 2**24
    assert output["fractions"] > 4 * 10**8
