"""Which patch, if any, is in force on this thread, and how one draw runs under it.

The two ways in (functions.py and methods.py, the latter for factories, too) share this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.autograd import forward_ad

from fastinit._tensors import is_captured, is_fake, is_plain, on_handled_device
from fastinit.key import Key

_functorch_stack_top = torch._C._functorch.peek_interpreter_stack


class Scope:
    """One entered `patch`: its key, and how many draws it has keyed so far.

    With `take`, every draw is offered to it instead: `take(fill, tensor, arguments, generator)`.
    """

    __slots__ = ("drawn", "key", "owner", "take")

    def __init__(
        self, owner: object, key: Key | None, take: Callable[..., Any] | None = None
    ) -> None:
        self.owner = owner
        self.key = key
        self.take = take
        self.drawn = 0


class _ThreadState(threading.local):
    """`scope` is the innermost scope, or None while torch's own code must run."""

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.entered: list[Scope] = []


state = _ThreadState()


def enter(scope: Scope) -> None:
    """Make `scope` the innermost one of this thread."""
    state.entered.append(scope)
    state.scope = scope


def leave(scope: Scope) -> None:
    """Take `scope` off this thread; the one entered before it is in force again."""
    state.entered.remove(scope)
    state.scope = state.entered[-1] if state.entered else None


@contextmanager
def torch_only() -> Iterator[None]:
    """Run what is inside as if no patch were active on this thread."""
    scope, state.scope = state.scope, None
    try:
        yield
    finally:
        state.scope = scope


def is_plain_tensor(tensor: object) -> bool:
    """Whether this is an ordinary tensor.

    Anything else, a DTensor, say, or an object that is no tensor at all, is torch's business.
    """
    return is_plain(type(tensor))


def is_transformed() -> bool:
    """Whether functorch (vmap, jvp, …) or forward-mode AD gives operations another meaning here."""
    return _functorch_stack_top() is not None or forward_ad._current_level >= 0


def draw(
    scope: Scope,
    fill: Callable[..., Any],
    original: Callable[[], Any],
    tensor: torch.Tensor,
    arguments: tuple[Any, ...],
    generator: torch.Generator | None,
) -> Any:
    """Make one draw into `tensor`, by `fill(tensor, *arguments)`.

    It is keyed when the scope is, unless a generator was asked for. Without a key `fill` itself
    hands to torch what it does not support. With one it raises NotImplementedError instead (a key
    is never ignored), and `original` draws from the generators that the keyed patch has seeded.
    """
    key = scope.key if generator is None else None
    # No patch inside: neither fastinit's own torch calls nor torch's code may come back here.
    state.scope = None
    try:
        with torch._C.DisableTorchFunction():
            if scope.take is not None:
                return scope.take(fill, tensor, arguments, generator)
            # A device that may not be there: torch makes as if, and the draw counts.
            imaginary = not on_handled_device(tensor) and is_fake(tensor)
            if key is not None:
                target = torch.empty_like(tensor, device="meta") if imaginary else tensor
                with suppress(NotImplementedError):
                    result = fill(target, *arguments, key=key.fold_in(scope.drawn))
                    scope.drawn += 1
                    if not imaginary:
                        return result
            # A replay of a graph and a call of what was traced draw anew by torch alone.
            elif not (imaginary or is_captured(tensor) or torch._C._is_tracing()):
                return fill(tensor, *arguments, generator=generator)
        return original()
    finally:
        state.scope = scope
