"""DTensors whose shards are in one memory: tied by `.data`, as parameters that are not sharded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fastinit._compiled import extension
from fastinit._distributed.part import are_divided_alike
from fastinit._fills.region import Region
from fastinit._models.twin import Twin
from fastinit._tensors import is_plain


def place_of(sharded: Any) -> Any:
    """Say where the shard of a DTensor is, whatever it has; None: in no ordinary memory."""
    local = sharded._local_tensor
    if not is_plain(type(local)):
        return None
    return extension.storage_address(local), Region.of(local)


def any_share(sharded: Iterable[Any]) -> bool:
    """Whether some of these DTensors have their shards in one memory; mostly none do."""
    addresses = [extension.storage_address(one._local_tensor) for one in sharded]
    return len(set(addresses)) < len(addresses)


class Tied:
    """The first twin for each place."""

    def __init__(self) -> None:
        self._first: dict[Any, Twin] = {}

    def add(self, twin: Twin) -> None:
        """Note a twin, unless there is one for its place."""
        place = place_of(twin.sharded)
        if place is not None:
            self._first.setdefault(place, twin)

    def get(self, sharded: Any) -> Twin | None:
        """Give the twin of what a DTensor is tied to, if there is one by now."""
        known = self._first.get(place_of(sharded))
        if known is None or not are_divided_alike(known.sharded, sharded):
            return None
        return known if known.tensor.shape == sharded.shape else None


def check_together(where: str, twins: Mapping[str, Twin], sources: Mapping[str, Tensor]) -> None:
    """Refuse to part DTensors that are tied.

    Args:
        where: the function, for messages.
        twins: the twins, by name.
        sources: what is to become their values.

    Raises:
        NotImplementedError: if initialisers have given one of them other memory.
    """
    tied, first = Tied(), dict[int, str]()
    for name, twin in twins.items():
        tied.add(twin)
        known = tied.get(twin.sharded)
        other = name if known is None else first.setdefault(id(known), name)
        memory = {extension.storage_address(sources[n]) for n in (other, name)}
        if len(memory) > 1:
            raise NotImplementedError(
                f"fastinit.{where}: {other} and {name} are DTensors that share memory, and an "
                "initialiser has given one of them other memory; part them before"
            )
