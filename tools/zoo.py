"""Initialise every model family that builds small in each way, and compare with torch's own.

    make zoo ARGS='--sources transformers timm --out build/zoo'

For each: `patch()`, `materialize` of the factory, `materialize` of the model on the meta device,
and `initialize_`. Compared with three models that torch draws (tests/support/zoo_compare.py) are
names, types, ties, buffers, what is constant (bytes), what is drawn (Kolmogorov and Smirnov), the
forward pass, and two runs with one key. What is not right is looked into: a road that knows
only what modules define may differ from a constructor that does more; it is then compared with
the modules' own methods as torch runs them (zoo_native.py).

Each family is built in a worker with a time limit. OUT.json has every difference, OUT.md the table;
a second run goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from support.zoo_compare import IMPROBABLE, SPREAD  # noqa: E402
from support.zoo_roads import (  # noqa: E402
    CONSTRUCTOR,
    NO_META,
    REFUSED,
    RIGHT,
    ROADS,
    SEEDED,
    WRONG,
    examine,
)
from support.zoo_sources import LIBRARIES, LIMIT, families  # noqa: E402

MEMORY = 12 << 30  # address space of a worker
FAMILIES = 60  # that a worker looks at, before another takes its place
LOST = "lost"  # the worker with it
LATE = "longer than the time limit"

Row = dict[str, Any]


class Late(BaseException):
    """A family takes too long; no handler for errors may take this for one of its own."""


def serve(pipe: Connection, seconds: float) -> None:
    """Look at one family after the other."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _late)
    while True:
        try:
            source, family = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            row = examine(source, family)
        except Late:
            row = {"not built": LATE}
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(row)


def _late(*_: Any) -> None:
    raise Late


def _stop(*_: Any) -> None:
    raise SystemExit(1)


class Worker:
    """A process that may hang or die."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch._dynamo", "scipy.special", "transformers"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, seconds), daemon=True)
        self.process.start()
        theirs.close()
        self.done = 0
        self.task: tuple[str, str] = ("", "")
        self.deadline = 0.0

    def give(self, task: tuple[str, str]) -> None:
        self.task = task
        self.deadline = time.monotonic() + 5 * self.seconds  # beside others; in case it hangs
        self.pipe.send(task)

    def take(self) -> Row | None:
        """Give the row of the last task; None while it runs."""
        if self.pipe.poll():
            try:
                row: Row = self.pipe.recv()
            except EOFError:
                self.process.join()
                return {"not built": f"the process died: {self.process.exitcode}", LOST: True}
            self.done += 1
            return row
        if time.monotonic() > self.deadline:
            return {"not built": LATE, LOST: True}
        return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def look_at(
    tasks: list[tuple[str, str]], processes: int, seconds: float
) -> Iterator[tuple[str, Row]]:
    """Give names and rows, in the order in which they are ready."""
    waiting = iter(tasks)
    workers: list[Worker] = []
    try:
        for task in [task for _, task in zip(range(processes), waiting, strict=False)]:
            workers.append(Worker(seconds))
            workers[-1].give(task)
        while workers:
            wait([worker.pipe for worker in workers], timeout=1)
            for worker in list(workers):
                row = worker.take()
                if row is None:
                    continue
                yield "/".join(worker.task), row
                task = next(waiting, None)
                fresh = worker
                if task is None or LOST in row or worker.done >= FAMILIES:
                    worker.stop()
                    workers.remove(worker)
                    if task is None:
                        continue
                    fresh = Worker(seconds)
                    workers.append(fresh)
                fresh.give(task)
    finally:
        for worker in workers:
            worker.stop()


def commit() -> str:
    """Give the commit of the sources."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "?"


def provenance(rows: dict[str, Row]) -> str:
    """Say which sources and packages this is."""
    counts = Counter(row["commit"] for row in rows.values())
    sources = ", ".join(f"{name} ({count})" for name, count in counts.items())
    versions = []
    for package in dict.fromkeys(name for names in LIBRARIES.values() for name in names):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Models at commit: {sources}. {', '.join(versions)}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


INTRODUCTION = """# Model families

As `make zoo` writes it: model families of seven libraries, built small where their configurations
allow it, initialised on four roads, and compared with three models that torch draws from different
seeds. Compared are the names and their order, types, dtypes, strides, what is tied, every element
on which the three agree (its bits; buffers, too), the distribution of all others, whether
a forward pass gives finite numbers of the same shapes, and two runs with one key (their bits).
Memory is filled with NaNs before each. `materialize` of a module on the meta device and
`initialize_` know only what modules define for themselves, and constructors may do more; where they
differ for that reason, the columns say so:

- **right**: as torch's.
- **own seed**: drawn from a generator that the model seeds itself. The numbers are not torch's, but
  have torch's distribution and are the same for every key.
- **constructor-level**: as torch draws it when all parameters are overwritten with NaN and the
  modules' own methods run natively, children first, then ties are made; a constructor that changes
  its children gives something else.
- **refused**: an error names what none of these methods writes (parameters, buffers, tensors in
  attributes), and that is still NaN, or on the meta device, after that.
- **not on meta**: the constructor itself raises there.
- **wrong**: anything else.
"""


