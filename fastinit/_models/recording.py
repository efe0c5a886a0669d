"""Turning a recording on, torch's own initialisers included."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from fastinit._models.default_dtype import current, joined
from fastinit._models.repeats import EXCHANGES
from fastinit._patch.entered import EnteredScope
from fastinit._patch.methods import HANDLERS, PatchMode
from fastinit._patch.scope import Scope
from fastinit._recording.modes import FunctionWatch, OperatorWatch
from fastinit._recording.recorder import Recorder
from fastinit._recording.sharding import Sharding
from fastinit._recording.threads import Wrap, carried
from fastinit._users import Users


class _RecordingMode(PatchMode):
    """A patch that also looks for the functions that operators do not tell about."""

    lets_repeat = True

    def __init__(self, scope: Scope, recorder: Recorder) -> None:
        super().__init__(scope)
        self._watch = FunctionWatch(recorder, scope.sharding)
        self._looked_at = FunctionWatch.functions | HANDLERS.keys()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in self._looked_at:
            return func(*args, **kwargs) if kwargs else func(*args)
        if func in FunctionWatch.functions:
            return self._watch.call(func, args, kwargs or {})
        return super().__torch_function__(func, types, args, kwargs)


class _Collector:
    """The garbage collector, which is put off."""

    def __init__(self) -> None:
        self.enabled = False

    def disable(self) -> None:
        self.enabled = gc.isenabled()
        gc.disable()

    def put_back(self) -> None:
        if self.enabled:
            gc.enable()


_collector = _Collector()
_users = Users(_collector.disable, _collector.put_back)


def without_collections() -> AbstractContextManager[None]:
    """Put the garbage collector off: each full collection walks all the modules of the process.

    A recording makes thousands of objects, and so several collections, but no garbage in cycles.
    """
    return _users.inside()


@contextmanager
def recording(recorder: Recorder, sharding: Sharding | None = None) -> Iterator[None]:
    """Record what runs inside, here and on threads that start inside, torch itself included.

    Args:
        recorder: what records it.
        sharding: what takes care of what is sharded inside, if somebody does in the end.
    """

    def carry() -> Wrap:
        number, turns, thread = recorder.new_thread(), current(), recorder.thread

        def belonging(run: Callable[[], Any], *more: int) -> Any:
            before = thread.number, thread.draws, thread.started
            thread.number, thread.draws, thread.started = (*number, *more), 0, 0
            try:
                with recording(recorder, sharding), joined(turns):
                    return run()
            finally:
                thread.number, thread.draws, thread.started = before

        return lambda run, *more: partial(belonging, run, *more)

    with OperatorWatch(recorder, sharding):
        scope = EnteredScope(
            recorder,
            None,
            take=recorder.take,
            sharding=sharding,
            mode=lambda scope: _RecordingMode(scope, recorder),
        )
        recorder.scopes.append(scope)
        exchanged = EXCHANGES.install()
        try:
            with carried(carry):
                yield
        finally:
            exchanged.leave()
            scope.end()
            recorder.scopes.remove(scope)  # so that neither holds the other
