"""Which parameter or buffer memory belongs to, while modules may still change."""

from __future__ import annotations

import operator
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._fills.region import Region
from fastinit._models import registrations
from fastinit._models.names import Named, below, named_tensors, parents_of
from fastinit._models.parametrized import Place
from fastinit._models.places import Places, UntoldError, address_of, held_at, memory_of
from fastinit._models.tree import entry_in, modules_of
from fastinit._recording.graph import Ref, Storage
from fastinit._recording.naming import Names
from fastinit._tensors import PLAIN_TYPES

# Beside one for each module: how much is put down until the modules are looked at again.
_MOST_TOLD = 1000
_TABLES = operator.attrgetter("_parameters", "_buffers")
_CHILDREN = operator.attrgetter("_modules")
_VALUES = operator.methodcaller("values")


class _Holder(NamedTuple):
    """What gives memory its name.

    Attributes:
        part: the number of the part.
        owner: the module; weakly, as it may go.
        attribute: what that calls it.
    """

    part: int
    owner: weakref.ref[nn.Module]
    attribute: str

    @property
    def place(self) -> Place | None:
        """The place; None if the module is gone."""
        owner = self.owner()
        return None if owner is None else (owner, self.attribute)


# By the ids of modules: the module, which one it has its name from, and what that calls it.
_Parents = dict[int, tuple[weakref.ref[nn.Module], weakref.ref[nn.Module], str]]


def _parents_of(part: nn.Module) -> _Parents:
    return {
        id(module): (weakref.ref(module), weakref.ref(parent), segment)
        for module, (parent, segment) in parents_of(part).items()
    }


