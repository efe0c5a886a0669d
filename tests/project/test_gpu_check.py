"""tools/gpu_check.py without a GPU: its stages, what it saves, what it repeats, when it stops."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.native_build import ROOT


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools" / "gpu_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


check: Any = load()
FACTS = {"commit": "abc", "sources": "1", "device": None}


def stage(name: str, code: str, **more: Any) -> Any:
    return check.Stage(name, (sys.executable, "-c", code), **more)


def go(
    folder: Path, *stages: Any, facts: dict[str, Any] = FACTS, seconds: float = 600
) -> list[str]:
    options = check.parse([])
    results = check.Results(folder, facts, options.fresh)
    end = time.monotonic() + seconds
    states: list[str] = check.go_through(stages, results, options, end, folder / "logs")
    return states


def saved(folder: Path) -> dict[str, Any]:
    stages: dict[str, Any] = json.loads((folder / "check.json").read_text())["stages"]
    return stages


def test_states_are_told_apart(tmp_path: Path) -> None:
    states = go(
        tmp_path,
        stage("tests", "print('3 passed')"),
        stage("cpu-tests-scalar", "import sys; print('1 failed'); sys.exit(1)"),
        stage("bench-gpu", "print('never')", needs_device=True),
        stage("sanitizer-memcheck", "print('Device not supported'); 1 / 0", impossible="not supp"),
    )
    assert states == [check.PASSED, check.FAILED, check.IMPOSSIBLE, check.IMPOSSIBLE]
    found = saved(tmp_path)
    assert found["tests"]["last line"] == "3 passed"
    assert found["tests"]["commit"] == "abc"
    assert found["cpu-tests-scalar"]["end"] == ["1 failed"]
    assert found["bench-gpu"]["last line"] == "there is no CUDA device"
    page = (tmp_path / "check.md").read_text()
    assert "| tests | passed |" in page
    assert "### cpu-tests-scalar: failed" in page


def test_results_do_not_say_where_the_checkout_lies(tmp_path: Path) -> None:
    path = str(ROOT / "tests" / "x.py")
    go(tmp_path, stage("tests", f"print({path!r}); 1 / 0"))
    assert saved(tmp_path)["tests"]["end"][0] == "tests/x.py"
    text = (tmp_path / "check.json").read_text()
    assert str(ROOT) + "/" not in text
    assert sys.executable not in text


def test_what_passed_is_not_repeated(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'a').write('x')"
    failing = stage("tests", code + "; 1 / 0")
    passing = stage("bench-cpu", code)
    go(tmp_path, failing, passing)
    assert mark.read_text() == "xx"
    go(tmp_path, failing, passing)
    assert mark.read_text() == "xxx"
    go(tmp_path, passing, facts={**FACTS, "sources": "2"})
    assert mark.read_text() == "xxxx"


def test_a_stage_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    code = "import time\ntry:\n print('half', flush=True)\n time.sleep(60)\n"
    code += "except KeyboardInterrupt:\n print('2 passed')\n"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background
    try:
        found = check.run(stage("tests", code), 8.0, tmp_path / "log")  # a busy machine is slow
    finally:
        signal.signal(signal.SIGINT, before)
    assert found["state"] == check.LATE
    assert found["end"] == ["half", "2 passed"]
    assert found["seconds"] < 30


def test_the_budget_ends_the_run(tmp_path: Path) -> None:
    assert go(tmp_path, stage("tests", "print(1)"), seconds=20) == [check.LATE]
    assert saved(tmp_path)["tests"]["last line"] == "no time left"


def test_nothing_follows_a_failed_build(tmp_path: Path) -> None:
    states = go(tmp_path, stage("build", "1 / 0"), stage("tests", "print(1)"))
    assert states == [check.FAILED]


def test_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = check.stages(tmp_path, ["scalar", "avx512"])
    names = [s.name for s in stages]
    first = ["build", "bits", "headline", "sanitizer-smallest-memcheck"]
    assert names[:4] == first
    # A start of the machine, the build and these fit a quarter of an hour with room for more.
    assert sum(s.limit for s in stages if s.name in first[1:]) <= 300
    assert {"tests", "bench-gpu"} < set(names[4:])
    assert {s.group for s in stages} == set(check.GROUPS)
    assert names.index("cpu-tests-avx512") < names.index("cpu-tests-scalar")
    for word in " ".join(word for s in stages for word in s.command).split():
        if word.endswith(".py"):
            assert Path(ROOT, word.removeprefix("--ignore=")).exists(), word
    assert check.LIMIT_S + check.GRACE_S < 8 * 60
    monkeypatch.setenv("STAGES", "build,cpu-tests-scalar")
    assert check.parse([]).stages == ["build", "cpu-tests-scalar"]
    with pytest.raises(SystemExit):
        check.parse(["--stages", "tests,nonsense"])


def test_the_commit_without_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    provenance = check.provenance
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("FASTINIT_COMMIT", raising=False)
    assert provenance.commit() == "unknown"
    (tmp_path / "COMMIT").write_text("123abc\n")
    assert provenance.commit() == "123abc"
    monkeypatch.setenv("FASTINIT_COMMIT", "456def")
    assert provenance.commit() == "456def"


def test_names_of_folders() -> None:
    assert check.folder_name("NVIDIA H200") == "nvidia-h200"
    assert check.folder_name("NVIDIA A100-SXM4-80GB") == "nvidia-a100-sxm4-80gb"
    assert check.folder_name(None) == "no-gpu"
