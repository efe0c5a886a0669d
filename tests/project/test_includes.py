"""Includes of csrc run torch -> {cpu, cuda} -> host -> core, and only torch/ includes torch."""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
ALLOWED = {
    "core": {"core"},
    "host": {"core", "host"},
    "cpu": {"core", "host", "cpu"},
    "cuda": {"core", "host", "cuda"},
    "torch": {"core", "host", "cpu", "cuda", "torch"},
}
TORCH = re.compile(r"(torch|ATen|c10)/")


def test_every_folder_is_known() -> None:
    assert {path.name for path in CSRC.iterdir()} == set(ALLOWED)


def test_includes_run_one_way() -> None:
    wrong = []
    for path in CSRC.rglob("*.*"):
        room = path.relative_to(CSRC).parts[0]
        for quote, name in re.findall(r'^#include ([<"])(.*)[>"]', path.read_text(), re.MULTILINE):
            ours = quote == '"'
            if ours and name.split("/")[0] not in ALLOWED[room]:
                wrong.append(f"{path}: {name}")
            if not ours and room != "torch" and TORCH.match(name):
                wrong.append(f"{path}: {name}")
    assert wrong == []
