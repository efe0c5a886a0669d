"""Keyed fills: torch's own generator with keys (``torch.func._random``) beside fastinit's.

It is experimental there, newer releases have it only, and some of those on CUDA only.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import report
import torch
from timing import Contender, Race

import fastinit

FUNCTIONS = ("uniform_", "normal_")
Make = Callable[[Callable[[torch.Tensor], object], torch.Tensor], Contender]


def by_clock(function: Callable[[torch.Tensor], object], tensor: torch.Tensor) -> Contender:
    return Contender("f(x)", f=function, x=tensor)


def _torchs(device: torch.device) -> dict[str, Callable[[torch.Tensor], object]]:
    """torch's functions with a key bound; raises what torch raises where it has none."""
    random: Any = importlib.import_module("torch.func._random")
    key = random.key(0, device=device)
    bound = {name: functools.partial(getattr(random, name), key) for name in FUNCTIONS}
    for function in bound.values():
        function(torch.empty(4, device=device))
    return bound


def missing(device: torch.device) -> str:
    """Why torch's side cannot be measured here, if so."""
    try:
        _torchs(device)
    except (ImportError, AttributeError):
        return f"torch {torch.__version__} has no torch.func._random"
    except (NotImplementedError, RuntimeError):
        return f"torch {torch.__version__} has no keyed fills on {device.type}"
    return ""


@dataclass
class KeyedRow:
    """One function and dtype, with a key on both sides."""

    function: str
    tensor: torch.Tensor
    race: Race

    def cells(self) -> list[str]:
        race, numel = self.race, self.tensor.numel()
        return [
            self.function,
            report.shape_name(self.tensor.shape),
            report.dtype_name(self.tensor.dtype),
            *(report.figures(numel / race[name].median / 1e9) for name in ("native", "fastinit")),
            f"{race.ratio('native', 'fastinit'):.1f}x",
            f"{len(race['native'].samples)}/{len(race['fastinit'].samples)}",
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "shape": list(self.tensor.shape),
            "dtype": report.dtype_name(self.tensor.dtype),
            "ratio": self.race.ratio("native", "fastinit"),
            "contenders": {name: c.as_dict() for name, c in self.race.contenders.items()},
        }


def rows(
    tensor: Callable[[torch.dtype], torch.Tensor], device: torch.device, make: Make = by_clock
) -> list[KeyedRow]:
    """Both functions in two dtypes, none of them timed yet; nothing where torch lacks them."""
    if missing(device):
        return []
    torchs = _torchs(device)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for name in FUNCTIONS:
            filled = tensor(dtype)
            ours: Any = getattr(fastinit, name)
            contenders = {
                "native": make(torchs[name], filled),
                "fastinit": make(lambda t, f=ours: f(t, key=0), filled),
            }
            race = Race(contenders, ("native", "fastinit", "fastinit"))
            found.append(KeyedRow(name, filled, race))
    return found


HEADER = ["function", "tensor", "dtype", "native G/s", "fastinit G/s", "native/fastinit", "samples"]


def table(found: list[KeyedRow], device: torch.device) -> report.Table:
    """The rows, or the reason for having none."""
    notes = ["native: torch.func._random, which is experimental."]
    if not found:
        notes = [f"left out: {missing(device)}"]
    title = "keyed fills: torch's own generator with keys, and key= of fastinit"
    return report.Table(title, HEADER, [row.cells() for row in found], notes)
