"""Who imports whom inside the package: down the list of rooms, in no circle."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

import pytest

import fastinit

PACKAGE = Path(fastinit.__file__).parent

# The highest first. What stands in a line may not import what stands above it.
FLOORS = (
    ("fastinit.__main__",),
    ("fastinit",),
    ("fastinit._report",),
    ("fastinit._models",),
    ("fastinit._patch",),
    ("fastinit._recording",),
    ("fastinit._fills",),
    ("fastinit.init", "fastinit._config"),
    ("fastinit.initializers",),
    ("fastinit._fallback",),
    ("fastinit._distributed",),
    ("fastinit._vmap",),
    ("fastinit.key",),
    ("fastinit._tensors",),
    ("fastinit._compiled", "fastinit._forked", "fastinit._untraced"),
    ("fastinit._users", "fastinit._version", "fastinit._warnings"),
    ("fastinit._C",),
)


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the package that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                known = whole in MODULES or whole == "fastinit._C"
                found.add(whole if known else str(node.module))
    return frozenset(name for name in found if name.split(".")[0] == "fastinit")


def floor(module: str) -> int:
    room = ".".join(module.split(".")[:2])
    return next(k for k, names in enumerate(FLOORS) if room in names)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_goes_up(module: str) -> None:
    up = {other for other in imports(module) if floor(other) < floor(module)}
    assert not up, f"{module} imports {up}, which stand above it"


def test_no_circle() -> None:
    finished: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module in MODULES and module not in finished:
            for other in imports(module):
                walk(other, (*path, module))
            finished.add(module)

    for module in MODULES:
        walk(module, ())


def test_only_one_module_touches_the_extension() -> None:
    assert {m for m in MODULES if "fastinit._C" in imports(m)} == {"fastinit._compiled"}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_hidden_by_another_object(module: str) -> None:
    if module != "fastinit.__main__":  # which runs
        holder, _, name = module.rpartition(".")
        found = importlib.import_module(module)
        assert not holder or getattr(importlib.import_module(holder), name) is found


def test_rooms_hold_names_and_nothing_else() -> None:
    """Public names come from one place, so a room's __init__.py is its docstring."""
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module != "fastinit":
            (only,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert isinstance(only, ast.Expr), module
