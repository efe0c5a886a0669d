"""What constructors initialise themselves, which running a module's initialisers does not repeat.

`ResNet.__init__` draws the weights of its convolutions anew, say, and sets some to zero. Little
but its code tells, so that is what is looked at: the names that a constructor uses, and those that
functions and methods it calls use, but not the methods that fastinit runs. Of tables that it may
have been handed the weights tell, too: see `handed`.
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence, Set
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fastinit._models.by_class import by_class
from fastinit._models.bytecode import FROM_PRETRAINED, SETS, Call, Change
from fastinit._models.bytecode_values import ANY, SELF
from fastinit._models.handed import Weights
from fastinit._models.parametrized import parametrized
from fastinit._models.reached import (
    BY_PARTS,
    INITIALISERS,
    PLAIN,
    Reached,
    function_of,
    is_of,
    reached,
)
from fastinit._models.tree import CONTAINERS, Tree, children_at
from fastinit._warnings import outside

_RUN = ("reset_parameters", "_reset_parameters", "init_weights", "_init_weights")
_FRAMEWORK = ("initialize_weights", "post_init", "_initialize_weights")
_LOADS = "load_state_dict"
# Methods that end in "_" and change no values.
_KEEP = frozenset(
    {"as_strided_", "detach_", "rename_", "requires_grad_", "resize_", "resize_as_", "set_"}
    | {"share_memory_", "squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"}
)
_METHODS = frozenset(
    name
    for name in dir(torch.Tensor)
    if name.endswith("_") and not name.startswith("_") and name not in _KEEP
)
_CHANGES = frozenset((*SETS, *_METHODS, *BY_PARTS))
_INITIALISES = re.compile(r"(reset|init).*(param|weight)")
_RUNNING = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_AS_RESET = (Change("running_mean", "zero_"), Change("num_batches_tracked", "zero_"))
_DEEPEST = 4  # calls of children's methods that are followed


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
    method = function_of(getattr(kind, name, None)) if name in _RUN else None
    return method is not None and (name == "_init_weights" or not _needs_arguments(method))


@by_class
def _by_constructor(kind: Any) -> Reached:
    """Collect what a class's constructor uses and does, past what is run again."""
    constructors = (vars(base).get("__init__") for base in kind.__mro__)
    start = [f for f in map(function_of, constructors) if f is not None]
    return reached(kind, start, functools.partial(_is_run, kind))


@by_class
def _by_method(kind: Any, name: str) -> Reached | None:
    """Collect what a method does that its module's parent calls; None if that is run again."""
    method = function_of(getattr(kind, name, None))
    if method is None or _is_run(kind, name) or is_of(method, "torch", "transformers"):
        return None
    return reached(kind, [method], functools.partial(_is_run, kind))


def _by_children(module: nn.Module, own: Reached, called: Set[str]) -> Iterator[Reached]:
    """Give what methods of a module's children do that are called where this was collected."""
    for made, name in own.others:
        theirs = _by_method(made, name) if issubclass(made, nn.Module) else None
        if theirs is not None and name not in called:
            yield theirs
    waiting = [(module, own, 0)]
    while waiting:
        owner, found, depth = waiting.pop()
        for path in found.paths if depth < _DEEPEST else ():
            if path[0] != SELF or len(path) < 3 or path[-1] in called:
                continue
            for child in children_at(owner, path[1:-1]):
                child_kind: Any = type(child)
                theirs = _by_method(child_kind, path[-1])
                if theirs is not None:
                    yield theirs
                    waiting.append((child, theirs, depth + 1))


@by_class
def _by_others(kind: Any) -> frozenset[str]:
    """Collect the methods that initialise, but need arguments which only their callers know."""
    found = set()
    for base in kind.__mro__:
        for name, value in vars(base).items():
            method = function_of(value)
            if (
                method is None
                or name in (*_RUN, *_FRAMEWORK)
                or not _INITIALISES.search(name)
                or is_of(method, "torch", "transformers")
                or not _needs_arguments(method)
            ):
                continue
            # A lazy layer's `initialize_parameters` does no more than make memory and call what
            # is run.
            used = reached(kind, [method], functools.partial(_is_run, kind))
            if used.names & INITIALISERS or any(c.how in _METHODS for c in used.changes if c.of):
                found.add(name)
    return frozenset(found)


@by_class
def _called(kind: Any) -> frozenset[str]:
    """Collect the names that the methods which are run use."""
    methods = [function_of(getattr(kind, name, None)) for name in (*_RUN, *_FRAMEWORK)]
    return reached(kind, [f for f in methods if f is not None], lambda _: False).names


def _worded(names: Iterable[str], changes: Iterable[Change]) -> str:
    """Word what a constructor does."""
    calls, sets, parts = sorted(names), [], []
    for change in sorted(changes):
        of = change.of.replace(ANY, "") or "parameters"
        if change.how in SETS:
            sets.append(of if change.how == "=" else f"{of}{change.how}")
        elif change.how in BY_PARTS:
            parts.append(f"{change.how} for parts alone")
        else:
            calls.append(f"{of}.{change.how}" if change.of != ANY else change.how)
    calls = [*dict.fromkeys((*calls, *parts))]
    done = [f"{verb} {', '.join(of)}" for verb, of in (("calls", calls), ("sets", sets)) if of]
    return " and ".join(done)


def _written_by_torch(module: nn.Module) -> Set[str]:
    """List the buffers that initialisers of torch's own write."""
    return _RUNNING if isinstance(module, _NormBase) else frozenset()


def _written_buffers(module: nn.Module) -> Set[str]:
    """List the buffers that a module's initialisers write."""
    kind: Any = type(module)
    return (_called(kind) | _written_by_torch(module)) & {*module._buffers.keys()}


