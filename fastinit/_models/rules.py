"""Rules of `initialize_` and `materialize`: which initialiser a parameter gets."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import merge
from typing import Any

from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.part import TensorShard
from fastinit._models.layouts import with_fans
from fastinit._models.names import Computed, Named
from fastinit._models.notes import name_of, note, said
from fastinit._models.parametrized import Place
from fastinit._models.patterns import matches, only_name
from fastinit._models.signatures import is_as_its_code
from fastinit._models.stand_ins import Declare
from fastinit._warnings import outside

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
    is_pattern = isinstance(selector, re.Pattern) and isinstance(selector.pattern, str)
    if not (is_class or is_number or is_pattern or isinstance(selector, str)):
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


def _only_name(selector: Any) -> str | None:
    """Give the one name that a selector can match; None if there may be others."""
    if isinstance(selector, tuple):
        return next(filter(None, map(_only_name, selector)), None)
    return None if selector == DEFAULT else only_name(selector)


def _reach(selector: Any, by_name: Mapping[str, Named]) -> Iterable[Named]:
    """Give all that a selector may match of these, and no more than that if it is a name."""
    name = _only_name(selector)
    if name is None:
        return by_name.values()
    return [by_name[name]] if name in by_name else []


def _by_name(parameters: Mapping[str, Named]) -> dict[str, Named]:
    """Give parameters by their names and by those of what they are parts of."""
    parts = (named for named in parameters.values() if named.part_of is not None)
    wholes = {named.part_of.name: named for named in parts if named.part_of is not None}
    return {**wholes, **parameters}


class _Ordered:
    """Rules in their order: of those for one name, however many, no name meets more than its own.

    Args:
        rules: the rules.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._of_any: list[tuple[int, Rule]] = []
        self._of_name: dict[str, list[tuple[int, Rule]]] = {}
        for place, rule in enumerate(rules):
            name = _only_name(rule[0])
            of_name = self._of_any if name is None else self._of_name.setdefault(name, [])
            of_name.append((place, rule))

    def reaching(self, named: Named) -> Iterable[Rule]:
        """List those that may match a parameter or buffer, or what it is part of."""
        names = [named.name] if named.part_of is None else [named.name, named.part_of.name]
        own = [self._of_name[name] for name in names if name in self._of_name]
        return (rule for _, rule in (merge(*own, self._of_any) if own else self._of_any))

    def first(self, named: Named) -> tuple[Rule, Computed | None] | None:
        """Find the first that matches a parameter, and what it matches, if that is not itself.

        What is part of a weight that its module computes has that weight's rules; by its own name
        only those that do not match the weight.
        """
        whole = named.part_of
        for rule in self.reaching(named):
            if whole is not None and selects(rule[0], whole.named):
                return rule, whole
            if selects(rule[0], named) and (whole is None or _names_something(rule[0])):
                return rule, None
        return None


@dataclass(frozen=True)
class _Through:
    """An initialiser of a weight that is computed, to be called for the first of its parts.

    Attributes:
        initialiser: what the weight gets.
        computed: the weight.
        first: whether this is the part that it is called for.
        leave: the parts that have rules of their own, or are not to be initialised.
    """

    initialiser: Initialiser
    computed: Computed
    first: bool
    leave: tuple[Place, ...]


def _through(
    chosen: Mapping[str, tuple[Rule, Computed | None]], parameters: Mapping[str, Named]
) -> dict[str, Rule]:
    """Make rules of weights that are computed rules of their parts."""
    found: dict[str, Rule] = {}
    parts: dict[Computed, list[str]] = {}
    for name, (rule, computed) in chosen.items():
        found[name] = rule
        if computed is not None and rule[1] is not None:
            parts.setdefault(computed, []).append(name)
    for computed, names in parts.items():
        own = {(parameters[name].owner, parameters[name].attribute) for name in names}
        leave = tuple(source for source in computed.how.sources if source not in own)
        for name in names:
            selector, initialiser = found[name]
            assert initialiser is not None
            through = _Through(initialiser, computed, name == names[0], leave)
            found[name] = (selector, through)  # type: ignore[assignment]
    return found


