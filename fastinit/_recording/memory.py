"""The memory that a recording knows: storages by their tensors, and values where asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fills.region import Region
from fastinit._recording.coverage import Coverage
from fastinit._recording.graph import Op, Ref, Storage, dependencies, eliminate_dead
from fastinit._recording.replay import Keys, Names, Runner
from fastinit.key import Key

META = torch.device("meta")


def meta_storage(nbytes: int) -> torch.UntypedStorage:
    """Make a storage without memory."""
    return torch.UntypedStorage(nbytes, device="meta")  # type: ignore[no-untyped-call]


class Memory:
    """What has been recorded so far, and the storages that it is about.

    Args:
        key: the key that draws derive theirs from.
        device: where everything goes in the end, or None for where it was asked for.
        undo: whether `restore` may be asked for.
    """

    def __init__(self, key: Key, device: torch.device | None = None, *, undo: bool = False) -> None:
        self.ops: list[Op] = []
        self.keys = Keys(key)
        self.device = device
        self.names = Names()
        self.coverage = Coverage()
        self.ran: Callable[[Op, str], object] | None = None
        self._storages: dict[int, Storage] = {}  # by address of the storage
        self._undo = undo
        self._before: dict[Storage, Tensor] = {}

    def storage_of(self, tensor: Any) -> Storage | None:
        """Find the storage of a tensor; None if it is not tracked."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return None
        try:
            return self._storages.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # a wrapper without memory of its own
            return None

    def ref(self, tensor: Tensor) -> Ref:
        """Describe a tracked tensor."""
        storage = self.storage_of(tensor)
        assert storage is not None
        return Ref(storage, Region.of(tensor))

    def register(self, untyped: torch.UntypedStorage, storage: Storage) -> Storage:
        """Make a storage of torch's one of this memory's."""
        self._storages[untyped._cdata] = storage
        storage.keep = (storage.keep, untyped)
        return storage

    def track(self, tensor: Tensor) -> Storage:
        """Record what happens to this tensor's memory from now on. A meta tensor has no values."""
        storage = self.storage_of(tensor)
        if storage is None:
            untyped = tensor.untyped_storage()
            device = None if tensor.device.type == "meta" else tensor.device
            storage = self.register(untyped, Storage(untyped.nbytes(), device))
            if device is not None:
                storage.real, storage.known = untyped, True
        return storage

    def meta_copy(self, tensor: Tensor) -> Tensor:
        """Give a meta tensor laid out like this one."""
        if tensor.device.type == "meta":
            return tensor
        with torch._C.DisableTorchFunction():
            copy = torch.empty(0, dtype=tensor.dtype, device=META)
            extent = Region.of(tensor).span[1]
            untyped = meta_storage(extent)
            return copy.set_(untyped, tensor.storage_offset(), tensor.size(), tensor.stride())

    def real(self, tensor: Tensor) -> Tensor:
        """Give a tracked tensor's values, now: run the operators they depend on."""
        ref = self.ref(tensor)
        run = dependencies(self.ops, {ref.storage})
        runner = self.runner()
        if run:
            chosen = set(run)
            self.ops = [op for op in self.ops if op not in chosen]
            for op in run:
                self.coverage.add(op)
                for written in op.writes:
                    self.remember(written.storage)
            touched = {storage for op in run for storage in op.storages}
            with _disable_current_modes():
                runner.run(eliminate_dead(run, touched), keep=True)
        with _disable_current_modes():
            real = runner.tensor(ref)
        self.register(real.untyped_storage(), ref.storage)
        return real

    def remember(self, storage: Storage) -> None:
        """Keep what memory of before the recording holds, which is about to be written early."""
        if (
            self._undo
            and storage.known
            and storage.real is not None
            and storage not in self._before
        ):
            every = Region((storage.nbytes,), (1,), 0, torch.uint8)
            with _disable_current_modes():
                self._before[storage] = every.on(storage.real).clone()

    def restore(self) -> None:
        """Undo what was written early."""
        for storage, captured in self._before.items():
            assert storage.real is not None
            every = Region((storage.nbytes,), (1,), 0, torch.uint8)
            every.on(storage.real).copy_(captured)

    def runner(self) -> Runner:
        """Make what runs operators before the recording has ended."""
        return Runner(self.keys, self.device, self.names, ran=self.ran)
