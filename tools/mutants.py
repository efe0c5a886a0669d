"""Plant defects and see the tests fail: `make mutants`, or `make mutants ARGS='samples -k normal'`.

Two kinds. *Samples*: spoilt values go through the functions that the statistical tests use
(sample_defects.py). *Sources*: a copy of the project in build/mutants gets one textual change,
is compiled, and the tests named beside the change run there (source_mutants.py). A defect that
nothing notices is printed as a survivor, and the exit status is 1: it needs a test.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "mutants"
WORK, KEPT = FOLDER / "work", FOLDER / "kept"
NOT_COPIED = shutil.ignore_patterns(
    ".git",
    "build",
    "dist",
    ".venv*",
    "*.so",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
)
TIMEOUT = 900.0  # seconds; a defect may also make the tests hang

sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from source_mutants import MUTANTS, Mutant  # noqa: E402

Row = tuple[str, str | None, float]  # defect, what caught it, seconds


def say(row: Row) -> Row:
    name, caught, seconds = row
    print(
        f"{'caught  ' if caught else 'SURVIVED'} {name:62} {seconds:5.0f} s  {caught or ''}",
        flush=True,
    )
    return row


# ---- samples -------------------------------------------------------------------------------------


def run_samples(pattern: str) -> list[Row]:
    import sample_defects

    for name, control in sample_defects.CONTROLS.items():
        if found := sample_defects.first_rejection(control()):
            sys.exit(f"mutants: the checks reject sound samples ({name}): {found}")
    rows: list[Row] = []
    for name, defect in sample_defects.DEFECTS.items():
        if re.search(pattern, name):
            start = time.monotonic()
            found = sample_defects.first_rejection(defect())
            caught = None if found is None else f"{found[0]}: {found[1]}, p = {found[2]:.1g}"
            rows.append(say((name, caught, time.monotonic() - start)))
    return rows


# ---- sources -------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    variables = {**os.environ, "PYTHONPATH": str(WORK), "PYTHONDONTWRITEBYTECODE": "1"}
    # Unoptimised code has the same bits and compiles in half the time.
    variables["CXXFLAGS"] = f"{variables.get('CXXFLAGS', '')} -O1".strip()
    return variables


def compile_work() -> None:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=WORK, env=environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mutants: does not compile\n{done.stdout[-5000:]}{done.stderr[-3000:]}")


def failure(tests: Sequence[str]) -> str | None:
    """What fails when these tests run in the copy, or None."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=WORK, env=environment(), capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"{' '.join(tests)} does not end"
    if done.returncode == 0:
        return None
    if done.returncode in (3, 4, 5):
        sys.exit(f"mutants: pytest {' '.join(tests)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    if done.returncode < 0:
        return f"{' '.join(tests)} dies of signal {-done.returncode}"
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found.group(1) if found else f"{' '.join(tests)} fails"


def plant(mutant: Mutant) -> None:
    path = WORK / mutant.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(
            f"mutants: '{mutant.name}': its text occurs {text.count(mutant.old)} times in "
            f"{mutant.path}: adapt tools/source_mutants.py"
        )
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def run_sources(pattern: str) -> list[Row]:
    chosen = [mutant for mutant in MUTANTS if re.search(pattern, mutant.name)]
    if not chosen:
        return []
    shutil.rmtree(FOLDER / "work", ignore_errors=True)
    shutil.rmtree(FOLDER / "kept", ignore_errors=True)
    shutil.copytree(ROOT, WORK, ignore=NOT_COPIED)
    compile_work()
    for tests in dict.fromkeys(mutant.tests for mutant in chosen):
        if found := failure(tests):
            sys.exit(f"mutants: without a defect, too, {found} fails")
    WORK.rename(KEPT)
    rows: list[Row] = []
    for mutant in chosen:
        start = time.monotonic()
        # Times of files are kept: only what the change reaches is compiled again.
        shutil.rmtree(WORK, ignore_errors=True)
        shutil.copytree(KEPT, WORK)
        plant(mutant)
        if not mutant.path.endswith(".py") or mutant.path == "setup.py":
            compile_work()
        rows.append(say((mutant.name, failure(mutant.tests), time.monotonic() - start)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", nargs="?", choices=["samples", "sources", "all"], default="all")
    parser.add_argument(
        "-k", default="", metavar="TEXT", help="only defects with TEXT in their name"
    )
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows: list[Row] = []
        if options.kind != "sources":
            rows += run_samples(options.k)
        if options.kind != "samples":
            rows += run_sources(options.k)
    survivors = [name for name, caught, _ in rows if not caught]
    print(f"{len(rows) - len(survivors)} of {len(rows)} defects caught")
    sys.exit("survivors: " + "; ".join(survivors) if survivors else 0)


if __name__ == "__main__":
    main()
