"""How each parameter got its values: noted while they are computed, for `fastinit.report`."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from torch import nn

from fastinit._fills.by_region import ByRegion
from fastinit._fills.region import Region
from fastinit._models.names import Named
from fastinit._models.tree import entry_in
from fastinit._recording.graph import Op, Ref, Storage
from fastinit._tensors import version_of


class Write(NamedTuple):
    """One thing that was done to a parameter.

    Attributes:
        label: what did it.
        arguments: the numbers it was given.
        fill: the distribution, if it was a fill.
        numel: how many real numbers it wrote: two for a complex element.
        whole: whether it wrote all of the parameter.
        complex: whether it wrote complex numbers, not real ones into their parts.
        function: what it was done by, whatever the label says, which may be a rule's.
    """

    label: str
    arguments: tuple[float, ...]
    fill: str | None
    numel: int
    whole: bool
    complex: bool = False
    function: str = ""


class ParameterHistory:
    """What is known about one parameter.

    Attributes:
        rule: the rule it was given, or what was done to it.
        writes: what was done to it, in order; nothing that was overwritten as a whole.
        times: how often initialisers wrote all of it, including what was never computed.
        places: where the tensor was held at that time.
        version: torch's version counter afterwards; inference tensors have none.
        written: whether it has values.
    """

    def __init__(self, rule: str = "") -> None:
        self.rule = rule
        self.writes: list[Write] = []
        self.times = 0
        self.places: Sequence[tuple[weakref.ref[nn.Module], str]] = ()
        self.version: int | None = None
        self.written = True


class _Noted(NamedTuple):
    """What is noted of a parameter, by the module that holds it and what that calls it.

    Attributes:
        run: what it was initialised in.
        name: its name there.
        part_of: what its module computes from it, in words, if it does.
        places: where else it was held.
        version: torch's version counter afterwards.
    """

    run: History
    name: str
    part_of: str
    places: Sequence[tuple[weakref.ref[nn.Module], str]]
    version: int | None


# As tuples, since most are never asked for.
_Notes = dict[str, tuple[Any, ...]]
_noted: weakref.WeakKeyDictionary[nn.Module, _Notes] = weakref.WeakKeyDictionary()


def _notes_of(owner: nn.Module) -> _Notes:
    """Give what is noted of what a module holds, to be added to."""
    found = _noted.get(owner)
    if found is None:
        found = _noted[owner] = {}
    return found


def _known_of(owner: nn.Module, attribute: str) -> _Noted | None:
    known = _noted.get(owner, {}).get(attribute)
    return None if known is None else _Noted._make(known)


def _places(named: Named) -> Sequence[tuple[weakref.ref[nn.Module], str]]:
    return [(weakref.ref(owner), held) for owner, held in named.others]


def history_of(owner: nn.Module, attribute: str) -> ParameterHistory | None:
    """Give what is known about a parameter."""
    noted = _known_of(owner, attribute)
    return None if noted is None else noted.run.of(noted, (weakref.ref(owner), attribute))


def take_over(made: Named, named: Named) -> None:
    """Note for a parameter what is known about another, whose values it has got."""
    known = _known_of(made.owner, made.attribute)
    if known is not None:
        note = known._replace(places=_places(named), version=version_of(named.tensor))
        _notes_of(named.owner)[named.attribute] = note


def still_known(parameters: Iterable[Named]) -> list[Named]:
    """Choose those that nothing has written to since they were noted."""
    found = []
    for named in parameters:
        known = _known_of(named.owner, named.attribute)
        if known is not None and known.version == version_of(named.tensor):
            found.append(named)
    return found


def keep_known(parameters: Iterable[Named], left: Iterable[Named]) -> None:
    """Note that those of them that were left have the values of before, whatever was counted."""
    names = {named.name for named in left}
    for named in parameters:
        now = entry_in(named.owner._parameters, named.attribute)
        if now is not None and named.name in names:
            known = _known_of(named.owner, named.attribute)
            assert known is not None
            _noted[named.owner][named.attribute] = known._replace(version=version_of(now))


def _floats(numbers: Iterable[object]) -> tuple[float, ...]:
    return tuple(float(x) for x in numbers if isinstance(x, (int, float)))


class History:
    """What one `initialize_` or `materialize` did to parameters, worked out when somebody asks.

    Args:
        refs: the memory of parameters, by name.
        applied: the rule of each that has one.
        done: what was written and mattered, in order.
        log: all that was done, what was never computed included.
        unwritten: the names of those without values.
    """

    def __init__(
        self,
        refs: Mapping[str, Ref],
        applied: Mapping[str, str],
        done: Sequence[tuple[Op, Ref]],
        log: Sequence[Op],
        unwritten: Set[str],
    ) -> None:
        self._refs = refs
        self._applied = applied
        self._done = done
        self._log = log
        self._unwritten = unwritten

    @functools.cached_property
    def _held(self) -> dict[Storage, ByRegion[str]]:
        """The names of parameters by their memory."""
        found: dict[Storage, ByRegion[str]] = {}
        for name, ref in self._refs.items():
            held = found.setdefault(ref.storage, ByRegion())
            if ref.region.numel > 0 and held.get(ref.region) is None:
                held.put(ref.region, name)
        return found

    def _met(self, ref: Ref) -> list[tuple[Region, str]]:
        """List the parameters that an operator wrote to."""
        held = self._held.get(ref.storage)
        return [] if held is None else held.meeting(ref.region)

    @functools.cached_property
    def _writes(self) -> dict[str, list[Write]]:
        found: dict[str, list[Write]] = {}
        for op, ref in self._done:
            fill = op.fill
            for region, name in self._met(ref):
                whole = ref.region.covers(region)
                write = Write(
                    op.label,
                    _floats(op.numbers) if fill is None else fill.args,
                    None if fill is None else fill.distribution,
                    ref.region.numel * (2 if ref.region.dtype.is_complex else 1),
                    op.overwrites and whole,
                    ref.region.dtype.is_complex,
                    op.function,
                )
                if write.whole:
                    found[name] = []  # the rest of what came before may matter to others
                found.setdefault(name, []).append(write)
        return found

    @functools.cached_property
    def _times(self) -> Counter[str]:
        times: Counter[str] = Counter()
        for op in self._log:
            for ref in op.writes if op.overwrites else ():
                times.update(name for region, name in self._met(ref) if ref.region.covers(region))
        return times

    def of(self, noted: _Noted, place: tuple[weakref.ref[nn.Module], str]) -> ParameterHistory:
        """Say what is known of what was noted of a parameter, which is held there."""
        history = ParameterHistory(self._applied.get(noted.name, ""))
        history.writes = self._writes.get(noted.name, [])
        history.times = self._times[noted.name]
        history.places = [place, *noted.places]
        history.version = noted.version
        history.written = noted.name not in self._unwritten
        if not history.rule and history.written:
            # What is real already when it becomes a parameter, torch.zeros(n) say, is not seen.
            labels = dict.fromkeys(write.label for write in history.writes)
            history.rule = (", ".join(labels) or "as constructed") + noted.part_of
        return history

    def note(self, parameters: Mapping[str, Named]) -> None:
        """Keep it for these, which have their values now."""
        last: nn.Module | None = None
        notes: _Notes = {}
        for name, named in parameters.items():
            part_of = ""
            if named.part_of is not None:
                part_of = f", part of {named.part_of.name} ({named.part_of.how.what})"
            if named.owner is not last:
                last, notes = named.owner, _notes_of(named.owner)
            places = _places(named) if named.others else ()
            notes[named.attribute] = self, name, part_of, places, version_of(named.tensor)