def markdown(rows: dict[str, Row]) -> Iterator[str]:
    """Write the page: how many are right on each road, and what is not."""
    yield INTRODUCTION
    now = commit()
    built = {name: row for name, row in rows.items() if "not built" not in row}
    sources = list(dict.fromkeys(name.partition("/")[0] for name in rows))
    yield (
        f"{len(built)} models built, below {LIMIT // 10**6} M parameters; {len(rows) - len(built)} "
        f"did not. A forward pass was compared for {sum(r['forward'] for r in built.values())}. "
        f"A distribution differs where Kolmogorov and Smirnov's test has p < {IMPROBABLE:g}, or "
        f"logarithms of standard deviations are {SPREAD:g} standard errors apart, with each of "
        f"three keys: there are about a million comparisons. Where torch's own three draws are "
        f"further apart than independent numbers would be, that much is granted. {provenance(rows)}"
        "\n"
    )
    verdicts = (RIGHT, SEEDED, CONSTRUCTOR, REFUSED, NO_META, WRONG)
    yield f"| library | road | {' | '.join(verdicts)} |\n|---|---|{'---:|' * len(verdicts)}"
    for source in sources:
        for road in ROADS:
            mine = [r for n, r in built.items() if n.startswith(f"{source}/")]
            counts = Counter(row[road]["verdict"] for row in mine)
            yield f"| {source} | {road} | {' | '.join(str(counts[v]) for v in verdicts)} |"
    for verdict in (WRONG, SEEDED, NO_META, REFUSED, CONSTRUCTOR):
        yield f"\n## {verdict[0].upper()}{verdict[1:]}\n"
        listed = [
            (name, road, row[road])
            for name, row in sorted(built.items())
            for road in ROADS
            if row[road]["verdict"] == verdict
        ]
        if not listed:
            yield "None."
            continue
        yield "| model | road | first difference |\n|---|---|---|"
        same: dict[tuple[str, str], list[str]] = {}
        for name, road, judged in listed:
            what = re.sub(r"^\w+: fastinit\.\w+: ", "", judged["differences"][0])
            more = f" (+{judged['count'] - 1})" if judged["count"] > 1 else ""
            same.setdefault((name, _cell(what[:140]) + more), []).append(road)
        for (name, text), roads in same.items():
            at = "" if rows[name]["commit"] == now else f" (at {rows[name]['commit']})"
            yield f"| {_short(name)}{at} | {', '.join(roads)} | {text} |"
    yield "\n## Not built\n"
    yield "| model | reason |\n|---|---|"
    for name in sorted(set(rows) - set(built)):
        yield f"| {_short(name)} | {_cell(rows[name]['not built'][:120])} |"


def _short(name: str) -> str:
    source, _, family = name.partition("/")
    return f"{source}/{family.rpartition('.')[2] if source == 'transformers' else family}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--only", nargs="+", help="families with one of these texts in their name")
    parser.add_argument("--again", nargs="*", help="look again at what was this, such as 'wrong'")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="of a CPU that a family may take")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which no more are begun")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "zoo")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    store = options.out.with_suffix(".json")
    rows: dict[str, Row] = json.loads(store.read_text()) if store.exists() else {}
    store.parent.mkdir(parents=True, exist_ok=True)
    for name, row in list(rows.items()):
        verdicts = [row[r]["verdict"] for r in ROADS] if "not built" not in row else ["not built"]
        if set(verdicts) & set(options.again or ()):
            del rows[name]
    tasks = [
        (source, family)
        for source in options.sources
        if all(find_spec(package) for package in LIBRARIES[source])
        for family in families(source)
        if f"{source}/{family}" not in rows
        and (not options.only or any(text in family for text in options.only))
    ]
    now = commit()
    total, end = len(rows) + len(tasks), time.monotonic() + 60 * options.minutes
    for name, row in look_at(tasks, options.processes, options.seconds):
        rows[name] = row | {"commit": now}
        store.write_text(json.dumps(rows, indent=1))
        bad = [r for r in ROADS if row.get(r, {}).get("verdict") == WRONG]
        if bad:
            print(f"wrong: {name}: {', '.join(bad)}: {row[bad[0]]['differences'][0]}", flush=True)
        print(f"{len(rows)} of {total}", end="\r", file=sys.stderr, flush=True)
        if time.monotonic() > end:
            break
    options.out.with_suffix(".md").write_text("\n".join(markdown(rows)) + "\n")
    print(options.out.with_suffix(".md").read_text().partition("\n## ")[0])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
