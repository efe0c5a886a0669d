"""Builds the extension ``fastinit._C``; everything else about the package is in pyproject.toml.

Development build: ``python setup.py build_ext --inplace`` (or ``make build``).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TORCH_MINIMUM = (2, 10)


def fail(message):
    sys.exit(f"\nfastinit cannot be built: {message}\n")


if sys.version_info < (3, 10):  # noqa: UP036  (run by hand, nothing else looks)
    fail(f"it needs Python 3.10 or later, this is {sys.version.split()[0]} ({sys.executable}).")

# ninja of this interpreter, also when its environment is not activated
os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")


def find_compiler():
    given = os.environ.get("CXX")
    candidates = [given] if given else ["g++", "c++", "clang++"]
    for candidate in candidates:
        if shutil.which(shlex.split(candidate)[0]):
            return candidate
    fail(
        f"no C++ compiler, {' or '.join(candidates)} not found. Install g++ (Debian, Ubuntu: "
        "apt install g++; Fedora: dnf install gcc-c++) or set CXX to the one to use."
    )


def import_torch():
    try:
        import torch
    except ImportError as error:
        fail(
            f"torch cannot be imported here ({error}).\n"
            "The extension is compiled against the torch it will run with. Install torch first,\n"
            "then build without isolation, which would hide it:\n"
            "    pip install 'torch>=2.10' 'setuptools>=77' ninja\n"
            "    pip install --no-build-isolation ."
        )
    # Not torch.__version__ >= "2.10", which compares text in older releases.
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < TORCH_MINIMUM:
        fail(f"it needs torch 2.10 or later, this is {torch.__version__} ({torch.__path__[0]}).")
    return torch


def find_nvcc_home(torch):
    """The CUDA toolkit that holds both nvcc and the headers, or None."""
    nvcc = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places += [Path(nvcc).resolve().parent.parent] if nvcc else []
    places += sorted(Path(torch.__path__[0]).parent.glob("nvidia/cu[0-9]*"))  # nvcc from a wheel
    for home in filter(None, places):
        if Path(home, "bin", "nvcc").exists() and Path(home, "include/cuda_runtime.h").exists():
            return str(home)
    return None


def cuda_release(home):
    """The release of a toolkit's nvcc as text, 13.0 for instance; "" if it does not run."""
    try:
        command = [str(Path(home, "bin", "nvcc")), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    found = re.search(r"release (\d+\.\d+)", said)
    return found.group(1) if found else ""


def use_cuda(torch):
    """Whether to build csrc/cuda. Asks for nvcc and a CUDA torch, not for a GPU."""
    wish = os.environ.get("FASTINIT_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        fail(f"FASTINIT_CUDA is {wish!r}, it may be auto, 0 or 1.")
    home = find_nvcc_home(torch)
    release, wanted = home and cuda_release(home), torch.version.cuda
    missing = [
        what
        for what, there in {
            "CUDA sources in this version": any(ROOT.glob("csrc/cuda/*.cu")),
            "CUDA in this torch (torch.version.cuda is None)": wanted is not None,
            "nvcc with its headers (set CUDA_HOME)": home is not None,
            f"nvcc of CUDA {wanted}, as this torch has it (that of {home} is {release})": not (
                release and wanted and release.split(".")[0] != wanted.split(".")[0]
            ),
        }.items()
        if not there
    ]
    if wish == "1" and missing:
        fail("FASTINIT_CUDA=1, but there is no " + ", no ".join(missing) + ".")
    if wish == "0" or missing:
        return False
    # Both before cpp_extension is imported: it guesses, and without a GPU or a list it dies.
    os.environ["CUDA_HOME"] = home
    if not os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip():
        os.environ.pop("TORCH_CUDA_ARCH_LIST", None)  # empty is not given
        if torch.cuda.device_count() == 0:
            newest = tuple(map(int, wanted.split(".")[:2])) >= (12, 8)
            usual = "8.0;9.0;10.0+PTX" if newest else "8.0;9.0+PTX"
            os.environ["TORCH_CUDA_ARCH_LIST"] = usual
    return True


def relative(*patterns):
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def make_extension(torch):
    cuda = use_cuda(torch)
    from torch.utils import cpp_extension

    cxx = ["-O3", "-g0", "-Wall", "-Wextra", *shlex.split(os.environ.get("CXXFLAGS", ""))]
    # Products and sums fuse only where the source says fma: the same bits from every compiler.
    cxx += ["-fno-fast-math", "-ffp-contract=off", "-fopenmp", "-fvisibility=hidden"]
    kind = "cuda" if cuda else "cpu"
    for path in cpp_extension.include_paths(kind):  # as system headers: their warnings are not ours
        cxx += ["-isystem", path]
    flags = {"cxx": cxx}

    sources = relative("csrc/cpu/*.cpp", "csrc/torch/*.cpp")
    if cuda:
        sources += relative("csrc/cuda/*.cu")
        # nvcc hands the last two to the host compiler.
        flags["nvcc"] = ["-O3", "--fmad=false", "-Xcompiler", "-ffp-contract=off"]
    else:
        sources = [source for source in sources if source != "csrc/torch/ops_cuda.cpp"]

    macros = [("FASTINIT_CUDA", "1" if cuda else "0")]
    if cuda:
        targets = os.environ.get("TORCH_CUDA_ARCH_LIST", "the devices of the build")
        macros += [("FASTINIT_CUDA_TARGETS", f'"{targets}"')]
    make = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    return make(
        "fastinit._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],  # ninja runs elsewhere
        # BuildExtension always asks ninja what is out of date; this list is for source packages.
        depends=relative("csrc/**/*.h", "csrc/**/*.inl", "csrc/**/*.cuh"),
        define_macros=macros,
        extra_compile_args=flags,
        # A toolchain may link libstdc++ into the module. Then its symbols must stay inside: mixed with
        # those of the libstdc++ that torch runs on, streams fail or crash.
        extra_link_args=["-fopenmp", "-shared-libgcc", "-Wl,--exclude-libs,libstdc++.a"],
    )


def main():
    os.chdir(ROOT)
    os.environ["CXX"] = find_compiler()
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        fail(
            "Python.h not found. Install the headers of this Python (Debian, Ubuntu: "
            f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-dev)."
        )
    torch = import_torch()
    import setuptools

    class WithoutMetadata(setuptools.Distribution):
        def parse_config_files(self, *args, **kwargs):
            pass

    distribution = setuptools.Distribution
    if int(setuptools.__version__.split(".")[0]) < 77:  # cannot read this pyproject.toml
        if "build_ext" not in sys.argv:
            fail(f"setuptools is {setuptools.__version__}. Run: pip install 'setuptools>=77'")
        distribution = WithoutMetadata  # compiling does not need it
    extension = make_extension(torch)
    from torch.utils.cpp_extension import BuildExtension

    setuptools.setup(
        name="fastinit",
        distclass=distribution,
        ext_modules=[extension],
        cmdclass={"build_ext": BuildExtension},
        # Objects of different torch releases do not mix, so each has its own folder. (Python and
        # machine are in the names of the folders that setuptools makes inside.)
        options={"build": {"build_base": f"build/torch-{torch.__version__}"}},
    )


main()
