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
CAPABILITY_MINIMUM = (7, 0)  # of a GPU: kernels take __grid_constant__ parameters
# What TORCH_CUDA_ARCH_LIST calls those that may be too old.
OLD_TARGETS = {"Kepler+Tesla": "3.7", "Kepler": "3.5", "Maxwell+Tegra": "5.3", "Maxwell": "5.2"}
OLD_TARGETS |= {"Pascal": "6.1", "Volta+Tegra": "7.2", "Volta": "7.0", "Turing": "7.5"}


def fail(message):
    sys.exit(f"\nfastinit cannot be built: {message}\n")


if sys.version_info < (3, 10):  # noqa: UP036  (run by hand, nothing else looks)
    fail(f"it needs Python 3.10 or later, this is {sys.version.split()[0]} ({sys.executable}).")


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


def nvcc_targets(home):
    """The compute capabilities that a toolkit's nvcc compiles for; none if it cannot be asked."""
    try:
        command = [str(Path(home, "bin", "nvcc")), "--list-gpu-code"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [(int(major), int(minor)) for major, minor in re.findall(r"sm_(\d+)(\d)\b", said)]


def capability_of(target):
    """The compute capability that an entry of TORCH_CUDA_ARCH_LIST asks for, None if unknown."""
    found = re.match(r"(\d+)\.(\d+)", OLD_TARGETS.get(target.removesuffix("+PTX"), target))
    return found and (int(found.group(1)), int(found.group(2)))


def divide_targets(listed, minimum):
    """The entries of a TORCH_CUDA_ARCH_LIST from a capability on, and those below it."""
    targets = [target for target in re.split(r"[; ]+", listed) if target]
    below = [t for t in targets if (capability_of(t) or minimum) < minimum]
    return [t for t in targets if t not in below], below


def why_not_cuda(torch, home, listed, minimum):
    """What speaks against building csrc/cuda, as sentences; no GPU does not."""
    wanted = torch.version.cuda
    if wanted is None:
        return [f"torch {torch.__version__} has no CUDA"]
    if home is None:
        return [f"no nvcc of CUDA {wanted} with its headers found (set CUDA_HOME)"]
    release = cuda_release(home)
    if release and release.split(".")[0] != wanted.split(".")[0]:
        return [f"torch has CUDA {wanted}, the nvcc in {home} is of CUDA {release}"]
    needed = "the kernels need {}.{} or later with this nvcc".format(*minimum)
    if listed:
        kept, below = divide_targets(listed, minimum)
        return [] if kept or not below else [f"TORCH_CUDA_ARCH_LIST is {listed}, {needed}"]
    return [
        f"GPU {i} ({torch.cuda.get_device_name(i)}) has compute capability "
        f"{'.'.join(map(str, torch.cuda.get_device_capability(i)))}, {needed}"
        for i in range(torch.cuda.device_count())
        if tuple(torch.cuda.get_device_capability(i)) < minimum
    ]


def use_cuda(torch):
    """Whether to build csrc/cuda, and what to say of that. Asks for nvcc and a CUDA torch, no GPU.

    Sets what cpp_extension reads from the environment, before it is imported: it guesses, and
    without a GPU or a list it dies.
    """
    wish = os.environ.get("FASTINIT_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        fail(f"FASTINIT_CUDA is {wish!r}, it may be auto, 0 or 1.")
    if wish == "0":
        return False, ""
    home = find_nvcc_home(torch)
    minimum = max(CAPABILITY_MINIMUM, min(nvcc_targets(home) if home else [], default=(0, 0)))
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    listed = "" if listed == "native" else listed
    reasons = why_not_cuda(torch, home, listed, minimum)
    if wish == "1" and reasons:
        fail(f"FASTINIT_CUDA=1, but {'; '.join(reasons)}.")
    if reasons:
        return False, f"building without CUDA: {'; '.join(reasons)}"
    said = ""
    os.environ["CUDA_HOME"] = home
    os.environ.pop("TORCH_CUDA_ARCH_LIST", None)  # empty is not given
    if listed:
        kept, below = divide_targets(listed, minimum)
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(kept)
        if below:
            said = (
                f"not compiling for {', '.join(below)}: the kernels need {minimum[0]}.{minimum[1]}"
            )
    elif torch.cuda.device_count() == 0:
        newest = tuple(map(int, torch.version.cuda.split(".")[:2])) >= (12, 8)
        os.environ["TORCH_CUDA_ARCH_LIST"] = "8.0;9.0;10.0+PTX" if newest else "8.0;9.0+PTX"
    return True, said


def relative(*patterns):
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def make_extension(torch, cuda):
    from torch.utils import cpp_extension

    # A kind, type or distribution that a switch does not know must not compile.
    cxx = ["-O3", "-g0", "-Wall", "-Wextra", "-Werror=switch"]
    cxx += shlex.split(os.environ.get("CXXFLAGS", ""))
    # Products and sums fuse only where the source says fma: the same bits from every compiler.
    cxx += ["-fno-fast-math", "-ffp-contract=off", "-fopenmp", "-fvisibility=hidden"]
    kind = "cuda" if cuda else "cpu"
    for path in cpp_extension.include_paths(kind):  # as system headers: their warnings are not ours
        cxx += ["-isystem", path]
    flags = {"cxx": cxx}

    sources = relative("csrc/host/*.cpp", "csrc/cpu/*.cpp", "csrc/torch/*.cpp")
    if cuda:
        sources += relative("csrc/cuda/*.cu")
        # nvcc hands the last two to the host compiler.
        flags["nvcc"] = ["-O3", "--fmad=false", "-Xcompiler", "-ffp-contract=off,-Werror=switch"]
    else:
        sources = [source for source in sources if source != "csrc/torch/backend_cuda.cpp"]

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
        # A toolchain may link libstdc++ into the module. Then its symbols must stay inside: mixed
        # with those of the libstdc++ that torch runs on, streams fail or crash.
        extra_link_args=["-fopenmp", "-Wl,--exclude-libs,libstdc++.a"],
    )


def main():
    os.chdir(ROOT)
    # ninja of this interpreter, also when its environment is not activated
    os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")
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
    cuda, said = use_cuda(torch)
    extension = make_extension(torch, cuda)
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def run(self):
            if said:
                print(f"fastinit: {said}", file=sys.stderr, flush=True)
            super().run()

    setuptools.setup(
        distclass=distribution,
        ext_modules=[extension],
        cmdclass={"build_ext": Build},
        # Objects of different torch releases do not mix, so each has its own folder. (Python and
        # machine are in the names of the folders that setuptools makes inside.)
        options={"build": {"build_base": f"build/torch-{torch.__version__}"}},
    )


if __name__ == "__main__":  # so it is under pip, too
    main()
