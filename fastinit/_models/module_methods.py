"""What modules themselves define for their initialisation, and running it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from types import FunctionType
from typing import Any, NamedTuple

from torch import nn

from fastinit._models.by_class import by_class
from fastinit._models.bytecode import names_in
from fastinit._models.constructors import lost
from fastinit._models.flags import lowered
from fastinit._models.loaded import FLAG
from fastinit._models.names import named_modules
from fastinit._models.notes import name_of, note
from fastinit._models.parametrized import Place
from fastinit._models.signatures import accepts
from fastinit._models.stand_ins import Declare, StandIns
from fastinit._models.ties import Ties
from fastinit._models.tree import Tree, method_of
from fastinit._models.writes import WriteWatch


def _takes(method: Callable[..., Any], count: int) -> bool:
    """Whether a method can be called with so many arguments."""
    function = getattr(method, "__func__", None)
    return accepts(method, count) if function is None else accepts(function, count + 1)


def _callable_without_arguments(method: Callable[..., Any]) -> bool:
    return _takes(method, 0)


def _takes_one_module(method: Callable[..., Any]) -> bool:
    return _takes(method, 1) and not _takes(method, 0)


@by_class
def _constructor_calls(kind: type[nn.Module], name: str) -> bool:
    """Whether a method is one that the constructor calls, itself or by way of other methods."""
    seen = {"__init__"}
    waiting = ["__init__"]
    while waiting:
        caller = waiting.pop()
        for base in kind.__mro__:
            function: Any = vars(base).get(caller)
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is None:
                continue
            names = names_in(code)
            if name in names:
                return True
            called = {n for n in names - seen if hasattr(kind, n)}
            seen |= called
            waiting += called
    return False


def _method(module: nn.Module, name: str, framework: bool) -> Callable[..., Any] | None:
    """Return a method of a module, but not what nobody calls in transformers and diffusers.

    These call none of these methods themselves, so what counts there is whether constructors do.
    """
    kind: Any = type(module)
    method = method_of(module, name)
    framework = framework or kind.__module__.partition(".")[0] == "diffusers"
    if method is None or (framework and not _constructor_calls(kind, name)):
        return None
    return method


class _Step(NamedTuple):
    """A method to be called: without arguments, or for all modules below."""

    name: str
    for_each: bool = False


def _plan(tree: Tree, place: int) -> list[_Step]:
    """Say which methods initialise a module, in the order in which they are to be called."""
    module, inside, pretrained = tree.modules[place], tree.inside[place], tree.pretrained[place]
    found: list[_Step] = []
    names = tree.may_define(module)
    framework = inside or pretrained
    for name in ("reset_parameters", "_reset_parameters"):
        method = _method(module, name, framework) if name in names else None
        if method is not None and _callable_without_arguments(method):
            found.append(_Step(name))
            break
    if pretrained:
        if not inside:
            found.append(_Step("initialize_weights"))
        return found
    for name in ("init_weights", "_init_weights"):
        method = _method(module, name, framework) if name in names else None
        if method is None:
            continue
        if _callable_without_arguments(method):
            found.append(_Step(name))
            break
        if name == "_init_weights" and _takes_one_module(method):
            found.append(_Step(name, for_each=True))
            break
    return found


def _initialisers(tree: Tree, place: int) -> list[tuple[Any, Callable[[], Any]]]:
    """List what a module defines for itself, and how it is called, in the order of the calls."""
    module = tree.modules[place]
    of_class: Any = type(module)
    kind = of_class, tree.inside[place], tree.pretrained[place]
    as_class = tree.is_as_its_class(module)
    plan: list[_Step] | None = tree.plans.get(kind) if as_class else None
    if plan is None:
        plan = _plan(tree, place)
        # Other than functions (properties, say) they may be others for each module.
        defined = (getattr(of_class, name, None) for name in tree.may_define(module))
        if as_class and {*map(type, defined)} <= {FunctionType}:
            tree.plans[kind] = plan
    found: list[tuple[Any, Callable[[], Any]]] = []
    for name, for_each in plan:
        method = getattr(module, name)
        call = functools.partial(module.apply, method) if for_each else method
        found.append((method, call))
    return found


@contextmanager
def _cleared_flags(tree: Tree) -> Iterator[None]:
    """Take away the flags by which transformers skips what it has initialised or loaded before.

    Those that initialisers set stay, unless there is an error.
    """
    holders: list[Any] = [*tree.modules]
    for current in tree.modules:
        for table in (current._parameters, current._buffers):
            if table:
                holders += [tensor for tensor in table.values() if tensor is not None]
    removed = [(holder, vars(holder).pop(FLAG)) for holder in holders if FLAG in vars(holder)]
    try:
        yield
    except BaseException:
        for holder in holders:
            vars(holder).pop(FLAG, None)
        raise
    finally:
        for holder, flag in removed:
            vars(holder).setdefault(FLAG, flag)


def run(
    module: nn.Module,
    *,
    leave: Collection[Place] = (),
    declare: Declare | None = None,
    prefix: str = "",
    made: bool = False,
) -> list[str]:
    """Call what the module and all below it define, children first, as constructors do.

    For each module `reset_parameters` or `_reset_parameters`, then `init_weights`, or
    `_init_weights` applied to all below it; a model of transformers runs its `initialize_weights`,
    and what is inside only what constructors call. Methods that need further arguments are left to
    those that call them. To be called while a recording is on.

    What a module computes from parameters (see `parametrized`) is a parameter meanwhile, except
    for transformers, which would not reach it either. Tied parameters are apart for what is below
    the module that holds all their places, and where transformers ties them itself; that module's
    own methods find them tied, one that is applied to all below it, too: constructors tie before
    they call these, and with the places apart `materialize` of one would give something else.

    Args:
        module: the module.
        leave: parameters that have values already, by what holds them.
        declare: told the name of each tensor that stands in for one that is computed.
        prefix: the name of `module` inside a larger one, for these names.
        made: whether its constructor has run just now, and what that has given values stays.

    Returns:
        What constructors do that this does not: see `lost`.
    """
    watch = WriteWatch()
    tree = Tree(module)
    left_out = [] if made else lost(tree)  # which parameters tell that nobody has written yet
    with _cleared_flags(tree), lowered(tree):
        ties, stand_ins = Ties(tree, watch), StandIns(tree, watch, leave, declare, prefix)
        with watch if ties or stand_ins else nullcontext():
            try:
                ties.part()
                for place in range(len(tree.modules)):
                    _run_one(tree, place, ties, stand_ins)
                stand_ins.store(len(tree.modules) - 1)
            finally:
                stand_ins.close()
                ties.join_all()
    return left_out


def _run_one(tree: Tree, place: int, ties: Ties, stand_ins: StandIns) -> None:
    inside, pretrained = tree.inside[place], tree.pretrained[place]
    if ties:
        ties.join_at(place, declared=False)
    if inside or not pretrained:
        _call_all(tree, place, functools.partial(stand_ins.store, place) if stand_ins else None)
    else:
        stand_ins.close(place)
        _call_all(tree, place, None)
        stand_ins.open(place)
    if ties and not inside:
        ties.join_at(place, declared=True)


def _call_all(tree: Tree, place: int, afterwards: Callable[[], object] | None) -> None:
    current = tree.modules[place]
    try:
        initialisers = _initialisers(tree, place)
    except Exception as error:  # a property of that name
        note(error, f"in looking for its initialisers, {_place(current, tree.modules[-1])}")
        raise
    for method, call in initialisers:
        try:
            call()
            if afterwards is not None:
                afterwards()
        except Exception as error:
            note(error, f"in {_worded(method, current, tree.modules[-1])}")
            raise


def _worded(method: Any, current: nn.Module, module: nn.Module) -> str:
    """Word a module's own initialiser for a message."""
    return f"{name_of(method)}, called {_place(current, module)}"


def _place(current: nn.Module, module: nn.Module) -> str:
    """Word where a module is in the one that is initialised."""
    name = next((name for name, found in named_modules(module) if found is current), "")
    return f"for {name!r} of {type(module).__name__}"
