"""A module and all below it in the order of constructors: children first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

_GETATTR = nn.Module.__getattr__


def method_of(module: nn.Module, name: str) -> Callable[..., Any] | None:
    """Find what a module calls by a name: a method, most likely; None if there is none.

    `torch.nn.Module` takes long to say that it has no such attribute.
    """
    kind: Any = type(module)
    if kind.__getattr__ is _GETATTR and not hasattr(kind, name) and name not in vars(module):
        return None
    method = getattr(module, name, None)
    return method if callable(method) else None


def is_pretrained(module: nn.Module) -> bool:
    """Whether this is a model of transformers, which initialises all below it in its own order."""
    return (
        method_of(module, "_init_weights") is not None
        and method_of(module, "initialize_weights") is not None
    )


class Tree:
    """All modules, each once, children before their parents.

    Attributes:
        modules: in this order; what is below one stands directly before it.
        first: for each, the number of the first that is below it (or itself).
        inside: for each, whether it is below a model of transformers.
        pretrained: for each, whether it is one.
    """

    def __init__(self, root: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self.first: list[int] = []
        self.inside: list[bool] = []
        self.pretrained: list[bool] = []
        self._parent: dict[nn.Module, nn.Module] = {}
        self._number: dict[nn.Module, int] = {}
        self._walk(root)

    def _walk(self, root: nn.Module) -> None:
        seen = {root}
        waiting = [(root, iter(root.children()), 0, False, is_pretrained(root))]
        while waiting:
            current, children, first, inside, pretrained = waiting[-1]
            child = next((c for c in children if c not in seen), None) if current._modules else None
            if child is not None:
                seen.add(child)
                self._parent[child] = current
                waiting.append(
                    (
                        child,
                        iter(child.children()),
                        len(self.modules),
                        inside or pretrained,
                        is_pretrained(child),
                    )
                )
                continue
            waiting.pop()
            self.pretrained.append(pretrained)
            self._number[current] = len(self.modules)
            self.modules.append(current)
            self.first.append(first)
            self.inside.append(inside)

    def outermost(self, place: int) -> int:
        """Give the highest model of transformers from here on; the same if there is none."""
        found, current = place, self.modules[place]
        while True:
            number = self._number[current]
            if self.pretrained[number]:
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
