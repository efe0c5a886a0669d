"""What is asked of the figures on an H200, and what a run found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import report
import torch

AT_LEAST, AT_MOST = ">=", "<="


@dataclass(frozen=True)
class Goal:
    """One figure: where it stands in a run's numbers, and what it should be."""

    what: str
    table: str
    row: dict[str, str]
    figure: str
    relation: str
    limit: float

    def found(self, numbers: dict[str, Any]) -> float | None:
        """The worst figure among the rows that match, or None if there is none."""
        rows = [
            row
            for row in numbers.get(self.table, [])
            if all(str(row.get(name)).startswith(value) for name, value in self.row.items())
        ]
        figures = [row[self.figure] for row in rows if row.get(self.figure) is not None]
        if not figures:
            return None
        return float(min(figures) if self.relation == AT_LEAST else max(figures))

    def met(self, numbers: dict[str, Any]) -> bool | None:
        value = self.found(numbers)
        if value is None:
            return None
        return value >= self.limit if self.relation == AT_LEAST else value <= self.limit


def _fill(what: str, function: str, dtype: str, figure: str, limit: float) -> Goal:
    row = {"function": function, "dtype": dtype, "tensor": "2^30"}
    return Goal(what, "sizes", row, figure, AT_LEAST, limit)


def _orthogonal(tensor: str, limit: float) -> Goal:
    row = {"function": "orthogonal_", "tensor": tensor}
    return Goal(f"orthogonal_ {tensor} over native", "orthogonal", row, "ratio", AT_LEAST, limit)


_TRUNC = 4.0 if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12) else 20.0
GOALS = [
    _fill("fp32 uniform, share of memset", "uniform_", "fp32", "share_of_memset", 0.88),
    _fill("fp32 normal, share of memset", "normal_", "fp32", "share_of_memset", 0.75),
    _fill("bf16 uniform, share of memset", "uniform_", "bf16", "share_of_memset", 0.60),
    _fill("bf16 normal, share of memset", "normal_", "bf16", "share_of_memset", 0.40),
    _fill("fp32 uniform over native", "uniform_", "fp32", "ratio", 1.5),
    _fill("fp32 normal over native", "normal_", "fp32", "ratio", 1.5),
    _fill("bf16 uniform over native", "uniform_", "bf16", "ratio", 2.5),
    _fill("bf16 normal over native", "normal_", "bf16", "ratio", 2.5),
    _fill("fp32 trunc_normal over native", "trunc_normal_", "fp32", "ratio", _TRUNC),
    _fill("bf16 trunc_normal over native", "trunc_normal_", "bf16", "ratio", _TRUNC),
    _orthogonal("4096x4096", 10.0),
    _orthogonal("64x1024x1024", 30.0),
    _orthogonal("4096x64x64", 100.0),
    Goal("ResNet-50 over native", "models", {"model": "ResNet-50"}, "ratio", AT_LEAST, 8.0),
    Goal("Llama-3-8B in memsets", "models", {"model": "Llama-3-8B"}, "over_memset", AT_MOST, 2.5),
    Goal("a small call, in native calls", "small_calls", {}, "fastinit_over_native", AT_MOST, 1.0),
]


def as_dicts(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "what": goal.what,
            "asked": f"{goal.relation} {goal.limit:g}",
            "found": goal.found(numbers),
            "met": goal.met(numbers),
        }
        for goal in GOALS
    ]


def table(numbers: dict[str, Any]) -> report.Table:
    verdicts = {True: "met", False: "NOT MET", None: "not measured"}
    rows = []
    for goal in GOALS:
        value = goal.found(numbers)
        found = "" if value is None else f"{value:.3g}"
        asked = f"{goal.relation} {goal.limit:g}"
        rows.append([goal.what, asked, found, verdicts[goal.met(numbers)]])
    notes = ["The worst of the rows that each is about; fills of 2^30 elements."]
    return report.Table(
        "what is asked of an H200", ["figure", "asked", "found", "verdict"], rows, notes
    )
