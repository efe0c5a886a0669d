"""Measure fastinit against ``torch.nn.init`` and ``fill_``: ``python benchmarks/run.py``.

Prints tables of single-tensor fills, of non-contiguous layouts, of keyed fills, of the cost of a
call, of orthogonal and sparse matrices, and of a real GPT-2 built both ways; exits with 1 when a
parameter of that model is not what it should be.
All contenders of a row are timed in turn in the same process, on memory that is already touched.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()  # before torch, whose import is part of the wait
ROOT = Path(__file__).resolve().parent.parent
if any((ROOT / "fastinit").glob("_C*.so")):  # built in place: measure this checkout
    sys.path.insert(0, str(ROOT))
try:
    import fastinit
except ImportError as error:
    sys.exit(f"fastinit cannot be imported ({error}); `make bench` builds it first")

import keyed  # noqa: E402
import models  # noqa: E402
import orthogonal  # noqa: E402
import provenance  # noqa: E402
import report  # noqa: E402
import tensors  # noqa: E402
import torch  # noqa: E402
import whole  # noqa: E402
from timing import run_rounds  # noqa: E402

CPU = torch.device("cpu")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark fastinit against torch.nn.init.")
    parser.add_argument("--quick", action="store_true", help="small tensors and the smallest GPT-2")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every sample there")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="write the tables there")
    parser.add_argument("--threads", type=int, metavar="N", help="torch.set_num_threads(N)")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="S",
        help="seconds to aim at: slow machines repeat less (default 150; 40 with --quick)",
    )
    parser.add_argument("--no-model", action="store_true", help="skip the GPT-2 part")
    options = parser.parse_args(argv)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.budget is None:
        options.budget = 40.0 if options.quick else 150.0
    return options


class TensorPart:
    """All races on single tensors: a first round to learn the machine's speed, then the rest."""

    def __init__(self, sizes: tensors.Sizes) -> None:
        tensors.warm_up()
        self.sizes = sizes
        self.small = tensors.small_rows(sizes)
        self.arena = tensors.Arena(sizes.arena_bytes)
        self.fills = tensors.fill_rows(sizes, self.arena)
        self.layouts = tensors.layout_rows(sizes, self.arena)
        self.keyed = keyed.rows(lambda dtype: self.arena.tensor(sizes.embedding, dtype), CPU)

    def run(self, rounds: int, deadline: float) -> None:
        races = [row.race for row in (*self.fills, *self.layouts, *self.keyed)]
        run_rounds(races, rounds=rounds, deadline=deadline, progress=report.progress)

    def run_small(self) -> None:
        races = [row.race for row in self.small]
        run_rounds(races, rounds=self.sizes.small_rounds, deadline=math.inf)

    def speeds(self) -> dict[str, float]:
        """Elements per second of fp32 normal_, bytes per second of first-touching memory."""
        normal = next(row for row in self.fills if row.function == "normal_")
        return {
            "native": 1e9 * normal.giga("native"),
            "ours": 1e9 * normal.giga("fastinit"),
            "touch": self.arena.first_touch_bytes_per_s,
        }

    def tables(self) -> list[report.Table]:
        return [
            report.Table(
                "random fills: native (torch.nn.init), fastinit, and fill_ (the memory bound)",
                tensors.FILL_HEADER,
                [row.cells() for row in self.fills],
                tensors.fill_notes(self.sizes),
            ),
            report.Table(
                "layouts: non-contiguous memory, against fastinit on contiguous memory",
                tensors.LAYOUT_HEADER,
                [row.cells() for row in self.layouts],
                ["of contiguous: share of fastinit's speed on the same shape, contiguous."],
            ),
            keyed.table(self.keyed, CPU),
            report.Table(
                "cost of a call, on 16 elements",
                tensors.SMALL_HEADER,
                [row.cells() for row in self.small],
                ["fastinit/native: the cost of a call relative to torch's; lower is better."],
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "fills": [row.as_dict() for row in self.fills],
            "layouts": [row.as_dict() for row in self.layouts],
            "keyed": [row.as_dict() for row in self.keyed],
            "small_calls": [row.as_dict() for row in self.small],
        }


def choose_model(options: argparse.Namespace) -> tuple[models.Choice | None, str]:
    """The model to build, or None and why there is none."""
    if options.no_model:
        return None, "--no-model was given"
    if missing := models.missing_transformers():
        return None, missing
    choice = models.choose(options.quick)
    return choice, "" if choice else "not even gpt2 fits in a third of memory"


def fastinit_facts() -> dict[str, Any]:
    config = fastinit.show_config()
    return {
        "commit": provenance.commit(),
        "fastinit": f"{config.version}, stream version {config.stream_version}",
        "fastinit capability": f"{config.capability} (of {', '.join(config.capabilities)})",
        "fastinit built by": config.built_with.get("compiler", "unknown"),
    }


def show(tables: list[report.Table]) -> None:
    report.progress("")
    for table in tables:
        print(f"\n{table.text()}", flush=True)


def main() -> int:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = report.environment(fastinit_facts())
    disturbance = report.Disturbance()
    print(report.header(facts), flush=True)

    end = START + options.budget
    choice, why_not = choose_model(options)
    part = TensorPart(tensors.QUICK if options.quick else tensors.Sizes())
    part.run_small()
    part.run(1, math.inf)
    reserved = models.expected_seconds(choice, **part.speeds()) if choice else 0.0
    part.run(part.sizes.rounds, end - reserved - orthogonal.expected_seconds(options.quick))
    tables, numbers = part.tables(), part.as_dict()
    show(tables)
    del part  # its arena, so that the model has the memory

    matrices = orthogonal.rows(options.quick)
    run_rounds(
        [row.race for row in matrices],
        rounds=5,
        deadline=end - reserved,
        progress=report.progress,
    )
    tables.append(orthogonal.table(matrices))
    numbers["orthogonal"] = [row.as_dict() for row in matrices]
    show(tables[-1:])
    del matrices

    failures: list[str] = []
    if choice is None:
        print(f"\nGPT-2 part skipped: {why_not}")
        numbers["model"] = {"skipped": why_not}
    else:
        model = whole.WholePart(choice)
        model.run(end)
        show(model.tables())
        tables += model.tables()
        numbers["model"], failures = model.as_dict(), model.failures

    print(f"\n{time.perf_counter() - START:.0f} s in all; {disturbance.text()}")
    if options.json:
        document = {
            "environment": facts,
            "disturbance_in_processors": disturbance.as_dict(),
            **numbers,
            "failures": failures,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown(facts, tables))
    for failure in failures:
        print(f"WRONG: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
