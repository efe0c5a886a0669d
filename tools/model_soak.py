"""Run random constructors and initialisers through `batch()`, `materialize` and `initialize_`.

    make soak ARGS='--programs 100000 --seed 1'

Program n is made from the seed n alone. Each that fails is shrunk, unless it has all the features
of one that failed in the same way, and is then counted there. What was done is kept in
build/soak.json, so that a second run goes on; `--show N` judges one program and prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from support.model_judge import judge  # noqa: E402
from support.model_programs import (  # noqa: E402
    DOORS,
    Program,
    features,
    make_program,
    smaller,
    source,
    to_program,
)
from support.model_snapshot import Failure  # noqa: E402

CHUNK = 100
STATE = ROOT / "build" / "soak.json"


def parts(program: Program) -> set[str]:
    """Collect what a program is made of, for telling one failure from another."""
    plain = {"parameters", "float32", "constants"}
    return (features(program) - plain) | ({"skip"} if program.skip else set())


def failures(program: Program, door: str, device: str) -> list[Failure]:
    try:
        return judge(program, door, device)
    except Exception as error:
        return [Failure("the judge failed", f"{type(error).__name__}: {error}")]


def shrink(program: Program, door: str, device: str, kind: str) -> Program:
    """Take away what is not needed for this kind of failure."""
    again = True
    while again:
        again = False
        for candidate in smaller(program):
            if any(failure.kind == kind for failure in failures(candidate, door, device)):
                program, again = candidate, True
                break
    return program


def _start() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.nice(5)


def run_chunk(first: int, size: int, doors: list[str], device: str, known: list[Any]) -> list[Any]:
    """Judge programs; give (door, kind, parts, program, detail, seed, whether new) of failures."""
    found: list[Any] = []
    classes = [(door, kind, set(held)) for door, kind, held in known]
    for seed in range(first, first + size):
        program = make_program(random.Random(seed).choice)
        for door in doors:
            seen = failures(program, door, device)
            if not seen:
                continue
            kind, detail = seen[0]
            held = parts(program)
            same = [c for c in classes if c[0] == door and c[1] == kind and c[2] <= held]
            if same:
                found.append((door, kind, sorted(min(same, key=lambda c: len(c[2]))[2]), None))
                continue
            small = shrink(program, door, device, kind)
            again = failures(small, door, device)
            detail = next((f.detail for f in again if f.kind == kind), detail)
            classes.append((door, kind, parts(small)))
            found.append((door, kind, sorted(parts(small)), small, detail, seed))
    return found


def _merge(state: dict[str, Any], chunk: int, found: list[Any]) -> None:
    state["done"].append(chunk)
    for door, kind, held, small, *more in found:
        name = json.dumps([door, kind, held])
        entry = state["classes"].setdefault(name, {"count": 0})
        entry["count"] += 1
        if small is not None and "program" not in entry:
            entry |= {"program": small, "detail": more[0], "seed": more[1]}


def _chunks(options: argparse.Namespace, done: set[int]) -> Iterator[int]:
    for first in range(options.seed, options.seed + options.programs, CHUNK):
        if first not in done:
            yield first


def soak(options: argparse.Namespace, state: dict[str, Any]) -> None:
    """Run what is left to do in a few processes, saving after each chunk."""
    waiting = _chunks(options, set(state["done"]))
    end = time.monotonic() + options.minutes * 60
    running: dict[Future[Any], int] = {}
    with ProcessPoolExecutor(
        options.processes, mp_context=get_context("spawn"), initializer=_start
    ) as pool:
        while True:
            while len(running) < options.processes and time.monotonic() < end:
                first = next(waiting, None)
                if first is None:
                    break
                known = [json.loads(name) for name in state["classes"]]
                running[
                    pool.submit(run_chunk, first, CHUNK, options.doors, options.device, known)
                ] = first
            if not running:
                break
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                _merge(state, running.pop(future), future.result())
            options.state.parent.mkdir(exist_ok=True)
            options.state.write_text(json.dumps(state))
            print(f"{len(state['done']) * CHUNK} programs", end="\r", file=sys.stderr, flush=True)


def table(state: dict[str, Any]) -> Iterator[str]:
    """Write what was found: how often each class, then the smallest program of each."""
    total = len(state["done"]) * CHUNK
    yield f"{total} programs, each at {', '.join(state['doors'])}"
    sums: dict[tuple[str, str], int] = {}
    for name, entry in state["classes"].items():
        door, kind, _ = json.loads(name)
        sums[door, kind] = sums.get((door, kind), 0) + entry["count"]
    for (door, kind), count in sorted(sums.items()):
        yield f"{count:7d}  {door}: {kind}"
    for name, entry in sorted(state["classes"].items(), key=lambda item: -item[1]["count"]):
        door, kind, held = json.loads(name)
        if "program" in entry:
            yield f"\n== {entry['count']} x {door}: {kind} ({', '.join(held) or 'plain'})"
            yield f"   seed {entry['seed']}: {entry['detail'][:300]}"
            yield source(to_program(entry["program"])).rstrip()


def show(seed: int, doors: list[str], device: str) -> None:
    program = make_program(random.Random(seed).choice)
    print(source(program))
    for door in doors:
        for kind, detail in failures(program, door, device) or [Failure("right", "")]:
            print(f"{door}: {kind} {detail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--programs", type=int, default=2000, help=f"how many, in whole lots of {CHUNK}"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first program")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing new after these")
    parser.add_argument("--doors", nargs="+", choices=DOORS, default=list(DOORS))
    parser.add_argument("--device", default="cpu", help="where all tensors are made: cpu or cuda")
    parser.add_argument(
        "--state", type=Path, default=STATE, help="what was done; delete to restart"
    )
    parser.add_argument("--show", type=int, metavar="SEED", help="judge one program")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.show is not None:
        show(options.show, options.doors, options.device)
        return 0
    state: dict[str, Any] = {"done": [], "classes": {}, "doors": options.doors}
    if options.state.exists():
        state = json.loads(options.state.read_text())
    soak(options, state)
    print("\n".join(table(state)))
    return 1 if state["classes"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
