"""Fills of single tensors: large tables, non-contiguous layouts, and very small calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import report
import torch
from timing import Contender, Race

import fastinit

RANDOM_FILLS = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
)
SMALL_CALLS = ("uniform_", "normal_", "kaiming_uniform_")


@dataclass(frozen=True)
class Sizes:
    """Shapes to run on; ``native_trunc`` is the table that torch's trunc_normal_ can afford."""

    embedding: tuple[int, ...] = (131072, 2048)
    conv: tuple[int, ...] = (2048, 2048, 3, 3)
    double: tuple[int, ...] = (32768, 2048)
    matrix: tuple[int, ...] = (8192, 2048)
    native_trunc: tuple[int, ...] = (4096, 2048)
    rounds: int = 3
    small_rounds: int = 9
    small_number: int = 5000

    @property
    def arena_bytes(self) -> int:
        """Memory that the largest tensor takes: fp32 tables, and the fp64 one."""
        fp32 = max(math.prod(self.embedding), math.prod(self.conv))
        return max(4 * fp32, 8 * math.prod(self.double))


QUICK = Sizes(
    embedding=(8192, 2048),
    conv=(512, 512, 3, 3),
    double=(2048, 2048),
    matrix=(2048, 2048),
    native_trunc=(512, 2048),
    rounds=2,
    small_rounds=5,
    small_number=2000,
)


