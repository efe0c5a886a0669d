"""Weights that a constructor has been handed: tables, put in the place of what a layer draws.

Code tells that it may have been so; often that depends on arguments, as for checkpoints that may be
loaded. Then the weights decide: one that alone requires no gradient, or that nobody has written
since it was made, though others have been.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._models.bytecode import FROM_PRETRAINED, GIVEN, Table
from fastinit._models.bytecode_values import SELF
from fastinit._models.reached import EMBEDDINGS
from fastinit._models.tree import Tree, children_at, entry_in
from fastinit._tensors import version_of

Place = tuple[nn.Module, str]
_OF_EMBEDDINGS = (FROM_PRETRAINED, GIVEN)


def _are_frozen_alone(weights: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether some of these require no gradient; who trains a head alone freezes others, too."""
    return not all(w.requires_grad for w in weights) and all(o.requires_grad for o in others)


def _are_as_made(weights: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether nobody has written some of these; of copies, and what was loaded, that holds of all.

    Of some others it may hold: those of layers that are copies of one.
    """
    made = any(version_of(weight) == 0 for weight in weights)
    return made and (not others or any(version_of(other) != 0 for other in others))


class Weights:
    """All weights of a module, to tell which have been handed in.

    Args:
        tree: the module.
        draws: whether what is run draws a weight of a module, for all that is known.
    """

    def __init__(
        self,
        tree: Tree,
        draws: Callable[[nn.Module, str], bool],
    ) -> None:
        held = (p for m in tree.modules for p in m._parameters.values() if p is not None)
        self._all = [*{id(p): p for p in held}.values()]
        self._draws = draws

    def handed(
        self, module: nn.Module, tables: Collection[Table], is_last: bool
    ) -> Iterator[Table]:
        """Give the tables that a module has been handed.

        Args:
            module: the module.
            tables: those that its constructor may be handed.
            is_last: whether the constructor runs no initialisers, perhaps after that.
        """
        weights = {table: [*self._weights_of(module, table)] for table in tables}
        own = {id(weight) for found in weights.values() for weight in found}
        others = [weight for weight in self._all if id(weight) not in own]
        shared = {extension.storage_address(weight) for weight in others} - {0}
        for table, found in weights.items():
            of_itself = table.owner == (SELF,)
            if table.attribute not in _OF_EMBEDDINGS:
                found = [w for w in found if extension.storage_address(w) not in shared]  # no ties
            if table.certain and is_last and not of_itself:
                is_handed = bool(found)
            else:
                frozen = not of_itself and _are_frozen_alone(found, others)
                is_handed = frozen or _are_as_made(found, others)
            if is_handed:
                yield table

    def _weights_of(self, module: nn.Module, table: Table) -> Iterator[Tensor]:
        """Give the weights that a table may have been put in the place of."""
        for owner, attribute in self._places(module, table):
            weight = entry_in(owner._parameters, attribute)
            if weight is not None:
                yield weight

    def _places(self, module: nn.Module, table: Table) -> Iterator[Place]:
        """Give the places of weights that a table may have been put into."""
        attribute, owner = table.attribute, table.owner
        if attribute in _OF_EMBEDDINGS:
            for one in module.modules():
                if isinstance(one, EMBEDDINGS):
                    yield one, "weight"
            return
        known = owner[:1] == (SELF,)
        below = (one for one in module.modules() if one is not module)
        for one in children_at(module, owner[1:]) if known else below:
            if self._draws(one, attribute):
                yield one, attribute
