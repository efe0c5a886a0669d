"""What constructors initialise themselves, which running a module's initialisers does not repeat.

`ResNet.__init__` draws the weights of its convolutions anew, say, and sets some to zero. Nothing
but its code tells, so that is what is looked at: the names that a constructor uses, and those that
functions and methods it calls use, but not the methods that fastinit runs.
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
import warnings
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from fastinit._models.bytecode import CHANGES, SETS, changes_in, names_in
from fastinit._models.notes import outside
from fastinit._models.tree import Tree

_RUN = ("reset_parameters", "_reset_parameters", "init_weights", "_init_weights")
_FRAMEWORK = ("initialize_weights", "post_init", "_initialize_weights")
# Of torch, as others call theirs, and what is done to weights without them.
_INITIALISERS = (
    {name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
    | {"trunc_normal_tf_", "lecun_normal_", "lecun_uniform_", "fill_", "zero_"}
    | CHANGES
)
_INITIALISES = re.compile(r"(reset|init).*(param|weight)")


def _function(value: Any) -> FunctionType | None:
    value = inspect.unwrap(value) if callable(value) else value
    while isinstance(value, (functools.partial, staticmethod, classmethod)):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    return value if isinstance(value, FunctionType) else None


def _is_of(function: FunctionType, *packages: str) -> bool:
    return (function.__module__ or "").partition(".")[0] in packages


def _reached(
    kind: type[nn.Module], start: Iterable[FunctionType], stop: Callable[[str], bool]
) -> set[str]:
    """Collect the names that functions use, and methods and functions which they call."""
    found: set[str] = set()
    seen: set[FunctionType] = set()
    waiting = list(start)
    while waiting:
        function = waiting.pop()
        if function in seen or _is_of(function, "torch"):
            continue
        seen.add(function)
        names = {name for name in names_in(function.__code__) if not stop(name)}
        found |= names | changes_in(function.__code__)
        for name in names:
            called = [vars(base)[name] for base in kind.__mro__ if name in vars(base)]
            called.append(function.__globals__.get(name))
            waiting += [f for f in map(_function, called) if f is not None]
    return found


def _needs_arguments(function: FunctionType) -> bool:
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return True
    return False


def _is_run(kind: Any, name: str) -> bool:
    """Whether a method of a class is run again, whoever calls it."""
    if name in _FRAMEWORK:
        return True
    method = _function(getattr(kind, name, None)) if name in _RUN else None
    return method is not None and (name == "_init_weights" or not _needs_arguments(method))


@functools.lru_cache(maxsize=1024)
def _by_constructor(kind: Any) -> frozenset[str]:
    """Collect the initialisers that a class's constructor uses, past those that are run again."""
    constructors = (vars(base).get("__init__") for base in kind.__mro__)
    start = [f for f in map(_function, constructors) if f is not None]
    return frozenset(_reached(kind, start, functools.partial(_is_run, kind)) & _INITIALISERS)


@functools.lru_cache(maxsize=1024)
def _by_others(kind: Any) -> frozenset[str]:
    """Collect the methods that initialise, but need arguments which only their callers know."""
    found = set()
    for base in kind.__mro__:
        for name, value in vars(base).items():
            method = _function(value)
            if (
                method is None
                or name in (*_RUN, *_FRAMEWORK)
                or not _INITIALISES.search(name)
                or _is_of(method, "torch", "transformers")
                or not _needs_arguments(method)
            ):
                continue
            # A lazy layer's `initialize_parameters` does no more than make memory and call what
            # is run.
            used = _reached(kind, [method], functools.partial(_is_run, kind))
            if used & _INITIALISERS - SETS:
                found.add(name)
    return frozenset(found)


@functools.lru_cache(maxsize=1024)
def _called(kind: Any) -> frozenset[str]:
    """Collect the names that the methods which are run use."""
    methods = [_function(getattr(kind, name, None)) for name in (*_RUN, *_FRAMEWORK)]
    return frozenset(_reached(kind, [f for f in methods if f is not None], lambda _: False))


def _of(change: str) -> str:
    """Name what is set."""
    return re.split(r"\W", change, maxsplit=1)[0]


def _worded(names: Iterable[str]) -> str:
    """Word what a constructor does."""
    calls = [name for name in names if name not in SETS]
    sets = [name for name in names if name in SETS]
    done = [f"{verb} {', '.join(of)}" for verb, of in (("calls", calls), ("sets", sets)) if of]
    return " and ".join(done)


def lost(tree: Tree) -> list[str]:
    """Say which classes are initialised by more than what `initialize_` runs, and how.

    Models of transformers initialise again what their constructors did, and so what others have put
    inside since (LoRA's layers), whose methods they do not call.
    """
    framework = [*map(operator.or_, tree.inside, tree.pretrained)]
    own = (m for m, theirs in zip(tree.modules, framework, strict=True) if not theirs)
    kinds: dict[Any, bool] = dict.fromkeys(map(type, own), True)
    for kind in dict.fromkeys(map(type, tree.modules)):
        kinds.setdefault(kind, False)
    # A mask may be a buffer called `bias`, of which nothing is lost.
    buffers = {type(m): m._buffers for m in tree.modules if m._buffers}
    own_of = {
        kind: {n for n in _by_constructor(kind) if n not in SETS or _of(n) not in held}
        for kind, free in kinds.items()
        if free
        for held in (buffers.get(kind, {}),)
    }
    suspects = [k for k in kinds if own_of.get(k) or _by_others(k)]
    called = frozenset[str]().union(*map(_called, kinds)) if suspects else frozenset()
    found = []
    for kind in suspects:
        if names := sorted(own_of.get(kind, ())):
            found.append(f"{kind.__name__}() {_worded(names)}")
        elif names := sorted(_by_others(kind) - called):
            found.append(f"{kind.__name__}.{names[0]} needs arguments")
    return list(dict.fromkeys(found))


def warn_of_lost(tree: Tree) -> None:
    """Warn of constructors that initialise themselves, each class once."""
    found = lost(tree)
    if not found:
        return
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    warnings.warn(
        "fastinit: constructors are not run again, and these initialise more than the modules' "
        f"own initialisers do: {'; '.join(found[:5])}{more}. Values may differ from those of a new "
        "module; fastinit.materialize(factory), or initialize_(module, factory=factory), gives "
        "those",
        UserWarning,
        stacklevel=outside(),
    )
