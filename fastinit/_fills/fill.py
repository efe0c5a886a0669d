"""A fill as data, from the call of an operator to the launch of many fills at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from fastinit._compiled import extension, fill_many_op, operator
from fastinit._tensors import DTYPES
from fastinit.key import reserve_word

CONSTANT = "constant_"

# csrc/core/distributions.h, by name and, of those that draw, by operator.
_ROWS = {row["name"]: row for row in extension.distributions()}
DRAWING = {
    operator(name): (name, tuple(row["arguments"].values()))
    for name, row in _ROWS.items()
    if row["random"] and hasattr(torch.ops.fastinit, name)  # words are for tests alone
}
_CODES = {name: row["code"] for name, row in _ROWS.items()}
_ZEROS = (0.0, 0.0, 0.0, 0.0)
_EXACT_INTEGERS = 1 << 53  # of a double, which is how `fill_many_` takes constants


class Fill(NamedTuple):
    """What memory is filled with.

    Attributes:
        distribution: its name, that of an operator; or CONSTANT.
        args: its numbers.
        key: in [-2**63, 2**63); None if it has still to be chosen. Constants have none.
        generator: where it is drawn from, if one was given.
        part: of a larger tensor, of which this is a box: its size, and where in it this begins.
    """

    distribution: str
    args: tuple[float, ...]
    key: int | None = None
    generator: Generator | None = None
    part: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def draws(self) -> bool:
        """Whether it needs a key."""
        return self.distribution != CONSTANT

    def under(self, key: int) -> Fill:
        """Give it this key."""
        return Fill(self.distribution, self.args, key, None, self.part)

    def keyed(self, device: torch.device) -> Fill:
        """Give it a key now, from its generator or else the device's, unless it has one."""
        if not self.draws or self.key is not None:
            return self
        return self.under(reserve_word(device, self.generator))


def _constant(tensor: Tensor, value: Any) -> Fill | None:
    """Understand `fill_`, where `fill_many_` writes the same bytes and torch has no objection."""
    if tensor.dtype not in DTYPES or isinstance(value, (bool, complex, Tensor)):
        return None
    number = float(value) if not isinstance(value, int) or abs(value) < _EXACT_INTEGERS else None
    if number is None or (math.isfinite(number) and abs(number) > torch.finfo(tensor.dtype).max):
        return None
    return Fill(CONSTANT, (number,))


def distribution_of(func: Any) -> str | None:
    """Name what an operator draws; None if it is no draw of a distribution."""
    known = DRAWING.get(func)
    return None if known is None else known[0]


def parse_fill(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Fill | None:
    """Read an operator call as a fill of its first argument; None if it is another operator."""
    if func is torch.ops.aten.zero_.default:
        return _constant(args[0], 0)
    if func is torch.ops.aten.fill_.Scalar:
        return _constant(args[0], args[1])
    known = DRAWING.get(func)
    if known is None:
        return None
    name, defaults = known
    numbers = (*args[1:], *defaults[len(args) - 1 :])  # dispatch leaves out trailing defaults
    return Fill(name, numbers, kwargs.get("key"), kwargs.get("generator"))


BYTES_PER_STEP = 1 << 28  # about a tenth of a second: a progress bar is to move


def steps(
    fills: Iterable[tuple[Tensor, Fill]], nbytes: Callable[[], int]
) -> Iterator[list[tuple[Tensor, Fill]]]:
    """Divide fills into launches, of these many bytes or one fill more."""
    step: list[tuple[Tensor, Fill]] = []
    size = 0
    for tensor, fill in fills:
        step.append((tensor, fill))
        size += tensor.nbytes
        if size >= nbytes():
            yield step
            step, size = [], 0
    if step:
        yield step


def run_fills(fills: Sequence[tuple[Tensor, Fill]]) -> None:
    """Run fills that have their keys, in order where tensors share memory, all others at once."""
    if not fills:
        return
    plan: list[int] = []
    numbers: list[float] = []
    for _, fill in fills:
        plan.append(_CODES[fill.distribution])
        if fill.part is None:
            plan.append(0)
        else:
            size, offset = fill.part
            plan += (len(size), *size, *offset)
        numbers += (fill.args + _ZEROS)[:4]
    with torch._C.DisableTorchFunction(), torch.no_grad():
        fill_many_op([t for t, _ in fills], plan, numbers, [fill.key or 0 for _, fill in fills])
