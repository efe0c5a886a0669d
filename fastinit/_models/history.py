"""How each parameter got its values: noted while they are computed, for `fastinit.report`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from fastinit._models.names import Named
from fastinit._recording.graph import Entry, Ref
from fastinit._recording.replay import Names
from fastinit._tensors import version_of


@dataclass(frozen=True)
class Write:
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


@dataclass
class Record:
    """What is known about one parameter.

    Attributes:
        rule: the rule it was given, or what was done to it.
        writes: what was done to it, in order; nothing that was overwritten as a whole.
        times: how often initialisers wrote all of it, including what was never computed.
        places: where the tensor was held at that time.
        version: torch's version counter afterwards; inference tensors have none.
        written: whether it has values.
    """

    rule: str = ""
    writes: list[Write] = field(default_factory=list)
    times: int = 0
    places: list[tuple[weakref.ref[nn.Module], str]] = field(default_factory=list)
    version: int | None = None
    written: bool = True


# By the module that holds a parameter and what it calls it.
_records: weakref.WeakKeyDictionary[nn.Module, dict[str, Record]] = weakref.WeakKeyDictionary()


def record_of(owner: nn.Module, attribute: str) -> Record | None:
    """Give what is known about a parameter."""
    return _records.get(owner, {}).get(attribute)


def _label(entry: Entry) -> str:
    if entry.label:
        return entry.label
    if entry.fill is not None:
        return entry.fill.distribution
    return str(getattr(entry.function, "__name__", entry.function)).partition(".")[0]


class History:
    """Collects the records of one `initialize_` or `materialize`."""

    def __init__(
        self,
        parameters: Mapping[str, Named],
        applied: Mapping[str, str],
        refs: Mapping[str, Ref],
        names: Names,
        entries: Sequence[Entry],
    ) -> None:
        self._parameters = parameters
        self._refs = refs
        self.unwritten: list[str] = []
        self._records = {name: Record(applied.get(name, "")) for name in parameters}
        for entry in entries:
            for ref in entry.writes:
                record = self._records.get(names.of(ref) or "")
                if record is not None and entry.pure and ref.whole:
                    record.times += 1

    def ran(self, entry: Entry, name: str) -> None:
        """Note an entry that is about to run."""
        record = self._records.get(name)
        if record is None:
            return
        whole = self._refs.get(name)
        for ref in entry.writes:
            if whole is None or ref.cell is not whole.cell:
                continue
            fill = None if entry.fill is None else entry.fill.distribution
            given = entry.args[1:] if entry.fill is None else entry.fill.args
            numbers = tuple(float(x) for x in given if isinstance(x, (int, float)))
            covers = entry.pure and ref.region.covers(whole.region)
            label = _label(entry)
            pairs = ref.region.dtype.is_complex
            numel = ref.region.numel * (2 if pairs else 1)
            record.writes.append(Write(label, numbers, fill, numel, covers, pairs))

    def close(self) -> None:
        """Keep what was noted."""
        for name, record in self._records.items():
            named = self._parameters[name]
            record.places = [(weakref.ref(owner), attribute) for owner, attribute in named.places]
            record.written = name not in self.unwritten
            if not record.rule and record.written:
                # What is real already when it becomes a parameter, torch.zeros(n) say, is not seen.
                labels = dict.fromkeys(write.label for write in record.writes)
                record.rule = ", ".join(labels) or "as constructed"
            owner, attribute = named.places[0]
            tensor = owner._parameters.get(attribute)
            if isinstance(tensor, torch.Tensor):
                record.version = version_of(tensor)
            _records.setdefault(owner, {})[attribute] = record
