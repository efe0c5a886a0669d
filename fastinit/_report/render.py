"""A report as a table and as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastinit._report.moments import Moments
from fastinit._report.rows import LayerRow, ParameterRow


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "()"


def _moments(moments: Moments | None) -> list[str]:
    if moments is None:
        return ["", "", "", ""]
    return [_number(x) for x in (moments.mean, moments.std, moments.low, moments.high)]


def _table(header: list[str], rows: list[list[str]], left: set[int]) -> str:
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]

    def line(row: list[str]) -> str:
        cells = [
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def text(parameters: Sequence[ParameterRow], layers: Sequence[LayerRow]) -> str:
    """Lay a report out as text."""
    header = ["parameter", "shape", "dtype", "rule", "expected mean", "std", "mean", "std"]
    header += ["min", "max", "flags"]
    rows = [
        [
            row.name,
            _shape(row.shape),
            row.dtype,
            row.rule,
            *_moments(row.expected)[:2],
            *_moments(row.measured),
            "; ".join(row.flags),
        ]
        for row in parameters
    ]
    parts = [_table(header, rows, {0, 1, 2, 3, 10})]
    if layers:
        header = ["layer", "class", "output", "mean", "std"]
        rows = [
            [name, row.kind, _shape(row.shape), _number(row.mean), _number(row.std)]
            for row in layers
            for name in [row.name or "(the module)"]
        ]
        parts.append(_table(header, rows, {0, 1, 2}))
    return "\n\n".join(parts)


def plot(
    parameters: Sequence[ParameterRow],
    layers: Sequence[LayerRow],
    path: str | os.PathLike[str],
) -> None:
    """Draw a report's standard deviations."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("Report.plot needs matplotlib: pip install matplotlib") from None
    panels = 2 if layers else 1
    count = max(len(parameters), len(layers))
    figure = Figure(figsize=(min(30.0, 5 + 0.15 * count), 4.0 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
    shown = [(k, row) for k, row in enumerate(parameters) if row.measured is not None]
    axes[0].plot(
        [k for k, row in shown if row.expected is not None],
        [row.expected.std for _, row in shown if row.expected is not None],
        "_",
        color="black",
        markersize=9,
        label="expected",
    )
    axes[0].plot(
        [k for k, _ in shown],
        [row.measured.std for _, row in shown if row.measured],
        ".",
        label="measured",
    )
    axes[0].set_title("standard deviation of parameters")
    axes[0].legend()
    names = [row.name for row in parameters]
    if layers:
        axes[1].plot([row.std for row in layers], ".-")
        axes[1].set_title("standard deviation of layers' outputs")
        axes[1].set_yscale("symlog", linthresh=1e-3)
    labels = [names, [row.name for row in layers]]
    for axis, ticks in zip(axes, labels, strict=False):
        if len(ticks) <= 120:
            axis.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=6)
        axis.grid(alpha=0.3)
    figure.savefig(path)
