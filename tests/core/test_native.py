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
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.native_build import build_driver, has_sanitizers

from fastinit import _C


class Driver:
    """The program; what takes long is begun at once, and asked for last."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self._begun = {what: self._begin(what) for what in ("lanes", "layouts")}

    def _begin(self, what: str) -> subprocess.Popen[str]:
        # Leaks are not what is looked for, and their search needs rights a container may lack.
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [self.program, what], stdout=pipe, stderr=pipe, text=True, env=environment
        )

    def output_of(self, what: str) -> dict[str, str]:
        process = self._begun.pop(what, None) or self._begin(what)
        output, errors = process.communicate()
        assert process.returncode == 0, output + errors
        return dict(line.split(": ", 1) for line in output.splitlines())

    def end(self) -> None:
        for process in self._begun.values():
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver(build_driver())
    yield driver
    driver.end()


def test_layouts(driver: Driver) -> None:
    """Misaligned, strided, permuted and sharded tensors; memory around them stays as it was."""
    assert int(driver.output_of("layouts")["wrong tensors"]) == 0


def test_threads_with_other_floating_point_modes(driver: Driver) -> None:
    """Pool threads that round elsewhere or flush subnormals write the same and keep their modes."""
    output = driver.output_of("threads")
    assert int(output["most threads at work"]) > 1
    assert int(output["wrong tensors"]) == 0
    assert int(output["wrong transforms"]) == 0
    assert int(output["modes not restored"]) == 0


def test_small_orthogonal_matrices(driver: Driver) -> None:
    """The kernels of every capability make the scalar one's matrices, to rounding."""
    output = driver.output_of("orthogonal")
    assert int(output["wrong"]) == 0
    assert int(output["matrices"]) > 100


def test_lanes_agree(driver: Driver) -> None:
    """Every kind, type, length and offset, and the wrap of the low counter word: no bit differs."""
    output = driver.output_of("lanes")
    names = output["capabilities"].split()
    assert "avx512" in names
    assert set(_C.capabilities()) <= set(names)
    assert int(output["mismatches"]) == 0
    assert int(output["pieces"]) > 600 * 90 * len(names)


def test_sanitized(driver: Driver) -> None:
    """The program has the sanitizer in it, which says what it can be told."""
    if not has_sanitizers():
        pytest.skip("the compiler has no address sanitizer: the tests above ran without one")
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:help=1"}
    said = subprocess.run([driver.program], env=environment, capture_output=True, text=True)
    assert "Available flags for AddressSanitizer" in said.stderr
    assert b"__ubsan_handle" in driver.program.read_bytes()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is of x86-64")
def test_shim_covers_the_lanes() -> None:
    """The stand-ins are exactly the intrinsics that the lanes use: none is left over."""
    root = Path(__file__).resolve().parents[1]
    pattern = r"\b_mm(?:256|512)_\w+"
    used = set(re.findall(pattern, (root.parent / "csrc/cpu/lanes_avx512.h").read_text()))
    there = set(re.findall(pattern, (root / "native/avx512_shim.h").read_text()))
    assert used == there
