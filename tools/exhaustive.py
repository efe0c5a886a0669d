"""Checks the float32 transforms at all 2**32 words (`make exhaustive`), 20 minutes on two cores.

Compiles tools/exhaustive.cpp, which includes csrc/core, and prints a table of the largest errors.
Exits with 1 where one exceeds what is promised. The check runs the scalar code; the tests hold all
other code to the same bits.

    python tools/exhaustive.py [--stride N] [--threads N] [--write FILE] [CHECK ...]

CHECK is uniform, radius, angle or a truncated normal MEAN:STD:A:B; without any, all of the table in
docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tools" / "exhaustive.cpp"
BINARY = ROOT / "build" / "exhaustive"
# One truncated normal of each branch; the far one with its bound at zero, where errors show.
CHECKS = ["uniform", "radius", "angle", "0:1:-2:2", "0:1:3:5", "0:1:-0.01:0.02", "-30.5:1:0:inf"]
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-pthread"]
BEGIN, END = "<!-- exhaustive: begin -->", "<!-- exhaustive: end -->"


def compile_driver() -> None:
    """Build the driver, for this very processor where the compiler can."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    BINARY.parent.mkdir(exist_ok=True)
    command = [*compiler, *FLAGS, f"-I{ROOT / 'csrc'}", str(SOURCE), "-o", str(BINARY)]
    native = subprocess.run([*command, "-march=native"], capture_output=True, text=True)
    if native.returncode:
        subprocess.run(command, check=True)


def run_checks(checks: list[str], stride: int, threads: int) -> tuple[list[list[str]], bool]:
    """Run one check after the other; returns the table's rows and whether all held."""
    rows: list[list[str]] = []
    held = True
    for check in checks:
        started = time.perf_counter()
        command = [str(BINARY), str(stride), str(threads), check]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, 1):
            sys.exit(f"exhaustive: {shlex.join(command)} ended with {done.returncode}")
        held &= done.returncode == 0
        seconds = time.perf_counter() - started
        for line in done.stdout.splitlines():
            print(f"{line}\t{seconds:.0f} s", flush=True)
            if "\t" in line:
                rows.append(line.split("\t"))
    return rows, held


def as_markdown(rows: list[list[str]]) -> str:
    """The rows as a table."""
    head = ["check", "words", "largest error", "at word", "allowed", ""]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_into(path: Path, table: str) -> None:
    """Replace what stands between the two marks of a document."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description="check the transforms at all 2**32 words")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="default: " + " ".join(CHECKS))
    parser.add_argument("--stride", type=int, default=1, help="take every N-th word (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, help="document to put the table into")
    options = parser.parse_args()
    if options.stride < 1 or options.threads < 1:
        parser.error("--stride and --threads must be at least 1")
    compile_driver()
    started = time.perf_counter()
    rows, held = run_checks(options.checks or CHECKS, options.stride, options.threads)
    minutes = (time.perf_counter() - started) / 60
    table = as_markdown(rows)
    print(f"\n{table}\n\n{minutes:.1f} minutes on {options.threads} threads, {platform.machine()}")
    if options.write:
        write_into(options.write, table)
    print("all held" if held else "FAILED: an error exceeds what is promised")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
