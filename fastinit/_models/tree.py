"""A module and all below it in the order of constructors: children first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.module import _WrappedHook

from fastinit._compiled import extension

_GETATTR = nn.Module.__getattr__


def entry_in(table: Mapping[str, Any], attribute: str) -> Any:
    """Give what a module's table has under a name, of parameters, say; None if that is nothing.

    Those of a scripted module have no `get`, and are gone through by their keys() alone.
    """
    if attribute not in table:
        return None
    return table[attribute]


def method_of(module: nn.Module, name: str) -> Callable[..., Any] | None:
    """Find what a module calls by a name: a method, most likely; None if there is none.

    `torch.nn.Module` takes long to say that it has no such attribute. Wrappers hand on what they
    have not to the module that they wrap, whose method it is, and not theirs.
    """
    kind: Any = type(module)
    own = hasattr(kind, name) or name in vars(module)
    if not own and kind.__getattr__ is _GETATTR:
        return None
    method = getattr(module, name, None)
    if not own:
        owner = getattr(method, "__self__", None)
        if isinstance(owner, nn.Module) and owner is not module:
            return None
    return method if callable(method) else None


def unwrapped(hook: Any) -> Any:
    """Give the hook that is in torch's wrapper, which those of state dicts have; else itself."""
    return hook.hook if type(hook) is _WrappedHook else hook


def modules_of(root: nn.Module) -> list[nn.Module]:
    """List a module and all below it, each once, in no order in particular; torch takes longer."""
    return extension.modules_of(root)


CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)


def children_at(module: nn.Module, path: Iterable[str]) -> list[nn.Module]:
    """List the modules that a path of names leads to; of a container those that it holds, too."""
    for name in path:
        child: nn.Module | None = entry_in(module._modules, name)
        if child is None:
            return []
        module = child
    held = [one for one in module._modules.values() if one is not None]
    return [module, *(held if isinstance(module, CONTAINERS) else [])]


# What modules define for their initialisation.
INITIALISERS = frozenset(
    {
        "_init_weights",
        "_reset_parameters",
        "init_weights",
        "initialize_weights",
        "reset_parameters",
    }
)


class Tree:
    """All modules, each once, children before their parents.

    Attributes:
        modules: in this order; what is below one stands directly before it.
        first: for each, the number of the first that is below it (or itself).
        inside: for each, whether it is below a model of transformers.
        pretrained: for each, whether it is one.
        plans: which methods initialise modules of a kind that differ in none of these.
    """

    def __init__(self, root: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self.first: list[int] = []
        self.inside: list[bool] = []
        self.pretrained: list[bool] = []
        self._parent: dict[nn.Module, nn.Module] = {}
        self.plans: dict[Any, Any] = {}
        self._of_class: dict[type, frozenset[str]] = {}
        self._walk(root)

    def is_as_its_class(self, module: nn.Module) -> bool:
        """Whether a module has nothing of `INITIALISERS` but what its class defines."""
        kind: Any = type(module)
        return kind.__getattr__ is _GETATTR and INITIALISERS.isdisjoint(vars(module))

    def may_define(self, module: nn.Module) -> frozenset[str]:
        """Say which of `INITIALISERS` a module may have; `method_of` knows, but takes longer."""
        if not self.is_as_its_class(module):
            return INITIALISERS
        kind = type(module)
        found = self._of_class.get(kind)
        if found is None:
            found = frozenset(name for name in INITIALISERS if hasattr(kind, name))
            self._of_class[kind] = found
        return found

    def _is_pretrained(self, module: nn.Module) -> bool:
        """Whether this is a model of transformers, which initialises all below in its own order."""
        names = ("_init_weights", "initialize_weights")
        return self.may_define(module).issuperset(names) and all(
            method_of(module, name) is not None for name in names
        )

    def _walk(self, root: nn.Module) -> None:
        seen = {root}
        waiting = [(root, iter(root._modules.items()), 0, False, self._is_pretrained(root))]
        while waiting:
            current, children, first, inside, pretrained = waiting[-1]
            for _, child in children:
                if child is None or child in seen:
                    continue
                seen.add(child)
                self._parent[child] = current
                below, also = inside or pretrained, self._is_pretrained(child)
                number = len(self.modules)
                if child._modules:
                    waiting.append((child, iter(child._modules.items()), number, below, also))
                    break
                self._add(child, number, below, also)
            else:
                waiting.pop()
                self._add(current, first, inside, pretrained)

    def _add(self, module: nn.Module, first: int, inside: bool, pretrained: bool) -> None:
        self.modules.append(module)
        self.first.append(first)
        self.inside.append(inside)
        self.pretrained.append(pretrained)

    @functools.cached_property
    def _number(self) -> dict[nn.Module, int]:
        return {module: number for number, module in enumerate(self.modules)}

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
