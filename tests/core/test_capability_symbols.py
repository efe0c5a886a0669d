"""Code for one processor capability stays with it: FASTINIT_CPU_CAPABILITY decides for all of it.

A function that two translation units share is linked once, whichever of them the linker picks: if
one was compiled for AVX, so may be the code that runs on every processor.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.native_build import CPU, INCLUDES, ROOT, compiler, run

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or shutil.which("nm") is None,
    reason="x86-64 and nm are needed",
)
SOURCES = sorted(p for p in CPU.glob("*.cpp") if p.stem.endswith(("avx2", "avx512")))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_nothing_of_a_capability_is_shared(source: Path, tmp_path: Path) -> None:
    """Also without optimisation, which inlines nothing that need not be."""
    target = tmp_path / "code.o"
    run([*compiler(), "-std=c++17", "-O0", *INCLUDES, "-c", source, "-o", target])
    said = subprocess.run(["nm", "-C", target], capture_output=True, text=True, check=True).stdout
    shared = re.findall(r"^\S+ [WVu] (.*)$", said, re.MULTILINE)
    own = f"fastinit::cpu::{source.stem.rpartition('_')[2]}::"
    # Names of variables and lambdas inside a function begin with the function's.
    code = [name for name in shared if not name.startswith("DW.ref.")]  # those are addresses
    assert code
    assert [name for name in code if own not in name] == []


def test_no_function_is_cloned_behind_the_table() -> None:
    for path in (ROOT / "csrc").rglob("*.*"):
        assert "target_clones" not in path.read_text(), path


def test_a_capability_that_is_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fastinit"],
        cwd=ROOT,
        env={**os.environ, "FASTINIT_CPU_CAPABILITY": "sse9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "FASTINIT_CPU_CAPABILITY is 'sse9', but this processor has: scalar" in done.stderr