class NamedMemory:
    """The memory of modules' parameters and buffers, by name.

    To see all of them takes long, so that is not done for each change. What torch's hooks tell of,
    new parameters and modules that come, move or are wrapped, is found by who holds it. Nothing
    tells of the rest: other memory of a parameter, who writes into a module's tables. But then what
    is asked for is held by somebody, and not where it was. That takes a glance at all tables, at
    each draw into memory of which nothing is known.

    Args:
        parts: the modules, whose names are those of one whole.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self._parts = parts
        self._storages: dict[int, Storage] = {}  # by address
        self._names = Names()
        # Who holds it; not the tensors themselves, whose memory may go.
        self._held: dict[tuple[Storage, str], _Holder] = {}
        self._by_name: dict[tuple[int, str], Storage] = {}  # and part
        self._parents: list[_Parents] = []  # for each part
        self._family: set[int] = set()  # ids of its modules
        self._places: Places | None = None  # since something has been told
        registrations.watch(self)
        self.look()

    def close(self) -> None:
        """Look at the modules no more."""
        registrations.close(self)

    def note(self, module: nn.Module, name: str, value: Any) -> None:
        """Note that a module gets something: it may be a new name of what has one."""
        with torch._C.DisableTorchFunction():  # modes take asking for layouts for using them
            if self._places is None:
                if self._family.isdisjoint((id(module), id(value))) and (
                    isinstance(value, nn.Module) or address_of(value) not in self._storages
                ):
                    return
                self._places = Places(self._parts)
            if not self._are_many(self._places):
                self._places.tell(module, name, value)

    def _are_many(self, places: Places) -> bool:
        """Whether so much has been told that a look at everything takes no longer."""
        return places.told > _MOST_TOLD + len(self._family)

    def find(self, memory: Tensor) -> tuple[Storage, str] | None:
        """Give the storage and the name of a region of memory; None if it has no name here."""
        address, region = extension.storage_address(memory), Region.of(memory)
        if self._places is None:
            found = self._place(address, region)
        else:
            found = self._follow(self._places, address)
        if found is None and self._is_held(address):  # nobody has told
            self.look()
            found = self._place(address, region)
        return found

    def holds(self, storage: Storage) -> bool:
        """Whether something of a storage is there."""
        if not storage.is_alive:
            return False
        if self._places is None:
            names = [name for _, name in self._names.there.all_of(storage)]
            if any(self._is_there(self._held[storage, name], storage.address) for name in names):
                return True
        return self._is_held(storage.address)

    def admits(self, name: str) -> bool:
        """Whether there may be a new name, beside those that there are."""
        return True

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

    def _modules(self) -> list[nn.Module]:
        modules = [*chain.from_iterable(map(modules_of, self._parts))]
        if len(self._parts) == 1:
            return modules
        return [*{id(module): module for module in modules}.values()]

    @staticmethod
    def _addresses(modules: Sequence[nn.Module]) -> list[int]:
        """List the addresses of the storages that modules hold; fast, as it is asked often."""
        tables = filter(None, chain.from_iterable(map(_TABLES, modules)))
        tensors = [*chain.from_iterable(map(_VALUES, tables))]
        if PLAIN_TYPES.issuperset(set(map(type, tensors)) - {NoneType}):
            return [*map(extension.storage_address, tensors)]
        with torch._C.DisableTorchFunction():
            return [*map(address_of, tensors)]

    def _is_held(self, address: int) -> bool:
        return address in self._addresses(self._modules())

    def _see_new(self, places: Places) -> None:
        """See which new modules and storages, by ids and addresses, have but one place now."""
        modules = self._modules()
        children = chain.from_iterable(map(_VALUES, filter(None, map(_CHILDREN, modules))))
        times = Counter(chain(map(id, children), self._addresses(modules)))
        places.new = {one for one in places.new if times[one] != 1}

    def look(self) -> None:
        """See what has which name now."""
        with torch._C.DisableTorchFunction():  # modes take asking for storages for reading them
            self._look()

    def _look(self) -> None:
        self._names, self._held, self._by_name, self._places = Names(), {}, {}, None
        self._parents = [*map(_parents_of, self._parts)]
        self._family = {*map(id, self._parts), *chain.from_iterable(self._parents)}
        # An address is not used again before what was there is let go.
        self._storages = {a: storage for a, storage in self._storages.items() if storage.is_alive}
        for number, name, named in self._everything():
            memory = memory_of(named.tensor)
            if memory is not None:
                storage = self._storage_of(memory)
                self._names.there.add(Ref(storage, Region.of(memory)), name)
                holder = _Holder(number, weakref.ref(named.owner), named.attribute)
                self._held.setdefault((storage, name), holder)
                self._by_name.setdefault((number, name), storage)

    def _storage_of(self, memory: Tensor) -> Storage:
        address = extension.storage_address(memory)
        storage = self._storages.get(address)
        if storage is None:
            storage = self._storages[address] = Storage(memory, known=True)
        return storage

    def _place(self, address: int, region: Region) -> tuple[Storage, str] | None:
        """Find the storage, and the name of a region, if what has it is still there."""
        storage = self._storages.get(address)
        name = None if storage is None else self._names.of(Ref(storage, region))
        if storage is None or name is None:
            return None
        return (storage, name) if self._is_there(self._held[storage, name], address) else None

    def _is_there(self, holder: _Holder, address: int) -> bool:
        """Whether memory, and the module that has it, is still where its name comes from."""
        place = holder.place
        if place is None or held_at(place, address) is None:
            return False
        module, parents = place[0], self._parents[holder.part]
        while (known := parents.get(id(module))) is not None and known[0]() is module:
            parent = known[1]()
            if parent is None or entry_in(parent._modules, known[2]) is not module:
                return False
            module = parent
        return module is self._parts[holder.part]

    def _follow(self, places: Places, address: int) -> tuple[Storage, str] | None:
        """Find the storage and its name by who holds it; None if that takes more."""
        if self._are_many(places):
            return None
        try:
            place = places.holder(address)
            memory = None if place is None else held_at(place, address)
            path = None if place is None else places.path(place[0])
            if place is None or memory is None or path is None:
                return None
            name = below(path.name, *place)
            storage, region = self._storage_of(memory), Region.of(memory)
            if self._names.there.held(storage) not in ([], [region]):
                return None  # parts of it have names of their own
            if not (self._is_free(places, path.part, name, place) and self.admits(name)):
                return None
            if not places.new.isdisjoint((address, *path.ids)):
                self._see_new(places)
                if not places.new.isdisjoint((address, *path.ids)):
                    return None
        except UntoldError:
            return None
        self._names.there[storage] = region, name
        self._held[storage, name] = _Holder(path.part, weakref.ref(place[0]), place[1])
        self._by_name[path.part, name] = storage
        return storage, name

    def _is_free(self, places: Places, part: int, name: str, place: Place) -> bool:
        """Whether nothing else has a name."""
        before = self._by_name.get((part, name))
        if before is None:
            return True
        there = self._held[before, name].place
        if there is None or held_at(there, before.address) is None:
            return True
        if there[0] is place[0] and there[1] == place[1]:
            return True
        path = places.path(there[0])
        return path is None or below(path.name, *there) != name
