"""An ordinary tensor that stands in the place of a DTensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._models.marks import Marks
from fastinit._models.names import Named
from fastinit._models.placing import refresh
from fastinit._models.tree import entry_in
from fastinit._recording.graph import Op, Storage
from fastinit._recording.recorder import Recorder


@dataclass
class Twin:
    """What stands in the place of a DTensor.

    Attributes:
        named: the DTensor.
        tensor: the twin.
        fixed: whether the DTensor is to stay as it is.
        kept: whether it is to do so unless all of it is overwritten.
        marks: what initialisers hang on it.
        places: the tables of modules in which it stands there, and under which name.
        value: what is loaded into it.
    """

    named: Named
    tensor: Tensor
    fixed: bool
    kept: bool
    marks: Marks
    places: list[tuple[dict[str, Any], str]]
    value: Tensor | None = None

    @property
    def sharded(self) -> Any:
        return self.named.tensor

    def current(self) -> Any:
        """Give what is in its place now: initialisers may have put something else there."""
        table, attribute = self.places[0]
        return entry_in(table, attribute)

    def let_go(self) -> Tensor:
        """Give the twin, which is then nobody's."""
        tensor = self.tensor
        del self.tensor, self.marks
        return tensor

    def put(self, tensor: Any) -> None:
        """Put something in its place."""
        for table, attribute in self.places:
            table[attribute] = tensor
        refresh(self.named)


def misplaced(
    modules: Iterable[nn.Module], twins: Mapping[str, Twin]
) -> list[tuple[dict[str, Any], str, str]]:
    """Find where twins are that initialisers have tied something to: tables, and whose they are."""
    names = {id(twin.tensor): name for name, twin in twins.items()}
    own = {(id(t), a): name for name, twin in twins.items() for t, a in twin.places}
    return [
        (table, attribute, names[id(tensor)])
        for owner in modules
        for table in (owner._parameters, owner._buffers)
        for attribute, tensor in table.items()
        if id(tensor) in names and own.get((id(table), attribute)) != names[id(tensor)]
    ]


def check_fixed(
    where: str,
    twins: Mapping[str, Twin],
    recorder: Recorder,
    recorded: Iterable[Op],
    sources: Mapping[str, Tensor],
) -> None:
    """Refuse what depends on a DTensor that is to stay as it is, of which only a part is here.

    And see which of those that may stay do so.

    Raises:
        NotImplementedError: if there is such an operator.
    """
    stay = {
        storage: (name, twin)
        for name, twin in twins.items()
        if (twin.fixed or twin.kept) and (storage := recorder.storage_of(twin.tensor)) is not None
    }
    overwritten = {storage: Spans() for storage in stay}
    touched: set[Storage] = set()
    for op in recorded if stay else ():
        written_to = {ref.storage for ref in op.writes}
        for ref in op.reads:
            if ref.storage not in stay or not (op.read or ref.storage not in written_to):
                continue
            name, twin = stay[ref.storage]
            if twin.fixed or not overwritten[ref.storage].covers_region(ref.region):
                raise NotImplementedError(
                    f"fastinit.{where}: an initialiser reads {name} "
                    f"({op.label}), which is sharded and stays as it is, so that its full "
                    "value is not at hand"
                )
        for ref in op.writes:
            touched.add(ref.storage)
            if op.overwrites and ref.storage in stay:
                overwritten[ref.storage].add_region(ref.region)
    for storage, (name, twin) in stay.items():
        if twin.fixed or sources[name] is not twin.tensor:
            continue
        if storage not in touched:
            twin.fixed = True
        elif not overwritten[storage].covers_region(Region.of(twin.tensor)):
            raise NotImplementedError(
                f"fastinit.{where}: an initialiser writes only a part of {name}, or "
                "changes what is there; it is sharded, and its full value is not at hand"
            )
