"""Which patch, if any, is in force here, and how one draw runs under it.

The two ways in (functions.py and methods.py, the latter for factories, too) share this.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from fastinit._distributed.fill import is_sharded
from fastinit._patch.fork import Fork
from fastinit._patch.slices import Slices
from fastinit._recording.sharding import Sharding
from fastinit._tensors import PLAIN_TYPES, is_captured, is_fake, is_plain, on_handled_device
from fastinit.key import Key

_get_ident = threading.get_ident
_functorch_stack_top = torch._C._functorch.peek_interpreter_stack


class NamedDraw(NamedTuple):
    """A draw into memory that has a name.

    Attributes:
        key: its key.
        made: to be called when it has been made.
    """

    key: Key
    made: Callable[[], None]


class Scope:
    """One entered `patch`: its key, and how many draws it has keyed so far.

    With `take`, every draw is offered to it instead: `take(fill, tensor, arguments, generator)`.
    With `sharding`, what shards modules or tensors is, too. `slices` are copies of parts of
    DTensors that have been made under it.
    With `named`, that says of a draw what it is by name, `named(tensor, over=True)`, `over` if what
    was in the tensor is written over; None for memory that has none.
    """

    __slots__ = (
        "drawn",
        "ended",
        "key",
        "named",
        "outer",
        "owner",
        "process",
        "sharding",
        "slices",
        "take",
        "thread",
    )

    def __init__(
        self,
        owner: object,
        key: Key | None,
        take: Callable[..., Any] | None = None,
        sharding: Sharding | None = None,
        named: Callable[..., NamedDraw | None] | None = None,
    ) -> None:
        self.owner = owner
        self.key = key
        self.take = take
        self.sharding = sharding
        self.slices = Slices()
        self.named = named
        self.drawn = 0
        self.thread = _get_ident()
        self.process = os.getpid()
        self.outer: Scope | None = None
        self.ended = False


class _Entered(threading.local):
    """The scopes of this thread, in whatever task they were entered."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []


_entered = _Entered()
# Tasks that take turns on a thread have a context each. It may name a scope that has ended since
# (in a task that was started inside), or one of another thread (in a copy of the context).
_innermost: ContextVar[Scope | None] = ContextVar("fastinit.patch", default=None)


def current() -> Scope | None:
    """Return the innermost scope in force, or None while torch's own code must run."""
    if is_dynamo_compiling():  # which cannot ask, and runs torch
        return None
    scope = _innermost.get()
    if scope is None:
        return None
    while scope.ended:
        scope = scope.outer
        if scope is None:
            return None
    # Function modes belong to a thread, so a patch does.
    if scope.thread == _get_ident():
        return scope
    # In a copy of another thread's context (`asyncio.to_thread`) this one's recording still takes
    # all that runs here.
    own = _entered.scopes[-1] if _entered.scopes else None
    return own if own is not None and own.take is not None and not own.ended else None


def enter(scope: Scope) -> None:
    """Make `scope` the innermost one of this task."""
    scope.outer = current()
    _entered.scopes.append(scope)
    _innermost.set(scope)


def leave(scope: Scope) -> None:
    """Put `scope` out of force; the one entered before it is, again."""
    scope.ended = True
    _entered.scopes.remove(scope)
    _innermost.set(current())
    # Contexts that were copied inside, of tasks that are still there, say, have it for good.
    scope.owner = scope.named = scope.take = scope.sharding = None
    scope.slices = Slices()


def entered_by(owner: object) -> Scope | None:
    """Find the scope that `owner` entered last: in this task, or else on this thread."""
    scope = current()
    while scope is not None and (scope.ended or scope.owner is not owner):
        scope = scope.outer
    if scope is not None:
        return scope
    return next((scope for scope in reversed(_entered.scopes) if scope.owner is owner), None)


@contextmanager
def torch_only() -> Iterator[None]:
    """Run what is inside as if no patch were in force."""
    token = _innermost.set(None)
    try:
        yield
    finally:
        _innermost.reset(token)


def is_plain_tensor(tensor: object) -> bool:
    """Whether this is an ordinary tensor."""
    return is_plain(type(tensor))


