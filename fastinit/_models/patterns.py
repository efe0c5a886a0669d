"""Patterns on the names of parameters and buffers: globs and compiled regular expressions."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastinit._models.names import Named

Pattern = str | re.Pattern[str]

_SPECIAL = re.compile(r"[*?\[]")


def only_name(pattern: Any) -> str | None:
    """Give the one name that a pattern can match; None if there may be others."""
    if not isinstance(pattern, str) or _SPECIAL.search(pattern) is not None:
        return None
    return pattern


def matches(name: str, pattern: Pattern) -> bool:
    """Whether a name matches a glob or a compiled regular expression.

    A glob (`*`, `?`, `[...]`) has to match all of the name; `*` crosses dots. A regular expression
    may be found anywhere in it.
    """
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern.search(name) is not None


class Patterns:
    """Patterns that names are looked for in: those that are names themselves, all at once.

    Args:
        given: one of them, or several, which may be a generator.
    """

    def __init__(self, given: Any = ()) -> None:
        single = isinstance(given, (str, re.Pattern)) or not isinstance(given, Iterable)
        self._given: list[Any] = [given] if single else [*given]
        self._names = {name for name in map(only_name, self._given) if name is not None}
        self._others = [pattern for pattern in self._given if only_name(pattern) is None]

    @classmethod
    def of_names(cls, names: Iterable[str]) -> Patterns:
        """Make patterns that match these names, whatever is in them, and no others."""
        made = cls()
        made._names.update(names)
        return made

    def __bool__(self) -> bool:
        return bool(self._names or self._others)

    def match(self, name: str) -> bool:
        """Whether a name matches one of them."""
        return name in self._names or any(matches(name, pattern) for pattern in self._others)

    def check(self, named: Mapping[str, Named], argument: str, what: str) -> None:
        """Check that these are patterns, and that each matches a name.

        Args:
            named: what may be meant.
            argument: the function and the argument, for messages.
            what: what is in `named`, in the singular.

        Raises:
            TypeError: if something else than globs and compiled regular expressions is given.
            ValueError: if one matches no name.
        """
        for pattern in self._given:
            if not isinstance(pattern, (str, re.Pattern)):
                raise TypeError(
                    f"{argument} takes globs and compiled regular expressions, got {pattern!r}"
                )
            only = only_name(pattern)
            asked = named if only is None else (only,)
            if any(name in named and matches(name, pattern) for name in asked):
                continue
            others = ((alias, name) for name, found in named.items() for alias in found.aliases)
            tied = next((pair for pair in others if matches(pair[0], pattern)), None)
            hint = "" if tied is None else f": {tied[0]} is another name of {tied[1]}"
            raise ValueError(f"{argument}: {pattern!r} matches no {what}{hint}")
