"""Draws into DTensors under a patch that are no initialisers: rand and randn, bernoulli_ and so on.

They draw each rank's shard by torch.rand and torch.randn, of which a patch would see the local size
alone: every rank's shard would be the same. So their code is exchanged, as functions.py has it, for
an empty DTensor that is filled as one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import torch

import fastinit.init as fast
from fastinit._distributed.fill import OBSERVERS, tell_observers
from fastinit._distributed.part import part_of, written
from fastinit._distributed.store import digest
from fastinit._patch.scope import current, draw, torch_only
from fastinit._patch.slices import is_dtensor
from fastinit._patch.stubs import code_calling
from fastinit._recording.full_tensors import full_sized
from fastinit._recording.seeded import default_generator

MODULE = "torch.distributed.tensor"
FILLS: dict[str, tuple[Callable[..., Any], tuple[float, float]]] = {
    "rand": (fast.uniform_, (0.0, 1.0)),
    "randn": (fast.normal_, (0.0, 1.0)),
}


def factories() -> list[tuple[FunctionType, Callable[[FunctionType], CodeType | None]]]:
    """List the functions, if their module is loaded, and what makes other code for each."""
    module = sys.modules.get(MODULE)
    found: list[tuple[FunctionType, Callable[[FunctionType], CodeType | None]]] = []
    for name in FILLS:
        function = getattr(module, name, None)
        if isinstance(function, FunctionType):
            found.append((function, _substitute))
    return found


def _substitute(function: FunctionType) -> CodeType | None:
    """Make code with the original's sizes and keywords that draws into an empty tensor."""
    code = function.__code__
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    fill, numbers = FILLS[function.__name__]
    empty = getattr(sys.modules[MODULE], "empty", None)
    if code.co_argcount or not code.co_flags & 0x04 or "requires_grad" not in keywords:
        return None  # of another version
    saved = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    saved.__kwdefaults__ = function.__kwdefaults__

    def drawn(*size: Any, **options: Any) -> Any:
        scope = current()
        if scope is None or empty is None:
            return saved(*size, **options)
        with torch_only():
            tensor = empty(*size, **{**options, "requires_grad": False})
        tensor = draw(
            scope, fill, lambda: saved(*size, **options), tensor, numbers, None, is_new=True
        )
        return tensor.requires_grad_() if options["requires_grad"] else tensor

    given = ", ".join(f"{name}={name}" for name in keywords)
    return code_calling(drawn, code, f"*size, {', '.join(keywords)}", f"*size, {given}")


def draw_whole(
    function: Callable[..., Any], tensor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Have a method of torch's draw into the full tensor, and keep what is here of it.

    Raises:
        NotImplementedError: if what is here cannot be told, or another argument is a DTensor.
    """
    name = getattr(function, "__name__", "patch")
    for other in (*args, *kwargs.values()):
        if is_dtensor(other):
            raise NotImplementedError(
                f"fastinit.patch: {name} of a DTensor takes the full tensor of what it draws by, "
                f"and got a DTensor of shape {tuple(other.shape)}; pass its full_tensor()"
            )
    part = part_of(tensor, name)
    with torch.no_grad(), torch._C.DisableTorchFunction():
        seen: int | None = None
        if OBSERVERS and part.local.device.type in ("cpu", "cuda"):
            generator = kwargs.get("generator") or default_generator(part.local.device)
            seen = int(digest(generator.get_state().tolist()), 16)
        full = full_sized(tensor, device=part.local.device)
        function(full, *args, **kwargs)
        for view, offset in part.views():
            held = full
            for dim, (first, length) in enumerate(zip(offset, view.shape, strict=True)):
                held = held.narrow(dim, first, length)
            view.copy_(held)
    written(tensor)
    if seen is not None:  # what it drew from, in place of a key
        numbers = [x for x in (*args, *kwargs.values()) if isinstance(x, (int, float))]
        tell_observers(tensor, name, tuple(numbers), seen)
    return tensor
