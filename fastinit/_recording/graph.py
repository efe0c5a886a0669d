"""What was recorded: operators on memory without values yet, which of them matter, running them.

A recording lists, in order, what happens to storages. Nothing in it has been computed, so what a
later operator overwrites never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastinit._fills.fill import Fill
from fastinit._fills.region import Region


class Storage:
    """The memory behind tensors that share it; torch may have two storages for it, one on meta.

    Attributes:
        nbytes: its size.
        device: where it belongs; None if only the caller of `materialize` knows.
        real: the memory itself, once there is some.
        known: whether `real` held values before the first operator.
        escaped: whether somebody may hold the memory, so that nothing about it can wait any longer.
        dtype: what to make it of instead of the type it was recorded with.
    """

    __slots__ = ("device", "dtype", "escaped", "keep", "known", "nbytes", "real")

    def __init__(self, nbytes: int, device: torch.device | None) -> None:
        self.nbytes = nbytes
        self.device = device
        self.real: torch.UntypedStorage | None = None
        self.known = False
        self.escaped = False
        self.dtype: torch.dtype | None = None
        self.keep: Any = None  # what must live for the storage's address to stay its own


@dataclass(frozen=True)
class Ref:
    """A tensor of a recording: a region of a storage."""

    storage: Storage
    region: Region

    @property
    def whole(self) -> bool:
        """Whether writing it leaves nothing of what the storage held."""
        return self.region.span == (0, self.storage.nbytes) and self.region.dense


class Captured:
    """A tensor with values that an operator needs, copied if it is written to before that runs."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(eq=False)
class Op:
    """One operator call.

    Attributes:
        function: the operator, or one of fastinit's functions.
        args: its arguments, tensors replaced by `Ref` and `Captured`.
        kwargs: likewise.
        reads: the storages whose values it needs.
        writes: what it writes in place.
        made: the new tensors among its results, by their place in the flattened result.
        overwrites: whether what it writes does not depend on what was there.
        fill: what to fill with, if it is no more than a fill.
        draws: how it gets a key: not at all, as `key=`, or by seeding torch.
        label: how to call it in a report.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    reads: tuple[Storage, ...] = ()
    writes: tuple[Ref, ...] = ()
    made: tuple[tuple[int, Ref], ...] = ()
    overwrites: bool = False
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
    def storages(self) -> set[Storage]:
        """All that it touches."""
        return {ref.storage for ref in self.outputs} | set(self.reads)

    def changes_only(self, storages: set[Storage]) -> bool:
        """Whether all it gives values to lies in these storages."""
        return all(ref.storage in storages for ref in self.outputs)

    @property
    def unkeyed(self) -> bool:
        """Whether it draws and has to be given a key."""
        return bool(self.draws) and (self.fill is None or self.fill.key is None)


def eliminate_dead(ops: Sequence[Op], live: Iterable[Storage]) -> list[Op]:
    """Keep the operators that the values of `live` after the last one depend on, in order."""
    wanted = set(live)
    kept = []
    for op in reversed(ops):
        outputs = list(op.outputs)
        if not any(ref.storage in wanted for ref in outputs):
            continue
        kept.append(op)
        wanted.difference_update(ref.storage for _, ref in op.made)
        if op.overwrites:
            wanted.difference_update(ref.storage for ref in op.writes if ref.whole)
        wanted.update(op.reads)
    return kept[::-1]


def dependencies(ops: Sequence[Op], storages: Iterable[Storage]) -> list[Op]:
    """Keep all that must run, in order, before the values of `storages` can be read.

    These are the operators that share a storage with one that is kept and comes later.
    """
    touched = set(storages)
    kept = []
    for op in reversed(ops):
        own = op.storages
        if own & touched:
            touched |= own
            kept.append(op)
    return kept[::-1]
