"""How each parameter got its values: noted while they are computed, for `fastinit.report`."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from torch import nn

from fastinit._fills.region import Region
from fastinit._models.names import Named
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
    """

    label: str
    arguments: tuple[float, ...]
    fill: str | None
    numel: int
    whole: bool
    complex: bool = False


class ParameterHistory:
    """What is known about one parameter.

    Attributes:
        rule: the rule it was given, or what was done to it.
        noted: of what was done to it, in order, the label, the numbers, the distribution, where it
            was done, and whether to all of it; `writes` says more.
        times: how often initialisers wrote all of it, including what was never computed.
        places: where the tensor was held at that time.
        version: torch's version counter afterwards; inference tensors have none.
        written: whether it has values.
    """

    __slots__ = ("noted", "places", "rule", "times", "version", "written")

    def __init__(self, rule: str = "") -> None:
        self.rule = rule
        self.noted: list[tuple[str, tuple[float, ...], str | None, Region, bool]] = []
        self.times = 0
        self.places: list[tuple[weakref.ref[nn.Module], str]] = []
        self.version: int | None = None
        self.written = True

    @property
    def writes(self) -> list[Write]:
        """What was done to it, in order; nothing that was overwritten as a whole."""
        return [
            Write(
                label,
                arguments,
                fill,
                region.numel * (2 if region.dtype.is_complex else 1),
                whole,
                region.dtype.is_complex,
            )
            for label, arguments, fill, region, whole in self.noted
        ]


# By the module that holds a parameter and what it calls it.
_histories: weakref.WeakKeyDictionary[nn.Module, dict[str, ParameterHistory]] = (
    weakref.WeakKeyDictionary()
)


def history_of(owner: nn.Module, attribute: str) -> ParameterHistory | None:
    """Give what is known about a parameter."""
    return _histories.get(owner, {}).get(attribute)


def take_over(made: Named, named: Named) -> None:
    """Note for a parameter what is known about another, whose values it has got."""
    known = history_of(made.owner, made.attribute)
    if known is not None:
        places = [(weakref.ref(owner), attribute) for owner, attribute in named.places]
        kept = copy.copy(known)
        kept.places, kept.version = places, version_of(named.tensor)
        _histories.setdefault(named.owner, {})[named.attribute] = kept


def _floats(numbers: Iterable[object]) -> tuple[float, ...]:
    return tuple(float(x) for x in numbers if isinstance(x, (int, float)))


class History:
    """Collects what one `initialize_` or `materialize` did to parameters.

    Args:
        parameters: by name.
        applied: the rule of each that has one.
        done: what wrote to memory with a name and mattered, in order.
        log: all that was done, what was never computed included.
    """

    def __init__(
        self,
        parameters: Mapping[str, Named],
        applied: Mapping[str, str],
        done: Iterable[tuple[Op, Ref, str]],
        log: Sequence[Op],
    ) -> None:
        self._parameters = parameters
        self.unwritten: Set[str] = frozenset()
        self._histories = {name: ParameterHistory(applied.get(name, "")) for name in parameters}
        whole: dict[str, Region] = {}
        places: dict[Storage, str] = {}
        for op, ref, name in done:
            history = self._histories.get(name)
            if history is None:
                continue
            region = whole.get(name)
            if region is None:
                region = whole[name] = Region.of(parameters[name].tensor)
            places[ref.storage] = name
            fill = op.fill
            history.noted.append(
                (
                    op.label,
                    _floats(op.numbers) if fill is None else fill.args,
                    None if fill is None else fill.distribution,
                    ref.region,
                    op.overwrites and ref.region.covers(region),
                )
            )
        for op in log:
            for ref in op.writes:
                found = places.get(ref.storage)
                if found is not None and op.overwrites and ref.region.covers(whole[found]):
                    self._histories[found].times += 1

    def close(self) -> None:
        """Keep what was noted."""
        last: nn.Module | None = None
        of_owner: dict[str, ParameterHistory] = {}
        for name, history in self._histories.items():
            named = self._parameters[name]
            history.places = [(weakref.ref(named.owner), named.attribute)]
            if named.others:
                history.places += [(weakref.ref(owner), held) for owner, held in named.others]
            history.written = name not in self.unwritten
            if not history.rule and history.written:
                # What is real already when it becomes a parameter, torch.zeros(n) say, is not seen.
                noted = history.noted
                if len(noted) == 1:
                    history.rule = noted[0][0]
                else:
                    labels = dict.fromkeys(label for label, *_ in noted)
                    history.rule = ", ".join(labels) or "as constructed"
                if named.part_of is not None:
                    history.rule += f", part of {named.part_of.name} ({named.part_of.how.what})"
            history.version = version_of(named.tensor)
            if named.owner is not last:
                last, of_owner = named.owner, _histories.setdefault(named.owner, {})
            of_owner[named.attribute] = history
