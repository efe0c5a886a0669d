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

from fastinit import _fills, _ops
from fastinit._fills import Fill, Region
from fastinit.key import Key, key_argument


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
    fill: _fills.Recipe | None = None
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


class Names:
    """The names of memory: of whole cells, or of several parameters within one."""

    def __init__(self) -> None:
        self._names: dict[Cell, list[tuple[Region, str]]] = {}

    def __contains__(self, cell: Cell) -> bool:
        return cell in self._names

    def add(self, ref: Ref, name: str) -> None:
        """Name a region, unless it has a name."""
        known = self._names.setdefault(ref.cell, [])
        if all(region != ref.region for region, _ in known):
            known.append((ref.region, name))

    def of(self, ref: Ref) -> str | None:
        """Name what holds a region; the first of the cell if nothing holds all of it."""
        known = self._names.get(ref.cell)
        if not known:
            return None
        if len(known) > 1:
            for region, name in known:
                if region.covers(ref.region):
                    return name
        return known[0][1]

    def with_temporaries(self, entries: Sequence[Entry]) -> Callable[[Entry], str | None]:
        """Name entries by what they write, temporaries by what their values first flow into."""
        flows: dict[Cell, str] = {}

        def name_of(entry: Entry) -> str | None:
            for ref in entry.outputs:
                name = self.of(ref) or flows.get(ref.cell)
                if name is not None:
                    return name
            return None

        for entry in reversed(entries):
            if entry.fill is not None and entry.writes[0].cell in self._names:
                continue  # nothing flows anywhere
            name = name_of(entry)
            if name is not None:
                for cell in entry.cells - self._names.keys():
                    flows[cell] = name
        return name_of


