"""The argument `rename`: names that parameters have in the whole model, not on this rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastinit._models.parametrized import sources_of

Rename = Mapping[str, str] | Callable[[str], str]


class Renaming:
    """From names in the module to those that keys derive from.

    Args:
        rename: a mapping, a callable, or None for no change.
        where: the function, for messages.

    Attributes:
        rename: as it was given.

    Raises:
        TypeError: if it is none of these.
    """

    def __init__(self, rename: Any, where: str) -> None:
        if rename is not None and not isinstance(rename, Mapping) and not callable(rename):
            raise TypeError(
                f"fastinit.{where}: argument 'rename' must be a mapping from names to names, or a "
                f"callable, got {type(rename).__name__}"
            )
        self.rename: Any = rename
        self._where = where
        # The same as calling this one, sooner where nothing changes.
        self.name_of: Callable[[str], str] = str if rename is None else self

    @property
    def changes(self) -> bool:
        """Whether it may change a name."""
        return self.rename is not None

    def __call__(self, name: str) -> str:
        """Give the name that keys derive from.

        Raises:
            TypeError: if it is no string.
        """
        if self.rename is None:
            return name
        found = (
            self.rename.get(name, name) if isinstance(self.rename, Mapping) else self.rename(name)
        )
        if not isinstance(found, str):
            raise TypeError(
                f"fastinit.{self._where}: argument 'rename' must give names, got {found!r} for "
                f"{name!r}"
            )
        return found

    def of_computed(self, name: str) -> str:
        """Give that of what a module computes: a mapping may say what that is computed from."""
        if not isinstance(self.rename, Mapping) or name in self.rename:
            return self(name)
        path, dot, attribute = name.rpartition(".")
        for source in sources_of(attribute):
            given = self.rename.get(path + dot + source)
            if isinstance(given, str) and given.endswith(dot + source):
                return given.removesuffix(source) + attribute
        return name

    def check(self, names: Iterable[str], computed: Iterable[str] = ()) -> None:
        """Check that it is about the names that there are, and leaves them distinct.

        Args:
            names: those of parameters and buffers.
            computed: those of what modules compute from them.

        Raises:
            ValueError: if a mapping has others, or two get the same name.
        """
        if self.rename is None:
            return
        there, computed = dict.fromkeys(names), dict.fromkeys(computed)
        if isinstance(self.rename, Mapping):
            unknown = [n for n in self.rename if not (n in there or n in computed)]
            if unknown:
                raise ValueError(
                    f"fastinit.{self._where}: argument 'rename': there is no parameter or buffer "
                    f"{unknown[0]!r}"
                )
        self.check_distinct(there, computed)

    def check_distinct(self, names: Iterable[str], computed: Iterable[str] = ()) -> None:
        """Check that it leaves names distinct; arguments as for `check`.

        Raises:
            ValueError: if two get the same name.
        """
        if self.rename is None:
            return
        first: dict[str, str] = {}
        pairs = [*((n, self(n)) for n in names), *((n, self.of_computed(n)) for n in computed)]
        for name, given in pairs:
            other = first.setdefault(given, name)
            if other != name:
                raise ValueError(
                    f"fastinit.{self._where}: argument 'rename' gives {other} and {name} one name, "
                    f"{given!r}: they would get the same numbers"
                )
