"""What was recorded: operators on memory without values yet, which of them matter, running them.

A `Cell` is the memory of one storage. The tape lists, in order, what happens to cells. Nothing on
it has been computed, so what a later entry overwrites never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastinit._fills.fill import Fill
from fastinit._fills.region import Region


class Cell:
    """The memory of one storage.

    Attributes:
        nbytes: its size.
        device: where it belongs; None if only the caller of `materialize` knows.
        real: the memory itself, once there is some.
        known: whether `real` held values before the first entry of the tape.
        open: whether somebody may hold the memory, so that nothing about it can wait any longer.
        dtype: what to make it of instead of the type it was recorded with.
    """

    __slots__ = ("device", "dtype", "keep", "known", "nbytes", "open", "real")

    def __init__(self, nbytes: int, device: torch.device | None) -> None:
        self.nbytes = nbytes
        self.device = device
        self.real: torch.UntypedStorage | None = None
        self.known = False
        self.open = False
        self.dtype: torch.dtype | None = None
        self.keep: Any = None  # what must live for the storage's address to stay its own


@dataclass(frozen=True)
class Ref:
    """A tensor on the tape: a region of a cell."""

    cell: Cell
    region: Region

    @property
    def whole(self) -> bool:
        """Whether writing it leaves nothing of what the cell held."""
        return self.region.span == (0, self.cell.nbytes) and self.region.dense


class Held:
    """A tensor with values that an entry needs, copied if it is written to before that runs."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(eq=False)
class Entry:
    """One operator call.

    Attributes:
        function: the operator, or one of fastinit's functions.
        args: its arguments, tensors replaced by `Ref` and `Held`.
        kwargs: likewise.
        reads: the cells whose values it needs.
        writes: what it writes in place.
        made: the new tensors among its results, by their place in the flattened result.
        pure: whether what it writes does not depend on what was there.
        fill: what to fill with, if it is no more than a fill.
        draws: how it gets a key: not at all, as `key=`, or by seeding torch.
        label: how to call it in a report.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    reads: tuple[Cell, ...] = ()
    writes: tuple[Ref, ...] = ()
    made: tuple[tuple[int, Ref], ...] = ()
    pure: bool = False
    fill: Fill | None = None
    draws: str = ""
    label: str = ""

    @property
    def outputs(self) -> Iterator[Ref]:
        """Everything it gives values to."""
        yield from self.writes
        for _, ref in self.made:
            yield ref

    @property
    def cells(self) -> set[Cell]:
        """All that it touches."""
        return {ref.cell for ref in self.outputs} | set(self.reads)

    def changes_only(self, cells: set[Cell]) -> bool:
        """Whether all it gives values to lies in these cells."""
        return all(ref.cell in cells for ref in self.outputs)

    @property
    def unkeyed(self) -> bool:
        """Whether it draws and has to be given a key."""
        return bool(self.draws) and (self.fill is None or self.fill.key is None)


def needed(entries: Sequence[Entry], live: Iterable[Cell]) -> list[Entry]:
    """Keep the entries that the values of `live` after the last one depend on, in order."""
    wanted = set(live)
    kept = []
    for entry in reversed(entries):
        outputs = list(entry.outputs)
        if not any(ref.cell in wanted for ref in outputs):
            continue
        kept.append(entry)
        wanted.difference_update(ref.cell for _, ref in entry.made)
        if entry.pure:
            wanted.difference_update(ref.cell for ref in entry.writes if ref.whole)
        wanted.update(entry.reads)
    return kept[::-1]


def entangled(entries: Sequence[Entry], cells: Iterable[Cell]) -> list[Entry]:
    """Keep all entries that must run before the values of `cells` can be read, and stay in order.

    These are the entries that share a cell with one that is kept and comes later.
    """
    touched = set(cells)
    kept = []
    for entry in reversed(entries):
        own = entry.cells
        if own & touched:
            touched |= own
            kept.append(entry)
    return kept[::-1]
