"""What `import fastinit` costs, and what it says where the compiled module does not fit.

The messages are looked at under a stand-in for torch that has a version and nothing else: they have
to come before anything is asked of torch.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastinit
from fastinit import _C, _compiled

PACKAGE = Path(fastinit.__file__).parent
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
RELEASE = "2.13.0"


def python(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    places = [str(path or PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-c", code]
    where = path or PACKAGE.parent
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=where)


# ---- cost ----------------------------------------------------------------------------------------

NEW_MODULES = """
import json, sys
import torch
before = set(sys.modules)
import fastinit
new = [name for name in sys.modules if name not in before]
print(json.dumps({"new": new, "compiler": "torch._dynamo" in sys.modules}))
"""


def test_importing_loads_nothing_beyond_torch() -> None:
    """Besides itself, a few small modules of Python's own and nothing of torch's or anyone's."""
    done = python(NEW_MODULES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert done.stderr == python("import torch").stderr, "a warning of torch's, say"
    outside = [name for name in found["new"] if name.split(".")[0] != "fastinit"]
    assert {name.split(".")[0] for name in outside} <= set(sys.stdlib_module_names), outside
    assert len(outside) < 10, outside
    assert not found["compiler"]


FIRST_USES = """
import json, sys
import torch
before = set(sys.modules)
import fastinit
w = torch.empty(6, 5)
for fill in (fastinit.normal_, fastinit.uniform_, fastinit.trunc_normal_, fastinit.orthogonal_):
    fill(w)
fastinit.sparse_(w, 0.5)
fastinit.reserve_key("cpu")
fastinit.normal_(w, key=fastinit.Key(0).fold_in("w"))
with fastinit.patch(), fastinit.batch():
    model = torch.nn.Linear(4, 4)
fastinit.initialize_(model, key=0)
str(fastinit.show_config())
new = {name for name in sys.modules if name not in before}
print(json.dumps(sorted(name for name in new if name.split(".")[0] in ("torch", "sympy"))))
"""


def test_first_uses_load_no_compiler() -> None:
    done = python(FIRST_USES)
    assert done.returncode == 0, done.stderr
    heavy = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "sympy")
    assert not [name for name in json.loads(done.stdout) if name.startswith(heavy)]


RESERVED = """
import sys
import torch, fastinit
generator = torch.Generator()
assert "torch._dynamo" not in sys.modules
wanted = {}
for given in (generator, None):
    (given or torch.random.default_generator).manual_seed(5)
    wanted[given] = [int(fastinit.reserve_key("cpu", given)) for _ in range(4)]
for given in (generator, None):
    def drawing(x):
        y = x + 1
        key = fastinit.reserve_key("cpu", given)
        return y * 2, key
    (given or torch.random.default_generator).manual_seed(5)
    compiled = torch.compile(drawing, backend="eager")
    assert [int(compiled(torch.zeros(3))[1]) for _ in range(4)] == wanted[given], given
    assert compiled(torch.zeros(3))[0].tolist() == [2, 2, 2]
try:
    torch._dynamo.reset()
    torch.compile(drawing, backend="eager", fullgraph=True)(torch.zeros(3))
except torch._dynamo.exc.Unsupported as error:
    assert "pass key=" in str(error), error
else:
    raise AssertionError("a draw is in the graph")

graphs = []
def backend(graph, inputs):
    graphs.append(graph.code)
    return graph.forward
hidden = fastinit._untraced.untraced(lambda x: x.sin(), "a reason")
torch._dynamo.reset()
out = torch.compile(lambda x: hidden(x.cos()), backend=backend)(torch.zeros(3))
assert torch.equal(out, torch.ones(3).sin())
assert "cos" in "".join(graphs) and "sin" not in "".join(graphs), graphs
"""


def test_reserving_a_key_breaks_the_graph() -> None:
    """Also where fastinit came before the compiler: no draw is traced, each call has its own."""
    done = python(RESERVED)
    assert done.returncode == 0, done.stderr


# ---- messages ------------------------------------------------------------------------------------


def record(torch_release: str = RELEASE, cuda: str = "no") -> bytes:
    text = f"fastinit-built-for torch={torch_release} cuda={cuda} python=3.11.2;"
    return b"\x7fELF\0" + text.encode() + b"\0"


