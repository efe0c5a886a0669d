"""The examples run, and print what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment["OMP_NUM_THREADS"] = "1"  # small matrices: threads would wait for each other
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout


def test_drop_in() -> None:
    run(str(ROOT / "examples" / "drop_in.py"))


def test_compare_inits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    lines = run(str(ROOT / "examples" / "compare_inits.py"), str(picture)).splitlines()
    accuracy = {line[:16].strip(): float(line.split()[-1][:-1]) for line in lines[1:10]}
    assert len(accuracy) == 9
    assert all(value < 30 for value in (accuracy["zeros"], accuracy["ones"]))
    assert all(accuracy[name] > 85 for name in ("xavier", "kaiming", "orthogonal", "N(0, 1/√n)"))
    assert picture.stat().st_size > 10_000


def test_what_torch_does() -> None:
    title, *rows = run(str(ROOT / "examples" / "what_torch_does.py")).splitlines()
    assert title.split()[0] == "call"
    assert len(rows) == 12
    said = {row[24:60].strip() for row in rows[-3:]}
    assert said == {
        "the padding row is random",
        "what was there before",
        "the slice is not written",
    }
    assert all(row.split()[-1] == "right" for row in rows), rows
    assert not any("right" in row[24:60] for row in rows), rows


def test_fsdp2_init() -> None:
    """The digests of all weights are the same by one process and by three."""
    lines = []
    for ranks in (1, 3):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        lines.append(run(*launch, str(ROOT / "examples" / "fsdp2_init.py")))
    assert lines[0].startswith("as one ")
    assert lines[0] == lines[1]
