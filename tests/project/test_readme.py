"""The README: what it shows runs as written, what it points to is there, its figures are measured.

Of CONTRIBUTING and the pages under docs/ the links are followed, too.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import fastinit
from fastinit.__main__ import main

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


def commands() -> list[str]:
    """The commands in its blocks, and those in its text that are whole command lines."""
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.split("\n")]
    inline = re.findall(r"`((?:make|python) [^`]+)`", README.read_text())
    return list(dict.fromkeys(filter(None, [*lines, *inline])))


# ---- form ----------------------------------------------------------------------------------------


def test_lines_fit() -> None:
    """Up to 100 characters; rows of tables cannot be broken."""
    lines = README.read_text().splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def targets(page: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)\)", page.read_text())


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {t for t in targets(index) if not t.startswith("..")} == pages


def test_what_it_names_is_public() -> None:
    names = set(re.findall(r"\bfastinit\.(\w+)", README.read_text()))
    assert len(names) > 12
    assert {name for name in names if name not in fastinit.__all__} == set()


# ---- what it shows -------------------------------------------------------------------------------


def test_the_snippets_run() -> None:
    """In the order of the page; the first two, three lines each, take the imports as made."""
    transformers = pytest.importorskip("transformers")
    namespace = {"torch": torch, "fastinit": fastinit}
    found = blocks("python")
    assert [len(block.splitlines()) for block in found[:2]] == [3, 3]
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)
    key = fastinit.Key(0).fold_in("layers.0.weight")
    expected = fastinit.normal_(torch.empty(4096, 4096, dtype=torch.bfloat16), std=0.02, key=key)
    assert torch.equal(namespace["weight"], expected)
    model, layer = namespace["model"], namespace["layer"]
    assert isinstance(model, transformers.GPT2LMHeadModel)
    key = fastinit.Key(0).fold_in("transformer.wte.weight").fold_in(0)
    wte = model.transformer.wte.weight
    assert torch.equal(wte, fastinit.normal_(torch.empty_like(wte), std=0.02, key=key))
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta for p in layer.parameters())


def test_the_calls_of_the_table_run() -> None:
    model = torch.nn.Linear(4, 4)
    names = {
        "torch": torch,
        "fastinit": fastinit,
        "w": torch.empty(2, 4, 4),
        "tensors": [torch.empty(4, 4), torch.empty(3, 4)],
        "key": fastinit.Key(0),
        "name": "layers.0.weight",
        "model": model,
        "rules": {"bias": torch.nn.init.zeros_, "default": fastinit.normal_},
        "factory_or_module": lambda: torch.nn.Linear(4, 4),
        "inputs": torch.ones(2, 4),
        "part": torch.empty(2, 4),
        "full_size": (8, 4),
        "offset": (2, 0),
    }
    section = README.read_text().partition("## Which call when")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    ran = 0
    for row in rows:
        for code in re.findall(r"`((?:with )?fastinit\.[^`]+)`", row):
            exec(code + " pass" if code.endswith(":") else code, dict(names))
            ran += 1
    assert ran == "".join(rows).count("fastinit.")
    assert not model.bias.any()


def test_the_commands_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Targets of make exist, ours run; pip is not run here."""
    pytest.importorskip("transformers")
    goals = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    small = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(small))
    monkeypatch.chdir(tmp_path)
    ran = []
    for command in commands():
        program, *words = shlex.split(command)
        if program == "make":
            assert words[0] in goals, command
        elif words[:2] == ["-m", "fastinit"]:
            assert main(words[2:]) == 0, command
            ran.append(words[2])
        else:
            assert program in ("pip", "cd"), command
    assert ran == ["info", "init"]
    assert fastinit.__version__ in capsys.readouterr().out


