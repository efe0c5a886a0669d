"""docs/environment.md names exactly the variables that the sources read, each once."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
PAGE = ROOT / "docs" / "environment.md"
# The one place where a name is a variable: a loop over these.
LOOPED = {"tools/dev.py": runpy.run_path(str(ROOT / "tools" / "dev.py"))["BUILD_VARIABLES"]}


def asked_for(tree: ast.AST) -> Iterator[ast.expr]:
    """What os.environ is indexed with or asked for; not what is written to it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            if ast.unparse(node.value) == "os.environ":
                yield node.slice
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("os.environ.get", "os.environ.setdefault", "os.getenv"):
                yield node.args[0]


def read_by_python(paths: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        for name in asked_for(ast.parse(path.read_text())):
            constant = isinstance(name, ast.Constant)
            found |= {name.value} if constant else set(LOOPED[str(path.relative_to(ROOT))])
    return found


def read_by_cpp() -> set[str]:
    texts = (path.read_text() for path in (ROOT / "csrc").rglob("*") if path.is_file())
    calls = [call for text in texts for call in re.findall(r"\bgetenv\(([^)]*)\)", text)]
    assert all(re.fullmatch('"[A-Z_]+"', call) for call in calls), calls
    return {call.strip('"') for call in calls}


def read_by_make() -> set[str]:
    """What the top of the Makefile lists, and what it hands on."""
    text = (ROOT / "Makefile").read_text()
    listed = re.findall(r"^#   ([A-Z_]+)=", text, re.M)
    [handed_on] = re.findall(r"^export (.+)$", text, re.M)
    assert "STAGES" in listed
    return {*listed, *handed_on.split()}


def tables() -> list[list[str]]:
    """The names in the first column of each table of the page."""
    return [
        [
            name
            for line in section.splitlines()
            if line.startswith("| `")
            for name in re.findall(r"`(\w+)`", line.split("|")[1])
        ]
        for section in PAGE.read_text().split("\n## ")[1:]
    ]


def test_the_page_names_what_is_read() -> None:
    python = {name: (ROOT / name).rglob("*.py") for name in ("fastinit", "tools", "benchmarks")}
    running = read_by_python(python["fastinit"]) | read_by_cpp()
    building = read_by_python([ROOT / "setup.py"]) | set(LOOPED["tools/dev.py"])
    developing = read_by_python([*python["tools"], *python["benchmarks"]]) | read_by_make()
    found = tables()
    assert [set(names) for names in found] == [
        running,
        building,
        developing - building - running,
    ]
    assert all(len(set(names)) == len(names) for names in found)


def test_variables_of_ours_are_not_misspelt() -> None:
    """Whatever pages for users call FASTINIT_... is one of them (elsewhere it may be a macro)."""
    known = {name for names in tables() for name in names}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "Makefile"):
        assert set(re.findall(r"\bFASTINIT_\w+", page.read_text())) <= known, page


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import os\nos.environ.get('A'); os.environ['B']; os.getenv('C')", {"A", "B", "C"}),
        ("import os\nos.environ.setdefault('A', '')\nos.environ['B'] = ''", {"A"}),
    ],
)
def test_what_counts_as_reading(code: str, names: set[str], tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(code)
    assert read_by_python([path]) == names
