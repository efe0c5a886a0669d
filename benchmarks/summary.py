"""The picture and the table of the README, made from the results that are committed.

    python benchmarks/summary.py        (or `make summary`)

reads ``benchmarks/results``, draws ``docs/speed.svg`` and puts the table between the marks in
``README.md``. Nothing is measured here, and no figure of either is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import figures

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "speed.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Measured:
    """torch and fastinit as text with units, and how many times as fast fastinit is."""

    torch: str
    fastinit: str
    ratio: float

    @property
    def times(self) -> str:
        if self.ratio < 1:
            return f"{self.ratio:.2f}×"
        return f"{self.ratio:.1f}×" if self.ratio < 9.95 else f"{float(f'{self.ratio:.2g}'):.0f}×"


@dataclass(frozen=True)
class Row:
    """A pair of bars of the picture; the small table has those that are `told`."""

    label: str
    cpu: Measured | None
    gpu: Measured | None
    told: bool = False


def by_seconds(native: float, ours: float, ratio: float | None = None) -> Measured:
    """Two times, both in the unit that suits torch's."""
    unit, size = ("s", 1.0) if native >= 1 else ("ms", 1e-3) if native >= 1e-3 else ("µs", 1e-6)
    texts = (f"{figures(seconds / size)} {unit}" for seconds in (native, ours))
    return Measured(*texts, native / ours if ratio is None else ratio)


def one(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    """The only row with these values."""
    [row] = [r for r in rows if all(r.get(name) == value for name, value in wanted.items())]
    return row


def medians(row: dict[str, Any]) -> dict[str, float]:
    return {name: side["median_s"] for name, side in row["contenders"].items()}


def by_time(row: dict[str, Any], ours: str = "fastinit") -> Measured:
    """Of a row whose contenders do the same work."""
    times = medians(row)
    return by_seconds(times["native"], times[ours])


def cpu_fill(rows: list[dict[str, Any]], function: str, dtype: str) -> Measured:
    """Elements per second: torch's truncated normal was timed on a smaller table."""
    row = one(rows, function=function, tensor="embedding", dtype=dtype)
    speeds = (row["contenders"][side]["giga_elements_per_s"] for side in ("native", "fastinit"))
    native, ours = (f"{figures(speed)} G/s" for speed in speeds)
    return Measured(native, ours, row["ratio"])


def gpu_fill(rows: list[dict[str, Any]], function: str, dtype: str) -> Measured:
    row = one(rows, function=function, tensor="2^30", dtype=dtype)
    times = medians(row)
    native, ours = (f"{figures(2**30 / times[s] / 1e9)} G/s" for s in ("native", "fastinit"))
    return Measured(native, ours, row["ratio"])


def matrices(rows: list[dict[str, Any]], tensor: str) -> Measured:
    """Orthogonal matrices; of a batch torch made some, in a loop."""
    row = one(rows, function="orthogonal_", tensor=tensor)
    times = medians(row)
    some = row["native_matrices"]
    native = times["native"] * (int(tensor.partition("x")[0]) / some if some else 1)
    return by_seconds(native, times["fastinit"], row["ratio"])


def read(machine: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / machine / name).read_text())
    return found


CPU = read("amd-epyc-zen3-2-cores", "cpu.json")
GPU = read("nvidia-h200", "gpu.json")
MACHINES = ("two cores of an AMD EPYC", "NVIDIA H200")


def rows() -> Iterator[Row]:
    for dtype in ("fp32", "bf16"):
        for name in ("uniform_", "normal_", "trunc_normal_"):
            fills = cpu_fill(CPU["fills"], name, dtype), gpu_fill(GPU["sizes"], name, dtype)
            yield Row(f"{dtype} `{name}`", *fills, told=True)
    last = {"function": "uniform_", "tensor": "conv, channels_last", "dtype": "fp32"}
    layouts = (by_time(one(run["layouts"], **last)) for run in (CPU, GPU))
    yield Row("fp32 `uniform_`, channels_last", *layouts, told=True)
    small = (by_time(one(run["small_calls"], function="normal_")) for run in (CPU, GPU))
    yield Row("`normal_` on 16 elements", *small)
    one_matrix = matrices(CPU["orthogonal"], "2048x2048"), matrices(GPU["orthogonal"], "4096x4096")
    yield Row("`orthogonal_`, 2048² (H200: 4096²)", *one_matrix, told=True)
    batch = (matrices(run["orthogonal"], "4096x64x64") for run in (CPU, GPU))
    yield Row("`orthogonal_`, 4096 of 64²", *batch)
    sparse = (by_time(one(run["orthogonal"], function="sparse_")) for run in (CPU, GPU))
    yield Row("`sparse_`, 4096²", *sparse)
    model = CPU["model"]
    for step, whole, call in (
        ("initialisation", "in place", "initialize_"),
        ("start_up", "built", "materialize"),
    ):
        yield Row(f"GPT-2 xl {whole}, `patch`", by_time(model[step]), None)
        yield Row(f"GPT-2 xl {whole}, `{call}`", by_time(model[step], call), None, told=True)
    for name, dtype in (("ResNet-50", "fp32"), ("Llama-3-8B", "bf16")):
        launch = by_time(one(GPU["models"], model=name), "together_with_lists")
        yield Row(f"{dtype} {name}, one launch", None, launch, told=name == "Llama-3-8B")


ROWS = list(rows())


def table() -> str:
    """The table of the README, in Markdown."""
    cpu, gpu = MACHINES
    lines = [
        f"| | {cpu}: torch | fastinit | | {gpu}: torch | fastinit | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in ROWS if row.told):
        cells = [row.label]
        for side in (row.cpu, row.gpu):
            cells += [side.torch, side.fastinit, f"**{side.times}**"] if side else ["", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """The README with the table between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def draw(path: Path) -> None:
    """Bars from 1, on a logarithmic axis: how many times as fast as torch."""
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, and nothing of the day or of chance gets into the file.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "fastinit", "font.size": 10.5}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(10, 5.2), facecolor="white")
        panels = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(left=0.29, right=0.97, top=0.86, bottom=0.09, wspace=0.06)
        figure.suptitle("Times as fast as torch.nn.init (more is better, 1 is torch)", fontsize=13)
        for axes, machine, sides in zip(
            panels, MACHINES, ([r.cpu for r in ROWS], [r.gpu for r in ROWS]), strict=True
        ):
            for place, side in enumerate(sides):
                if side is None:
                    continue
                low, high = sorted((1.0, side.ratio))
                colour = "tab:blue" if side.ratio >= 0.995 else "tab:orange"
                axes.barh(place, high - low, left=low, height=0.7, color=colour)
                axes.annotate(
                    side.times, (high, place), (4, 0), textcoords="offset points", va="center"
                )
            axes.axvline(1, color="0.2", linewidth=1)
            axes.set(xscale="log", xlim=(0.4, 12_000), title=machine)
            axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", alpha=0.3)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
        labels = [row.label.replace("`", "") for row in ROWS]
        panels[0].set_yticks(range(len(ROWS)), labels)
        panels[0].invert_yaxis()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    text = path.read_text()  # matplotlib ends lines with blanks
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def main() -> None:
    draw(PICTURE)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))


if __name__ == "__main__":
    main()
