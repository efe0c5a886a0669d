"""Draws into a module's memory, keyed when they are made by the names that it has then."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from fastinit._fills.region import Region
from fastinit._models.checks import check_unsharded
from fastinit._models.fully_sharded import reshard
from fastinit._models.named_memory import NamedMemory
from fastinit._models.names import named_parameters
from fastinit._models.places import memory_of
from fastinit._models.renaming import Renaming
from fastinit._patch.scope import NamedDraw
from fastinit._recording.graph import Ref, Storage
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
        self._given: dict[str, str] = {}  # names by those that keys derive from
        self._live: dict[tuple[int, str], Live] = {}  # by parts and names
        self._of: dict[Storage, list[Live]] = {}  # those of which something may be in it
        for part in parts:
            check_unsharded(part, named_parameters(part), "patch")
        super().__init__(parts)
        try:
            renaming.check(dict.fromkeys(name for name, _ in self.everything()))
            self._warn_of_replicas()
            for part in parts:
                reshard(part)
        except BaseException:
            self.close()
            raise

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
        if memory is None or place is None:
            return None
        storage, name = place
        ref = Ref(storage, Region.of(memory))
        live = self._live.setdefault((self.part_of(storage, name), name), Live())
        number = live.next(ref, over, lambda one: one is storage or self.holds(one))
        key = self._key.fold_in(self._renaming(name)).fold_in(number)
        return NamedDraw(key, lambda: self._made(live, ref, number, over))

    def _made(self, live: Live, ref: Ref, number: int, over: bool) -> None:
        others = self._of.setdefault(ref.storage, [])
        for other in others if over else ():
            other.write_over(ref)
        live.add(ref, number, over)
        if live not in others:
            others.append(live)

    def admits(self, name: str) -> bool:
        """Whether there may be a new name: no other is renamed to the same."""
        if not self._renaming.changes:
            return True
        return self._given.setdefault(self._renaming(name), name) == name

    def look(self) -> None:
        """See what has which name now; those of before count on."""
        super().look()
        if self._renaming.changes:
            names = dict.fromkeys(name for name, _ in self.everything())
            self._renaming.check_distinct(names)
            self._given = {self._renaming(name): name for name in names}
        self._of = {storage: lives for storage, lives in self._of.items() if storage.is_alive}
