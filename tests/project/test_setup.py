"""setup.py: whether it builds csrc/cuda, and what it says: under made-up torches and nvccs."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastinit._version import TORCH_TESTED

ROOT = Path(__file__).resolve().parents[2]
NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {release}, V{release}.88" ;;
--list-gpu-code) printf 'sm_%s\\n' {targets} ;;
esac
"""
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
Make = Callable[..., None]


def a_torch(cuda: str | None, *gpus: tuple[int, int]) -> Any:
    """What setup.py asks of torch: its version, its CUDA and the GPUs it sees."""
    device = types.SimpleNamespace(
        device_count=lambda: len(gpus),
        get_device_capability=lambda i: gpus[i],
        get_device_name=lambda i: f"Model {i}",
    )
    version = "2.13.0+cpu" if cuda is None else "2.13.0+cu" + cuda.replace(".", "")
    return types.SimpleNamespace(
        __version__=version,
        __path__=["/nowhere/torch"],
        version=types.SimpleNamespace(cuda=cuda),
        cuda=device,
    )


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """Makes the only CUDA toolkit there is; before, there is none."""
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "FASTINIT_CUDA"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("FASTINIT_CUDA")
    found: list[str] = []
    monkeypatch.setitem(
        SETUP["use_cuda"].__globals__, "find_nvcc_home", lambda torch: (found or [None])[0]
    )

    def make(release: str = "13.0", targets: str = "75 80 86 90 100 103 120") -> None:
        (tmp_path / "bin").mkdir()
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.write_text(NVCC.format(release=release, targets=targets))
        nvcc.chmod(0o755)
        found.append(str(tmp_path))

    return make


def outcome(torch: Any) -> tuple[bool, str, str | None]:
    """Whether it builds with CUDA, what it says, and for which targets (None: torch decides)."""
    cuda, said = SETUP["use_cuda"](torch)
    return cuda, said, os.environ.get("TORCH_CUDA_ARCH_LIST")