class Keys:
    """Hands out the keys of draws: the n-th computed for a name gets `fold_in(name).fold_in(n)`."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._count: dict[str, int] = {}

    def next(self, name: str) -> Key:
        count = self._count.get(name, 0)
        self._count[name] = count + 1
        return self._key.fold_in(name).fold_in(count)


class Runner:
    """Runs entries on real memory.

    Args:
        keys: where draws get their keys.
        device: where everything goes, or None for where each cell belongs.
        names: of cells; those that have none are named by what they flow into.
        written: told the number of bytes that fills have written, for a progress bar.
        ran: told each entry that is run and the name it runs under.
    """

    # What a draw is called whose values were read before it was known what they are for.
    UNNAMED = "fastinit: read while building"

    def __init__(
        self,
        keys: Keys,
        device: torch.device | None,
        names: Names,
        written: Callable[[int], object] | None = None,
        ran: Callable[[Entry, str], object] | None = None,
    ) -> None:
        self._keys = keys
        self._device = device
        self._names = names
        self._written = written
        self._ran = ran
        self._waiting: list[Fill] = []
        self._waiting_for: set[Cell] = set()

    def place(self, cell: Cell) -> torch.device:
        return self._device or cell.device or torch.device("cpu")

    def storage(self, cell: Cell, itemsize: int = 1) -> torch.UntypedStorage:
        """Give a cell's memory, allocating it if there is none."""
        if cell.real is None:
            size = cell.nbytes
            if cell.dtype is not None:
                size = size // itemsize * cell.dtype.itemsize
            memory = torch.empty(size, dtype=torch.uint8, device=self.place(cell))
            cell.real = memory.untyped_storage()
            _ops.advise_huge_pages(cell.real)
        return cell.real

    def tensor(self, ref: Ref) -> Tensor:
        """Give the real tensor of a reference."""
        region = ref.region
        storage = self.storage(ref.cell, region.dtype.itemsize)
        if ref.cell.dtype is not None:
            region = Region(region.size, region.stride, region.offset, ref.cell.dtype)
        return region.on(storage)

    def run(self, entries: Sequence[Entry], keep: bool = False) -> None:
        """Run all of them. What has no name is let go after its last use, unless told to `keep`."""
        name_of = self._names.with_temporaries(entries)
        last = {cell: k for k, entry in enumerate(entries) for cell in entry.cells}
        with torch.no_grad():
            for k, entry in enumerate(entries):
                name = name_of(entry) or self.UNNAMED
                key = self._keys.next(name) if entry.unkeyed else None
                if self._ran is not None:
                    self._ran(entry, name)
                if entry.fill is not None:
                    self._queue(entry, key)
                    continue
                cells = entry.cells
                if cells & self._waiting_for:
                    self._flush()
                self._call(entry, key)
                for cell in cells:
                    if last[cell] == k and not (keep or cell.known or cell in self._names):
                        cell.real = None
            self._flush()

    def _queue(self, entry: Entry, key: Key | None) -> None:
        (ref,) = entry.writes
        fill = entry.fill
        assert fill is not None
        word = key_argument(key, None, "materialize") if key is not None else fill.key
        self._waiting.append(Fill(self.tensor(ref), fill.kind, fill.args, word or 0))
        self._waiting_for.add(ref.cell)

    def _flush(self) -> None:
        fills, self._waiting, self._waiting_for = self._waiting, [], set()
        _fills.run(fills, self._written)

    def _real(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self.tensor(value)
        if isinstance(value, Held):
            return value.tensor if self._device is None else value.tensor.to(self._device)
        if isinstance(value, (list, tuple)):
            return type(value)([self._real(v) for v in value])
        if isinstance(value, torch.device):
            return self._device or (torch.device("cpu") if value.type == "meta" else value)
        return value

    def _call(self, entry: Entry, key: Key | None) -> None:
        args = self._real(entry.args)
        kwargs = {name: self._real(value) for name, value in entry.kwargs.items()}
        if entry.draws == "key" and key is not None:
            kwargs["key"] = key_argument(key, None, "materialize")
        if entry.draws == "seed" and key is not None:
            device = self.place(next(iter(entry.outputs)).cell)
            indices = [device.index or 0] if device.type != "cpu" else []
            with torch.random.fork_rng(indices, device_type=device.type if indices else "cuda"):
                torch.manual_seed(int(key))
                result = entry.function(*args, **kwargs)
        else:
            result = entry.function(*args, **kwargs)
        if entry.made:
            results, _ = torch.utils._pytree.tree_flatten(result)
            for place, ref in entry.made:
                self._adopt(ref, results[place])

    def _adopt(self, ref: Ref, value: Tensor) -> None:
        """Make a new result the memory of its cell."""
        storage = value.untyped_storage()
        if Region.of(value) == ref.region and storage.nbytes() >= ref.cell.nbytes:
            ref.cell.real = storage
        else:  # laid out otherwise than on the meta device
            self.tensor(ref).copy_(value)


class Coverage:
    """Which parts of cells hold values, while entries pass by."""

    def __init__(self) -> None:
        self._regions: dict[Cell, list[Region]] = {}

    def add(self, entry: Entry) -> None:
        """Count what an entry writes, if what it reads has been written."""
        if any(not self._whole(cell) for cell in entry.reads):
            return
        for ref in entry.outputs:
            if entry.pure or all(ref is not w for w in entry.writes):
                self.mark(ref)

    def mark(self, ref: Ref) -> None:
        """Count a region as written."""
        self._regions.setdefault(ref.cell, []).append(ref.region)

    def _whole(self, cell: Cell) -> bool:
        every = Region((cell.nbytes,), (1,), 0, torch.uint8)
        return self.has(Ref(cell, every))

    def has(self, ref: Ref, before: bool = True) -> bool:
        """Whether all of a region holds values: also those from `before` the first entry?"""
        if (before and ref.cell.known) or ref.region.numel == 0:
            return True
        regions = self._regions.get(ref.cell, [])
        if any(region.covers(ref.region) for region in regions):
            return True
        end, (begin, stop) = -1, ref.region.span
        for low, high in sorted(r.span for r in regions if r.dense):
            if low > max(end, begin):
                break
            end = max(end, high)
        if end >= stop:
            return True
        return bool(regions) and self._counted(ref, regions)

    @staticmethod
    def _counted(ref: Ref, regions: list[Region]) -> bool:
        """Answer element by element, for writes that leave gaps."""
        marks = torch.zeros(ref.cell.nbytes, dtype=torch.bool)
        for region in (*regions, None):
            item = (region or ref.region).dtype.itemsize
            size, stride, offset = (region or ref.region).layout
            bytes_of = marks.as_strided(
                (*size, item), (*(s * item for s in stride), 1), offset * item
            )
            if region is None:
                return bool(bytes_of.all())
            bytes_of.fill_(True)
        raise AssertionError
