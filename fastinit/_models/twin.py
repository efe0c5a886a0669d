"""An ordinary tensor that stands in the place of a DTensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastinit._models.names import Named
from fastinit._models.placing import refresh


@dataclass
class Twin:
    """What stands in the place of a DTensor.

    Attributes:
        named: the DTensor.
        tensor: the twin.
        fixed: whether the DTensor is to stay as it is.
        kept: whether it is to do so unless all of it is overwritten.
        places: the tables of modules in which it stands there, and under which name.
        value: what is loaded into it.
    """

    named: Named
    tensor: Tensor
    fixed: bool
    kept: bool
    places: list[tuple[dict[str, Any], str]]
    value: Tensor | None = None

    @property
    def sharded(self) -> Any:
        return self.named.tensor

    def current(self) -> Any:
        """Give what is in its place now: initialisers may have put something else there."""
        table, attribute = self.places[0]
        return table.get(attribute)

    def let_go(self) -> Tensor:
        """Give the twin, which is then nobody's."""
        tensor = self.tensor
        del self.tensor
        return tensor

    def put(self, tensor: Any) -> None:
        """Put something in its place."""
        for table, attribute in self.places:
            table[attribute] = tensor
        refresh(self.named)


def take_marks(tensor: Tensor, other: Tensor) -> None:
    """Give a tensor the attributes that somebody has set on another."""
    marks = vars(other)
    if len(marks) > ("_is_param" in marks):
        vars(tensor).update({k: v for k, v in marks.items() if k != "_is_param"})
