"""P1 on the CPU: every capability of the processor writes the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support.promise_digests import all_cases

from fastinit import _C

TESTS = Path(__file__).resolve().parents[1]
FORCE = "FASTINIT_CPU_CAPABILITY"


def python(words: list[str], capability: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != FORCE}
    if capability is not None:
        environment[FORCE] = capability
    paths = [str(TESTS.parent), str(TESTS), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=600
    )


@cache
def digests(capability: str | None) -> dict[str, str]:
    done = python([str(TESTS / "support" / "promise_digests.py")], capability)
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("capability", _C.capabilities())
def test_every_capability_writes_the_same_bits(capability: str) -> None:
    got, want = dict(digests(capability)), dict(digests("scalar"))
    assert got.pop("capability") == capability
    assert want.pop("capability") == "scalar"
    assert len(want) == len(all_cases())
    assert [name for name in want if got[name] != want[name]] == []


def test_the_best_capability_is_the_default() -> None:
    there = _C.capabilities()
    assert there[0] == "scalar"
    if not os.environ.get(FORCE):
        assert _C.capability() == there[-1]
    done = python(["-c", "from fastinit import _C; print(_C.capability())"], "")
    assert done.stdout.split() == [there[-1]], done.stderr


@pytest.mark.parametrize("capability", ["neon", "AVX2", "avx512"])
def test_a_capability_that_is_not_there_fails_the_import(capability: str) -> None:
    there = _C.capabilities()
    done = python(["-c", "import fastinit"], capability)
    if capability in there:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(("ImportError", "RuntimeError")), message
    assert FORCE in message and f"'{capability}'" in message
    assert message.endswith(", ".join(there))
