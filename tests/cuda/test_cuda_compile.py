"""The kernels compiled by nvcc for real processors, where there is an nvcc: no GPU is needed.

Warnings are errors, and no fill kernel may keep registers in memory (spill).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120")
NVCC = shutil.which("nvcc")
# The flags of setup.py, and what a release must not warn about.
FLAGS = ["-std=c++17", "-O3", "--fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v"]
FLAGS += ["-Xcompiler", "-Wall,-Wextra,-Werror,-ffp-contract=off", f"-I{ROOT / 'csrc'}"]

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")


def compiled(source: Path, folder: Path) -> str:
    """What ptxas says of one file, for all targets and PTX at once."""
    codes = [f"-gencode=arch=compute_{t[3:]},code={t}" for t in TARGETS]
    codes.append(f"-gencode=arch=compute_{TARGETS[-1][3:]},code=compute_{TARGETS[-1][3:]}")
    command = [
        str(NVCC),
        *FLAGS,
        *codes,
        "--threads",
        "2",
        "-c",
        str(source),
        "-o",
        str(folder / "kernel.o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Unsupported gpu architecture" in done.stderr + done.stdout:
        pytest.skip("this nvcc is too old for " + ", ".join(TARGETS))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_without_spills(source: Path, tmp_path: Path) -> None:
    output = compiled(source, tmp_path)
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", output)]
    frames = [int(n) for n in re.findall(r"(\d+) bytes stack frame", output)]
    kernels = len(re.findall(r"Compiling entry function", output))
    if "__global__" in source.read_text() or "single_task.cuh" in source.read_text():
        assert kernels >= len(TARGETS)
        assert len(spills) >= 2 * kernels
    assert not any(spills) and not any(frames), output


def test_includes_neither_torch_nor_cpu() -> None:
    """Kernels see core and the CUDA runtime only; executor.h not even the latter."""
    for path in sorted((ROOT / "csrc" / "cuda").iterdir()):
        for include in re.findall(r'#include [<"]([^">]+)', path.read_text()):
            assert include.startswith(("core/", "cuda/", "cuda_runtime")) or "/" not in include
            assert path.name != "executor.h" or not include.startswith("cuda")
