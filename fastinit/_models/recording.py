"""Turning a recording on, torch's own initialisers included."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from torch import Tensor

from fastinit._models.default_dtype import Turns, current, joined
from fastinit._models.repeats import EXCHANGES
from fastinit._patch.entered import EnteredScope
from fastinit._patch.methods import HANDLERS, PatchMode
from fastinit._patch.scope import Scope
from fastinit._recording.modes import FunctionWatch, OperatorWatch
from fastinit._recording.recorder import Recorder
from fastinit._recording.sharding import Sharding
from fastinit._recording.threads import Wrap, carried
from fastinit._users import Use, Users
from fastinit.key import Key


class _RecordingMode(PatchMode):
    """A patch that also looks for the functions that operators do not tell about."""

    lets_repeat = True

    def __init__(self, scope: Scope, watch: FunctionWatch) -> None:
        super().__init__(scope)
        self._watch = watch
        self._looked_at = FunctionWatch.functions | HANDLERS.keys()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in self._looked_at:
            return func(*args, **kwargs) if kwargs else func(*args)
        if func in FunctionWatch.functions:
            return self._watch.call(self, func, args, kwargs or {})
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


@functools.cache
def _nobody() -> Recorder:
    """Give a recorder for those who go on when theirs has ended."""
    recorder = Recorder(Key(0))
    recorder.open_all()
    return recorder


def _draw(
    fill: Callable[..., Any], tensor: Tensor, arguments: tuple[Any, ...], generator: Any
) -> Tensor:
    fill(tensor, *arguments, generator=generator)
    return tensor


class _Recording:
    """A recording, as its threads hold it: they may go on when it has ended."""

    def __init__(self, recorder: Recorder, sharding: Sharding | None) -> None:
        self.recorder = recorder
        self.sharding = sharding

    def end(self) -> None:
        self.recorder, self.sharding = _nobody(), None

    def carry(self) -> Wrap:
        """Number what another thread is to run, and have it belong to the recording there."""
        number, turns = self.recorder.new_thread(), current()
        return lambda run, *more: functools.partial(self._run, run, (*number, *more), turns)

    def _run(self, run: Callable[[], Any], number: tuple[int, ...], turns: Turns) -> Any:
        if self.recorder.ended:
            return run()
        thread = self.recorder.thread
        before = thread.number, thread.draws, thread.started
        thread.number, thread.draws, thread.started = number, 0, 0
        try:
            with _belonging(self), joined(turns):
                return run()
        finally:
            thread.number, thread.draws, thread.started = before


class _Part:
    """What a thread has on that belongs to a recording: until either of them ends."""

    def __init__(self, of: _Recording) -> None:
        self.operators = OperatorWatch(of.recorder, of.sharding)
        self.functions = FunctionWatch(of.recorder, of.sharding)
        self.scope = EnteredScope(
            of.recorder,
            None,
            take=of.recorder.take,
            sharding=of.sharding,
            mode=functools.partial(_RecordingMode, watch=self.functions),
        )
        self.uses: list[Use] = []

    def end(self) -> None:
        """End it from another thread, as far as that can: what stays on its own lets all by."""
        self.operators.end(_nobody())
        self.functions.end(_nobody())
        self.scope.forget(_draw)
        for use in self.uses:
            use.leave()


@contextmanager
def _belonging(to: _Recording) -> Iterator[None]:
    """Have what runs inside belong to a recording; nothing here holds that when it has ended."""
    part = _Part(to)
    try:
        part.uses.append(EXCHANGES.install())
        with part.operators, carried(to.carry) as use:
            part.uses.append(use)
            to.recorder.parts.append(part)
            if to.recorder.ended:  # meanwhile
                part.end()
            yield
    finally:
        with suppress(ValueError):  # it has ended
            to.recorder.parts.remove(part)  # so that neither holds the other
        for use in part.uses:
            use.leave()
        part.scope.end()


def recording(recorder: Recorder, sharding: Sharding | None = None) -> AbstractContextManager[None]:
    """Record what runs inside, here and on threads that start inside, torch itself included.

    Args:
        recorder: what records it.
        sharding: what takes care of what is sharded inside, if somebody does in the end.
    """
    held = _Recording(recorder, sharding)
    recorder.parts.append(held)
    return _belonging(held)