def _names_of_parameters(tree: Tree) -> Set[str]:
    """List what modules call their parameters, their lists of them, and what is written as these.

    That is what they compute from parameters, and buffers that their initialisers write.
    """
    found: set[str] = set()
    for module in tree.modules:
        found.update(module._parameters.keys())
        found.update(one.attribute for one in parametrized(module))
        if module._buffers:
            found.update(_written_buffers(module))
        if module._modules and type(module) not in CONTAINERS:
            lists = (nn.ParameterList, nn.ParameterDict)
            found.update(n for n, child in module._modules.items() if isinstance(child, lists))
    return found


def _run_otherwise(kind: Any, calls: Iterable[Call]) -> set[str]:
    """Word the calls of methods, which are run again, with constants other than their defaults.

    So far as each is called in one way only: of several it is not known which is the last.
    """
    ways: dict[str, set[Call]] = {}
    for call in calls:
        if call.name in _RUN and call.name not in BY_PARTS and _is_run(kind, call.name):
            ways.setdefault(call.name, set()).add(call)
    found = set()
    for name, (call, *others) in ways.items():
        method = function_of(getattr(kind, name))
        if others or not call.given or method is None:
            continue
        parameters = [*inspect.signature(method).parameters.values()][1:]
        by_key: dict[int | str, inspect.Parameter] = {one.name: one for one in parameters}
        by_key.update(enumerate(parameters))
        for key, value in call.given:
            default = by_key[key].default if key in by_key else value
            if type(default) in PLAIN and value != default:
                found.add(f"{name}({'' if isinstance(key, int) else f'{key}='}{value!r})")
    return found


class _Lost:
    """What constructors of a module's classes do that is not run again.

    Args:
        tree: the module.
        kinds: its classes.
        own: its modules that are not of transformers.
    """

    def __init__(self, tree: Tree, kinds: Iterable[Any], own: list[nn.Module]) -> None:
        self._tree, self._own = tree, own
        self._examples = {type(module): module for module in own}
        self.called = frozenset[str]().union(*map(_called, kinds))

    @functools.cached_property
    def _parameters(self) -> Set[str]:
        return _names_of_parameters(self._tree)

    @functools.cached_property
    def _weights(self) -> Weights:
        return Weights(self._tree, self._draws)

    def _counts(self, change: Change, module: nn.Module) -> bool:
        """Whether a change is one of a parameter, for all that is known."""
        if change.of == ANY:
            return change.how in ("fill_", "zero_")
        if change.how not in _CHANGES or change in _AS_RESET:
            return False
        if not change.of:
            return True
        # A mask may be one called `bias`, of which nothing is lost.
        if change.of in module._buffers and change.of not in _written_by_torch(module):
            return False
        return change.of in self._parameters

    def _draws(self, module: nn.Module, attribute: str) -> bool:
        """Whether what is run draws a weight of a module, for all that is known."""
        run = (function_of(getattr(type(module), name, None)) for name in _RUN)
        return attribute in self.called or any(f is not None and is_of(f, "torch") for f in run)

    def _handed(self, kind: Any, own: Reached) -> Iterator[Change]:
        """Give the weights that constructors have been handed, as changes."""
        runs = {path[1] for path in own.paths if path[0] == SELF and len(path) > 1}
        is_last = runs.isdisjoint((*_RUN, *_FRAMEWORK))
        for module in self._own if own.tables else ():
            if type(module) is kind:
                for table in self._weights.handed(module, own.tables, is_last):
                    if table.attribute == FROM_PRETRAINED:
                        yield Change(ANY, FROM_PRETRAINED)
                    else:
                        yield Change(table.attribute, "=")

    def by(self, kind: Any) -> str:
        """Word what a class's constructor does; "" if that is nothing."""
        own, example = _by_constructor(kind), self._examples[kind]
        every = [own, *_by_children(example, own, self.called)]
        names = {name for one in every for name in one.names if name in INITIALISERS}
        changes = {c for one in every for c in one.changes}
        if any(path[0] == SELF and path[-1] == _LOADS for path in own.loads):
            names.add(_LOADS)
        names |= _run_otherwise(kind, own.calls)
        for made, name in own.others:
            if name == "step" and issubclass(made, torch.optim.Optimizer):
                names.add(f"{made.__name__}.{name}")
        changes = {change for change in changes if self._counts(change, example)}
        return _worded(names, changes.union(self._handed(kind, own)))


def lost(tree: Tree) -> list[str]:
    """Say which classes are initialised by more than what `initialize_` runs, and how.

    Models of transformers initialise again what their constructors did, and so what others have put
    inside since (LoRA's layers), whose methods they do not call.
    """
    framework = map(operator.or_, tree.inside, tree.pretrained)
    own = [m for m, theirs in zip(tree.modules, framework, strict=True) if not theirs]
    kinds: dict[Any, bool] = dict.fromkeys(map(type, own), True)
    for kind in dict.fromkeys(map(type, tree.modules)):
        kinds.setdefault(kind, False)
    suspects = [
        k for k, free in kinds.items() if (free and any(_by_constructor(k))) or _by_others(k)
    ]
    if not suspects:
        return []
    what = _Lost(tree, kinds, own)
    found = []
    for kind in suspects:
        if kinds[kind] and (done := what.by(kind)):
            found.append(f"{kind.__name__}() {done}")
        elif names := sorted(_by_others(kind) - what.called):
            found.append(f"{kind.__name__}.{names[0]} needs arguments")
    return list(dict.fromkeys(found))


def warn_of_lost(found: Sequence[str]) -> None:
    """Warn of constructors that initialise themselves, each class once: see `lost`."""
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
