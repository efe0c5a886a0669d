"""The compiled module and its operators; or one ImportError that says why this torch has none.

A binary runs with the torch release it was built for. Under another one it misses symbols or, which
is worse, loads and misreads objects. So it is asked what it was built for before it is loaded: that
stands in the file as text (csrc/torch/bindings.cpp).
"""

from __future__ import annotations

import mmap
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

_RECORD = re.compile(rb"fastinit-built-for torch=([^ ;]*) cuda=([^ ;]*) python=([^ ;]*);")
_HERE = Path(__file__).resolve().parent


def _release(version: str) -> str:
    """The numbers alone: 2.13.0 of 2.13.0+cpu, and of the previews of 2.13.0."""
    found = re.match(r"\d+(\.\d+)*", version)
    return found.group() if found else version


def _record(binary: Path) -> dict[str, str] | None:
    """What a binary was built for: the releases of torch, CUDA ("no" without) and Python."""
    try:
        with (
            binary.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            found = _RECORD.search(text)
            values = [value.decode() for value in found.groups()] if found else []
    except (OSError, ValueError):  # not to be read, or empty
        return None
    if not values:
        return None
    torch_release, cuda, python = values
    if cuda.isdecimal():  # as CUDART_VERSION has it: 13000
        cuda = f"{int(cuda) // 1000}.{int(cuda) % 1000 // 10}"
    return {"torch": torch_release, "cuda": cuda, "python": python}


def _described(record: dict[str, str] | None) -> str:
    if record is None:
        return "unknown: the file has no build record of fastinit's"
    cuda = "no CUDA" if record["cuda"] == "no" else f"CUDA {record['cuda']}"
    return f"torch {record['torch']}, {cuda}, Python {record['python']}"


def _error(problem: str, built_for: str | None = None) -> ImportError:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    lines = [f"fastinit cannot be imported: {problem}"]
    if built_for:
        lines.append(f"  built for:  {built_for}")
    lines += [
        f"  found:      torch {torch.__version__}, {cuda}, Python {sys.version.split()[0]}",
        f"              {torch.__path__[0]}, {sys.executable}",
    ]
    if (_HERE.parent / "setup.py").exists():
        lines.append(f"  to build:   make -C {_HERE.parent} build PYTHON={sys.executable}")
    else:
        install = "pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall"
        lines.append(f"  to build:   {sys.executable} -m {install} <fastinit's sources>")
    return ImportError("\n".join(lines), name="fastinit._C")


def _mismatch(record: dict[str, str]) -> str | None:
    """Why a binary does not go with the torch that is running, if so."""
    if record["torch"] != _release(torch.__version__):
        return (
            f"its compiled module is for torch {record['torch']}, this is torch "
            f"{torch.__version__}; a binary runs only with the release it was built for"
        )
    cuda, there = record["cuda"], torch.version.cuda
    if cuda != "no" and there is None:
        return f"its compiled module is for CUDA {cuda}, this torch has no CUDA"
    if cuda != "no" and cuda.split(".")[0] != str(there).split(".")[0]:
        return f"its compiled module is for CUDA {cuda}, this torch has CUDA {there}"
    return None


def _check() -> Path:
    """Find the compiled module and make sure that it may be loaded."""
    spec = find_spec("fastinit._C")
    if spec is None or spec.origin is None:
        others = sorted(path.name for path in _HERE.glob("_C.*.so"))
        if others:
            raise _error(
                f"its compiled module is for another Python: {_HERE} has only {', '.join(others)}",
                "; ".join(_described(_record(_HERE / name)) for name in others),
            )
        raise _error(f"its compiled module is not built: {_HERE} has none")
    binary = Path(spec.origin)
    record = _record(binary)
    if record is None:
        raise _error(f"{binary} is not of this version of fastinit", _described(record))
    problem = _mismatch(record)
    if problem:
        raise _error(f"{problem} ({binary})", _described(record))
    return binary


_binary = _check()
try:
    from fastinit import _C as extension
except ImportError as error:
    if error.path is None:  # it was loaded and refused: a capability that is not there, for one
        raise
    problem = f"its compiled module does not load: {error}"
    raise _error(problem, _described(_record(_binary))) from error

__all__ = [
    "HAS_CUDA",
    "STREAM_VERSION",
    "extension",
    "fill_many_op",
    "fill_shard_op",
    "operator",
    "orthogonal_many_op",
    "orthogonal_of_reflectors_op",
    "orthogonal_op",
    "orthogonal_reflect_op",
    "orthogonal_shard_op",
    "orthogonal_sums_op",
    "reserve_key_op",
    "sparse_op",
    "sparse_shard_op",
]


def operator(name: str) -> Any:
    """Give an operator, to be bound once: looking it up costs as much as filling a small tensor."""
    return getattr(torch.ops.fastinit, name).default


# Those that are no distribution's.
fill_many_op = operator("fill_many_")
orthogonal_op = operator("orthogonal_")
orthogonal_many_op = operator("orthogonal_many_")
sparse_op = operator("sparse_")
reserve_key_op = operator("reserve_key")
fill_shard_op = operator("fill_shard_")
orthogonal_shard_op = operator("orthogonal_shard_")
sparse_shard_op = operator("sparse_shard_")
orthogonal_sums_op = operator("orthogonal_sums_")
orthogonal_reflect_op = operator("orthogonal_reflect_")
orthogonal_of_reflectors_op = operator("orthogonal_of_reflectors_")

STREAM_VERSION: int = extension.STREAM_VERSION
HAS_CUDA = extension.build_info()["cuda"] != "no"
