"""How many reflections to apply at once: ``python benchmarks/reflections_at_once.py``.

Prints the time of a float32 orthogonal matrix over that of one product (m x n by n x n), by width
of the block and by shape: processor time of one thread, least of some repeats, which other
processes disturb little. The Gaussian is given, so that a copy takes the place of the draws.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import report
import torch

import fastinit

SHAPES = [(512, 512), (1024, 1024), (2048, 2048), (512, 4608), (4096, 1024)]
WIDTHS = [64, 96, 128, 192, 256, 384, 512]


def least_seconds(call: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def row(shape: tuple[int, int], widths: list[int], repeats: int) -> list[str]:
    tensor = torch.empty(shape)
    tall, narrow = max(shape), min(shape)
    a, b, c = torch.randn(tall, narrow), torch.randn(narrow, narrow), torch.empty(tall, narrow)
    product = least_seconds(lambda: torch.mm(a, b, out=c), repeats)
    cells = [report.shape_name(shape)]
    fill = torch.ops.fastinit_testing.orthogonal_from_
    for width in [*widths, 0]:
        fastinit.normal_(tensor, key=1)
        seconds = least_seconds(lambda w=width: fill(tensor, width=w), repeats)
        cells.append(f"{seconds / product:.2f}")
        report.progress(f"{cells[0]}, {width} at once")
    native = least_seconds(lambda: torch.nn.init.orthogonal_(tensor), repeats)
    return [*cells, f"{native / product:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--largest", type=int, default=4096 * 1024, help="elements of a matrix")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shapes = [s for s in SHAPES if s[0] * s[1] <= options.largest]
    lines = [row(shape, options.widths, options.repeats) for shape in shapes]
    header = ["float32", *map(str, options.widths), "chosen", "torch"]
    print(report.Table("time over that of one product", header, lines).text())


if __name__ == "__main__":
    main()
