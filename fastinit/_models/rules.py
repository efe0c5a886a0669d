"""Rules of `initialize_` and `materialize`: which initialiser a parameter gets."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from fastinit._models.layouts import with_fans
from fastinit._models.names import Named, matches
from fastinit._models.notes import note

Initialiser = Callable[..., Any]
# By selector: a glob or "default", a compiled regular expression, a module class, a number of
# dimensions, or a tuple of these, all of which have to match.
Rule = tuple[Any, Initialiser | None]
Rules = Mapping[Any, Initialiser | None] | Iterable[Rule]

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


def check(rules: Rules) -> list[Rule]:
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


def _first(rules: list[Rule], named: Named) -> Rule | None:
    return next((rule for rule in rules if selects(rule[0], named)), None)


def choose(rules: list[Rule], parameters: Mapping[str, Named]) -> dict[str, Rule]:
    """Give each parameter the first rule that matches.

    Raises:
        ValueError: if no rule matches a parameter; the message lists all of these.
    """
    chosen: dict[str, Rule] = {}
    unmatched = []
    for name, named in parameters.items():
        rule = _first(rules, named)
        if rule is None:
            unmatched.append(f"{name} {tuple(named.tensor.shape)}")
        else:
            chosen[name] = rule
    if unmatched:
        raise ValueError(
            "argument 'rules': no rule matches " + ", ".join(unmatched) + "; add one, or 'default'"
        )
    return chosen


def _names_something(selector: Any) -> bool:
    """Whether a selector has a name in it, which may be misspelt.

    A class or a number of dimensions may well match nothing: rules for any model have such.
    """
    if isinstance(selector, tuple):
        return any(map(_names_something, selector))
    return isinstance(selector, (str, re.Pattern)) and selector != DEFAULT


def warn_of_unused(rules: list[Rule], parameters: Mapping[str, Named], where: str) -> None:
    """Warn of rules on names that no parameter gets."""
    used = {id(_first(rules, named)) for named in parameters.values()}
    found = []
    for rule in rules:
        selector = rule[0]
        if id(rule) in used or not _names_something(selector):
            continue
        if any(selects(selector, named) for named in parameters.values()):
            found.append(f"earlier rules match all that {selector!r} does")
        else:
            found.append(f"{selector!r} matches no parameter")
    if not found:
        return
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("fastinit."):
        depth, frame = depth + 1, frame.f_back
    text = f"fastinit.{where}: argument 'rules': {'; '.join(found)}"
    warnings.warn(text, UserWarning, stacklevel=depth)


def takes_name(initialiser: Initialiser) -> bool:
    """Whether a callable has a parameter called `name`, and so wants the parameter's."""
    try:
        parameter = inspect.signature(initialiser).parameters.get("name")
    except (TypeError, ValueError):  # no signature: a builtin
        return False
    bound = isinstance(initialiser, functools.partial) and "name" in initialiser.keywords
    return parameter is not None and not bound


def apply(rule: Rule, named: Named) -> None:
    """Run a rule's initialiser on a parameter; an error says which they were."""
    selector, initialiser = rule
    if initialiser is None:
        return
    tensor, row = named.tensor, named.padding_row
    try:
        if takes_name(initialiser):
            initialiser(tensor, name=named.name)
        else:
            with_fans(initialiser, named)(tensor)
        if row is not None:  # no gradient reaches it, so it would stay what was drawn
            tensor[row].zero_()
    except Exception as error:
        note(
            error,
            f"in {describe(initialiser)}, which the rule {selector!r} gives to parameter "
            f"{named.name}, shape {tuple(tensor.shape)}",
        )
        raise


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