class Arena:
    """One block of touched memory that every large tensor is a view of.

    Rows then differ in nothing but shape and dtype, no timed call meets a fresh page, and the
    whole benchmark needs the memory of its largest tensor.
    """

    def __init__(self, nbytes: int, device: str = "cpu") -> None:
        start = time.perf_counter()
        self._bytes = torch.empty(nbytes, dtype=torch.uint8, device=device).fill_(0)
        self.first_touch_bytes_per_s = nbytes / (time.perf_counter() - start)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        nbytes = math.prod(shape) * dtype.itemsize
        return self._bytes[:nbytes].view(dtype).view(shape)

    def channels_last(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        n, c, h, w = shape
        return self.tensor((n, h, w, c), dtype).permute(0, 3, 1, 2)


@dataclass
class FillRow:
    """One line of the main table: a race of native, fastinit and ``fill_`` on the same tensor.

    ``native_numel`` differs from ``numel`` only for trunc_normal_, whose native side runs on a
    smaller table; ``same_table`` names the fastinit contender on that table.
    """

    function: str
    where: str
    tensor: torch.Tensor
    race: Race
    native_numel: int
    same_table: str = "fastinit"

    @property
    def ratio(self) -> float:
        return self.race.ratio("native", self.same_table)

    @property
    def share_of_fill(self) -> float:
        return self.race.ratio("fill", "fastinit")

    def giga(self, name: str) -> float:
        """Median speed of a contender in 1e9 elements per second."""
        numel = self.native_numel if name in ("native", "same_table") else self.tensor.numel()
        return numel / self.race[name].median / 1e9

    @property
    def native_table(self) -> str:
        """What the native time was measured on, where that is not the tensor of the row."""
        same = self.same_table == "fastinit"
        return "" if same else f" on 2^{math.log2(self.native_numel):g}"

    def cells(self) -> list[str]:
        race = self.race
        return [
            self.function,
            self.where,
            report.dtype_name(self.tensor.dtype),
            report.figures(race["native"].median) + self.native_table,
            *(report.figures(race[name].median) for name in ("fastinit", "fill")),
            *(report.figures(self.giga(name)) for name in ("native", "fastinit")),
            f"{self.ratio:.1f}x",
            f"{100 * self.share_of_fill:.0f}%",
            f"{len(race['native'].samples)}/{len(race['fastinit'].samples)}",
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "tensor": self.where,
            "shape": list(self.tensor.shape),
            "dtype": report.dtype_name(self.tensor.dtype),
            "native_numel": self.native_numel,
            "ratio": self.ratio,
            "share_of_fill": self.share_of_fill,
            "contenders": {
                name: contender.as_dict() | {"giga_elements_per_s": self.giga(name)}
                for name, contender in self.race.contenders.items()
            },
        }


FILL_HEADER = [
    "function",
    "tensor",
    "dtype",
    "native s",
    "fastinit s",
    "fill_ s",
    "native G/s",
    "fastinit G/s",
    "native/fastinit",
    "of fill_",
    "samples",
]


def fill_notes(sizes: Sizes) -> list[str]:
    return [
        f"embedding: {report.shape_name(sizes.embedding)}. conv: {report.shape_name(sizes.conv)}. "
        f"Native trunc_normal_ runs on a {report.shape_name(sizes.native_trunc)} table, where "
        "fastinit is",
        "timed too for the ratio; its seconds and G/s are those of the whole tensor. s: median "
        "seconds per call.",
        "G/s: 1e9 elements per second. of fill_: share of the speed of tensor.fill_(0.5). samples: "
        "native/fastinit.",
    ]


def call(module: Any, function: str, tensor: torch.Tensor, number: int = 1) -> Contender:
    """``module.function(tensor)`` as a contender, the attribute look-up left out of the timing."""
    return Contender("f(x)", number=number, f=getattr(module, function), x=tensor)


def _fill_row(
    function: str, where: str, tensor: torch.Tensor, sizes: Sizes, arena: Arena
) -> FillRow:
    native_on, same_table = tensor, "fastinit"
    order = ["native", "fill", "fastinit", "fill", "fastinit"]
    contenders = {
        "fastinit": call(fastinit, function, tensor),
        "fill": Contender("x.fill_(0.5)", x=tensor),
    }
    if function == "trunc_normal_":
        native_on, same_table = arena.tensor(sizes.native_trunc, tensor.dtype), "same_table"
        contenders["same_table"] = call(fastinit, function, native_on)
        order = ["native", "same_table", "fill", "fastinit", "same_table", "fill", "fastinit"]
    contenders["native"] = call(torch.nn.init, function, native_on)
    # one round will do for the conv, and for kaiming and xavier, which repeat uniform and normal
    derived = function.startswith(("kaiming", "xavier"))
    minimum = 1 if derived or where == "conv" else 2
    race = Race(contenders, order, minimum=minimum)
    return FillRow(function, where, tensor, race, native_on.numel(), same_table)


def fill_rows(sizes: Sizes, arena: Arena) -> list[FillRow]:
    """The rows of the main table, none of them timed yet."""
    rows = []
    for label, shape in (("embedding", sizes.embedding), ("conv", sizes.conv)):
        for dtype in (torch.float32, torch.bfloat16):
            tensor = arena.tensor(shape, dtype)
            rows += [_fill_row(f, label, tensor, sizes, arena) for f in RANDOM_FILLS]
    double = arena.tensor(sizes.double, torch.float64)
    where = f"table {report.shape_name(sizes.double)}"
    rows += [_fill_row(f, where, double, sizes, arena) for f in ("uniform_", "normal_")]
    return rows


@dataclass
class LayoutRow:
    """A non-contiguous tensor beside a contiguous one of the same shape and dtype."""

    function: str
    where: str
    tensor: torch.Tensor
    race: Race

    @property
    def of_contiguous(self) -> float:
        """Speed on this layout as a share of the speed on contiguous memory."""
        return self.race.ratio("contiguous", "fastinit")

    def cells(self) -> list[str]:
        race = self.race
        return [
            self.function,
            self.where,
            report.dtype_name(self.tensor.dtype),
            *(report.figures(race[name].median) for name in ("native", "fastinit", "contiguous")),
            report.figures(self.tensor.numel() / race["fastinit"].median / 1e9),
            f"{race.ratio('native', 'fastinit'):.1f}x",
            f"{100 * self.of_contiguous:.0f}%",
            f"{len(race['native'].samples)}/{len(race['fastinit'].samples)}",
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "tensor": self.where,
            "shape": list(self.tensor.shape),
            "strides": list(self.tensor.stride()),
            "dtype": report.dtype_name(self.tensor.dtype),
            "ratio": self.race.ratio("native", "fastinit"),
            "share_of_contiguous": self.of_contiguous,
            "contenders": {name: c.as_dict() for name, c in self.race.contenders.items()},
        }


LAYOUT_HEADER = [
    "function",
    "tensor",
    "dtype",
    "native s",
    "fastinit s",
    "fastinit contiguous s",
    "fastinit G/s",
    "native/fastinit",
    "of contiguous",
    "samples",
]


def layout_rows(
    sizes: Sizes, arena: Arena, make: Callable[..., Contender] = call
) -> list[LayoutRow]:
    """channels_last and transposed tensors, none of them timed yet.

    ``make`` is given a module, the name of a function in it, and a tensor.
    """
    order = ["native", "contiguous", "fastinit", "contiguous", "fastinit"]
    rows = []
    matrix = report.shape_name(sizes.matrix[::-1])
    for dtype, functions in (
        (torch.float32, ("uniform_", "normal_")),
        (torch.bfloat16, ("uniform_",)),
    ):
        for where, tensor in (
            ("conv, channels_last", arena.channels_last(sizes.conv, dtype)),
            (f"{matrix}, transposed", arena.tensor(sizes.matrix, dtype).t()),
        ):
            contiguous = arena.tensor(tuple(tensor.shape), dtype)
            for function in functions:
                contenders = {
                    "native": make(torch.nn.init, function, tensor),
                    "fastinit": make(fastinit, function, tensor),
                    "contiguous": make(fastinit, function, contiguous),
                }
                # torch's strided normal_ takes seconds, and is here for scale only
                race = Race(contenders, order, once=("native",))
                rows.append(LayoutRow(function, where, tensor, race))
    return rows


@dataclass
class SmallRow:
    """The cost of a call, on a tensor too small for the fill itself to matter."""

    function: str
    tensor: torch.Tensor
    race: Race

    def cells(self) -> list[str]:
        race = self.race
        return [
            self.function,
            f"{self.tensor.numel()} elements",
            *(f"{1e6 * race[name].median:.2f}" for name in ("native", "fastinit")),
            f"{race.ratio('fastinit', 'native'):.2f}x",
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "shape": list(self.tensor.shape),
            "fastinit_over_native": self.race.ratio("fastinit", "native"),
            "contenders": {name: c.as_dict() for name, c in self.race.contenders.items()},
        }


SMALL_HEADER = ["function", "tensor", "native us", "fastinit us", "fastinit/native"]


def small_rows(sizes: Sizes, device: str = "cpu") -> list[SmallRow]:
    """Calls on a 4 x 4 fp32 tensor, none of them timed yet."""
    tensor = torch.zeros(4, 4, device=device)
    rows = []
    for function in SMALL_CALLS:
        contenders = {
            "native": call(torch.nn.init, function, tensor, sizes.small_number),
            "fastinit": call(fastinit, function, tensor, sizes.small_number),
        }
        race = Race(contenders, ("native", "fastinit"), minimum=sizes.small_rounds)
        rows.append(SmallRow(function, tensor, race))
    return rows


def warm_up() -> None:
    """Call every function once on a small tensor, so that no first call is timed."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensor = torch.zeros(64, 64, dtype=dtype)
        for function in RANDOM_FILLS:
            getattr(torch.nn.init, function)(tensor)
            getattr(fastinit, function)(tensor)
