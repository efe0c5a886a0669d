"""Parameters that stand in for what modules compute, while their initialisers run."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor, nn

from fastinit._models.names import named_modules
from fastinit._models.parametrized import Opened, Parametrized, Place, parametrized
from fastinit._models.tree import Tree, entry_in
from fastinit._models.writes import WriteWatch

Declare = Callable[[str, Tensor], object]


@dataclass(eq=False)
class _Entry:
    """A module that computes some of its tensors."""

    number: int
    opened: Opened
    tensors: list[Parametrized]


class StandIns:
    """All that stand in for something in a module.

    Args:
        tree: the module.
        watch: what knows whether they have been written.
        leave: parameters that keep the values they have.
        declare: told the name of each.
        prefix: the name of the module inside a larger one.
    """

    def __init__(
        self,
        tree: Tree,
        watch: WriteWatch,
        leave: Collection[Place] = (),
        declare: Declare | None = None,
        prefix: str = "",
    ) -> None:
        self._watch = watch
        self._leave = leave
        self._tree = tree
        self._entries: list[_Entry] = []
        paths: dict[nn.Module, str] | None = None
        for number, module in enumerate(tree.modules):
            found = parametrized(module)
            if not found:
                continue
            if paths is None:
                paths = {m: path for path, m in named_modules(tree.modules[-1], prefix)}
            tensors = {one.attribute: one.stand_in() for one in found}
            for one in found:
                self._watch_all(one, tensors[one.attribute])
                if declare is not None:
                    name = f"{paths[module]}.{one.attribute}".removeprefix(".")
                    declare(name, tensors[one.attribute])
            self._entries.append(_Entry(number, Opened(module, tensors), found))
        self._numbers = [entry.number for entry in self._entries]
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        return bool(self._entries)

    def _below(self, place: int | None) -> list[_Entry]:
        if place is None:
            return self._entries
        begin = bisect_left(self._numbers, self._tree.first[place])
        return self._entries[begin : bisect_right(self._numbers, place)]

    def open(self, place: int | None = None) -> None:
        """Put those of a module, and all below it, in."""
        for entry in self._below(place):
            entry.opened.open()

    def close(self, place: int | None = None) -> None:
        """Take them out again."""
        for entry in self._below(place):
            entry.opened.close()

    def store(self, place: int) -> None:
        """Bring back what has been written of a module's, and of those below it."""
        for entry in self._below(place):
            for one in entry.tensors:
                tensor = entry.opened.tensor(one.attribute)
                if all(source in self._leave for source in one.sources):
                    continue  # nobody gets to see what it is computed from, either
                if self._watch.wrote(tensor):
                    entry.opened.close()
                    one.store(tensor.detach(), self._leave)
                elif any(map(self._watch.wrote, _sources(one))):
                    entry.opened.close()
                    one.follow()
                else:
                    continue
                self._watch_all(one, tensor)
            entry.opened.open()

    def _watch_all(self, one: Parametrized, tensor: Tensor) -> None:
        for watched in (tensor, *_sources(one)):
            self._watch.watch(watched)


def _sources(one: Parametrized) -> list[Tensor]:
    found = (entry_in(owner._parameters, attribute) for owner, attribute in one.sources)
    return [tensor for tensor in found if tensor is not None]
