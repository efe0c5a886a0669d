"""Threads that are started while a recording is on, and what is given to pools of threads.

They belong to the recording of the thread that starts them, or gives it to them. What does that is
exchanged as long as there is a recording; the threads of a pool may have been there before.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool, mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any

from fastinit._users import Use, Users
from fastinit.key import NOTHING

_Run = Callable[[], Any]
# Has what another thread is to run belong to a recording; is told a number if there are several.
Wrap = Callable[..., _Run]
# Called by the thread that starts another, or gives it something.
Carry = Callable[[], Wrap]


class _Here(threading.local):
    """What carries this thread's recording to those that it starts."""

    carry: Carry | None = None


_here = _Here()


@contextmanager
def _carrying(carry: Carry | None) -> Iterator[None]:
    before, _here.carry = _here.carry, carry
    try:
        yield
    finally:
        _here.carry = before


def _called(
    original: Callable[..., Any], of: Any, args: Iterable[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call what was there before.

    It may call what is exchanged itself: a pool its threads' `start`, which are not this
    recording's; what somebody has put around an earlier one, that one.
    """
    with _carrying(None):
        return original(of, *args, **kwargs)


def _run(task: _Run) -> Any:
    return task()


def _starred(function: Callable[..., Any], args: Iterable[Any]) -> Any:
    return function(*args)


class _Once:
    """What a thread runs instead of its own: once, as who keeps the thread shall keep no more."""

    def __init__(self, thread: threading.Thread, wrap: Wrap) -> None:
        self._attributes = vars(thread)
        self._own = self._attributes.get("run")
        self._run = wrap(thread.run)

    def __call__(self) -> None:
        self.take_out()
        self._run()

    def take_out(self) -> None:
        if self._attributes.get("run") is self:
            del self._attributes["run"]
            if self._own is not None:
                self._attributes["run"] = self._own


def _start(original: Callable[..., Any], thread: threading.Thread) -> None:
    if _here.carry is None:
        original(thread)
        return
    once = _Once(thread, _here.carry())
    vars(thread)["run"] = once
    try:
        _called(original, thread, (), {})
    except BaseException:
        once.take_out()
        raise


def _submit(
    original: Callable[..., Any],
    pool: ThreadPoolExecutor,
    fn: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if _here.carry is None:
        return original(pool, fn, *args, **kwargs)
    task = _here.carry()(functools.partial(fn, *args, **kwargs))
    return _called(original, pool, (task,), {})


def _make(original: Callable[..., Any], pool: ThreadPool, *args: Any, **kwargs: Any) -> None:
    _called(original, pool, args, kwargs)


def _apply(
    original: Callable[..., Any],
    pool: ThreadPool,
    func: Callable[..., Any],
    args: Iterable[Any] = (),
    kwds: Mapping[str, Any] = NOTHING,
    *callbacks: Any,
    **named: Any,
) -> Any:
    if _here.carry is None:
        return original(pool, func, args, kwds, *callbacks, **named)
    task = _here.carry()(functools.partial(func, *args, **kwds))
    return _called(original, pool, (task, (), {}, *map(_then, callbacks)), _all_then(named))


def _map(
    original: Callable[..., Any],
    pool: ThreadPool,
    func: Callable[..., Any],
    iterable: Iterable[Any],
    mapper: Callable[..., Any],
    chunksize: int | None = None,
    *callbacks: Any,
    **named: Any,
) -> Any:
    if _here.carry is None:
        return original(pool, func, iterable, mapper, chunksize, *callbacks, **named)
    wrap = _here.carry()
    call = functools.partial(_starred, func) if mapper is starmapstar else func
    tasks = [wrap(functools.partial(call, one), n) for n, one in enumerate(iterable)]
    given = (_run, tasks, mapstar, chunksize, *map(_then, callbacks))
    return _called(original, pool, given, _all_then(named))


def _then(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Carry to what a pool calls with a result, or an error: it may give the next task."""
    if callback is None or _here.carry is None:
        return callback
    wrap, then = _here.carry(), callback
    return lambda result: wrap(functools.partial(then, result))()


def _all_then(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _then(callback) for name, callback in named.items()}


def _imap(
    original: Callable[..., Any],
    pool: ThreadPool,
    func: Callable[..., Any],
    iterable: Iterable[Any],
    chunksize: int = 1,
) -> Any:
    if _here.carry is None:
        return original(pool, func, iterable, chunksize)
    return _called(original, pool, (_run, _tasks(_here.carry(), func, iterable), chunksize), {})


_END = object()


def _tasks(wrap: Wrap, func: Callable[..., Any], iterable: Iterable[Any]) -> Iterator[_Run]:
    """Make a task of each item, when a thread of the pool's own asks for it."""
    items = wrap(functools.partial(iter, iterable), 0)()
    for n in itertools.count(1):
        item = wrap(functools.partial(next, items, _END), n, 0)()
        if item is _END:
            return
        yield wrap(functools.partial(func, item), n)


class _Method:
    """A method of a class, inherited perhaps, and what is there instead for a while."""

    def __init__(self, owner: type, name: str, instead: Callable[..., Any]) -> None:
        self._owner = owner
        self._name = name
        self._instead = instead
        self._own: Any = None
        self._original: Any = None
        self._made: Any = None

    def exchange(self) -> None:
        self._own = vars(self._owner).get(self._name)
        original = getattr(self._owner, self._name)
        # Another one for each: what somebody has put around one goes on calling that, which goes on
        # calling what was there before it.
        if original is not self._original:
            self._original, self._made = original, self._around(original)
        setattr(self._owner, self._name, self._made)

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        instead = self._instead

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return instead(original, *args, **kwargs)

        return method

    def put_back(self) -> None:
        if self._made is None or vars(self._owner).get(self._name) is not self._made:
            return  # somebody has put his around it
        if self._own is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)


_METHODS = (
    _Method(threading.Thread, "start", _start),
    _Method(ThreadPoolExecutor, "submit", _submit),
    _Method(ThreadPool, "__init__", _make),
    _Method(ThreadPool, "apply_async", _apply),
    _Method(ThreadPool, "_map_async", _map),
    _Method(ThreadPool, "imap", _imap),
    _Method(ThreadPool, "imap_unordered", _imap),
)


def _exchange() -> None:
    for method in _METHODS:
        method.exchange()


def _put_back() -> None:
    for method in _METHODS:
        method.put_back()


_users = Users(_exchange, _put_back)


@contextmanager
def carried(carry: Carry) -> Iterator[Use]:
    """Carry what is on here to the threads that this one starts inside.

    Yields:
        The use of what does that, which may end before: on a thread that outlives the recording.
    """
    use = _users.enter()
    try:
        with _carrying(carry):
            yield use
    finally:
        use.leave()
