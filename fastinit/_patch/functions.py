"""Functions of torch and timm under a patch: their code is exchanged, the objects stay.

A function object is reached from everywhere it was ever bound: another module's import of the
name, the deprecated aliases, transformers' dictionary. So its `__code__` is what has to change.
That is global, while a patch belongs to a task: the exchanged code first asks whether one is in
force there, and runs the saved code if not.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from torch.overrides import handle_torch_function, has_torch_function

import fastinit.init as fast
from fastinit._distributed.fill import is_sharded
from fastinit._fallback import OVERRIDABLE, shown_to_modes
from fastinit._patch import dtensors, fast_paths, sharding
from fastinit._patch.exchanges import Exchanges, Wanted
from fastinit._patch.scope import Scope, current, draw, is_ours, torch_only
from fastinit._patch.stubs import code_calling
from fastinit.initializers.elementwise import trunc_normal_within

# Given the scope in force, a callable that makes the call with the saved code, and its arguments.
_Hook = Callable[[Scope, Callable[[], Any], tuple[Any, ...]], Any]


def _filling(fill: Callable[..., Any]) -> _Hook:
    """Make the hook of a function whose parameters are those of `fill`, the generator last."""

    def hook(scope: Scope, original: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        return draw(scope, fill, original, args[0], args[1:-1], args[-1])

    return hook


def _of_shards(fill: Callable[..., Any]) -> _Hook:
    """Make the hook of a function that draws nothing, which torch gets wrong for DTensors alone."""

    def hook(scope: Scope, original: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if not is_sharded(args[0]):
            return original()
        with scope.slices.writing(args[0]), torch_only():
            return fill(*args)

    return hook


def _timm_absolute(scope: Scope, original: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Take timm's bounds on the values themselves, as torch's: (tensor, mean, std, a, b)."""
    return draw(scope, fast.trunc_normal_, original, args[0], args[1:], None)


def _timm_standardised(scope: Scope, original: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Take timm's "tf" bounds, in standard deviations from the mean: (tensor, mean, std, a, b)."""
    tensor, mean, std, low, high = args
    if not std > 0:  # 0 times an infinite bound, or a mirrored interval: timm's own arithmetic
        with torch_only():
            return original()
    bounds = (mean, std, mean + std * low, mean + std * high)
    return draw(scope, trunc_normal_within, original, tensor, bounds, None)


_TRUNC_PARAMETERS = ("tensor", "mean", "std", "a", "b")
_FILLS: dict[str, Callable[..., Any]] = {
    "uniform_": fast.uniform_,
    "normal_": fast.normal_,
    "trunc_normal_": fast.trunc_normal_,
    "xavier_uniform_": fast.xavier_uniform_,
    "xavier_normal_": fast.xavier_normal_,
    "kaiming_uniform_": fast.kaiming_uniform_,
    "kaiming_normal_": fast.kaiming_normal_,
    "orthogonal_": fast.orthogonal_,
    "sparse_": fast.sparse_,
    # Imported by name in some code.
    "_no_grad_trunc_normal_": fast.trunc_normal_,
}
# The rest of __all__ draws nothing and stays torch's.
_STRUCTURED: dict[str, Callable[..., Any]] = {"eye_": fast.eye_, "dirac_": fast.dirac_}
# Where timm keeps, or kept, its versions. Its other initialisers call these and tensor methods.
_TIMM_MODULES = ("timm.layers.weight_init", "timm.models.layers.weight_init")
_TIMM_HOOKS: dict[str, _Hook] = {
    "_trunc_normal_": _timm_absolute,
    "_no_grad_trunc_normal_": _timm_absolute,
    "trunc_normal_tf_": _timm_standardised,
}
# The functions as torch made them, whatever another library later puts in their place, and the
# parameters they must have: those of our functions, which mirror them.
_TORCH_FUNCTIONS: list[tuple[Any, tuple[str, ...], _Hook, bool]] = [
    (
        getattr(torch.nn.init, name, None),
        tuple(
            name
            for name, parameter in inspect.signature(fill).parameters.items()
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY  # ours alone
        ),
        hook,
        name in OVERRIDABLE,
    )
    for name, fill, hook in [
        *((name, fill, _filling(fill)) for name, fill in _FILLS.items()),
        *((name, fill, _of_shards(fill)) for name, fill in _STRUCTURED.items()),
    ]
]


def _dispatcher(
    function: FunctionType,
    saved: FunctionType,
    names: tuple[str, ...],
    hook: _Hook,
    overridable: bool,
) -> Callable[..., Any]:
    """Make what the exchanged code calls, with every argument by position."""

    def dispatch(*args: Any) -> Any:
        scope = current()
        if scope is None or not is_ours(args[0]):
            return saved(*args)
        if overridable and has_torch_function(args[:1]) and shown_to_modes():
            # Each mode comes off the stack before it calls on, so this comes back with fewer.
            return handle_torch_function(function, args[:1], **dict(zip(names, args, strict=True)))
        return hook(scope, lambda: saved(*args), args)

    return dispatch


def _draws_of(
    function: Any, module: str, names: tuple[str, ...], hook: _Hook, overridable: bool = False
) -> Wanted:
    """Exchange the code of a function with these parameters for a call of `hook`.

    Another version's parameters leave it alone; the tensor methods it calls are still patched.
    """

    def substitute(function: FunctionType) -> CodeType | None:
        if tuple(inspect.signature(function).parameters) != names:
            return None
        saved = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__
        )
        dispatch = _dispatcher(function, saved, names, hook, overridable)
        parameters = ", ".join(names)
        return code_calling(dispatch, saved.__code__, parameters, parameters)

    # torch.compile cannot trace a function among the constants: it shall call this one instead.
    return Wanted(function, module, substitute)


def _wanted() -> Iterator[Wanted]:
    for function, parameters, hook, overridable in _TORCH_FUNCTIONS:
        yield _draws_of(function, "torch.nn.init", parameters, hook, overridable)
    for module_name in _TIMM_MODULES:  # may have been imported since the last time
        module = sys.modules.get(module_name)
        for name, hook in _TIMM_HOOKS.items():
            yield _draws_of(getattr(module, name, None), module_name, _TRUNC_PARAMETERS, hook)
    for found, make_code in (*dtensors.factories(), *sharding.functions()):
        yield Wanted(found, found.__module__, make_code)
    for forward, module_name in fast_paths.FORWARDS:
        yield Wanted(forward, module_name, fast_paths.asking_us, traceable=True)


EXCHANGES = Exchanges(_wanted, (*_TIMM_MODULES, *sharding.MODULES))
