"""Plant defects and see the tests fail: `make mutants`, or `make mutants ARGS='samples -k normal'`.

Two kinds. *Samples*: spoilt values go through the functions that the statistical tests use
(sample_defects.py). *Sources*: a copy of the project in build/mutants gets one change, is
compiled, and the tests named beside the change run there (defects.py, shard_defects.py). A defect
that nothing notices is printed as a survivor, and the exit status is 1: it needs a test.
`--table PATH` writes what was found as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "mutants"
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

sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from defects import DEFECTS, Defect  # noqa: E402
from planting import planted  # noqa: E402
from shard_defects import SHARD_DEFECTS  # noqa: E402

SOURCES = [*DEFECTS, *SHARD_DEFECTS]


class Row(NamedTuple):
    name: str
    guards: str
    caught: str | None  # what noticed the defect
    seconds: float


def fail(message: str) -> NoReturn:
    """End everything, also from a thread."""
    print(f"mutants: {message}", file=sys.stderr, flush=True)
    os._exit(2)


def say(row: Row) -> Row:
    verdict = "caught  " if row.caught else "SURVIVED"
    print(f"{verdict} {row.name:62} {row.seconds:5.0f} s  {row.caught or ''}", flush=True)
    return row


# ---- samples -------------------------------------------------------------------------------------


def run_samples(pattern: str) -> list[Row]:
    import sample_defects

    for name, control in sample_defects.CONTROLS.items():
        if found := sample_defects.first_rejection(control()):
            fail(f"the checks reject sound samples ({name}): {found}")
    rows: list[Row] = []
    for name, defect in sample_defects.DEFECTS.items():
        if re.search(pattern, name):
            start = time.monotonic()
            found = sample_defects.first_rejection(defect())
            caught = None if found is None else f"{found[0]}: {found[1]}, p = {found[2]:.1g}"
            guards = "P4: types" if name.startswith(("small type", "float64")) else "P7: quality"
            rows.append(say(Row(name, guards, caught, time.monotonic() - start)))
    return rows


# ---- sources -------------------------------------------------------------------------------------


class Copy:
    """A copy of the project: as it is, compiled once and kept, and with one defect at a time."""

    def __init__(self, number: int) -> None:
        self.work, self.kept = FOLDER / f"work-{number}", FOLDER / f"kept-{number}"
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(ROOT, self.work, ignore=NOT_COPIED)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self.work),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MAX_JOBS": "1",  # one compiler per copy
            # Code that is hardly optimised has the same bits and compiles in half the time.
            "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} -O1".strip(),
        }
        self.compile()
        shutil.copytree(self.work, self.kept)

    def compile(self) -> None:
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace"],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            fail(f"does not compile\n{done.stdout[-5000:]}{done.stderr[-3000:]}")

    def failure(self, tests: Sequence[str], limit: float | None = None) -> str | None:
        """What fails when these tests run here, or None; those that run longer fail, too."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        # The drivers that tests compile have warnings for errors; a defect may leave things unused.
        environment = {**self.environment, "CXX": f"{os.environ.get('CXX', 'g++')} -w"}
        running = subprocess.Popen(
            command,
            cwd=self.work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that what the tests have started ends with them
        )
        try:
            output, _ = running.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
            return f"{' '.join(tests)} does not end ({limit:.0f} s)"
        if running.returncode == 0:
            return None
        if running.returncode in (3, 4, 5):
            fail(f"pytest {' '.join(tests)}\n{output[-6000:]}")
        if running.returncode < 0:
            return f"{' '.join(tests)} dies of signal {-running.returncode}"
        if re.search(r"^E +.*\berror: ", output, re.MULTILINE):
            fail(f"does not compile\n{output[-5000:]}")
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
        return found.group(1) if found else f"{' '.join(tests)} fails"

    def plant(self, defect: Defect) -> None:
        # Times of files are kept: only what the change reaches is compiled again.
        shutil.rmtree(self.work)
        shutil.copytree(self.kept, self.work)
        path = self.work / defect.path
        path.write_text(planted(path, defect.symbol, defect.old, defect.new), encoding="utf-8")
        if defect.compiled:
            self.compile()


def run_sources(pattern: str, workers: int) -> list[Row]:
    chosen = [defect for defect in SOURCES if re.search(pattern, defect.name)]
    if not chosen:
        return []
    for defect in chosen:  # before anything is compiled
        planted(ROOT / defect.path, defect.symbol, defect.old, defect.new)
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    sound: dict[tuple[str, ...], float] = {}  # seconds that tests take without a defect

    def run_sound(tests: tuple[str, ...]) -> None:
        copy, start = copies.get(), time.monotonic()
        if found := copy.failure(tests):
            fail(f"without a defect, too, {found} fails")
        sound[tests] = time.monotonic() - start
        copies.put(copy)

    def limit(tests: tuple[str, ...]) -> float:
        # By file: the first tests of one may have compiled the driver for the others.
        return 60 + 10 * max(sound[other] for other in sound if other[0] == tests[0])

    def run_planted(defect: Defect) -> Row:
        copy, start = copies.get(), time.monotonic()
        copy.plant(defect)
        caught = copy.failure(defect.tests, limit(defect.tests))
        copies.put(copy)
        return say(Row(defect.name, defect.guards, caught, time.monotonic() - start))

    with ThreadPoolExecutor(workers) as pool:
        for copy in pool.map(Copy, range(workers)):
            copies.put(copy)
        list(pool.map(run_sound, dict.fromkeys(defect.tests for defect in chosen)))
        return list(pool.map(run_planted, chosen))


# ---- the table -----------------------------------------------------------------------------------


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def table(rows: Sequence[Row]) -> str:
    import torch

    from fastinit import _C

    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    lines = [
        "# Planted defects",
        "",
        "Written by `make mutants ARGS='--table docs/mutants.md'`: what was broken on purpose, the",
        "promise that it breaks, and the first test or check that noticed. Seconds are those of",
        "compiling and testing, two defects at a time, beside what else the machine had to do.",
        "",
        f"{sum(row.caught is not None for row in rows)} of {len(rows)} caught. Commit {commit()},"
        f" torch {torch.__version__}, {_C.capability()},"
        f" {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}.",
        "",
        "| defect | guards | caught by | s |",
        "|---|---|---|---:|",
    ]
    for row in rows:
        caught = f"`{row.caught}`" if row.caught else "**nothing**"
        lines.append(f"| {cell(row.name)} | {row.guards} | {cell(caught)} | {row.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", nargs="?", choices=["samples", "sources", "all"], default="all")
    parser.add_argument(
        "-k", default="", metavar="TEXT", help="only defects with TEXT in their name"
    )
    parser.add_argument("--table", type=Path, metavar="PATH", help="write the rows as Markdown")
    parser.add_argument("--workers", type=int, default=2, help="copies of the project at work")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows: list[Row] = []
        if options.kind != "samples":
            rows += run_sources(options.k, options.workers)
        if options.kind != "sources":
            rows += run_samples(options.k)
    if options.table:
        options.table.write_text(table(rows), encoding="utf-8")
    survivors = [row.name for row in rows if not row.caught]
    print(f"{len(rows) - len(survivors)} of {len(rows)} defects caught")
    sys.exit("survivors: " + "; ".join(survivors) if survivors else 0)


if __name__ == "__main__":
    main()
