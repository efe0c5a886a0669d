"""From a recording to values: names and keys of draws, and running the operators on real memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import extension
from fastinit._fills.fill import Fill, run_fills
from fastinit._fills.region import Region
from fastinit._recording.graph import Cell, Entry, Held, Ref
from fastinit.key import Key, key_argument

_HUGE = 4 << 20  # bytes, from which huge pages are worth asking for


def advise_huge_pages(storage: torch.UntypedStorage) -> None:
    """Ask for huge pages behind a large storage on the CPU that nothing has touched yet."""
    wanted = os.environ.get("FASTINIT_HUGE_PAGES", "1") != "0"
    if wanted and storage.nbytes() >= _HUGE and storage.device.type == "cpu":
        extension.advise_huge_pages(storage.data_ptr(), storage.nbytes())


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
        self._waiting: list[tuple[Tensor, Fill]] = []
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
            advise_huge_pages(cell.real)
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
        if key is not None:
            fill = fill._replace(key=key_argument(key, None, "materialize"))
        self._waiting.append((self.tensor(ref), fill))
        self._waiting_for.add(ref.cell)

    def _flush(self) -> None:
        fills, self._waiting, self._waiting_for = self._waiting, [], set()
        run_fills(fills, self._written)

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
