"""Sets of storages that outlive none of them, and take no later one for one of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import extension

_FEW = 64
_PER_LOOK = 1 << 16  # bytes of new memory that take as long to write as to look at many old ones


class StorageSet:
    """The storages of some tensors, as long as these live.

    An address alone would not do: when a storage has gone, the next may be made where it was.
    """

    def __init__(self) -> None:
        # By address, what keeps it from being used again; it holds no memory, but a little that
        # lies where that was.
        self._holds: dict[int, object] = {}
        self._due = _FEW  # what may still be added before those that have gone are let go

    def add(self, tensor: Tensor) -> None:
        """Add the storage of a tensor, if it has one."""
        address = extension.storage_address(tensor)
        if address == 0 or address in self._holds:
            return
        self._holds[address], _, nbytes, _ = extension.hold_storage(tensor)
        self._due -= 1 + nbytes // _PER_LOOK
        if self._due < 0:
            self._forget_dead()

    def add_all(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self.add(tensor)

    def __contains__(self, tensor: object) -> bool:
        return extension.storage_address(tensor) in self._holds

    def _forget_dead(self) -> None:
        expired: Any = torch.UntypedStorage._expired
        # The list holds them meanwhile: what another thread adds has another address.
        for address, _ in list(self._holds.items()):
            if expired(address):
                self._holds.pop(address, None)
        self._due = len(self._holds) + _FEW
