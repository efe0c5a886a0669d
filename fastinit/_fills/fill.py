"""Fills as data: what `batch()` queues and a recording keeps, and how many run at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from fastinit._compiled import fill_many_op, normal_op, trunc_normal_op, uniform_op
from fastinit._fills.region import Region
from fastinit._tensors import DTYPES
from fastinit.key import reserve_word

# In the plan of `fill_many_`.
CONSTANT, UNIFORM, NORMAL, TRUNC_NORMAL = range(4)

_DRAWS: dict[Any, tuple[int, tuple[float, ...]]] = {
    uniform_op: (UNIFORM, (0.0, 1.0)),
    normal_op: (NORMAL, (0.0, 1.0)),
    trunc_normal_op: (TRUNC_NORMAL, (0.0, 1.0, -2.0, 2.0)),
}
_EXACT_INTEGERS = 1 << 53  # of a double, which is how the plan carries constants


class Recipe(NamedTuple):
    """What to fill with: the code of the distribution, its numbers, and the key if given."""

    kind: int
    args: tuple[float, ...]
    key: int | None


@dataclass(frozen=True)
class Call:
    """One operator call that fills `tensor` with draws of one distribution, or with a constant.

    Attributes:
        tensor: what it fills.
        kind: its code in the plan of `fill_many_`.
        args: its numbers.
        key: the key it was given, as the ops take it.
        generator: the generator it was given.
    """

    tensor: Tensor
    kind: int
    args: tuple[float, ...]
    key: int | None = None
    generator: Generator | None = None

    def key_now(self) -> int:
        """Give the key of a draw, reserving one if none was given. Constants have none: 0."""
        if self.kind == CONSTANT:
            return 0
        if self.key is not None:
            return self.key
        return reserve_word(self.tensor.device, self.generator)


def _constant(tensor: Tensor, value: Any) -> Call | None:
    """Understand `fill_`, where `fill_many_` writes the same bytes and torch has no objection."""
    if tensor.dtype not in DTYPES or isinstance(value, (bool, complex, Tensor)):
        return None
    number = float(value) if not isinstance(value, int) or abs(value) < _EXACT_INTEGERS else None
    if number is None or (math.isfinite(number) and abs(number) > torch.finfo(tensor.dtype).max):
        return None
    return Call(tensor, CONSTANT, (number,))


def parse_fill(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Call | None:
    """Read an operator call as a fill; None if it is another operator."""
    if func is torch.ops.aten.zero_.default:
        return _constant(args[0], 0)
    if func is torch.ops.aten.fill_.Scalar:
        return _constant(args[0], args[1])
    known = _DRAWS.get(func)
    if known is None:
        return None
    kind, defaults = known
    numbers = (*args[1:], *defaults[len(args) - 1 :])  # dispatch leaves out trailing defaults
    return Call(args[0], kind, numbers, kwargs.get("key"), kwargs.get("generator"))


@dataclass(frozen=True)
class Fill:
    """A fill that is ready to run: a real tensor, and a key in [-2**63, 2**63)."""

    tensor: Tensor
    kind: int
    args: tuple[float, ...]
    key: int


def _waves(fills: Iterable[Fill]) -> list[list[Fill]]:
    """Split fills so that those of one wave share no memory and order is kept across waves."""
    waves: list[list[Fill]] = []
    written: dict[int, list[tuple[Region, int]]] = {}
    for fill in fills:
        region = Region.of(fill.tensor)
        earlier = written.setdefault(fill.tensor.untyped_storage()._cdata, [])
        wave = 1 + max((at for other, at in earlier if region.meets(other)), default=-1)
        earlier.append((region, wave))
        while wave >= len(waves):
            waves.append([])
        waves[wave].append(fill)
    return waves


def run_fills(fills: Iterable[Fill], written: Callable[[int], object] | None = None) -> None:
    """Run fills in their order: one launch per device where no two of them share memory.

    Args:
        fills: the fills, none of whose tensors is empty or overlaps itself.
        written: told the number of bytes after each launch; launches are then kept small enough
            for a progress bar to move.
    """
    for wave in _waves(fills):
        devices: dict[torch.device, list[Fill]] = {}
        for fill in wave:
            devices.setdefault(fill.tensor.device, []).append(fill)
        for together in devices.values():
            for part in [together] if written is None else _parts(together):
                _launch(part)
                if written is not None:
                    written(sum(f.tensor.numel() * f.tensor.element_size() for f in part))


_BYTES_PER_STEP = 1 << 28  # about a tenth of a second


def _parts(fills: list[Fill]) -> Iterable[list[Fill]]:
    part: list[Fill] = []
    size = 0
    for fill in fills:
        part.append(fill)
        size += fill.tensor.numel() * fill.tensor.element_size()
        if size >= _BYTES_PER_STEP:
            yield part
            part, size = [], 0
    if part:
        yield part


def _launch(fills: list[Fill]) -> None:
    plan: list[int] = []
    numbers: list[float] = []
    for fill in fills:
        plan += (fill.kind, 0)
        numbers += (*fill.args, 0.0, 0.0, 0.0, 0.0)[:4]
    with torch._C.DisableTorchFunction(), torch.no_grad():
        fill_many_op([f.tensor for f in fills], plan, numbers, [f.key for f in fills])
