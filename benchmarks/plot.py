"""A picture of a run on a CUDA device: speed over size, and the models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

SIDES = {"native": "torch.nn.init", "fastinit": "fastinit", "memset": "memset"}
COLOURS = {"native": "tab:orange", "fastinit": "tab:blue", "memset": "0.6"}


def _sizes(axes: Any, rows: list[dict[str, Any]], function: str, dtype: str) -> None:
    for side, label in SIDES.items():
        points = [
            (math.prod(row["shape"]), row["contenders"][side]["giga_bytes_per_s"])
            for row in rows
            if row["function"] == function and row["dtype"] == dtype and side in row["contenders"]
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", label=label, color=COLOURS[side], ms=3)
    axes.set(yscale="log", title=f"{function} {dtype}", xlabel="elements")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)


def _models(axes: Any, rows: list[dict[str, Any]]) -> None:
    sides = {"native": "native", "separate": "fastinit, each", "together": "fastinit, one launch"}
    sides["memset"] = "memset"
    width = 0.8 / len(sides)
    for k, (side, label) in enumerate(sides.items()):
        heights = [1e3 * row["contenders"][side]["median_s"] for row in rows]
        places = [n + k * width for n in range(len(rows))]
        axes.bar(places, heights, width, label=label)
    ticks = [n + 0.4 - width / 2 for n in range(len(rows))]
    axes.set_xticks(ticks, [f"{row['model']} {row['dtype']}" for row in rows])
    axes.set(yscale="log", ylabel="ms", title="all parameters of a model")
    axes.legend(fontsize=8)


def draw(numbers: dict[str, Any], facts: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, 4, figsize=(18, 8), layout="constrained")
    rows = numbers.get("sizes", [])
    for line, dtype in zip(grid, ("fp32", "bf16"), strict=True):
        for axes, function in zip(line, ("uniform_", "normal_", "trunc_normal_"), strict=False):
            _sizes(axes, rows, function, dtype)
        line[0].set_ylabel("GB/s")
    grid[0][0].legend(fontsize=8)
    _models(grid[0][3], numbers.get("models", []))
    grid[1][3].axis("off")
    lines = [
        f"{name}: {facts.get(name)}" for name in ("device", "driver", "torch", "commit", "date")
    ]
    grid[1][3].text(0, 0.5, "\n".join(lines), fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
