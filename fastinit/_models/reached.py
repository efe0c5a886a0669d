"""What functions do, with the functions and methods that they call, as far as code tells."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple

import torch
from torch import nn

from fastinit._models.bytecode import (
    FROM_PRETRAINED,
    ITEM,
    MADE_BY,
    Call,
    Change,
    Flag,
    Table,
    uses,
)
from fastinit._models.bytecode_values import ANY, SELF, SOME, Argument, Path

# Of torch, as others call theirs, and what takes weights from elsewhere.
INITIALISERS = frozenset(
    {name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
    | {"_no_grad_fill_", "_no_grad_normal_", "_no_grad_uniform_", "_no_grad_zero_", SOME}
    | {"trunc_normal_tf_", "lecun_normal_", "lecun_uniform_", "vector_to_parameters"}
    | {name for name in dir(torch) if name.startswith("_foreach_") and name.endswith("_")}
)
BY_PARTS = ("_init_weights",)  # run for all modules, whichever a constructor runs them for
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
PLAIN = (bool, int, float, str, NoneType)


def function_of(value: Any) -> FunctionType | None:
    """Give the function that something is, or leads to; None if it is none."""
    try:
        value = inspect.unwrap(value) if callable(value) else value
    except Exception:  # of an object that has something else under that name, or itself
        return None
    while isinstance(value, (functools.partial, staticmethod, classmethod)):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    return value if isinstance(value, FunctionType) else None


def is_of(function: FunctionType, *packages: str) -> bool:
    """Whether a function is one of these packages'."""
    return (function.__module__ or "").partition(".")[0] in packages


class Reached(NamedTuple):
    """What functions use and do, and what they call: see `Uses`.

    Attributes:
        others: methods of modules that are made there, by their classes.
    """

    names: frozenset[str] = frozenset()
    changes: frozenset[Change] = frozenset()
    paths: frozenset[Path] = frozenset()
    loads: frozenset[Path] = frozenset()
    calls: frozenset[Call] = frozenset()
    tables: frozenset[Table] = frozenset()
    flags: frozenset[Flag] = frozenset()
    others: frozenset[tuple[Any, str]] = frozenset()

    def with_those(self, others: Iterable[Reached]) -> Reached:
        """Give what is in this or in any of the others."""
        return Reached(*(frozenset().union(*sets) for sets in zip(self, *others, strict=True)))


def _global(path: Path, function: FunctionType) -> Any:
    """Give what a global path leads to through Python modules; None if it leads elsewhere."""
    value = function.__globals__.get(path[0])
    for name in path[1:]:
        if not isinstance(value, ModuleType):
            return None
        value = vars(value).get(name)
    return value


def _of_torch(table: Any, name: str | None) -> Iterator[FunctionType]:
    """Give what a table has of torch's functions, under a name if it is known.

    Others may be for other purposes.
    """
    entries: Iterable[Any] = table if type(table) in (dict, list, tuple) else ()
    if type(table) is dict:
        entries = table.values() if name is None else (table.get(name),)
    for function in map(function_of, entries):
        if function is not None and is_of(function, "torch"):
            yield function


def _elements(
    paths: Iterable[Path], function: FunctionType, of_class: Mapping[str, Sequence[Any]]
) -> Iterator[FunctionType]:
    """Give torch's functions that are called as elements of tables, global or of the class."""
    for path in paths:
        if ITEM in path[1:]:
            to, name = path[: path.index(ITEM)], path[path.index(ITEM) + 1 :]
            own = to[0] == SELF
            for table in of_class.get(to[-1], ()) if own else [_global(to, function)]:
                yield from _of_torch(table, *name[:1] or [None])


def _made_by(path: Path, function: FunctionType, kind: type) -> Any:
    """Give what a path leads to if that is a class of a kind."""
    found = _global(path, function)
    return found if isinstance(found, type) and issubclass(found, kind) else None


def _is_method(function: FunctionType, kind: type) -> bool:
    methods = (vars(base).get(function.__name__) for base in kind.__mro__)
    return any(function_of(method) is function for method in methods)


