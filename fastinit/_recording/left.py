"""Memory that initialisers have made and somebody keeps, whether their run counts or not."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import Any

from fastinit._recording.graph import Storage, needed_of
from fastinit._recording.waiting import Waiting
from fastinit.key import NOTHING

_LEFT = (
    "fill pending: this memory was made in a run of initialisers by fastinit.initialize_ or "
    "materialize that ended in an error or did not count, and has not been filled. Make it anew."
)


def _cost(storage: Storage) -> int:
    """Say how long it takes to compute, in bytes of fills; what is no fill may take far longer."""
    fills = all(op.fill is not None for op in storage.pending)
    return storage.nbytes * (1 if fills else 32)


class Left(Waiting):
    """Memory for which fills wait, and what becomes of it after a run that does not count."""

    def leave(self, keys: Mapping[Any, int] = NOTHING, most: int | None = None) -> None:
        """Compute what waits for memory that outlives an attempt, in somebody's cache, say.

        Args:
            keys: of draws, as far as they are known.
            most: how many bytes of it at most, if all are fills, small memory first: an error's
                traceback holds much that nobody will look at. Who does gets an error.
        """
        if most is None and any(storage.is_alive for storage in self.left):
            gc.collect()  # what only holds itself is nobody's
        room = sys.maxsize if most is None else most
        for storage in sorted(self.left, key=_cost):
            if not storage.is_alive:
                self.left.remove(storage)
            elif _cost(storage) <= room and not storage.stands_in:
                room -= _cost(storage)
                self._compute_left(storage, keys)
            else:
                self.guard(storage, _LEFT)

    def _compute_left(self, storage: Storage, keys: Mapping[Any, int]) -> None:
        ops = needed_of(storage)
        for op in ops:
            if op.draw is not None and op.key is None:
                op.key = keys.get(op.draw) or self._guess(op.draw, op.writes)
        try:
            self.run(ops)
        except Exception:
            if not storage.known:
                self.guard(storage, _LEFT)
                return
        self.left.remove(storage)
        storage.pending.clear()
        self.unguard(storage)