def choose(rules: list[Rule], parameters: Mapping[str, Named]) -> dict[str, Rule]:
    """Give each parameter the first rule that matches.

    Raises:
        ValueError: if no rule matches a parameter; the message lists all of these.
    """
    chosen: dict[str, tuple[Rule, Computed | None]] = {}
    unmatched, ordered = [], _Ordered(rules)
    for name, named in parameters.items():
        found = ordered.first(named)
        if found is None:
            part = "" if named.part_of is None else f", part of {named.part_of.name}"
            unmatched.append(f"{name} {tuple(named.tensor.shape)}{part}")
        else:
            chosen[name] = found
    if unmatched:
        raise ValueError(
            "argument 'rules': no rule matches " + ", ".join(unmatched) + "; add one, or 'default'"
        )
    return _through(chosen, parameters)


def left_alone(
    chosen: Mapping[str, Rule], wanted: Mapping[str, Named], parameters: Mapping[str, Named]
) -> list[Place]:
    """List the parts of computed weights that modules' own initialisers leave alone.

    These are the parts that have rules of their own, and those that are not to be initialised.
    """
    found = []
    for name, named in parameters.items():
        if named.part_of is None:
            continue
        _, initialiser = chosen.get(name, (None, None))
        own = initialiser is not None and not isinstance(initialiser, _Through)
        if own or name not in wanted:
            found.append((named.owner, named.attribute))
    return found


def _names_something(selector: Any) -> bool:
    """Whether a selector has a name in it, which may be misspelt.

    A class or a number of dimensions may well match nothing: rules for any model have such.
    """
    if isinstance(selector, tuple):
        return any(map(_names_something, selector))
    return isinstance(selector, (str, re.Pattern)) and selector != DEFAULT


def _matches(selector: Any, named: Named) -> bool:
    whole = named.part_of
    return selects(selector, named) or (whole is not None and selects(selector, whole.named))


def warn_of_unused(
    rules: list[Rule],
    parameters: Mapping[str, Named],
    where: str,
    buffers: Mapping[str, Named] | None = None,
) -> None:
    """Warn of rules on names that no parameter gets, and no buffer, if there are any."""
    used = {id(found[0]) for found in map(_Ordered(rules).first, parameters.values()) if found}
    used |= {id(rule) for rule in choose_for_buffers(rules, buffers or {}, parameters).values()}
    found, by_name = [], _by_name(parameters)
    for rule in rules:
        selector = rule[0]
        if id(rule) in used or not _names_something(selector):
            continue
        of_buffers = _reach(selector, buffers or {})
        reached = next((b.name for b in of_buffers if selects(selector, b)), None)
        if any(_matches(selector, named) for named in _reach(selector, by_name)):
            found.append(f"earlier rules match all that {selector!r} does")
        elif reached is not None:
            own = reached.rpartition(".")[2]
            found.append(
                f"{selector!r} matches no parameter, and buffers only where its last segment is "
                f"the buffer's own name, letter by letter ({own!r}, say)"
            )
        else:
            found.append(f"{selector!r} matches no parameter{' or buffer' if buffers else ''}")
    if not found:
        return
    text = f"fastinit.{where}: argument 'rules': {'; '.join(found)}"
    warnings.warn(text, UserWarning, stacklevel=outside())


def takes_name(initialiser: Initialiser) -> bool:
    """Whether a callable has a parameter called `name`, and so wants the parameter's."""
    if is_as_its_code(initialiser):
        code = initialiser.__code__
        return "name" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    try:
        parameter = inspect.signature(initialiser).parameters.get("name")
    except (TypeError, ValueError):  # no signature: a builtin
        return False
    bound = isinstance(initialiser, functools.partial) and "name" in initialiser.keywords
    return parameter is not None and not bound