def refusal(torch: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FASTINIT_CUDA", "1")
    with pytest.raises(SystemExit) as caught:
        SETUP["use_cuda"](torch)
    return str(caught.value)


def test_a_torch_without_cuda(toolkit: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit()
    cuda, said, _ = outcome(a_torch(None))
    assert (cuda, said) == (False, "building without CUDA: torch 2.13.0+cpu has no CUDA")
    assert "torch 2.13.0+cpu has no CUDA" in refusal(a_torch(None), monkeypatch)


def test_no_nvcc(toolkit: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, said, _ = outcome(a_torch("13.0"))
    assert not cuda
    assert "no nvcc of CUDA 13.0 with its headers found" in said
    assert "set CUDA_HOME" in refusal(a_torch("13.0"), monkeypatch)


def test_nvcc_of_another_cuda(
    toolkit: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    toolkit(release="12.8")
    cuda, said, _ = outcome(a_torch("13.0"))
    assert not cuda
    assert f"torch has CUDA 13.0, the nvcc in {tmp_path} is of CUDA 12.8" in said
    assert "is of CUDA 12.8" in refusal(a_torch("13.0"), monkeypatch)
    assert outcome_when("0", a_torch("13.0"), monkeypatch) == (False, "")


def outcome_when(wish: str, torch: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    monkeypatch.setenv("FASTINIT_CUDA", wish)
    return outcome(torch)[:2]


@pytest.mark.parametrize(("cuda", "usual"), [("13.0", "8.0;9.0;10.0+PTX"), ("12.6", "8.0;9.0+PTX")])
def test_without_a_gpu(toolkit: Make, tmp_path: Path, cuda: str, usual: str) -> None:
    toolkit(release=cuda)
    assert outcome(a_torch(cuda)) == (True, "", usual)
    assert os.environ["CUDA_HOME"] == str(tmp_path)


def test_with_gpus_that_will_do(toolkit: Make) -> None:
    toolkit()
    assert outcome(a_torch("13.0", (9, 0), (7, 5))) == (True, "", None)


@pytest.mark.parametrize(
    ("release", "targets", "gpu", "minimum"),
    [
        ("12.8", "50 60 61 70 75 80 90 100", (6, 1), "7.0"),  # Pascal: the kernels
        ("13.0", "75 80 90 100", (7, 0), "7.5"),  # Volta: nvcc
    ],
)
def test_gpus_that_are_too_old(
    toolkit: Make,
    monkeypatch: pytest.MonkeyPatch,
    release: str,
    targets: str,
    gpu: tuple[int, int],
    minimum: str,
) -> None:
    toolkit(release, targets)
    torch = a_torch(release, (9, 0), gpu)
    cuda, said, _ = outcome(torch)
    told = f"GPU 1 (Model 1) has compute capability {gpu[0]}.{gpu[1]}, the kernels need {minimum}"
    assert not cuda
    assert told in said
    assert told in refusal(torch, monkeypatch)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")  # chosen by hand, it is built
    assert outcome(torch) == (True, "", "9.0")


@pytest.mark.parametrize(
    "listed", ["6.1", "Pascal", "5.2;6.0+PTX", "Maxwell Pascal", "Kepler+Tesla"]
)
def test_lists_that_are_too_old(
    toolkit: Make, monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    toolkit("12.8", "50 60 61 70 75 80 90 100")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    cuda, said, _ = outcome(a_torch("12.8"))
    assert not cuda
    assert f"TORCH_CUDA_ARCH_LIST is {listed}, the kernels need 7.0" in said
    assert "the kernels need 7.0" in refusal(a_torch("12.8"), monkeypatch)


def test_lists_are_kept_but_for_what_is_too_old(
    toolkit: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit("12.8", "50 60 61 70 75 80 90 100")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Pascal 7.0;9.0a Hopper;10.0+PTX")
    said = "not compiling for Pascal: the kernels need 7.0"
    assert outcome(a_torch("12.8", (6, 1))) == (True, said, "7.0;9.0a;Hopper;10.0+PTX")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "native")
    assert outcome(a_torch("12.8", (9, 0))) == (True, "", None)


def test_an_nvcc_that_does_not_run_is_left_to_torch(toolkit: Make) -> None:
    toolkit(release="", targets="")
    assert outcome(a_torch("13.0"))[:2] == (True, "")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("there", [["g++", "clang++"], ["c++", "clang++"], ["clang++"], []])
def test_make_takes_the_compiler_that_setup_does(
    there: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sh", "find", "echo"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for name in ("CXX", "MAKEFLAGS", "MAKELEVEL", "PYTHON"):
        monkeypatch.delenv(name, raising=False)
    program = shutil.which("make")
    monkeypatch.setenv("PATH", str(tmp_path))
    show = "show: compiler; @echo $(CXX)"
    command = [program, "-s", "--no-print-directory", f"PYTHON={sys.executable}", "--eval", show]
    done = subprocess.run([*command, "show"], cwd=ROOT, capture_output=True, text=True, check=False)
    if there:
        assert done.stdout.split() == [SETUP["find_compiler"]()]
        return
    assert "g++ (or set CXX) not found" in done.stderr
    with pytest.raises(SystemExit):
        SETUP["find_compiler"]()


def test_the_tested_range_is_the_same_everywhere():
    """What builds, what pip and the Makefile ask for, and what the README says, is one range."""
    oldest, newest = TORCH_TESTED
    minimum = ".".join(oldest.split(".")[:2])
    text = {name: (ROOT / name).read_text() for name in ("pyproject.toml", "README.md", "setup.py")}
    text["tools/dev.py"] = (ROOT / "tools/dev.py").read_text()
    assert f'dependencies = ["torch>={minimum}"]' in text["pyproject.toml"]
    assert f"TORCH_MINIMUM = ({minimum.replace('.', ', ')})" in text["setup.py"]
    assert f'TORCH_MINIMUM = "torch>={minimum}"' in text["tools/dev.py"]
    assert f"torch {oldest} to {newest}" in text["README.md"]


def test_the_makefile_names_what_is_there() -> None:
    """Of tests every room that has any but CUDA's, or pytest would have ended without a test."""
    text = (ROOT / "Makefile").read_text()
    [tested] = re.findall(r"addprefix tests/,([^)]*)\)", text)
    names = tested.replace("\\\n", " ").split()
    scripts = re.findall(r"\b(?:tools|benchmarks|examples|fastinit)/\w+\.py", text)
    assert len(scripts) > 10
    paths = [*scripts, *(f"tests/{name}" for name in names)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    rooms = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert {name.partition("/")[0] for name in names} == rooms - {"cuda"}