def _tables(tables: Iterable[Table], function: FunctionType, kind: type) -> Iterator[Table]:
    """Give tables of weights, as seen from a class's constructor.

    Nothing but embeddings is made of them, and other functions may not be called at all.
    """
    for table in tables:
        owner, certain = table.owner, table.certain and function.__name__ == "__init__"
        if table.attribute == FROM_PRETRAINED:
            if not any(_made_by(owner, function, one) for one in EMBEDDINGS):
                continue
            owner = ()
        elif owner[:1] == (SELF,) and not _is_method(function, kind):
            owner = ()
        yield Table(owner, table.attribute, certain)


def _objects(paths: Iterable[Path], function: FunctionType) -> Iterator[tuple[Any, str]]:
    """Give classes of which something is made, and the methods of it that are called."""
    for path in paths:
        if len(path) > 2 and path[-2] == MADE_BY and MADE_BY not in path[:-2]:
            for kind in (nn.Module, torch.optim.Optimizer):
                made = _made_by(path[:-2], function, kind)
                if made is not None:
                    yield made, path[-1]


def _as_called(call: Call, function: FunctionType, is_first: bool) -> Call:
    """Give arguments that a constructor hands on the values that they have if nobody gives them.

    Those of other functions are not known.
    """
    given = call.given
    if given is None or not any(type(value) is Argument for _, value in given):
        return call
    if not is_first:
        return Call(call.name, None)
    parameters = inspect.signature(function).parameters
    values = dict(given)
    for key, value in given:
        if type(value) is Argument:
            values[key] = default = parameters[value.name].default
            if default is None or type(default) not in PLAIN:  # None stands for others
                return Call(call.name, None)
    return Call(call.name, frozenset(values.items()))


def _flags(flags: Iterable[Flag], function: FunctionType, kind: Any) -> Iterator[Flag]:
    """Give flags that are set to a class's modules, for all that is known, or to others.

    Transformers has its own way, and what functions of other packages set is something else.
    """
    if is_of(function, "transformers"):
        return
    if _is_method(function, kind):
        yield from flags
    elif is_of(function, kind.__module__.partition(".")[0]):
        yield from (flag._replace(of=ANY) for flag in flags)


def reached(
    kind: type[nn.Module], start: Iterable[FunctionType], stop: Callable[[str], bool]
) -> Reached:
    """Collect what functions use and do, with the methods and functions which they call.

    Args:
        kind: the class whose methods they are, or call.
        start: the functions.
        stop: whether what has a name is not to be looked at.
    """
    found: list[Reached] = []
    seen: set[FunctionType] = set()
    constructor = function_of(kind.__init__)
    waiting = list(start)
    while waiting:
        function = waiting.pop()
        if function in seen or is_of(function, "torch", "numpy"):
            continue
        seen.add(function)
        used = uses(function.__code__)
        own = {name for name in used.names if not stop(name)}
        methods = {path[1] for path in used.paths if path[0] == SELF} & own
        outside = [path for path in used.paths if path[0] not in (SELF, ANY)]
        called: list[Any] = [*(function.__defaults__ or ())]
        called += (function.__kwdefaults__ or {}).values()
        of_class = {
            name: [vars(base)[name] for base in kind.__mro__ if name in vars(base)]
            for name in methods
        }
        for values in of_class.values():
            called += values
        called += map(function.__globals__.get, own)
        called += [_global(path, function) for path in outside]
        functions = [
            *filter(None, map(function_of, called)),
            *_elements(used.paths, function, of_class),
        ]
        of_torch = {f.__name__ for f in functions if is_of(f, "torch")}  # by whatever name
        parts = {Change("", name) for name in used.parts - used.wholes if name in BY_PARTS}
        found.append(
            Reached(
                frozenset(own | of_torch),
                used.changes | parts,
                used.paths,
                used.loads,
                frozenset(_as_called(c, function, function is constructor) for c in used.calls),
                frozenset(_tables(used.tables, function, kind)),
                frozenset(_flags(used.flags, function, kind)),
                frozenset(_objects(outside, function)),
            )
        )
        waiting += functions
    return Reached().with_those(found)