def is_ours(tensor: object) -> bool:
    """Whether draws into this are fastinit's: an ordinary tensor, or one spread over ranks.

    Anything else, an object that is no tensor at all, say, is torch's business.
    """
    return is_plain(type(tensor)) or is_sharded(tensor)


def is_transformed() -> bool:
    """Whether functorch (vmap, jvp, …) or forward-mode AD gives operations another meaning here."""
    return _functorch_stack_top() is not None or forward_ad._current_level >= 0


def _in_worker(scope: Scope) -> bool:
    """Whether this is a worker of a DataLoader that was forked while the scope was in force.

    Each counts from where it was forked, so by that count all would draw the same. They have seeds
    of their own, which the DataLoader drew from the generator that the scope had seeded.
    """
    if scope.process == os.getpid():
        return False
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


def drawn_by_torch(named: NamedDraw, original: Callable[[], Any]) -> Any:
    """Make a draw of torch's own under the key that its name gives it."""
    with Fork(int(named.key)):
        result = original()
    named.made()
    return result


def draw(
    scope: Scope,
    fill: Callable[..., Any],
    original: Callable[[], Any],
    tensor: torch.Tensor,
    arguments: tuple[Any, ...],
    generator: torch.Generator | None,
    goal: torch.Tensor | None = None,
    *,
    is_new: bool = False,
) -> Any:
    """Make one draw into `tensor`, by `fill(tensor, *arguments)`; its name is that of `goal`.

    A tensor that `is_new`, made for this draw, has none, whose memory nobody else has yet.

    It is keyed when the scope is, unless a generator was asked for, or a worker's of a DataLoader
    is to be used (`_in_worker`): by name if the tensor's memory has one there, else by how many
    there were. Without a key `fill` itself hands to torch what it does not support. With one it
    raises NotImplementedError instead (a key is never ignored), and `original` draws from the
    generators that the keyed patch has seeded.
    """
    if type(tensor) not in PLAIN_TYPES and scope.slices.copies:
        if scope.named is not None:
            scope.slices.refuse_to_name(tensor)
        with scope.slices.writing(tensor):
            return _draw(scope, fill, original, tensor, arguments, generator, goal, is_new)
    return _draw(scope, fill, original, tensor, arguments, generator, goal, is_new)


def _draw(
    scope: Scope,
    fill: Callable[..., Any],
    original: Callable[[], Any],
    tensor: torch.Tensor,
    arguments: tuple[Any, ...],
    generator: torch.Generator | None,
    goal: torch.Tensor | None,
    is_new: bool,
) -> Any:
    key = scope.key
    if key is not None and (generator is not None or _in_worker(scope)):
        key = None
    # No patch inside: neither fastinit's own torch calls nor torch's code may come back here.
    token = _innermost.set(None)
    try:
        with torch._C.DisableTorchFunction():
            if scope.take is not None:
                full = tensor if scope.sharding is None else scope.sharding.to_write(tensor)
                if not is_sharded(full):
                    result = scope.take(fill, full, arguments, generator)
                    return tensor if result is full else result
            # A device that may not be there: torch makes as if, and the draw counts.
            imaginary = (
                type(tensor) not in PLAIN_TYPES
                and is_fake(tensor)
                and not on_handled_device(tensor)
            )
            if key is not None:
                target = torch.empty_like(tensor, device="meta") if imaginary else tensor
                named = None
                if scope.named is not None and not (is_new and goal is None):
                    named = scope.named(tensor if goal is None else goal)
                own = key.fold_in(scope.drawn) if named is None else named.key
                try:
                    result = fill(target, *arguments, key=own)
                except NotImplementedError:
                    # What torch draws into shards depends on the ranks, or is the same on all.
                    if is_sharded(tensor):
                        raise
                    if named is not None:
                        return drawn_by_torch(named, original)
                else:
                    if named is None:
                        scope.drawn += 1
                    else:
                        named.made()
                    if not imaginary:
                        return result
            # A replay of a graph and a call of what was traced draw anew by torch alone.
            elif not (imaginary or is_captured(tensor) or torch._C._is_tracing()):
                return fill(tensor, *arguments, generator=generator)
        return original()
    finally:
        _innermost.reset(token)
