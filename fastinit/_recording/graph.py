"""What has been done to memory: storages, the operators on them, and which of these matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fastinit._compiled import extension
from fastinit._fills.elements import made_of_bytes
from fastinit._fills.fill import Fill
from fastinit._fills.region import Region
from fastinit._fills.spans import Spans


class Storage:
    """Memory that tensors share.

    Attributes:
        address: that of torch's storage, `_cdata`.
        nbytes: how large it was when it was first met.
        pending: what waits to be done to it, in order.
        guarded: whether whoever reaches the memory past torch's dispatcher gets an error.
        watched: by what it can be told if somebody has, or None; see `Memory.set_watchpoint`.
        escaped: whether somebody may hold its address, so that nothing about it can wait.
        known: whether it held values before it was first met, which count.
        outside: whether there was such memory before.
        followed: whether it was that of a parameter or buffer.
        drawn: whether values in it depend on a draw.
        poison: what its memory held when somebody got hold of it who may have written there.
        word: in words of how many bytes that is compared.
    """

    __slots__ = (
        "_hold",
        "_only",
        "_written",
        "address",
        "drawn",
        "escaped",
        "followed",
        "guarded",
        "known",
        "nbytes",
        "outside",
        "pending",
        "poison",
        "stands_in",
        "watched",
        "word",
    )

    def __init__(self, tensor: torch.Tensor, *, known: bool) -> None:
        # Weakly: the memory goes when its last tensor does. Its address is not used again as long
        # as this is held, so it can be told from other storages by it.
        self._hold: object
        self._hold, self.address, self.nbytes, resizable = extension.hold_storage(tensor)
        self.pending: list[Op] = []
        self.guarded = False
        self.watched: object | None = None
        # It is NumPy's, too, or somebody else's, whom nothing tells to wait.
        self.escaped = not resizable
        self.known = known
        self.outside = False
        self.followed = False
        # Of most storages one region is all that is ever written.
        self._only: Region | None = None
        self._written: Spans | None = None
        self.drawn = False
        self.poison: torch.Tensor | None = None
        self.stands_in = False  # for memory that may be on another device
        self.word = 4

    def forget(self) -> None:
        """Let its address go, as no tensor has it any more."""
        self._hold = None

    def alive(self) -> torch.UntypedStorage | None:
        """Give the storage if a tensor still has it."""
        if self._hold is None:
            return None
        new: Any = torch.UntypedStorage._new_with_weak_ptr
        storage: torch.UntypedStorage | None = new(self.address)
        return storage

    def tensor(self, region: Region) -> torch.Tensor | None:
        """Make the tensor of a region of it; None if no other has it any more."""
        return extension.tensor_on(self.address, region.layout) if self._hold is not None else None

    @property
    def is_alive(self) -> bool:
        """Whether a tensor still has it."""
        expired: Any = torch.UntypedStorage._expired
        return self._hold is not None and not expired(self.address)

    @property
    def written(self) -> Spans:
        """The bytes that have values, or will have them when nothing is pending."""
        if self._written is None:
            self._written = Spans()
            if self._only is not None:
                self._written.add_region(self._only)
                self._only = None
        return self._written

    @written.setter
    def written(self, spans: Spans) -> None:
        self._only, self._written = None, spans

    def write(self, region: Region) -> None:
        """Count the elements of a region as written."""
        if self._written is None and (self._only is None or self._only is region):
            self._only = region
        else:
            self.written.add_region(region)

    def marks(self, region: Region, *, removes: bool = False) -> list[torch.Tensor]:
        """Give marks of the elements of a region that have values; see `Spans.views`."""
        return self.written.views(region, max(self.nbytes, region.span[1]), removes=removes)

    @property
    def is_full(self) -> bool:
        """Whether every byte has a value, or will have one."""
        untyped = self.alive()
        return untyped is None or self.known or self.written.covers(0, untyped.nbytes())

    def has_values(self, region: Region) -> bool:
        """Whether every element of a region has a value, or will have one."""
        if self.known or region is self._only or region.numel == 0:
            return True
        return self.written.covers_region(region)


class Ref:
    """A tensor of a recording: a region of a storage."""

    __slots__ = ("region", "storage")

    def __init__(self, storage: Storage, region: Region) -> None:
        self.storage = storage
        self.region = region


class Op:
    """Something that was done to memory, or is to be done.

    Attributes:
        label: what to call it in a report.
        operator: its name, if the label is another's: a rule's, say.
        numbers: what it was given, for a report.
        reads: what it needs the values of.
        writes: what it gives values to.
        position: where it stands among all that was done.
        overwrites: whether these do not depend on what was there.
        elementwise: whether each element that it writes depends on one of each thing it reads.
        fill: what to fill with, if it is a fill.
        run: for what else can wait: `run(tensor, key)` does it to what it writes.
        shards: whether `run` takes what stands for a shard of a tensor, too.
        together: whether all ranks that share the tensor are to do it together.
        draw: which draw of the recording it is, if its key is still to be chosen or was chosen
            here.
        original: what it is a copy of, for other memory.
        key: the key it has run with, or is to run with.
        ran: whether it has been done.
        read: whether somebody wanted to know a value, so that it matters whatever comes later.
    """

    __slots__ = (
        "draw",
        "elementwise",
        "fill",
        "key",
        "label",
        "numbers",
        "operator",
        "original",
        "overwrites",
        "position",
        "ran",
        "read",
        "reads",
        "run",
        "shards",
        "together",
        "writes",
    )

    def __init__(
        self,
        label: str,
        reads: Sequence[Ref] = (),
        writes: Sequence[Ref] = (),
        *,
        numbers: Sequence[Any] = (),
        overwrites: bool = False,
        fill: Fill | None = None,
        run: Callable[[torch.Tensor, int | None], Any] | None = None,
        shards: bool = False,
        together: bool = False,
        operator: str = "",
        draw: Any = None,
        key: int | None = None,
        ran: bool = True,
        read: bool = False,
    ) -> None:
        self.label = label
        self.reads = reads
        self.writes = writes
        self.numbers = numbers
        self.overwrites = overwrites
        self.fill = fill
        self.run = run
        self.shards = shards
        self.together = together
        self.operator = operator
        self.draw = draw
        self.elementwise = False
        self.original: Op | None = None
        self.position = 0
        self.key = key
        self.ran = ran
        self.read = read

    @property
    def function(self) -> str:
        """What it was done by, whatever it is called in a report."""
        return self.fill.distribution if self.fill is not None else self.operator or self.label

    @property
    def ancestors(self) -> Iterator[Op]:
        """What it is a copy of, and what that is one of, to the first."""
        op = self.original
        while op is not None:
            yield op
            op = op.original


def without_dead(
    ops: Sequence[Op],
    live: Callable[[Storage], bool],
    *,
    looked_at: bool = True,
    held: Callable[[Storage], Sequence[Region]] | None = None,
    in_place: bool = False,
) -> list[Op]:
    """Keep what the values after the last operator depend on, or somebody has read, in order.

    Args:
        ops: in the order in which they were called.
        live: whether somebody may want the values of a storage after the last one.
        looked_at: whether what somebody has read counts, although it is overwritten.
        held: which regions of such a storage he may want, if not all.
        in_place: whether only what has written there counts, and not what that depends on.
    """
    # Of most storages one fill of them is all there is: what stands for "all but this region" is
    # the region then, until somebody asks for more.
    found: dict[Storage, Spans | Region] = {}

    def wanted(storage: Storage) -> Spans:
        spans = found.get(storage)
        if not isinstance(spans, Spans):
            region = spans
            spans = found[storage] = Spans(0, _ALL if held is None and live(storage) else 0)
            for one in () if held is None else held(storage):
                spans.add_region(one)
            if region is not None:
                spans.remove_region(region)
        return spans

    kept = []
    for op in reversed(ops):
        if op.overwrites and len(op.writes) == 1 and not op.reads:
            ref = op.writes[0]
            first = ref.storage not in found and live(ref.storage)
            # What is held of a storage is asked for once: it may be long.
            if first and (held is None or any(ref.region is one for one in held(ref.storage))):
                found[ref.storage] = ref.region
                kept.append(op)
                continue
        needed = op.read and looked_at
        for ref in op.writes:
            needed = needed or wanted(ref.storage).meets_region(ref.region)
        if not needed:
            continue
        kept.append(op)
        parts: list[tuple[int, int]] | None = None
        to = op.writes[0] if op.elementwise and len(op.writes) == 1 else None
        if to is not None:
            parts = _parts(wanted(to.storage), to.region)
        if op.overwrites:
            for ref in op.writes:
                wanted(ref.storage).remove_region(ref.region)
        for ref in () if in_place else op.reads:
            of = [ref.region]
            if to is not None and parts is not None:
                of = made_of_bytes(parts, to.region, ref.region)
            for region in of:
                wanted(ref.storage).add_around(region)
    return kept[::-1]


def _parts(wanted: Spans, region: Region) -> list[tuple[int, int]] | None:
    """List what of a region is wanted; None if all of it is, or what is scattered."""
    if region.runs is None or (parts := wanted.within(*region.span)) is None:
        return None
    return None if wanted.covers_region(region) else parts


def needed_of(storage: Storage) -> list[Op]:
    """List what waits for a storage, but for what is overwritten before anybody sees it."""
    pending = storage.pending
    return without_dead(pending, lambda _: True) if len(pending) > 1 else pending.copy()


_ALL = 1 << 62
