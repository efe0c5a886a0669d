"""Orthogonal matrices and sparse ones: torch.nn.init against fastinit, and the accuracy of both.

``python benchmarks/orthogonal.py`` runs it alone.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import report
import torch
from timing import Contender, Race, run_rounds

import fastinit


@dataclass(frozen=True)
class Case:
    """What is filled. Of a batch, torch fills `sampled` matrices, and its time is scaled up."""

    function: str
    shape: tuple[int, ...]
    batch: int = 0
    sampled: int = 0


CPU = (
    Case("orthogonal_", (1024, 1024)),
    Case("orthogonal_", (2048, 2048)),
    Case("orthogonal_", (512, 512, 3, 3)),
    Case("orthogonal_", (4096, 1024)),
    Case("orthogonal_", (64, 64), batch=4096, sampled=256),
    Case("sparse_", (4096, 4096)),
)
QUICK = (
    Case("orthogonal_", (512, 512)),
    Case("orthogonal_", (1024, 1024)),
    Case("orthogonal_", (64, 64), batch=512, sampled=64),
    Case("sparse_", (1024, 1024)),
)
CUDA = (
    Case("orthogonal_", (4096, 4096)),
    Case("orthogonal_", (1024, 1024), batch=64, sampled=4),
    Case("orthogonal_", (64, 64), batch=4096, sampled=64),
    Case("sparse_", (4096, 4096)),
)
HEADER = [
    "function",
    "tensor",
    "dtype",
    "native s",
    "fastinit s",
    "native/fastinit",
    "of a product",
    "samples",
]
NOTES = [
    "s: median seconds per call. A batch is one call of fastinit and in torch a loop over the "
    "matrices,",
    "timed on some of them. of a product: fastinit's time over that of torch.mm of the tall matrix "
    "and a square one.",
]


class Row:
    """A race of native and fastinit on one case."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        shape = (case.batch, *case.shape) if case.batch else case.shape
        self.tensor = torch.zeros(shape, device=device)
        extra = ", 0.9" if case.function == "sparse_" else ""
        wait = "; torch.cuda.synchronize()" if device.type == "cuda" else ""
        native, ours = getattr(torch.nn.init, case.function), getattr(fastinit, case.function)
        if case.batch:
            contenders = {
                "native": Contender(
                    f"for x in xs: f(x){wait}", f=native, xs=list(self.tensor[: case.sampled]),
                    torch=torch,
                ),
                "fastinit": Contender(
                    f"f(x, batch_dims=1){wait}", f=ours, x=self.tensor, torch=torch
                ),
            }  # fmt: skip
        else:
            contenders = {
                "native": Contender(f"f(x{extra}){wait}", f=native, x=self.tensor, torch=torch),
                "fastinit": Contender(f"f(x{extra}){wait}", f=ours, x=self.tensor, torch=torch),
            }
        order = ["native", "fastinit", "fastinit"]
        if case.function == "orthogonal_" and not case.batch:
            rows, columns = case.shape[0], math.prod(case.shape[1:])
            tall, narrow = max(rows, columns), min(rows, columns)
            a = torch.randn(tall, narrow, device=device)
            b = torch.randn(narrow, narrow, device=device)
            contenders["product"] = Contender(
                f"torch.mm(a, b, out=c){wait}", a=a, b=b, c=torch.empty_like(a), torch=torch
            )
            order += ["product", "product"]
        self.race = Race(contenders, order, minimum=2)
        for contender in contenders.values():  # libraries start up, memory is touched
            if case.batch == 0 or contender is contenders["fastinit"]:
                contender.timer.sample()

    @property
    def native_seconds(self) -> float:
        scale = self.case.batch / self.case.sampled if self.case.batch else 1.0
        return scale * self.race["native"].median

    @property
    def ratio(self) -> float:
        return self.native_seconds / self.race["fastinit"].median

    def cells(self) -> list[str]:
        ours = self.race["fastinit"]
        product = "product" in self.race.contenders
        return [
            self.case.function + (", 0.9" if self.case.function == "sparse_" else ""),
            report.shape_name(self.tensor.shape),
            report.dtype_name(self.tensor.dtype),
            report.figures(self.native_seconds),
            report.figures(ours.median),
            f"{self.ratio:.1f}x",
            f"{self.race.ratio('fastinit', 'product'):.2f}" if product else "",
            f"{len(self.race['native'].samples)}/{len(ours.samples)}",
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "function": self.case.function,
            "tensor": report.shape_name(self.tensor.shape),
            "native_matrices": self.case.sampled or None,
            "ratio": self.ratio,
            "contenders": {name: c.as_dict() for name, c in self.race.contenders.items()},
        }


def expected_seconds(quick: bool) -> float:
    """What the table takes on two cores, warming up and two rounds."""
    return 2.0 if quick else 20.0


def rows(quick: bool, device: torch.device | str = "cpu", headline: bool = False) -> list[Row]:
    """The rows of the table, none of them timed yet; `headline`: the most telling two."""
    where = torch.device(device)
    cases = QUICK if quick else CUDA if where.type == "cuda" else CPU
    if headline:
        cases = (cases[0], next(c for c in cases if c.batch and c.shape == (64, 64)))
    return [Row(case, where) for case in cases]


def table(timed: Sequence[Row]) -> report.Table:
    return report.Table(
        "orthogonal and sparse matrices", HEADER, [row.cells() for row in timed], NOTES
    )


def orthogonality(matrix: torch.Tensor) -> float:
    """|Q^T Q - I| / sqrt(n), Frobenius, in double."""
    q = matrix.double()
    product = q.T @ q
    product.diagonal().sub_(1)
    return float(product.norm()) / math.sqrt(len(product))


def accuracy(sizes: Sequence[int], device: str) -> report.Table:
    """Departure from orthogonality by size: fp32 of both methods and of torch, and fp64."""
    lines = []
    for n in sizes:
        x = torch.empty(n, n, device=device)
        cells = [str(n), f"{orthogonality(fastinit.orthogonal_(x, key=n)):.1e}"]
        few = n <= 4096
        for fill in (
            lambda t: fastinit.orthogonal_(t, key=1, method="qr"),
            torch.nn.init.orthogonal_,
        ):
            cells.append(f"{orthogonality(fill(x)):.1e}" if few else "")
        double = fastinit.orthogonal_(x.double(), key=n) if few else None
        cells.append("" if double is None else f"{orthogonality(double):.1e}")
        lines.append(cells)
        report.progress(f"accuracy at {n}")
    header = ["n", "fp32", 'fp32, method="qr"', "torch, fp32", "fp64"]
    return report.Table("|Q^T Q - I| / sqrt(n)", header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--accuracy", type=int, nargs="*", metavar="N", help="sizes to check")
    options = parser.parse_args()
    if options.accuracy is not None:
        sizes = options.accuracy or [64, 256, 1024, 2048, 4096, 8192]
        print(accuracy(sizes, options.device).text())
        return
    timed = rows(options.quick, options.device)
    start = time.perf_counter()
    run_rounds([r.race for r in timed], rounds=options.rounds, deadline=math.inf,
               progress=report.progress)  # fmt: skip
    print(f"\n{table(timed).text()}\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
