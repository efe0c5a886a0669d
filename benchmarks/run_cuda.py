"""Measure fastinit on a CUDA device against ``torch.nn.init``, ``fill_`` and memset.

``python benchmarks/run_cuda.py`` prints its tables, and saves after each of them what it has so far
with ``--json``, ``--markdown`` and ``--plot``. ``--headline`` measures what matters most and stops;
a later run on the same sources and device keeps those tables until it has longer ones. ``--quick
--device cpu`` tries it out without a GPU; such figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import device as on_device  # noqa: E402
import keyed  # noqa: E402
import orthogonal  # noqa: E402
import provenance  # noqa: E402
import report  # noqa: E402
import tensors  # noqa: E402
import torch  # noqa: E402
from models import missing_transformers  # noqa: E402
from run import fastinit_facts  # noqa: E402
from timing import Race, run_rounds  # noqa: E402


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark fastinit on a CUDA device.")
    parser.add_argument("--quick", action="store_true", help="small tensors, few rounds")
    parser.add_argument(
        "--headline", action="store_true", help="large fills, Llama-3-8B and orthogonal only"
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try it out")
    parser.add_argument(
        "--budget", type=float, default=300.0, metavar="S", help="seconds to aim at"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every sample there")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="write the tables there")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write a picture there (PNG)")
    return parser.parse_args(argv)


def device_facts(device: torch.device) -> dict[str, Any]:
    facts = {"commit": provenance.commit(), "fastinit CUDA": fastinit_cuda()}
    if device.type != "cuda":
        return facts | {"device": f"{device}: a trial, its figures mean nothing"}
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "device memory": f"{properties.total_memory / report.GIB:.1f} GiB",
        "L2 cache": f"{properties.L2_cache_size / 2**20:.0f} MiB",
        "driver": provenance.driver(),
        "CUDA of torch": torch.version.cuda,
    }


def fastinit_cuda() -> str:
    return str(tensors.fastinit.show_config().built_with.get("cuda"))


class Run:
    """The tables measured so far, and where they are saved."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.scale = on_device.QUICK if options.quick else on_device.Scale()
        if options.headline:
            self.scale = dataclasses.replace(self.scale, models=self.scale.models[-1:])
        self.facts = report.environment(fastinit_facts()) | device_facts(self.device)
        self.tables: dict[str, report.Table] = {}
        self.numbers: dict[str, Any] = {"complete": False}
        if options.json and options.json.exists():
            self.go_on(json.loads(options.json.read_text()))

    def go_on(self, before: dict[str, Any]) -> None:
        """Keep what an earlier run measured, if it measured the same."""
        facts = before.get("environment", {})
        if any(facts.get(name) != self.facts.get(name) for name in ("device", "commit", "torch")):
            return
        self.tables = {name: report.Table(**t) for name, t in before.get("tables", {}).items()}
        self.numbers |= {name: before[name] for name in self.tables if name in before}

    def late(self) -> bool:
        return time.perf_counter() - START > self.options.budget

    def measure(self, races: list[Race]) -> None:
        on_device.measure(races, self.scale.rounds, self.late)

    def add(self, name: str, table: report.Table, rows: list[Any]) -> None:
        report.progress("")
        print(f"\n{table.text()}", flush=True)
        self.tables[name] = table
        self.numbers[name] = [row.as_dict() for row in rows]
        self.save()

    def save(self) -> None:
        if self.options.json:
            tables = {name: dataclasses.asdict(table) for name, table in self.tables.items()}
            document = {"environment": self.facts, **self.numbers, "tables": tables}
            self.options.json.write_text(json.dumps(document, indent=1) + "\n")
        if self.options.markdown:
            page = report.markdown(self.facts, list(self.tables.values()))
            self.options.markdown.write_text(page)

    # ---- the tables -----------------------------------------------------------------------------

    def small_calls(self) -> None:
        sizes = tensors.QUICK if self.options.quick else tensors.Sizes()
        rows = tensors.small_rows(sizes, str(self.device))
        for row in rows:
            for contender in row.race.contenders.values():
                contender.timer.timeit(100)
        for row in rows:
            while row.race.rounds < sizes.small_rounds:
                row.race.round()
        title = "cost of a call, on 16 elements"
        table = report.Table(title, tensors.SMALL_HEADER, [row.cells() for row in rows])
        self.add("small_calls", table, rows)

    def models(self) -> None:
        rows = []
        for name in self.scale.models:
            needed = on_device.model_bytes(name)
            if needed > on_device.free_bytes(self.device):
                print(f"{name} left out: it needs {needed / report.GIB:.0f} GiB of memory")
                continue
            row = on_device.model_row(name, self.device)
            for _ in range(self.scale.rounds):
                row.race.round()
            for contender in row.race.contenders.values():
                del contender.timer  # and with it the tensors
            rows.append(row)
        cells = [row.cells() for row in rows]
        title, notes = "all parameters of a model", on_device.MODEL_NOTES
        self.add("models", report.Table(title, on_device.MODEL_HEADER, cells, notes), rows)

    def whole_models(self) -> None:
        import whole_cuda

        why = missing_transformers()
        if why:
            print(f"whole models left out: {why}")
            return
        titles = whole_cuda.QUICK if self.options.quick else whole_cuda.MODELS
        rounds, rows = min(self.scale.rounds, 5), []
        for title in titles:
            rows.append(whole_cuda.row(title, self.options.quick, self.device, rounds, self.late))
            self.add("whole_models", whole_cuda.table(rows), rows)

    def headline_fills(self) -> None:
        """The three distributions in two types, on an embedding and a convolution."""
        shape = max((self.scale.embedding, self.scale.conv), key=math.prod)
        memory = on_device.Memory(4 * math.prod(shape), self.device)
        rows = on_device.shape_rows(self.scale, memory, on_device.FILLS)
        self.measure([row.race for row in rows])
        self.add("shapes", self.fill_table("fills of large shapes", rows), rows)

    def fill_table(self, title: str, rows: list[on_device.DeviceRow]) -> report.Table:
        cells = [row.cells() for row in rows]
        return report.Table(title, on_device.DEVICE_HEADER, cells, on_device.DEVICE_NOTES)

    def fills(self) -> None:
        """The tables of single tensors; the largest tensor takes what memory there is."""
        largest = max(dtype.itemsize for dtype in on_device.DTYPES) * max(self.scale.sizes)
        free = on_device.free_bytes(self.device)
        memory = on_device.Memory(int(min(largest, 0.9 * free)), self.device)
        for name, title, make in (
            ("shapes", "fills of large shapes", on_device.shape_rows),
            ("sizes", "fills of every type and size", on_device.size_rows),
        ):
            rows = make(self.scale, memory)
            self.measure([row.race for row in rows])
            self.add(name, self.fill_table(title, rows), rows)

    def layouts(self) -> None:
        sizes = tensors.Sizes(conv=self.scale.conv, matrix=self.scale.matrix)
        largest = 4 * max(
            torch.Size(self.scale.conv).numel(), torch.Size(self.scale.matrix).numel()
        )
        arena = tensors.Arena(largest, str(self.device))
        rows = tensors.layout_rows(sizes, arena, on_device.make_queued)
        self.measure([row.race for row in rows])
        title = "layouts: non-contiguous memory, against fastinit on contiguous memory"
        self.add(
            "layouts",
            report.Table(title, tensors.LAYOUT_HEADER, [row.cells() for row in rows]),
            rows,
        )

    def keyed(self) -> None:
        def queued(function: Any, tensor: torch.Tensor) -> Any:
            return on_device.queued(function, [tensor], device=self.device)

        shape = self.scale.matrix
        arena = tensors.Arena(4 * torch.Size(shape).numel(), str(self.device))
        rows = keyed.rows(lambda dtype: arena.tensor(shape, dtype), self.device, queued)
        self.measure([row.race for row in rows])
        self.add("keyed", keyed.table(rows, self.device), rows)

    def orthogonal(self) -> None:
        rows = orthogonal.rows(self.options.quick, self.device, self.options.headline)
        run_rounds(
            [row.race for row in rows],
            rounds=self.scale.rounds,
            deadline=START + self.options.budget,
            progress=report.progress,
        )
        self.add("orthogonal", orthogonal.table(rows), rows)


def main() -> int:
    options = parse()
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device; `--quick --device cpu` tries the benchmark out")
    run = Run(options)
    print(report.header(run.facts), flush=True)
    parts = [run.small_calls, run.models, run.fills, run.layouts, run.keyed, run.orthogonal]
    parts += [run.whole_models]
    if options.headline:
        parts = [run.headline_fills, run.models, run.orthogonal]
    for part in parts:
        part()
    import goals

    table = goals.table(run.numbers)
    print(f"\n{table.text()}")
    run.tables["goals"] = table
    run.numbers |= {"goals": goals.as_dicts(run.numbers), "complete": not options.headline}
    run.save()
    if options.plot:
        import plot

        plot.draw(run.numbers, run.facts, options.plot)
    print(f"\n{time.perf_counter() - START:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
