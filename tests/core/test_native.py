"""The executor of csrc/cpu without torch: lanes against lanes, drawn layouts, hostile threads.

The AVX-512 lanes run over scalar stand-ins of their intrinsics (tests/native/avx512_shim.h), so
they are compared here on every processor; where one has AVX-512, test_promises_capability.py
compares the intrinsics themselves.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import pytest
from support.native_build import build_driver, has_sanitizers

from fastinit import _C


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver()


def output_of(driver: Path, what: str) -> dict[str, str]:
    # Leaks are not what is looked for, and their search needs rights a container may lack.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([driver, what], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_lanes_agree(driver: Path) -> None:
    """Every kind, type, length and offset, and the wrap of the low counter word: no bit differs."""
    output = output_of(driver, "lanes")
    names = output["capabilities"].split()
    assert "avx512" in names
    assert set(_C.capabilities()) <= set(names)
    assert int(output["mismatches"]) == 0
    assert int(output["pieces"]) > 600 * 90 * len(names)


def test_layouts(driver: Path) -> None:
    """Misaligned, strided, permuted and sharded tensors; memory around them stays as it was."""
    assert int(output_of(driver, "layouts")["wrong tensors"]) == 0


def test_threads_with_other_floating_point_modes(driver: Path) -> None:
    """Pool threads that round elsewhere or flush subnormals write the same and keep their modes."""
    output = output_of(driver, "threads")
    assert int(output["most threads at work"]) > 1
    assert int(output["wrong tensors"]) == 0
    assert int(output["wrong transforms"]) == 0
    assert int(output["modes not restored"]) == 0


def test_small_orthogonal_matrices(driver: Path) -> None:
    """The kernels of every capability make the scalar one's matrices, to rounding."""
    output = output_of(driver, "orthogonal")
    assert int(output["wrong"]) == 0
    assert int(output["matrices"]) > 100


def test_sanitized() -> None:
    if not has_sanitizers():
        pytest.skip("the compiler has no address sanitizer: the tests above ran without one")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is of x86-64")
def test_shim_covers_the_lanes() -> None:
    """The stand-ins are exactly the intrinsics that the lanes use: none is left over."""
    root = Path(__file__).resolve().parents[1]
    pattern = r"\b_mm(?:256|512)_\w+"
    used = set(re.findall(pattern, (root.parent / "csrc/cpu/lanes_avx512.h").read_text()))
    there = set(re.findall(pattern, (root / "native/avx512_shim.h").read_text()))
    assert used == there