def test_what_pip_is_asked_for() -> None:
    """The one name on PyPI that is not ours is warned of, and what a build needs is all there."""
    text = README.read_text()
    assert re.search(r"Do not\s+`pip install fastinit`", text)
    lines = (ROOT / "requirements" / "build.txt").read_text().splitlines()
    for line in lines:
        name, _, release = line.partition(">=")
        if line and not line.startswith("#") and name == "setuptools":
            assert f"'setuptools>={release}'" in text
    assert [line for line in commands() if line.startswith("pip")] == [
        "pip install 'setuptools>=77' ninja",
        "pip install --no-build-isolation .",
    ]


# ---- what it says was measured -------------------------------------------------------------------


@pytest.fixture(scope="module")
def summary() -> Iterator[ModuleType]:
    """The script that makes the picture and the table."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import summary

        yield summary
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_the_table_is_what_the_results_say(summary: ModuleType) -> None:
    text = README.read_text()
    assert summary.with_table(text) == text
    assert summary.table() in text


def test_the_sentence_is_what_the_results_say(summary: ModuleType) -> None:
    fills = [row for row in summary.ROWS if re.fullmatch(r"(fp32|bf16) `\w+_`", row.label)]
    truncated = [row.cpu for row in fills if "trunc" in row.label]
    others = [row.cpu for row in fills if "trunc" not in row.label]

    def span(sides: Iterable[Any]) -> str:
        low, *_, high = sorted(sides, key=lambda side: side.ratio)
        return f"{low.times[:-1]} to {high.times[:-1]} times"

    said = re.findall(r"[\d.]+ to [\d.]+ times", re.sub(r"\s+", " ", README.read_text()))
    assert said == [span(others), span(truncated), span(row.gpu for row in fills)]


def drawn(path: Path) -> tuple[list[str], list[tuple[float, float]]]:
    """The text of a picture, and where each bar begins and ends, in points from the left."""
    texts, bars = [], []
    for element in ElementTree.parse(path).iter():
        if element.tag.endswith("}text"):
            texts.append("".join(element.itertext()))
        style = element.get("style", "")
        if element.tag.endswith("}path") and re.search("fill: #(1f77b4|ff7f0e)", style):
            xs = [float(x) for x in re.findall(r"[ML] (\S+) ", element.get("d", ""))]
            bars.append((min(xs), max(xs)))
    return texts, bars


def test_the_picture_is_what_the_results_say(summary: ModuleType, tmp_path: Path) -> None:
    """Its text and the ends of its bars, so that another matplotlib may write it otherwise."""
    pytest.importorskip("matplotlib")
    summary.draw(tmp_path / "again.svg")
    texts, bars = drawn(summary.PICTURE)
    texts_again, bars_again = drawn(tmp_path / "again.svg")
    measured = [side for row in summary.ROWS for side in (row.cpu, row.gpu) if side]
    assert texts == texts_again
    assert {side.times for side in measured} <= set(texts)
    assert len(bars) == len(measured)
    assert bars == [pytest.approx(bar, abs=0.5) for bar in bars_again]


def test_the_results_say_what_is_drawn(summary: ModuleType) -> None:
    """Some rows by hand, so that the script reads what it should."""
    rows = {row.label: row for row in summary.ROWS}
    cpu, gpu = summary.CPU, summary.GPU
    assert cpu["fills"][0]["function"] == gpu["sizes"][0]["function"] == "uniform_"
    assert rows["fp32 `uniform_`"].cpu.ratio == cpu["fills"][0]["ratio"]
    [gigabytes] = [
        row["contenders"]["fastinit"]["giga_bytes_per_s"]
        for row in gpu["sizes"]
        if (row["function"], row["dtype"], row["tensor"]) == ("uniform_", "fp32", "2^30")
    ]
    speed = float(rows["fp32 `uniform_`"].gpu.fastinit.split()[0])
    assert speed == pytest.approx(gigabytes / 4, rel=0.01)
    sides = cpu["model"]["start_up"]["contenders"]
    built = rows["GPT-2 xl built, `materialize`"].cpu
    assert built.ratio == sides["native"]["median_s"] / sides["materialize"]["median_s"]
    assert rows["fp32 `uniform_`, channels_last"].gpu.ratio == pytest.approx(239 / 228, rel=0.01)
