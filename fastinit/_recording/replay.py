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
from fastinit._recording.graph import Captured, Op, Ref, Storage
from fastinit.key import Key, key_argument

_HUGE = 4 << 20  # bytes, from which huge pages are worth asking for


def advise_huge_pages(untyped: torch.UntypedStorage) -> None:
    """Ask for huge pages behind a large storage on the CPU that nothing has touched yet."""
    wanted = os.environ.get("FASTINIT_HUGE_PAGES", "1") != "0"
    if wanted and untyped.nbytes() >= _HUGE and untyped.device.type == "cpu":
        extension.advise_huge_pages(untyped.data_ptr(), untyped.nbytes())


class Names:
    """The names of memory: of whole storages, or of several parameters within one."""

    def __init__(self) -> None:
        self._names: dict[Storage, list[tuple[Region, str]]] = {}

    def __contains__(self, storage: Storage) -> bool:
        return storage in self._names

    def add(self, ref: Ref, name: str) -> None:
        """Name a region, unless it has a name."""
        known = self._names.setdefault(ref.storage, [])
        if all(region != ref.region for region, _ in known):
            known.append((ref.region, name))

    def of(self, ref: Ref) -> str | None:
        """Name what holds a region; the first of the storage if nothing holds all of it."""
        known = self._names.get(ref.storage)
        if not known:
            return None
        if len(known) > 1:
            for region, name in known:
                if region.covers(ref.region):
                    return name
        return known[0][1]

    def with_temporaries(self, ops: Sequence[Op]) -> Callable[[Op], str | None]:
        """Name operators by what they write, temporaries by what their values first flow into."""
        flows: dict[Storage, str] = {}

        def name_of(op: Op) -> str | None:
            for ref in op.outputs:
                name = self.of(ref) or flows.get(ref.storage)
                if name is not None:
                    return name
            return None

        for op in reversed(ops):
            if op.fill is not None and op.writes[0].storage in self._names:
                continue  # nothing flows anywhere
            name = name_of(op)
            if name is not None:
                for storage in op.storages - self._names.keys():
                    flows[storage] = name
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
    """Runs operators on real memory.

    Args:
        keys: where draws get their keys.
        device: where everything goes, or None for where each storage belongs.
        names: of storages; those that have none are named by what they flow into.
        written: told the number of bytes that fills have written, for a progress bar.
        ran: told each operator that is run and the name it runs under.
    """

    # What a draw is called whose values were read before it was known what they are for.
    UNNAMED = "fastinit: read while building"

    def __init__(
        self,
        keys: Keys,
        device: torch.device | None,
        names: Names,
        written: Callable[[int], object] | None = None,
        ran: Callable[[Op, str], object] | None = None,
    ) -> None:
        self._keys = keys
        self._device = device
        self._names = names
        self._written = written
        self._ran = ran
        self._waiting: list[tuple[Tensor, Fill]] = []
        self._waiting_for: set[Storage] = set()

    def place(self, storage: Storage) -> torch.device:
        return self._device or storage.device or torch.device("cpu")

    def memory(self, storage: Storage, itemsize: int = 1) -> torch.UntypedStorage:
        """Give a storage's memory, allocating it if there is none."""
        if storage.real is None:
            size = storage.nbytes
            if storage.dtype is not None:
                size = size // itemsize * storage.dtype.itemsize
            memory = torch.empty(size, dtype=torch.uint8, device=self.place(storage))
            storage.real = memory.untyped_storage()
            advise_huge_pages(storage.real)
        return storage.real

    def tensor(self, ref: Ref) -> Tensor:
        """Give the real tensor of a reference."""
        region = ref.region
        untyped = self.memory(ref.storage, region.dtype.itemsize)
        if ref.storage.dtype is not None:
            region = Region(region.size, region.stride, region.offset, ref.storage.dtype)
        return region.on(untyped)

    def run(self, ops: Sequence[Op], keep: bool = False) -> None:
        """Run all of them. What has no name is let go after its last use, unless told to `keep`."""
        name_of = self._names.with_temporaries(ops)
        last = {storage: k for k, op in enumerate(ops) for storage in op.storages}
        with torch.no_grad():
            for k, op in enumerate(ops):
                name = name_of(op) or self.UNNAMED
                key = self._keys.next(name) if op.unkeyed else None
                if self._ran is not None:
                    self._ran(op, name)
                if op.fill is not None:
                    self._queue(op, key)
                    continue
                storages = op.storages
                if storages & self._waiting_for:
                    self._flush()
                self._call(op, key)
                for storage in storages:
                    if last[storage] == k and not (keep or storage.known or storage in self._names):
                        storage.real = None
            self._flush()

    def _queue(self, op: Op, key: Key | None) -> None:
        (ref,) = op.writes
        fill = op.fill
        assert fill is not None
        if key is not None:
            fill = fill._replace(key=key_argument(key, None, "materialize"))
        self._waiting.append((self.tensor(ref), fill))
        self._waiting_for.add(ref.storage)

    def _flush(self) -> None:
        fills, self._waiting, self._waiting_for = self._waiting, [], set()
        run_fills(fills, self._written)

    def _real(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self.tensor(value)
        if isinstance(value, Captured):
            return value.tensor if self._device is None else value.tensor.to(self._device)
        if isinstance(value, (list, tuple)):
            return type(value)([self._real(v) for v in value])
        if isinstance(value, torch.device):
            return self._device or (torch.device("cpu") if value.type == "meta" else value)
        return value

    def _call(self, op: Op, key: Key | None) -> None:
        args = self._real(op.args)
        kwargs = {name: self._real(value) for name, value in op.kwargs.items()}
        if op.draws == "key" and key is not None:
            kwargs["key"] = key_argument(key, None, "materialize")
        if op.draws == "seed" and key is not None:
            device = self.place(next(iter(op.outputs)).storage)
            indices = [device.index or 0] if device.type != "cpu" else []
            with torch.random.fork_rng(indices, device_type=device.type if indices else "cuda"):
                torch.manual_seed(int(key))
                result = op.function(*args, **kwargs)
        else:
            result = op.function(*args, **kwargs)
        if op.made:
            results, _ = torch.utils._pytree.tree_flatten(result)
            for place, ref in op.made:
                self._adopt(ref, results[place])

    def _adopt(self, ref: Ref, value: Tensor) -> None:
        """Make a new result the memory of its storage."""
        untyped = value.untyped_storage()
        if Region.of(value) == ref.region and untyped.nbytes() >= ref.storage.nbytes:
            ref.storage.real = untyped
        else:  # laid out otherwise than on the meta device
            self.tensor(ref).copy_(value)
