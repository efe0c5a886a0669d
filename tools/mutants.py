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
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

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
TIMEOUT = 900.0  # seconds; a defect may also make the tests hang

sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from cuda_mutants import CUDA_MUTANTS  # noqa: E402
from model_mutants import MODEL_MUTANTS  # noqa: E402
from source_mutants import MUTANTS as CORE_MUTANTS  # noqa: E402
from source_mutants import Mutant  # noqa: E402

MUTANTS = [*CORE_MUTANTS, *CUDA_MUTANTS, *MODEL_MUTANTS]

Row = tuple[str, str | None, float]  # defect, what caught it, seconds


def fail(message: str) -> NoReturn:
    """End everything, also from a thread."""
    print(f"mutants: {message}", file=sys.stderr, flush=True)
    os._exit(2)


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
            fail(f"the checks reject sound samples ({name}): {found}")
    rows: list[Row] = []
    for name, defect in sample_defects.DEFECTS.items():
        if re.search(pattern, name):
            start = time.monotonic()
            found = sample_defects.first_rejection(defect())
            caught = None if found is None else f"{found[0]}: {found[1]}, p = {found[2]:.1g}"
            rows.append(say((name, caught, time.monotonic() - start)))
    return rows


# ---- sources -------------------------------------------------------------------------------------


class Copy:
    """A copy of the project: as it is, compiled once and kept, and with one change at a time.

    `native`: for tests that compile what they need, without the extension and without torch.
    """

    def __init__(self, number: int, native: bool) -> None:
        self.native = native
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
        if native:  # a defect may also leave something unused
            self.environment["CXX"] = f"{os.environ.get('CXX', 'g++')} -w"
        else:
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

    def failure(self, tests: Sequence[str]) -> str | None:
        """What fails when these tests run here, or None."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        if self.native:
            command.append("--noconftest")  # which is torch's
        try:
            done = subprocess.run(
                command,
                cwd=self.work,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(tests)} does not end"
        if done.returncode == 0:
            return None
        if done.returncode in (3, 4, 5):
            fail(f"pytest {' '.join(tests)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        if done.returncode < 0:
            return f"{' '.join(tests)} dies of signal {-done.returncode}"
        if self.native and re.search(r"^E +.*\berror: ", done.stdout, re.MULTILINE):
            fail(f"does not compile\n{done.stdout[-5000:]}")
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        return found.group(1) if found else f"{' '.join(tests)} fails"

    def plant(self, mutant: Mutant) -> None:
        # Times of files are kept: only what the change reaches is compiled again.
        shutil.rmtree(self.work)
        shutil.copytree(self.kept, self.work)
        path = self.work / mutant.path
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            fail(f"'{mutant.name}' has no place in {mutant.path}: adapt tools/*_mutants.py")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        if not self.native and (path.suffix != ".py" or path.name == "setup.py"):
            self.compile()


def run_sources(pattern: str) -> list[Row]:
    rows: list[Row] = []
    for native in (False, True):
        chosen = [m for m in MUTANTS if m.native == native and re.search(pattern, m.name)]
        if chosen:
            rows += run_planted(chosen, native)
    return rows


def run_planted(chosen: Sequence[Mutant], native: bool) -> list[Row]:
    number = max(1, min(os.cpu_count() or 1, 8, len(chosen)))
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()

    def sound(tests: tuple[str, ...]) -> None:
        copy = copies.get()
        if found := copy.failure(tests):
            fail(f"without a defect, too, {found} fails")
        copies.put(copy)

    def planted(mutant: Mutant) -> Row:
        copy, start = copies.get(), time.monotonic()
        copy.plant(mutant)
        row = mutant.name, copy.failure(mutant.tests), time.monotonic() - start
        copies.put(copy)
        return say(row)

    with ThreadPoolExecutor(number) as pool:
        for copy in pool.map(lambda k: Copy(k, native), range(number)):
            copies.put(copy)
        list(pool.map(sound, dict.fromkeys(mutant.tests for mutant in chosen)))
        return list(pool.map(planted, chosen))


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