def _spells_out(selector: Any, attribute: str) -> bool:
    """Whether a selector has the name that a module gives a tensor, letter by letter."""
    if isinstance(selector, tuple):
        return any(_spells_out(part, attribute) for part in selector)
    if isinstance(selector, re.Pattern):
        return re.search(rf"(?<!\w){re.escape(attribute)}(?!\w)", str(selector.pattern)) is not None
    return isinstance(selector, str) and selector.rpartition(".")[2] == attribute


def choose_for_buffers(
    rules: list[Rule], buffers: Mapping[str, Named], parameters: Mapping[str, Named]
) -> dict[str, Rule]:
    """Give buffers their rules: those that are meant for buffers, and no others.

    Tables, masks and statistics are not what rules like `"*"` or `"default"` are about, and a mask
    may well be called `bias`. So a rule reaches a buffer only if its selector has the buffer's own
    name, the last of its segments, letter by letter, and matches no parameter. None stands for what
    the module makes of it, as for parameters.
    """
    by_name = _by_name(parameters)
    meant = [
        rule
        for rule in rules
        if _names_something(rule[0])
        and not any(_matches(rule[0], named) for named in _reach(rule[0], by_name))
    ]
    chosen: dict[str, Rule] = {}
    ordered = _Ordered(meant)
    for name, named in buffers.items():
        for rule in ordered.reaching(named):
            if _spells_out(rule[0], named.attribute) and selects(rule[0], named):
                chosen[name] = rule
                break
    return chosen


def apply(rule: Rule, named: Named, declare: Declare | None = None) -> None:
    """Run a rule's initialiser on a parameter or buffer; an error says which they were.

    Args:
        rule: the rule.
        named: what it is for.
        declare: told the name of the tensor that stands in for a weight that is computed.
    """
    selector, initialiser = rule
    if initialiser is None:
        return
    through = initialiser if isinstance(initialiser, _Through) else None
    if through is not None:
        if not through.first:
            return
        initialiser = through.initialiser
        named = through.computed.named.with_tensor(through.computed.how.stand_in())
        if declare is not None:
            declare(named.name, named.tensor)
    try:
        _initialise(initialiser, named)
        if through is not None:
            through.computed.how.store(named.tensor.detach(), through.leave)
        elif named.part_of is not None:
            named.part_of.how.follow()
    except Exception as error:
        note(
            error,
            f"in {describe(initialiser)}, which the rule {selector!r} gives to "
            f"{named.name}, shape {tuple(named.tensor.shape)}",
        )
        raise


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are on one memory, which is not asked for, as that would end all waiting.

    A kind of tensor that has none is on that of any other.
    """
    storage, other = extension.storage_address(a), extension.storage_address(b)
    return storage == other or 0 in (storage, other)


def _initialise(initialiser: Initialiser, named: Named) -> None:
    if takes_name(initialiser):
        result = initialiser(named.tensor, name=named.name)
    else:
        result = with_fans(initialiser, named)(named.tensor)
    if isinstance(result, TensorShard):  # what has filled a part that is a shard of something
        result = result.part.local
    if isinstance(result, Tensor) and not _share_memory(result, named.tensor):
        raise ValueError(
            "an initialiser fills the tensor that it is given; this one has returned another, of "
            f"shape {tuple(result.shape)}"
        )
    for row in named.padding_rows:  # no gradient reaches it, so it would stay what was drawn
        named.tensor[row].zero_()


def describe(initialiser: Initialiser) -> str:
    """Word an initialiser for a report, as a call."""
    if isinstance(initialiser, _Through):
        computed = initialiser.computed
        called = describe(initialiser.initialiser)
        return f"{called} of {computed.name}, through {computed.how.what}"
    arguments: list[str] = []
    while isinstance(initialiser, functools.partial):
        given = [said(a) for a in initialiser.args]
        given += [f"{k}={said(v)}" for k, v in initialiser.keywords.items()]
        arguments = given + arguments
        initialiser = initialiser.func
    return f"{name_of(initialiser).rpartition('.')[2]}({', '.join(arguments)})"
