"""Rules of `initialize_` and `materialize`: which initialiser a parameter gets."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from fastinit._models.names import Named, matches

Initialiser = Callable[..., Any]
# A glob or "default", a compiled regular expression, a module class, a number of dimensions, or
# several of these, all of which have to match.
Selector = str | re.Pattern[str] | type[nn.Module] | int | tuple[Any, ...]
Rules = Mapping[Any, Initialiser | None] | Iterable[tuple[Any, Initialiser | None]]

DEFAULT = "default"


def _check_selector(selector: Any) -> None:
    if isinstance(selector, tuple) and selector:
        for part in selector:
            _check_selector(part)
        return
    is_class = isinstance(selector, type) and issubclass(selector, nn.Module)
    is_number = isinstance(selector, int) and not isinstance(selector, bool) and selector >= 0
    if not (is_class or is_number or isinstance(selector, (str, re.Pattern))):
        raise TypeError(
            "argument 'rules': a selector must be a glob or compiled regular expression on the "
            "name, a module class, a number of dimensions, 'default', or a tuple of these; got "
            f"{selector!r}"
        )


def check(rules: Rules) -> list[tuple[Any, Initialiser | None]]:
    """Check the types of rules; give them as a list.

    Raises:
        TypeError: if a selector or an initialiser is of another type than those allowed.
    """
    if isinstance(rules, (str, bytes)) or not isinstance(rules, Iterable):
        raise TypeError(f"argument 'rules' must be a mapping, got {type(rules).__name__}")
    pairs = list(rules.items()) if isinstance(rules, Mapping) else [tuple(pair) for pair in rules]
    for pair in pairs:
        if len(pair) != 2:
            raise TypeError(f"argument 'rules': expected (selector, initialiser), got {pair!r}")
        _check_selector(pair[0])
        if pair[1] is not None and not callable(pair[1]):
            raise TypeError(
                f"argument 'rules': the initialiser of {pair[0]!r} must be a callable or None, got "
                f"{pair[1]!r}"
            )
    return pairs


def selects(selector: Any, named: Named) -> bool:
    """Whether a selector matches a parameter."""
    if isinstance(selector, tuple):
        return all(selects(part, named) for part in selector)
    if isinstance(selector, int):
        return named.tensor.dim() == selector
    if isinstance(selector, type):
        return any(isinstance(owner, selector) for owner, _ in named.places)
    return selector == DEFAULT or matches(named.name, selector)


def choose(
    rules: list[tuple[Any, Initialiser | None]], parameters: Mapping[str, Named]
) -> dict[str, Initialiser | None]:
    """Give each parameter the initialiser of the first rule that matches.

    Raises:
        ValueError: if no rule matches a parameter; the message lists all of these.
    """
    chosen: dict[str, Initialiser | None] = {}
    unmatched = []
    for name, named in parameters.items():
        for selector, initialiser in rules:
            if selects(selector, named):
                chosen[name] = initialiser
                break
        else:
            unmatched.append(f"{name} {tuple(named.tensor.shape)}")
    if unmatched:
        raise ValueError(
            "argument 'rules': no rule matches " + ", ".join(unmatched) + "; add one, or 'default'"
        )
    return chosen


def takes_name(initialiser: Initialiser) -> bool:
    """Whether a callable has a parameter called `name`, and so wants the parameter's."""
    try:
        parameter = inspect.signature(initialiser).parameters.get("name")
    except (TypeError, ValueError):  # no signature: a builtin
        return False
    bound = isinstance(initialiser, functools.partial) and "name" in initialiser.keywords
    return parameter is not None and not bound


def apply(initialiser: Initialiser, tensor: Tensor, name: str) -> None:
    """Run an initialiser on a tensor."""
    if takes_name(initialiser):
        initialiser(tensor, name=name)
    else:
        initialiser(tensor)


def describe(initialiser: Initialiser) -> str:
    """Word an initialiser for a report, as a call."""
    arguments: list[str] = []
    while isinstance(initialiser, functools.partial):
        given = [repr(a) for a in initialiser.args]
        given += [f"{k}={v!r}" for k, v in initialiser.keywords.items()]
        arguments = given + arguments
        initialiser = initialiser.func
    name = getattr(initialiser, "__qualname__", type(initialiser).__qualname__)
    return f"{name.rpartition('.')[2]}({', '.join(arguments)})"
