"""Names of memory, and the keys that draws get by them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from fastinit._fills.by_region import ByRegion
from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._recording.graph import Ref, Storage
from fastinit.key import Key, key_of

# What a draw is called that nothing with a name depends on.
UNNAMED = "fastinit: read while building"


class _Within(ByRegion[str]):
    """The names of the regions of one storage."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Region, str] = {}  # what has been asked for, until there are more

    def add(self, region: Region, name: str) -> None:
        if self.get(region) is None:
            self.put(region, name)
            self._known.clear()

    def of(self, region: Region) -> str:
        """Name the first that a region meets; the first of the storage if it meets none."""
        name = self.get(region) or self._known.get(region)
        if name is None:
            met = self.meeting(region)
            name = self._known[region] = met[0][1] if met else self.first()
        return name


def _cover(named: Iterable[tuple[Region, str]], region: Region) -> bool:
    spans = Spans()
    for one, _ in named:
        spans.add_region(one)
    return spans.covers_region(region)


class _Table(dict[Storage, tuple[Region, str] | _Within]):
    """Names of regions, by storage; most storages have but one."""

    def add(self, ref: Ref, name: str) -> None:
        """Name a region, unless it has a name."""
        found = self.get(ref.storage)
        if found is None:
            self[ref.storage] = ref.region, name
        elif isinstance(found, _Within):
            found.add(ref.region, name)
        elif found[0] != ref.region:
            within = self[ref.storage] = _Within()
            within.add(*found)
            within.add(ref.region, name)

    def of(self, ref: Ref) -> str | None:
        """Name what a region meets, or else the storage; None if nothing in that has a name."""
        found = self.get(ref.storage)
        if type(found) is tuple:
            return found[1]
        return None if found is None else found.of(ref.region)  # type: ignore[union-attr]

    def meets(self, ref: Ref) -> bool:
        """Whether some of a region has a name."""
        found = self.get(ref.storage)
        if found is None:
            return False
        if isinstance(found, _Within):
            return len(found.meeting(ref.region)) > 0
        return found[0].meets(ref.region)

    def covers(self, ref: Ref) -> bool:
        """Whether all of a region has a name."""
        return _cover(self.within(ref), ref.region)

    def held(self, storage: Storage) -> list[Region]:
        """List the regions of a storage that have a name."""
        found = self.get(storage)
        if isinstance(found, _Within):
            return found.regions
        return [] if found is None else [found[0]]

    def all_of(self, storage: Storage) -> list[tuple[Region, str]]:
        """List the regions of a storage that have a name, and their names."""
        found = self.get(storage)
        if isinstance(found, _Within):
            return found.items
        return [] if found is None else [found]

    def within(self, ref: Ref) -> list[tuple[Region, str]]:
        """List the regions with a name that a region meets, and their names."""
        found = self.get(ref.storage)
        if isinstance(found, _Within):
            return found.meeting(ref.region)
        return [found] if found is not None and self.meets(ref) else []


