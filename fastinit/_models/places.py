"""Who holds which memory and which module, as far as that has been told."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.part import TensorShard
from fastinit._models.names import below
from fastinit._models.parametrized import Place
from fastinit._models.tree import entry_in, modules_of
from fastinit._tensors import is_plain

_Places = dict[tuple[int, str], tuple[weakref.ref[nn.Module], str]]


def memory_of(tensor: Any) -> Tensor | None:
    """Give the memory of this process behind a tensor; None if it is of no kind that is known."""
    if isinstance(tensor, TensorShard):
        return tensor.part.local
    local = getattr(tensor, "_local_tensor", tensor)  # of a DTensor
    known = is_plain(type(local)) and local.layout is torch.strided
    return local if known and extension.storage_address(local) != 0 else None


def address_of(tensor: Any) -> int:
    """Give the address of the storage of the memory behind a tensor; 0 if that is not known."""
    memory = memory_of(tensor)
    return 0 if memory is None else extension.storage_address(memory)


def held_at(place: Place, address: int) -> Tensor | None:
    """Give the memory that a module holds in a place if it is of the storage of this address."""
    owner, attribute = place
    for table in (owner._parameters, owner._buffers):
        memory = memory_of(entry_in(table, attribute))
        if memory is not None and extension.storage_address(memory) == address:
            return memory
    return None


class Path(NamedTuple):
    """Where a module is.

    Attributes:
        part: the number of the part.
        name: its name there.
        ids: those of the modules on the way.
    """

    part: int
    name: str
    ids: list[int]


class UntoldError(LookupError):
    """What has been told is not all, or does not say which of several places is the first."""


class Places:
    """What modules hold, with what has been told since; each is looked at again when asked for.

    Weakly: what modules have no more is let go.

    Args:
        parts: the modules, whose names are those of one whole.

    Attributes:
        told: how much has been told.
        new: the ids of modules and the addresses of storages that have been told, and may have
            other places, which nobody has told.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self._parts = parts
        self._modules: dict[int, weakref.ref[nn.Module]] = {}
        self._parents: dict[int, _Places] = {}  # by the ids of children
        self._holders: dict[int, _Places] = {}  # by the addresses of storages
        self._in: dict[tuple[int, str], _Places] = {}  # in which of these a place is
        self.new: set[int] = set()
        for part in parts:
            self._add(part)
        self.new.clear()
        self.told = 0

    def _add(self, root: nn.Module) -> None:
        for module in modules_of(root):
            if self._knows(module):
                continue
            own = self._modules[id(module)] = weakref.ref(module)
            self.new.add(id(module))
            for table in (module._modules, module._parameters, module._buffers):
                for name, value in table.items():
                    self._put((id(module), name), own, value)

    def _knows(self, module: nn.Module) -> bool:
        known = self._modules.get(id(module))
        return known is not None and known() is module

    def _put(self, place: tuple[int, str], owner: weakref.ref[nn.Module], value: Any) -> None:
        if (before := self._in.pop(place, None)) is not None:
            del before[place]
        if isinstance(value, nn.Module):
            those = self._parents.setdefault(id(value), {})
        elif address := address_of(value):
            if address not in self._holders:
                self.new.add(address)
            those = self._holders.setdefault(address, {})
        else:
            return
        those[place] = owner, place[1]
        self._in[place] = those

    def _has(self, value: Any) -> bool:
        if isinstance(value, nn.Module):
            return self._knows(value) and not any(value is part for part in self._parts)
        return address_of(value) in self._holders

    def tell(self, module: nn.Module, name: str, value: Any) -> None:
        """Tell what a module gets, one of these or another that may have come among them untold."""
        own = self._modules[id(module)] if self._knows(module) else None
        if own is None and not self._has(value):
            return
        self.told += 1
        self._put((id(module), name), own or weakref.ref(module), value)
        if own is not None and isinstance(value, nn.Module):
            self._add(value)

    @staticmethod
    def _only(places: _Places | None, is_there: Callable[[Place], bool]) -> Place | None:
        """Give the only place there is; None if there is none."""
        found: Place | None = None
        for known, name in [*places.values()] if places else ():
            owner = known()
            if owner is None:
                continue
            if found is not None or not is_there((owner, name)):
                raise UntoldError
            found = owner, name
        return found

    def holder(self, address: int) -> Place | None:
        """Give the place that holds the memory of an address; None if none is known.

        Raises:
            UntoldError: if there are several, or it has gone from one, which nobody has told.
        """
        return self._only(
            self._holders.get(address), lambda place: held_at(place, address) is not None
        )

    def _parent(self, module: nn.Module) -> Place | None:
        return self._only(
            self._parents.get(id(module)),
            lambda place: entry_in(place[0]._modules, place[1]) is module,
        )

    def path(self, module: nn.Module) -> Path | None:
        """Say where a module is; None if it is in no part.

        Raises:
            UntoldError: if it is in several places, or has gone from one, which nobody has told.
        """
        above: list[Place] = []
        current = module
        while (place := self._parent(current)) is not None:
            if len(above) > len(self._modules):
                raise UntoldError  # parts that hold each other
            above.append(place)
            current = place[0]
        numbers = [k for k, part in enumerate(self._parts) if part is current]
        if not numbers:
            return None
        if any(part is one for one, _ in above[:-1] for part in self._parts) or (
            above and any(part is module for part in self._parts)
        ):
            raise UntoldError
        name = ""
        for parent, segment in reversed(above):
            name = below(name, parent, segment)
        return Path(numbers[0], name, [id(module), *(id(one) for one, _ in above)])
