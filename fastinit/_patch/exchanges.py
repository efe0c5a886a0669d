"""Functions whose code stands in for their own for as long as somebody wants it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from fastinit._users import Use, Users


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
        self._disabled: Any = None  # by others

    def make(self) -> None:
        self.function.__code__ = self._substitute
        if not self._traceable:
            self._disabled = vars(self.function).get("_torchdynamo_disable")
            vars(self.function)["_torchdynamo_disable"] = True

    def undo(self) -> None:
        if self.function.__code__ is not self._substitute:
            return  # somebody has put his own there meanwhile, which may call ours
        self.function.__code__ = self.original
        if not self._traceable:
            vars(self.function).pop("_torchdynamo_disable", None)
            if self._disabled is not None:
                vars(self.function)["_torchdynamo_disable"] = self._disabled


class _Told(Loader):
    """Loads a module as another does, and tells of it."""

    def __init__(self, loader: Any, tell: Callable[[], None]) -> None:
        self._loader = loader
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._tell()


class _Finder(MetaPathFinder):
    """Tells when one of some modules has been loaded.

    Args:
        names: theirs.
        tell: called then.
    """

    def __init__(self, names: Collection[str], tell: Callable[[], None]) -> None:
        self._names = names
        self._tell = tell

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._names:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Told(spec.loader, self._tell)
                return spec
        return None


class Exchanges:
    """Functions whose code is exchanged while there are users of that.

    Args:
        wanted: lists them; asked again by each user, and when a module has been loaded.
        modules: those whose functions are wanted.
    """

    def __init__(
        self, wanted: Callable[[], Iterable[Wanted]], modules: Collection[str] = ()
    ) -> None:
        self._wanted = wanted
        self._finder = _Finder(modules, self._look)
        self._users = Users(self._find, self._restore)
        # Kept between users: compiling takes a while.
        self._prepared: dict[FunctionType, _Exchange] = {}
        self._exchanged: dict[FunctionType, _Exchange] = {}

    def install(self) -> Use:
        """Exchange the code, or what is not exchanged already; the last user puts all code back."""
        with self._users.lock:
            use = self._users.enter()
            try:
                self._look()
            except BaseException:
                use.leave()
                raise
        return use

    def _look(self) -> None:
        """Exchange what is there now, if there are still users."""
        with self._users.lock:
            for wanted in self._wanted() if self._users else ():
                self._exchange(wanted)

    def _find(self) -> None:
        sys.meta_path.insert(0, self._finder)

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
        # Another list: threads may be going through this one.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self._finder]
        while self._exchanged:
            function, exchange = next(reversed(self._exchanged.items()))
            exchange.undo()  # before it is forgotten: there may be an interrupt in between
            del self._exchanged[function]
