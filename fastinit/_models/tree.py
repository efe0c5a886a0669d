"""A module and all below it in the order of constructors: children first."""

from __future__ import annotations

from torch import nn


def is_pretrained(module: nn.Module) -> bool:
    """Whether this is a model of transformers, which initialises all below it in its own order."""
    return callable(getattr(module, "_init_weights", None)) and callable(
        getattr(module, "initialize_weights", None)
    )


class Tree:
    """All modules, each once, children before their parents.

    Attributes:
        modules: in this order; what is below one stands directly before it.
        first: for each, the number of the first that is below it (or itself).
        inside: for each, whether it is below a model of transformers.
    """

    def __init__(self, root: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self.first: list[int] = []
        self.inside: list[bool] = []
        self._parent: dict[nn.Module, nn.Module] = {}
        self._number: dict[nn.Module, int] = {}
        self._walk(root)

    def _walk(self, root: nn.Module) -> None:
        seen = {root}
        waiting = [(root, iter(root.children()), 0, False)]
        while waiting:
            current, children, first, inside = waiting[-1]
            child = next((c for c in children if c not in seen), None)
            if child is not None:
                seen.add(child)
                self._parent[child] = current
                below = inside or is_pretrained(current)
                waiting.append((child, iter(child.children()), len(self.modules), below))
                continue
            waiting.pop()
            self._number[current] = len(self.modules)
            self.modules.append(current)
            self.first.append(first)
            self.inside.append(inside)

    def outermost(self, place: int) -> int:
        """Give the highest model of transformers from here on; the same if there is none."""
        found, current = place, self.modules[place]
        while True:
            number = self._number[current]
            if is_pretrained(current):
                found = number
            if current not in self._parent:
                return found
            current = self._parent[current]

    def meeting(self, modules: list[nn.Module]) -> int:
        """Give the number of the lowest module that has all of these in it, or is one of them."""
        numbers = [self._number[module] for module in modules]
        place, lowest = max(numbers), min(numbers)
        while self.first[place] > lowest:
            place = self._number[self._parent[self.modules[place]]]
        return place
