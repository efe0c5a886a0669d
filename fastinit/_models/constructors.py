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
from collections.abc import Callable, Container, Iterable, Iterator, Set
from types import FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple

import torch
from torch import nn

from fastinit._models.bytecode import SETS, Call, Change, uses
from fastinit._models.bytecode_values import ANY, SELF, SOME, Path
from fastinit._models.tree import Tree, entry_in
from fastinit._warnings import outside

_RUN = ("reset_parameters", "_reset_parameters", "init_weights", "_init_weights")
_FRAMEWORK = ("initialize_weights", "post_init", "_initialize_weights")
_BY_PARTS = ("_init_weights",)  # run for all modules, whichever a constructor runs them for
_CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)
# Of torch, as others call theirs, and what takes weights from elsewhere.
_INITIALISERS = frozenset(
    {name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
    | {"_no_grad_fill_", "_no_grad_normal_", "_no_grad_uniform_", "_no_grad_zero_", SOME}
    | {"trunc_normal_tf_", "lecun_normal_", "lecun_uniform_", "vector_to_parameters"}
    | {name for name in dir(torch) if name.startswith("_foreach_") and name.endswith("_")}
)
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
_INITIALISES = re.compile(r"(reset|init).*(param|weight)")
_DEEPEST = 4  # calls of children's methods that are followed


def _function(value: Any) -> FunctionType | None:
    try:
        value = inspect.unwrap(value) if callable(value) else value
    except Exception:  # of an object that has something else under that name, or itself
        return None
    while isinstance(value, (functools.partial, staticmethod, classmethod)):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    return value if isinstance(value, FunctionType) else None


def _is_of(function: FunctionType, *packages: str) -> bool:
    return (function.__module__ or "").partition(".")[0] in packages


class _Reached(NamedTuple):
    """What functions use and do, and what they call: see `Uses`."""

    names: frozenset[str]
    changes: frozenset[Change]
    paths: frozenset[Path]
    loads: frozenset[Path]
    calls: frozenset[Call]


def _in_modules(path: Path, function: FunctionType) -> Any:
    """Give what a global path leads to through Python modules; None if it leads elsewhere."""
    value = function.__globals__.get(path[0])
    for name in path[1:]:
        if not isinstance(value, ModuleType):
            return None
        value = vars(value).get(name)
    return value


def _reached(
    kind: type[nn.Module], start: Iterable[FunctionType], stop: Callable[[str], bool]
) -> _Reached:
    """Collect what functions use and do, with the methods and functions which they call."""
    names: set[str] = set()
    changes: set[Change] = set()
    paths: set[Path] = set()
    loads: set[Path] = set()
    calls: set[Call] = set()
    seen: set[FunctionType] = set()
    waiting = list(start)
    while waiting:
        function = waiting.pop()
        if function in seen or _is_of(function, "torch", "numpy"):
            continue
        seen.add(function)
        used = uses(function.__code__)
        own = {name for name in used.names if not stop(name)}
        names |= own
        changes |= used.changes
        paths |= used.paths
        loads |= used.loads
        calls |= used.calls
        changes |= {Change("", name) for name in used.parts - used.wholes if name in _BY_PARTS}
        called: list[Any] = [*(function.__defaults__ or ())]
        called += (function.__kwdefaults__ or {}).values()
        names |= {d.__name__ for d in map(_function, called) if d and _is_of(d, "torch")}
        methods = {path[1] for path in used.paths if path[0] == SELF} & own
        for name in methods:
            called += [vars(base)[name] for base in kind.__mro__ if name in vars(base)]
        called += map(function.__globals__.get, own)
        called += [_in_modules(path, function) for path in used.paths if path[0] not in (SELF, ANY)]
        waiting += [f for f in map(_function, called) if f is not None]
    return _Reached(
        frozenset(names),
        frozenset(changes),
        frozenset(paths),
        frozenset(loads),
        frozenset(calls),
    )


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
def _by_constructor(kind: Any) -> _Reached:
    """Collect what a class's constructor uses and does, past what is run again."""
    constructors = (vars(base).get("__init__") for base in kind.__mro__)
    start = [f for f in map(_function, constructors) if f is not None]
    return _reached(kind, start, functools.partial(_is_run, kind))


@functools.lru_cache(maxsize=1024)
def _by_method(kind: Any, name: str) -> _Reached | None:
    """Collect what a method does that its module's parent calls; None if that is run again."""
    method = _function(getattr(kind, name, None))
    if method is None or _is_run(kind, name) or _is_of(method, "torch", "transformers"):
        return None
    return _reached(kind, [method], functools.partial(_is_run, kind))


def _children(module: nn.Module, path: Iterable[str]) -> list[nn.Module]:
    """List the modules that a path of names leads to; of a container those that it holds, too."""
    for name in path:
        child: nn.Module | None = entry_in(module._modules, name)
        if child is None:
            return []
        module = child
    held = [one for one in module._modules.values() if one is not None]
    return [module, *(held if isinstance(module, _CONTAINERS) else [])]


def _by_children(module: nn.Module, reached: _Reached, called: Set[str]) -> Iterator[_Reached]:
    """Give what methods of a module's children do that are called where this was collected."""
    waiting = [(module, reached, 0)]
    while waiting:
        owner, found, depth = waiting.pop()
        for path in found.paths if depth < _DEEPEST else ():
            if path[0] != SELF or len(path) < 3 or path[-1] in called:
                continue
            for child in _children(owner, path[1:-1]):
                child_kind: Any = type(child)
                theirs = _by_method(child_kind, path[-1])
                if theirs is not None:
                    yield theirs
                    waiting.append((child, theirs, depth + 1))


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
            if used.names & _INITIALISERS or any(c.how in _METHODS for c in used.changes if c.of):
                found.add(name)
    return frozenset(found)


@functools.lru_cache(maxsize=1024)
def _called(kind: Any) -> frozenset[str]:
    """Collect the names that the methods which are run use."""
    methods = [_function(getattr(kind, name, None)) for name in (*_RUN, *_FRAMEWORK)]
    return _reached(kind, [f for f in methods if f is not None], lambda _: False).names


def _counts(change: Change, parameters: Set[str], buffers: Container[str]) -> bool:
    """Whether a change is one of a parameter, for all that is known."""
    if change.of == ANY:
        return change.how in ("fill_", "zero_")
    if change.how not in (*SETS, *_METHODS, *_BY_PARTS):
        return False
    return not change.of or (change.of in parameters and change.of not in buffers)


def _worded(names: Iterable[str], changes: Iterable[Change]) -> str:
    """Word what a constructor does."""
    calls, sets, parts = sorted(names), [], []
    for change in sorted(changes):
        of = change.of.replace(ANY, "") or "parameters"
        if change.how in SETS:
            sets.append(of if change.how == "=" else f"{of}{change.how}")
        elif change.how in _BY_PARTS:
            parts.append(f"{change.how} for parts alone")
        else:
            calls.append(f"{of}.{change.how}" if change.of != ANY else change.how)
    calls = [*dict.fromkeys((*calls, *parts))]
    done = [f"{verb} {', '.join(of)}" for verb, of in (("calls", calls), ("sets", sets)) if of]
    return " and ".join(done)


def _names_of_parameters(tree: Tree) -> Set[str]:
    """List what modules call their parameters, and their lists of them."""
    found: set[str] = set()
    for module in tree.modules:
        found.update(module._parameters.keys())
        if module._modules and type(module) not in _CONTAINERS:
            lists = (nn.ParameterList, nn.ParameterDict)
            found.update(n for n, child in module._modules.items() if isinstance(child, lists))
    return found


def _run_otherwise(kind: Any, calls: Iterable[Call]) -> set[str]:
    """Word the calls of methods, which are run again, with constants other than their defaults.

    So far as each is called in one way only: of several it is not known which is the last.
    """
    ways: dict[str, set[Call]] = {}
    for call in calls:
        if call.name in _RUN and call.name not in _BY_PARTS and _is_run(kind, call.name):
            ways.setdefault(call.name, set()).add(call)
    found = set()
    for name, (call, *others) in ways.items():
        method = _function(getattr(kind, name))
        if others or not call.given or method is None:
            continue
        parameters = [*inspect.signature(method).parameters.values()][1:]
        by_key: dict[int | str, inspect.Parameter] = {one.name: one for one in parameters}
        by_key.update(enumerate(parameters))
        for key, value in call.given:
            default = by_key[key].default if key in by_key else value
            if type(default) in (bool, int, float, str, NoneType) and value != default:
                found.add(f"{name}({'' if isinstance(key, int) else f'{key}='}{value!r})")
    return found


def _done_by(kind: Any, example: nn.Module, parameters: Set[str], called: Set[str]) -> str:
    """Word what a constructor does that is not run again; "" if that is nothing."""
    own = _by_constructor(kind)
    every = [own, *_by_children(example, own, called)]
    names = {name for one in every for name in one.names if name in _INITIALISERS}
    changes = {c for one in every for c in one.changes}
    if any(path[0] == SELF and path[-1] == _LOADS for path in own.loads):
        names.add(_LOADS)
    names |= _run_otherwise(kind, own.calls)
    buffers = example._buffers  # a mask may be one called `bias`, of which nothing is lost
    return _worded(names, {c for c in changes if _counts(c, parameters, buffers)})


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
    suspects = [
        k for k, free in kinds.items() if (free and any(_by_constructor(k))) or _by_others(k)
    ]
    if not suspects:
        return []
    examples = {type(m): m for m, theirs in zip(tree.modules, framework, strict=True) if not theirs}
    parameters = _names_of_parameters(tree)
    called = frozenset[str]().union(*map(_called, kinds))
    found = []
    for kind in suspects:
        if kinds[kind] and (done := _done_by(kind, examples[kind], parameters, called)):
            found.append(f"{kind.__name__}() {done}")
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
