"""Draws into a module's memory, keyed when they are made by the names that it has then."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from fastinit._fills.region import Region
from fastinit._models.checks import check_unsharded
from fastinit._models.fully_sharded import reshard
from fastinit._models.named_memory import NamedMemory, memory_of
from fastinit._models.names import named_parameters
from fastinit._models.parametrized import Place
from fastinit._models.renaming import Renaming
from fastinit._patch.scope import NamedDraw
from fastinit._recording.graph import Ref
from fastinit._recording.naming import Live
from fastinit._warnings import outside
from fastinit.key import Key


class NamedDraws(NamedMemory):
    """Gives draws the keys of what they are made into: those of `initialize_`.

    Args:
        key: what keys derive from.
        parts: modules, whose names are those of one whole.
        renaming: from names there to those that keys derive from.

    Raises:
        NotImplementedError: if they hold parts of parameters that do not say where they lie.
        ValueError: if two parameters or buffers have the same name.
    """

    def __init__(self, key: Key, parts: Sequence[nn.Module], renaming: Renaming) -> None:
        self._key = key
        self._renaming = renaming
        self._live: dict[tuple[Place, str], Live] = {}
        for part in parts:
            check_unsharded(part, named_parameters(part), "patch")
        super().__init__(parts)
        renaming.check(dict.fromkeys(name for name, _ in self.everything()))
        self._warn_of_replicas()
        for part in parts:
            reshard(part)

    def _warn_of_replicas(self) -> None:
        """Warn of other tensors under one name: parts mostly have names of their own."""
        first: dict[str, Tensor] = {}
        alike = {
            name: None
            for name, named in self.everything()
            if first.setdefault(self._renaming(name), named.tensor) is not named.tensor
        }
        if alike:
            more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
            warnings.warn(
                f"fastinit.patch: argument 'module': parts have different tensors called "
                f"{', '.join([*alike][:3])}{more}, which get the same numbers, as replicas should; "
                "if they are no replicas, the names have to be those of the whole: see 'rename'",
                UserWarning,
                stacklevel=outside(),
            )

    def __call__(self, tensor: Tensor, over: bool = True) -> NamedDraw | None:
        """Say what the next draw into a tensor has; None if it is not of the modules.

        Args:
            tensor: the tensor.
            over: whether what was there is written over.
        """
        memory = memory_of(tensor)
        place = None if memory is None else self.find(memory)
        if memory is None:
            return None
        if place is None:
            self._write_over(memory, over)
            return None
        storage, name = place
        ref = Ref(storage, Region.of(memory))
        live = self._live.setdefault((self.holder(storage, name), name), Live())
        number = live.next(ref, over)
        key = self._key.fold_in(self._renaming(name)).fold_in(number)
        return NamedDraw(key, lambda: live.add(ref, number, over))

    def _write_over(self, memory: Tensor, over: bool) -> None:
        """Note a draw into memory that has no name; it may have had one."""
        storage = self.known(memory) if over else None
        if storage is not None:
            for live in self._live.values():
                live.write_over(Ref(storage, Region.of(memory)))

    def look(self) -> None:
        """See what has which name now; those of before count on."""
        super().look()
        self._renaming.check_distinct(dict.fromkeys(name for name, _ in self.everything()))
