"""What shards modules and tensors, where a recording takes care of it.

`fully_shard` and `distribute_tensor`, through which `parallelize_module` goes, are exchanged as
functions.py has it: in a factory they are handed to its recording.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from fastinit._patch.scope import current
from fastinit._patch.stubs import code_calling
from fastinit._recording.sharding import Sharding

MODULES = ("torch.distributed.tensor", "torch.distributed.fsdp")


def functions() -> list[tuple[FunctionType, Callable[[FunctionType], CodeType | None]]]:
    """List the functions, if their modules are loaded, and what makes other code for each."""
    tensor, fsdp = map(sys.modules.get, MODULES)
    # What is around it looks after the state of modules.
    inner = getattr(getattr(fsdp, "fully_shard", None), "__wrapped__", None)
    found: list[tuple[FunctionType, Callable[[FunctionType], CodeType | None]]] = []
    for function, method in (
        (getattr(tensor, "distribute_tensor", None), Sharding.distribute),
        (inner, Sharding.fully_shard),
    ):
        if isinstance(function, FunctionType):
            found.append((function, _handing_to(method)))
    return found


def _sharding() -> Sharding | None:
    """Find what takes care of sharding, whatever patch is inside."""
    scope = current()
    while scope is not None and (scope.sharding is None or scope.ended):
        scope = scope.outer
    return None if scope is None else scope.sharding


def _handing_to(method: Callable[..., Any]) -> Callable[[FunctionType], CodeType | None]:
    def substitute(function: FunctionType) -> CodeType | None:
        code = function.__code__
        positional = code.co_varnames[: code.co_argcount]
        keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
        if code.co_flags & 0x0C or not keywords:  # of another version
            return None
        saved = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
        saved.__kwdefaults__ = function.__kwdefaults__

        def dispatch(*args: Any, **how: Any) -> Any:
            sharding = _sharding()
            if sharding is None:
                return saved(*args, **how)
            return method(sharding, saved, *args, **how)

        given = ", ".join(f"{name}={name}" for name in keywords)
        positions = ", ".join(positional)
        return code_calling(
            dispatch, code, f"{positions}, *, {', '.join(keywords)}", f"{positions}, {given}"
        )

    return substitute
