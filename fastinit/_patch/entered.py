"""A patch in force: what entering one does, and what undoes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from fastinit._fills.operators import leave_function_mode
from fastinit._patch.fork import Fork
from fastinit._patch.functions import EXCHANGES
from fastinit._patch.methods import PatchMode
from fastinit._patch.scope import NamedDraw, Scope, enter, leave
from fastinit._patch.slices import Slices
from fastinit._recording.batch import batch as batch_of_fills
from fastinit._recording.sharding import Sharding
from fastinit.key import Key

# Folded into the key for the seed of torch's generators: a name, which no draw's number can meet.
_OTHER_DRAWS = "fastinit.patch: draws left to torch"


class EnteredScope(Scope):
    """A scope with what has to be undone when it ends."""

    __slots__ = ("_batch", "_exchanged", "_fork", "_mode")

    def __init__(
        self,
        owner: object,
        key: Key | None,
        *,
        batch: bool = False,
        take: Callable[..., Any] | None = None,
        sharding: Sharding | None = None,
        named: Callable[[torch.Tensor], NamedDraw | None] | None = None,
        mode: Callable[[Scope], PatchMode] = PatchMode,
    ) -> None:
        super().__init__(owner, key, take, sharding, named)
        self._mode = mode(self)
        with ExitStack() as stack:  # what has been done, should the next fail
            self._exchanged = EXCHANGES.install()
            stack.callback(self._exchanged.leave)
            self._fork = None if key is None else Fork(int(key.fold_in(_OTHER_DRAWS)))
            if self._fork is not None:
                stack.callback(self._fork.end)
            self._batch = stack.enter_context(batch_of_fills()) if batch else None
            stack.pop_all()
        torch._C._push_on_torch_function_stack(self._mode)
        enter(self)

    def forget(self, take: Callable[..., Any]) -> None:
        """Be in force no longer, though it stays on its thread, and hold nothing.

        Args:
            take: where draws go that are under way.
        """
        self.ended, self.take = True, take
        self.owner = self.sharding = None
        self.slices = Slices()
        self._exchanged.leave()

    def end(self) -> None:
        leave(self)
        leave_function_mode(self._mode)
        del self._mode  # which holds the scope: no cycle shall keep what that does
        with ExitStack() as stack:
            if self._batch is not None:
                stack.push(self._batch)
            stack.callback(self._exchanged.leave)
            if self._fork is not None:
                self._fork.end()