def message(
    folder: Path,
    binary: bytes | None,
    found: str = RELEASE,
    cuda: str | None = None,
    name: str = f"_C{SUFFIX}",
) -> str:
    """What importing says in a tree with this binary, under a torch of this version."""
    shutil.copytree(PACKAGE, folder / "fastinit", ignore=shutil.ignore_patterns("_C.*.so"))
    if binary is not None:
        (folder / "fastinit" / name).write_bytes(binary)
    (folder / "torch").mkdir()
    stub = f"__version__ = {found!r}\nclass version: cuda = {cuda!r}\n"
    (folder / "torch" / "__init__.py").write_text(stub)
    code = "try:\n import fastinit\nexcept ImportError as e:\n print(type(e).__name__, e, sep='|')"
    done = python(f"import sys\n{code}", folder)
    assert done.returncode == 0, done.stderr
    kind, _, text = done.stdout.partition("|")
    assert kind == "ImportError", done.stdout + done.stderr
    for told in (f"torch {found}", sys.executable, str(folder / "torch"), "to build:"):
        assert told in text, text
    return text


def test_not_built(tmp_path: Path) -> None:
    text = message(tmp_path, None)
    assert f"not built: {tmp_path / 'fastinit'} has none" in text
    assert "--no-build-isolation" in text  # there is no Makefile here


def test_not_built_in_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "setup.py").touch()
    assert f"make -C {tmp_path} build PYTHON={sys.executable}" in message(tmp_path, None)


def test_for_another_python(tmp_path: Path) -> None:
    name = "_C.cpython-39-x86_64-linux-gnu.so"
    text = message(tmp_path, record(), name=name)
    assert "for another Python" in text
    assert name in text
    assert "Python 3.11.2" in text


@pytest.mark.parametrize("found", ["2.12.1", "2.13.1+cu130", "2.14.0a0+git1", "3.13.0"])
def test_for_another_torch(tmp_path: Path, found: str) -> None:
    text = message(tmp_path, record(), found=found)
    assert f"is for torch {RELEASE}, this is torch {found}" in text
    assert f"torch {RELEASE}, no CUDA, Python 3.11.2" in text


@pytest.mark.parametrize("cuda", [None, "12.8"])
def test_for_another_cuda(tmp_path: Path, cuda: str | None) -> None:
    text = message(tmp_path, record(cuda="13000"), cuda=cuda)
    assert "for CUDA 13.0, this torch has " + (f"CUDA {cuda}" if cuda else "no CUDA") in text


@pytest.mark.parametrize(
    ("found", "cuda", "built"),
    [
        (f"{RELEASE}+cpu", None, "no"),
        (f"{RELEASE}+cu130", "13.0", "no"),
        (f"{RELEASE}a0+git1", None, "no"),
        (f"{RELEASE}+cu130", "13.0", "13010"),
    ],
)
def test_what_fits_is_loaded(tmp_path: Path, found: str, cuda: str | None, built: str) -> None:
    """These are not refused; what fails here is the loading, of a file that is no library."""
    text = message(tmp_path, record(cuda=built), found=found, cuda=cuda)
    assert "does not load: " in text
    assert f"_C{SUFFIX}" in text
    assert "built for:" in text


@pytest.mark.parametrize("binary", [b"", b"\x7fELF without a record"])
def test_not_ours(tmp_path: Path, binary: bytes) -> None:
    assert "is not of this version of fastinit" in message(tmp_path, binary)


def test_the_record_of_the_binary_in_use() -> None:
    assert _compiled.extension.__file__ is not None
    found = _compiled._record(Path(_compiled.extension.__file__))
    built = _C.build_info()
    assert found is not None
    assert found["torch"] == built["torch"] == torch.__version__.partition("+")[0]
    assert found["python"] == built["python"]
    assert found["cuda"] == built["cuda"].partition(" ")[0]


def test_a_capability_that_is_not_there_says_so_itself() -> None:
    code = "import os; os.environ['FASTINIT_CPU_CAPABILITY'] = 'mmx'; import fastinit"
    done = python(code)
    assert done.returncode == 1
    assert "mmx" in done.stderr
    assert "to build:" not in done.stderr
