"""What pyproject.toml says of the distribution: its name, and that all of the package is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())


def test_every_room_of_the_package_is_distributed() -> None:
    setuptools = pytest.importorskip("setuptools")
    text = (ROOT / "pyproject.toml").read_text()
    assert '[tool.setuptools.packages.find]\ninclude = ["fastinit", "fastinit.*"]' in text
    found = set(setuptools.find_packages(str(ROOT), include=["fastinit", "fastinit.*"]))
    package = ROOT / "fastinit"
    folders = {path.parent for path in package.rglob("*.py")}
    assert found == {".".join(path.relative_to(ROOT).parts) for path in folders}


def test_the_name_is_not_somebody_elses() -> None:
    """Nothing asks pip for `fastinit`, which is another's; the README warns of it."""
    assert re.search('^name = "torch-fastinit"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert "name=" not in (ROOT / "setup.py").read_text().partition("setuptools.setup(")[2]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "setup.py"]
    for folder in ("fastinit", "examples", "tools", "benchmarks"):
        pages += (ROOT / folder).rglob("*.py")
    asked = [
        (page.name, command)
        for page in pages
        for command in re.findall(r"pip install [^`\n]*?(?<![\w-])fastinit\b", page.read_text())
    ]
    assert asked == [("README.md", "pip install fastinit")]  # do not, it says
