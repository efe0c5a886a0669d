"""What `report` shows: its table, and the points of its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastinit._report.moments import Moments
from fastinit._report.report import Report
from fastinit._report.rows import LayerRow, ParameterRow

FOUND = Report(
    [
        ParameterRow(
            "0.weight",
            (3, 4),
            "bfloat16",
            "normal_",
            Moments(0.5, 1.5, -9.0, 9.0),
            Moments(0.25, 1.75, -3.0, 6.0),
            ("written twice", "changed since"),
        ),
        ParameterRow("0.bias", (3,), "float32", "", None, Moments(-2.0, 4.5, -8.0, 7.0), ()),
        ParameterRow("scale", (), "float32", "", None, None, ("never written",)),
    ],
    [LayerRow("", "Linear", (2, 3), 0.125, 2.5), LayerRow("1", "ReLU", (2,), 8.0, 3.5)],
)
TABLE = """\
parameter  shape  dtype     rule     expected mean  std  mean   std  min  max  flags
---------  -----  --------  -------  -------------  ---  ----  ----  ---  ---  ----------------------------
0.weight   3×4    bfloat16  normal_            0.5  1.5  0.25  1.75   -3    6  written twice; changed since
0.bias     3      float32                                  -2   4.5   -8    7
scale      ()     float32                                                      never written

layer         class   output   mean  std
------------  ------  ------  -----  ---
(the module)  Linear  2×3     0.125  2.5
1             ReLU    2           8  3.5"""  # noqa: E501


def test_the_table() -> None:
    assert str(FOUND) == TABLE


def test_the_points_of_the_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[Any] = []
    figure_of = pytest.importorskip("matplotlib.figure").Figure
    monkeypatch.setattr(figure_of, "savefig", lambda self, path: figures.append(self))
    FOUND.plot(tmp_path / "a.png")
    parameters, layers = figures[0].axes
    assert [[*map(list, line.get_data())] for line in parameters.lines] == [
        [[0], [1.5]],
        [[0, 1], [1.75, 4.5]],
    ]
    assert [text.get_text() for text in parameters.get_legend().texts] == ["expected", "measured"]
    assert [*layers.lines[0].get_ydata()] == [2.5, 3.5]
    names = [[text.get_text() for text in axis.get_xticklabels()] for axis in figures[0].axes]
    assert names == [["0.weight", "0.bias", "scale"], ["", "1"]]
