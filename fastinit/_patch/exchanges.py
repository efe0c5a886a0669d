"""Functions whose code stands in for their own for as long as somebody wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import Any, NamedTuple


class Wanted(NamedTuple):
    """A function whose code is to be exchanged.

    Attributes:
        function: the function; anything else is left alone.
        module: the module it has to be of: otherwise it is another library's replacement.
        substitute: gives the code that stands in; None if it is for another version's function.
        traceable: whether torch's compiler can trace that.
    """

    function: Any
    module: str
    substitute: Callable[[FunctionType], CodeType | None]
    traceable: bool = False


class _Exchange:
    """One function, the code it had, and the code that stands in for it."""

    def __init__(self, function: FunctionType, substitute: CodeType, traceable: bool) -> None:
        self.function = function
        self.original = function.__code__
        self._substitute = substitute
        self._traceable = traceable

    def make(self) -> None:
        self.function.__code__ = self._substitute
        if not self._traceable:
            vars(self.function)["_torchdynamo_disable"] = True

    def undo(self) -> None:
        self.function.__code__ = self.original
        if not self._traceable:
            vars(self.function).pop("_torchdynamo_disable", None)


class Exchanges:
    """Functions whose code is exchanged while there are users of that.

    Args:
        wanted: lists them; asked again by each user, for modules that have come since.
    """

    def __init__(self, wanted: Callable[[], Iterable[Wanted]]) -> None:
        self._wanted = wanted
        self._lock = threading.RLock()
        self._users = 0
        # Kept between users: compiling takes a while.
        self._prepared: dict[FunctionType, _Exchange] = {}
        self._exchanged: dict[FunctionType, _Exchange] = {}

    def install(self) -> None:
        """Exchange the code, or count one more user of what is exchanged already."""
        with self._lock:
            try:
                for wanted in self._wanted():
                    self._exchange(wanted)
            except BaseException:
                if self._users == 0:
                    self._restore()
                raise
            self._users += 1

    def uninstall(self) -> None:
        """Count one user less; the last one puts all code back."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()

    def _exchange(self, wanted: Wanted) -> None:
        function = wanted.function
        if (
            not isinstance(function, FunctionType)
            or function in self._exchanged
            or function.__module__ != wanted.module
            or function.__closure__ is not None
        ):
            return
        exchange = self._prepared.get(function)
        if exchange is None or exchange.original is not function.__code__:
            code = wanted.substitute(function)
            if code is None:
                return
            exchange = _Exchange(function, code, wanted.traceable)
            self._prepared[function] = exchange
        self._exchanged[function] = exchange
        exchange.make()

    def _restore(self) -> None:
        while self._exchanged:
            function, exchange = next(reversed(self._exchanged.items()))
            exchange.undo()  # before it is forgotten: there may be an interrupt in between
            del self._exchanged[function]
