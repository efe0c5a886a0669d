"""Which parameter or buffer memory belongs to, while modules may still change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.part import TensorShard
from fastinit._fills.region import Region
from fastinit._models.names import Named, named_tensors, parents_of
from fastinit._models.parametrized import Place
from fastinit._models.registrations import Registrations
from fastinit._models.tree import entry_in
from fastinit._recording.graph import Ref, Storage
from fastinit._recording.naming import Names
from fastinit._tensors import is_plain


def memory_of(tensor: Any) -> Tensor | None:
    """Give the memory of this process behind a tensor; None if it is of no kind that is known."""
    if isinstance(tensor, TensorShard):
        return tensor.part.local
    local = getattr(tensor, "_local_tensor", tensor)  # of a DTensor
    known = is_plain(type(local)) and local.layout is torch.strided
    return local if known and extension.storage_address(local) != 0 else None


class NamedMemory:
    """The memory of modules' parameters and buffers, by name.

    Args:
        parts: the modules, whose names are those of one whole.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self._parts = parts
        self._storages: dict[int, Storage] = {}  # by address
        self._names = Names()
        # Who holds it; not the tensors themselves, whose memory may go.
        self._held: dict[tuple[Storage, str], Place] = {}
        self._parents: dict[nn.Module, Place] = {}
        self._changed = Registrations(self._parents, self._parts)
        self.look()

    def close(self) -> None:
        """Look at the modules no more."""
        self._changed.close()

    def find(self, memory: Tensor) -> tuple[Storage, str] | None:
        """Give the storage and the name of a region of memory; None if it has no name here."""
        address, region = extension.storage_address(memory), Region.of(memory)
        found = None if self._changed.some else self._place(address, region)
        if found is None:  # parameters may have come, or have got other memory
            self.look()
            found = self._place(address, region)
        return found

    def known(self, memory: Tensor) -> Storage | None:
        """Give the storage of memory that has a name, or has had one."""
        return self._storages.get(extension.storage_address(memory))

    def holder(self, storage: Storage, name: str) -> Place:
        """Say which module gives what has been found its name, and what that calls it."""
        return self._held[storage, name]

    def everything(self) -> Iterator[tuple[str, Named]]:
        """List the parameters and buffers that there are now, by name."""
        for part in self._parts:
            found = named_tensors(part)
            yield from found.parameters.items()
            yield from found.buffers.items()

    def look(self) -> None:
        """See what has which name now."""
        with torch._C.DisableTorchFunction():  # modes take asking for storages for reading them
            self._look()

    def _look(self) -> None:
        self._names, self._held = Names(), {}
        self._parents.clear()
        self._changed.some = False
        for part in self._parts:
            self._parents.update(parents_of(part))
        # An address is not used again before what was there is let go.
        self._storages = {a: storage for a, storage in self._storages.items() if storage.is_alive}
        for name, named in self.everything():
            memory = memory_of(named.tensor)
            if memory is None:
                continue
            address = extension.storage_address(memory)
            storage = self._storages.get(address)
            if storage is None:
                storage = Storage(memory, known=True)
                self._storages[address] = storage
            self._names.there.add(Ref(storage, Region.of(memory)), name)
            self._held.setdefault((storage, name), named.places[0])

    def _place(self, address: int, region: Region) -> tuple[Storage, str] | None:
        """Find the storage, and the name of a region, if what has it is still there."""
        storage = self._storages.get(address)
        name = None if storage is None else self._names.of(Ref(storage, region))
        if storage is None or name is None:
            return None
        owner, attribute = self._held[storage, name]
        for table in (owner._parameters, owner._buffers):
            memory = memory_of(entry_in(table, attribute))
            if memory is not None and extension.storage_address(memory) == address:
                return (storage, name) if self._is_there(owner) else None
        return None

    def _is_there(self, module: nn.Module) -> bool:
        """Whether a module is still where its name comes from."""
        while module in self._parents:
            parent, segment = self._parents[module]
            if entry_in(parent._modules, segment) is not module:
                return False
            module = parent
        return True
