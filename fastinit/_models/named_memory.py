"""Which parameter or buffer memory belongs to, while modules may still change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.part import TensorShard
from fastinit._fills.region import Region
from fastinit._models import registrations
from fastinit._models.names import Named, named_tensors, parents_of
from fastinit._models.parametrized import Place
from fastinit._models.tree import entry_in, modules_of
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


class _Holder(NamedTuple):
    """What gives memory its name.

    Attributes:
        part: the number of the part.
        owner: the module.
        attribute: what that calls it.
    """

    part: int
    owner: nn.Module
    attribute: str


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
        self._held: dict[tuple[Storage, str], _Holder] = {}
        self._parents: list[dict[nn.Module, Place]] = []  # for each part
        self._family: set[int] = set()  # ids of its modules
        self._stale = False
        registrations.watch(self)
        self.look()

    def close(self) -> None:
        """Look at the modules no more."""
        registrations.close(self)

    def note(self, module: nn.Module, value: Any) -> None:
        """Note that a module gets something: it may be a new name of what has one."""
        if id(module) not in self._family or self._stale:
            return
        if isinstance(value, nn.Module):
            self._stale = id(value) in self._family or any(map(self._knows, _tensors_of(value)))
        else:
            self._stale = self._knows(value)

    def _knows(self, tensor: Any) -> bool:
        memory = memory_of(tensor)
        return memory is not None and extension.storage_address(memory) in self._storages

    def find(self, memory: Tensor) -> tuple[Storage, str] | None:
        """Give the storage and the name of a region of memory; None if it has no name here."""
        address, region = extension.storage_address(memory), Region.of(memory)
        found = None if self._stale else self._place(address, region)
        if found is None:  # parameters may have come, or have got other memory
            self.look()
            found = self._place(address, region)
        return found

    def holds(self, storage: Storage) -> bool:
        """Whether something of a storage is there."""
        return storage in self._names.there

    def part_of(self, storage: Storage, name: str) -> int:
        """Say in which part what has been found is."""
        return self._held[storage, name].part

    def everything(self) -> Iterator[tuple[str, Named]]:
        """List the parameters and buffers that there are now, by name."""
        for _, name, named in self._everything():
            yield name, named

    def _everything(self) -> Iterator[tuple[int, str, Named]]:
        for number, part in enumerate(self._parts):
            for table in named_tensors(part):
                yield from ((number, name, named) for name, named in table.items())

    def look(self) -> None:
        """See what has which name now."""
        with torch._C.DisableTorchFunction():  # modes take asking for storages for reading them
            self._look()

    def _look(self) -> None:
        self._names, self._held, self._stale = Names(), {}, False
        self._parents = [*map(parents_of, self._parts)]
        modules = itertools.chain(self._parts, *self._parents)
        self._family = set(map(id, modules))
        # An address is not used again before what was there is let go.
        self._storages = {a: storage for a, storage in self._storages.items() if storage.is_alive}
        for number, name, named in self._everything():
            memory = memory_of(named.tensor)
            if memory is None:
                continue
            address = extension.storage_address(memory)
            storage = self._storages.get(address)
            if storage is None:
                storage = Storage(memory, known=True)
                self._storages[address] = storage
            self._names.there.add(Ref(storage, Region.of(memory)), name)
            self._held.setdefault((storage, name), _Holder(number, *named.places[0]))

    def _place(self, address: int, region: Region) -> tuple[Storage, str] | None:
        """Find the storage, and the name of a region, if what has it is still there."""
        storage = self._storages.get(address)
        name = None if storage is None else self._names.of(Ref(storage, region))
        if storage is None or name is None:
            return None
        holder = self._held[storage, name]
        for table in (holder.owner._parameters, holder.owner._buffers):
            memory = memory_of(entry_in(table, holder.attribute))
            if memory is not None and extension.storage_address(memory) == address:
                return (storage, name) if self._is_there(holder) else None
        return None

    def _is_there(self, holder: _Holder) -> bool:
        """Whether a module is still where its name comes from."""
        module, parents = holder.owner, self._parents[holder.part]
        while module in parents:
            parent, segment = parents[module]
            if entry_in(parent._modules, segment) is not module:
                return False
            module = parent
        return True


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    for one in modules_of(module):
        for table in (one._parameters, one._buffers):
            yield from (tensor for _, tensor in table.items() if tensor is not None)
