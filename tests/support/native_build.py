"""Compiles the C++ under tests/native, once per state of the sources (into build/, which is cleaned
with the rest). The compiler is the one the extension is built with: $CXX, or g++.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "tests" / "native"
HOST = ROOT / "csrc" / "host"
CPU = ROOT / "csrc" / "cpu"
CUDA = ROOT / "csrc" / "cuda"
# What the drivers link of the CPU's part, AVX-512 over the stand-ins of its intrinsics.
ON_CPU = (
    HOST / "prepare_transform.cpp",
    *(CPU / f"capability_{name}.cpp" for name in ("avx2", "scalar")),
    *(CPU / f"{name}.cpp" for name in ("executor", "tiles", "orthogonal")),
    NATIVE / "capability_avx512_shim.cpp",
    NATIVE / "forced_dispatch.cpp",
)
OUTPUT = ROOT / "build" / "native-tests"
# The rounding rules of setup.py. psABI: the shim's wide structs are passed within one program.
FLAGS = ("-std=c++17", "-ffp-contract=off", "-Wno-psabi")
INCLUDES = (f"-I{ROOT / 'csrc'}", f"-I{NATIVE}")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@lru_cache(maxsize=1)
def compiler() -> tuple[str, ...]:
    """The command that compiles C++."""
    given = os.environ.get("CXX")
    for candidate in [given] if given else ["g++", "c++", "clang++"]:
        if shutil.which(shlex.split(candidate)[0]):
            return tuple(shlex.split(candidate))
    raise RuntimeError("no C++ compiler found: install g++ or set CXX")


def run(command: Sequence[str | Path]) -> None:
    """Runs a compiler command; what it says is in the exception."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        line = " ".join(map(str, command))
        raise RuntimeError(f"{line}\nfailed:\n{done.stdout}{done.stderr}")


@lru_cache(maxsize=1)
def has_sanitizers() -> bool:
    """Whether programs can be linked with the address and undefined-behaviour sanitizers and run.

    Some distributions package their libraries apart from the compiler.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.cpp")
        source.write_text("int main() { return 0; }\n")
        program = Path(folder, "empty")
        try:
            run([*compiler(), *SANITIZERS, source, "-o", program])
            run([program])
        except RuntimeError:
            return False
    return True


def _state(words: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    version = subprocess.run([*compiler(), "--version"], capture_output=True, check=True)
    digest.update(version.stdout)
    for path in sorted([*ROOT.glob("csrc/[ch]*/*"), *NATIVE.rglob("*.*")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build(
    name: str,
    sources: Sequence[Path],
    flags: Sequence[str],
    link: Sequence[str],
    reference: Sequence[Path] = (),
) -> Path:
    """The path of a program (or library, by its flags) built from these sources as they are now.

    Sources of `reference` are compiled without `flags`, to be fast.
    """
    plain = [*compiler(), *FLAGS]
    command = [*plain, *flags]
    target = OUTPUT / f"{name}-{_state([name, *command, *link, *map(str, [*sources, *reference])])}"
    if target.exists():
        return target
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for old in OUTPUT.glob(f"{name}-*"):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=OUTPUT) as folder:
        objects = [Path(folder, f"{source.name}.o") for source in [*sources, *reference]]

        def compile_one(source: Path, output: Path) -> None:
            how = [*plain, "-O1"] if source in reference else command
            run([*how, *INCLUDES, "-x", "c++", "-c", source, "-o", output])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, [*sources, *reference], objects))
        result = Path(folder, name)
        run([*command, *objects, *link, "-o", result])
        result.replace(target)  # at once, should two test runs build it
    return target


def build_driver() -> Path:
    """The executor without torch under its drivers, sanitized where the compiler can."""
    sources = [*ON_CPU, *sorted(NATIVE.glob("*driver.cpp"))]
    sanitizers = SANITIZERS if has_sanitizers() else ()
    return build("driver", sources, ["-O1", "-g1", *sanitizers], ["-pthread"])


def build_cuda_host() -> Path:
    """The kernels of csrc/cuda compiled as C++ under their driver, sanitized likewise."""
    drivers = (NATIVE / f"{name}.cpp" for name in ("cuda_host", "cuda_orthogonal"))
    sources = [*sorted(CUDA.glob("*.cu")), *drivers]
    reference = [
        HOST / "prepare_transform.cpp",
        *(CPU / f"{name}.cpp" for name in ("capability_scalar", "executor", "tiles", "orthogonal")),
        NATIVE / "scalar_dispatch.cpp",
    ]
    sanitizers = SANITIZERS if has_sanitizers() else ()
    # In place of the toolkit's headers; `#pragma unroll` is nvcc's.
    shim = [f"-I{NATIVE / 'cuda'}", *WARNINGS, "-Wno-unknown-pragmas", "-DFASTINIT_ESTIMATES=1"]
    flags = ["-O0", "-g1", *shim, *sanitizers]
    return build("cuda-host", sources, flags, ["-pthread"], reference)


def build_cuda_exact() -> Path:
    """The exhaustive checks of the device's square root and quotient."""
    return build("cuda-exact", [NATIVE / "cuda_exact.cpp"], ["-O2", *WARNINGS], [])


def build_library(name: str) -> Path:
    """The shared library of one file of tests/native, for ctypes."""
    return build(f"{name}.so", [NATIVE / f"{name}.cpp"], ["-O1", "-fPIC", "-fopenmp"], ["-shared"])