class Names:
    """The names of memory: of whole storages, or of several parameters within one.

    Attributes:
        there: what is there in the end as a parameter or buffer.
        others: what is held otherwise.
        before: what there was, where nothing is now that is there.
        wholes: the names of what modules compute, by those of what they compute it from.
        partly: whether what is there leaves something of a storage to others.

    Args:
        listed: lists the names in their order.
    """

    def __init__(self, listed: Callable[[], Iterable[str]] = tuple) -> None:
        self.partly = False
        self.there = _Table()
        self.others = _Table()
        self.before = _Table()
        self.wholes: dict[str, str] = {}
        self._listed = listed
        self._places: dict[str, int] | None = None

    def holds(self, storage: Storage) -> bool:
        """Whether something that there is in the end has a storage."""
        return storage in self.there or storage in self.others

    def held(self, storage: Storage) -> list[Region]:
        """List the regions of a storage that something has in the end."""
        return [*self.there.held(storage), *self.others.held(storage)]

    def memory_of(self, names: Container[str]) -> dict[str, dict[Storage, list[Region]]]:
        """Find what has some names in the end, or is what is computed from to give what has one."""
        found: dict[str, dict[Storage, list[Region]]] = {}
        for table in (self.there, self.others):
            for storage in table:
                for region, name in table.all_of(storage):
                    for one in (name, self.wholes.get(name)):
                        if one is not None and one in names:
                            found.setdefault(one, {}).setdefault(storage, []).append(region)
        return found

    def meets(self, ref: Ref) -> bool:
        """Whether some of a region has a name."""
        return self.there.meets(ref) or (len(self.before) > 0 and self.before.meets(ref))

    def covers(self, ref: Ref) -> bool:
        """Whether all of a region has a name."""
        return _cover(self.within(ref), ref.region)

    def place(self, name: str) -> int:
        """Say how manieth a name is; those of what was there before come last."""
        if self._places is None:
            self._places = {name: k for k, name in reversed([*enumerate(self._listed())])}
        return self._places.get(name, len(self._places))

    def within(self, ref: Ref) -> list[tuple[Region, str]]:
        """List the regions with a name that a region meets, and their names."""
        found = self.there.within(ref)
        return [*found, *self.before.within(ref)] if self.before else found

    def of(self, ref: Ref) -> str | None:
        """Name what holds a region, or else the storage; None if only others hold it."""
        found = self.there.get(ref.storage)
        if found is None:
            return self.before.of(ref) if self.before else None
        # Beside parameters there may be those that were, and what is held otherwise.
        if (self.before or self.others) and not self.there.meets(ref):
            if self.before.meets(ref):
                return self.before.of(ref)
            if self.others.meets(ref):
                return None
        return found[1] if type(found) is tuple else found.of(ref.region)  # type: ignore[union-attr]


class Keys:
    """Hands out the keys of draws: the n-th for a name gets `fold_in(name).fold_in(n)`."""

    def __init__(self, key: Key) -> None:
        self._word = int(key)
        self._counts: dict[str, int] = {}

    def next(self, name: str) -> int:
        """Give the next key of a name, in [-2**63, 2**63)."""
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return key_of(self._word, name, count)

    def for_draws(self, names: Iterable[tuple[Any, str]]) -> dict[Any, int]:
        """Give each draw its key, in this order."""
        return {draw: self.next(name) for draw, name in names}


class Live:
    """Which draws into memory of one name have values that are still there, by their numbers.

    For who has to number a draw when it is made, and cannot wait to see which are overwritten. The
    numbers are those of `Keys` unless that takes foresight.
    """

    __slots__ = ("_anywhere", "_least", "_regions")

    def __init__(self) -> None:
        self._regions: dict[int, Ref] = {}
        self._anywhere: dict[Storage, Spans] = {}  # what any of them may be in
        self._least = 0

    def _under(self, ref: Ref) -> list[int]:
        """List those of which nothing is left once a region is written."""
        anywhere, region = self._anywhere.get(ref.storage), ref.region
        if anywhere is None or (region.numel > 0 and not anywhere.meets_region(region)):
            return []
        return [
            number
            for number, other in self._regions.items()
            if other.storage is ref.storage and region.covers(other.region)
        ]

    def _keep(self, held: Callable[[Storage], bool]) -> None:
        for storage in [one for one in self._anywhere if not held(one)]:
            del self._anywhere[storage]
            gone = [n for n, other in self._regions.items() if other.storage is storage]
            self._let_go(gone)

    def _let_go(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            del self._regions[number]
            self._least = min(self._least, number)

    def next(self, ref: Ref, over: bool, held: Callable[[Storage], bool]) -> int:
        """Give a draw the least number that no other will have then.

        Args:
            ref: where it is.
            over: whether what was there is written over.
            held: whether memory is still there that counts.
        """
        self._keep(held)
        return min([self._least, *self._under(ref)]) if over else self._least

    def write_over(self, ref: Ref) -> None:
        """Note that nothing is left of what was in a region."""
        self._let_go(self._under(ref))

    def add(self, ref: Ref, number: int, over: bool = True) -> None:
        """Note a draw that has been made."""
        if over:
            self.write_over(ref)
        self._regions[number] = ref
        self._anywhere.setdefault(ref.storage, Spans()).add_around(ref.region)
        while self._least in self._regions:
            self._least += 1
