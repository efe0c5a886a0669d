"""Four processes: single calls, FSDP2, tensor parallelism, and check_ranks(), in one start.

What the processes do, and what they find, is in support/ranks.py and what it imports.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ranks import CASES

TESTS = Path(__file__).resolve().parents[1]
WORLD = 4


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={WORLD}", str(TESTS / "support" / "ranks.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, found: list[dict[str, str]]) -> None:
    for library in ("transformers", "torchtitan"):
        if name.startswith(library) and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    wrong = {rank: of_rank[name] for rank, of_rank in enumerate(found) if of_rank[name]}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())
