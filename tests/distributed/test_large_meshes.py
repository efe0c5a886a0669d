"""One rank of 1024, by the benchmark of sharded models: slices of it, and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(("world", "rank"), [(256, 201), (1024, 700)])
def test_slices_and_memory(world: int, rank: int) -> None:
    """An eighth as wide as DeepSeek-V3, and 7 of its 61 layers."""
    command = [sys.executable, str(ROOT / "benchmarks" / "sharded.py"), "--world", str(world)]
    command += [
        "--rank",
        str(rank),
        "--layers",
        "7",
        "--scale",
        "8",
        "--rounds",
        "1",
        "--slices",
        "1700",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["slices"] >= 1000, found
    assert found["wrong"] == 0, found
    assert found["beside_gib"] < 0.1, found
