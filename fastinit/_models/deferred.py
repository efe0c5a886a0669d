"""An `initialize_` that waits for the shapes of a module with lazy modules in it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit._models.lazy import (
    ResetWithoutDraws,
    has_lazy,
    is_lazy_itself,
    kept_values,
    see_shapes,
    stand_in,
)
from fastinit._models.tree import modules_of, unwrapped
from fastinit._tensors import version_of
from fastinit._untraced import untraced


class Run(Protocol):
    """Initialises a module, but for parameters that have been loaded or initialised meanwhile."""

    def __call__(self, module: nn.Module, done: Container[int], path: str) -> object:
        """Do it, given the ids of those parameters.

        `path`: the name of the module in the one that it was asked for, if it has left that.
        """


def _named(module: nn.Module, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """List parameters and buffers by all of their names."""
    yield from module.named_parameters(path, remove_duplicate=False)
    yield from module.named_buffers(path, remove_duplicate=False)


class _State(NamedTuple):
    """A tensor before something was to be loaded into it.

    Attributes:
        address: which object it was.
        version: its count of writes; None if it was lazy.
    """

    address: int
    version: int | None

    @staticmethod
    def of(tensor: Tensor) -> _State:
        return _State(id(tensor), None if is_lazy(tensor) else version_of(tensor))


class _Deferred:
    """One `initialize_` that waits for the shapes of its module.

    Hooks on all that is in the module have it; it has the module weakly, so that copies of a part
    do not have the whole.

    Attributes:
        whole: gives the module, if there is one still.
        trials: how many calls are made now that are not to start anything.
        is_tried: whether one of them is its own, to see shapes.
    """

    def __init__(self, run: Run, skips: Callable[[str], bool], path: str = "") -> None:
        self._run = run
        self._skips = skips
        self._path = path
        self._done: set[str] = set()
        self._loading: dict[str, _State] = {}
        self._set_up()

    def _set_up(self) -> None:
        self.whole: Callable[[], nn.Module | None] = _nobody
        self.trials = 0
        self.is_tried = False
        self._ended = False
        self._lock = threading.RLock()  # two first calls at a time

    def __getstate__(self) -> dict[str, Any]:
        whole = self.whole()
        if whole is not None:
            self._note_loaded(dict(_named(whole)))
        mine = ("_run", "_skips", "_path", "_done", "_loading")
        return {name: vars(self)[name] for name in mine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set_up()

    def put_on(self, module: nn.Module) -> None:
        """Wait for this module."""
        self._ended = False
        for path, one in module.named_modules():
            if isinstance(one, torch.jit.ScriptModule):
                continue
            hook = _Hook(self, path, None if path else module)
            # After the hook by which a lazy module infers its own shapes.
            one.register_forward_pre_hook(hook, with_kwargs=True)
            one.register_load_state_dict_pre_hook(hook.note_loading)
            has_own = callable(getattr(type(one), "reset_parameters", None))
            mine = "reset_parameters" not in vars(one) and has_own and is_lazy_itself(one)
            # What is skipped gets what torch gives it.
            if mine and not any(map(self._skips, hook.names_in(one))):
                vars(one)["reset_parameters"] = ResetWithoutDraws(one)

    def take_off(self, module: nn.Module) -> None:
        """Wait for this module no more."""
        self._ended = True
        for one in module.modules():
            # Not by handles: a copy of the module has copies of this and of its hooks.
            for number, hook in [*one._forward_pre_hooks.items()]:
                if type(hook) is _Hook and hook.deferred is self:
                    del one._forward_pre_hooks[number]
                    one._forward_pre_hooks_with_kwargs.pop(number, None)
            loading = one._load_state_dict_pre_hooks
            for number, hook in [*loading.items()]:
                owner = _owner_of(hook)
                if type(owner) is _Hook and owner.deferred is self:
                    del loading[number]
            if next(_hooks_on(one), None) is None and stand_in(one) is not None:
                del vars(one)["reset_parameters"]

    def leave(self, names: Iterable[str]) -> None:
        """Leave parameters and buffers to whoever has initialised them, or is about to."""
        self._done.update(names)

    @property
    def is_left(self) -> bool:
        """Whether all are."""
        whole = self.whole()
        return whole is None or self._done.issuperset(name for name, _ in _named(whole))

    def note_loading(self, name: str, tensor: Tensor) -> None:
        """Note that something may be loaded into a tensor."""
        self._loading.setdefault(name, _State.of(tensor))

    def _note_loaded(self, named: Mapping[str, Tensor]) -> None:
        for name, before in self._loading.items():
            now = _State.of(named[name]) if name in named else before
            if now != before and now.version is not None:
                self._done.add(name)
        self._loading.clear()

    def _called(self, module: nn.Module, hook: _Hook, args: Any, kwargs: Any) -> Any:
        """Initialise the module before it, or a part, is called, if that shows the last shapes.

        Returns:
            The arguments that the call is to be made with, or None: those that it has.
        """
        given = None
        with self._lock:
            whole, path = self.whole(), hook.path
            if self._ended:
                return None
            if whole is None or (path and module not in modules_of(whole)):
                alone = self._go_on_alone(module, path)
                mine = next(h for h in _hooks_on(module) if h.deferred is alone)
                return alone.called(module, mine, args, kwargs)
            _check_own(whole)
            named = dict(_named(whole))
            self._note_loaded(named)
            if path and self._done.issuperset(name for name, _ in _named(module, path)):
                return None  # of what is nobody's business here
            done = {id(t): t for n, t in named.items() if n in self._done}
            skipped = [t for n, t in named.items() if id(t) not in done and self._skips(n)]
            with kept_values(t for t in (*done.values(), *skipped) if not is_lazy(t)):
                if has_lazy(module):
                    self.is_tried = True
                    try:
                        with quiet(module):
                            hooks = _later_hooks(module, hook)
                            given = see_shapes(module, args, kwargs, hooks)
                    finally:
                        self.is_tried = False
                if has_lazy(whole):
                    raise RuntimeError(_missing(module, path, whole))
                for one in whole.modules():
                    if (reset := stand_in(one)) is not None:
                        reset()  # the call has changed its statistics
                        del vars(one)["reset_parameters"]
            self.take_off(whole)
            try:
                with kept_values(t for t in done.values() if not isinstance(t, nn.Parameter)):
                    self._run(whole, done.keys(), self._path)
            except BaseException:
                self.put_on(whole)
                raise
        return given

    called = untraced(_called, "shapes are looked for; call the module once before it is compiled")

    def _go_on_alone(self, module: nn.Module, path: str) -> _Deferred:
        """Have a part wait by itself that has been taken out of the whole, or copied without it."""
        stem = f"{path}." if path else ""
        alone = _Deferred(self._run, self._skips, f"{self._path}.{path}".strip("."))
        alone._done = {n.removeprefix(stem) for n in self._done if n.startswith(stem)}
        alone._loading = {
            n.removeprefix(stem): s for n, s in self._loading.items() if n.startswith(stem)
        }
        ended = self._ended
        self.take_off(module)
        self._ended = ended
        alone.put_on(module)
        return alone


def _nobody() -> None:
    """Give the module of what has none any more."""


def _check_own(whole: nn.Module) -> None:
    """Refuse to write to tensors that are in the places of parameters for one call only."""
    for one in whole.modules():
        for name, tensor in one._parameters.items():
            if tensor is not None and not isinstance(tensor, nn.Parameter):
                raise RuntimeError(
                    f"fastinit.initialize_: {type(whole).__name__} waits for its first call, and "
                    f"torch.func.functional_call has put another tensor in the place of {name!r}; "
                    "call the module itself first"
                )


def _later_hooks(module: nn.Module, hook: _Hook) -> list[tuple[Callable[..., Any], bool]]:
    """List the hooks of others that come after ours, and whether they take keyword arguments."""
    hooks = [*module._forward_pre_hooks.items()]
    place = next(k for k, (_, one) in enumerate(hooks) if one is hook)
    named = module._forward_pre_hooks_with_kwargs
    return [(o, n in named) for n, o in hooks[place + 1 :] if type(o) is not _Hook]


def _missing(module: nn.Module, path: str, whole: nn.Module) -> str:
    """Word that shapes are not known when there has been a call."""
    if not path:
        return (
            f"fastinit.initialize_: the first call of {type(module).__name__} did not reach all of "
            "its lazy modules, so the shapes of their parameters are not known"
        )
    left = [name for name, one in whole.named_modules() if is_lazy_itself(one)]
    return (
        f"fastinit.initialize_: {path} has been called before {type(whole).__name__} is "
        f"initialised, which waits for the shapes of {', '.join(left)}; call the whole of "
        f"{type(whole).__name__} first, or initialize_ its parts one by one, each with 'prefix'"
    )


class _Hook:
    """What is on one of the modules that something waits for: the whole, or a part of it."""

    def __init__(self, deferred: _Deferred, path: str, whole: nn.Module | None) -> None:
        self.__setstate__((deferred, path, whole))

    def __getstate__(self) -> tuple[_Deferred, str, nn.Module | None]:
        # That of the whole has it, so that a copy of all of it is told which one is the copy.
        return self.deferred, self.path, None if self.path else self.deferred.whole()

    def __setstate__(self, state: tuple[_Deferred, str, nn.Module | None]) -> None:
        self.deferred, self.path, whole = state
        if whole is not None:
            self.deferred.whole = weakref.ref(whole)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A call of the whole while that is tried is another thread's, and has to wait.
        if not self.deferred.trials or (self.deferred.is_tried and not self.path):
            return self.deferred.called(module, self, args, kwargs)
        return None

    def names_in(self, module: nn.Module) -> dict[str, Tensor]:
        """Give what the module itself holds, by the names in the whole."""
        stem = f"{self.path}." if self.path else ""
        both = {**module._parameters, **module._buffers}
        return {stem + name: tensor for name, tensor in both.items() if tensor is not None}

    def note_loading(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        """Note what may be loaded of what the module itself holds."""
        for name, tensor in self.names_in(module).items():
            if prefix + name.rpartition(".")[2] in state_dict:
                self.deferred.note_loading(name, tensor)


def _owner_of(hook: Any) -> Any:
    """Give the object whose method a hook is; None for others."""
    hook = unwrapped(hook)
    return hook.__self__ if type(hook) is MethodType else None


def _hooks_on(module: nn.Module) -> Iterator[_Hook]:
    return (hook for hook in module._forward_pre_hooks.values() if type(hook) is _Hook)


def cancel(module: nn.Module, skipped: Container[int]) -> None:
    """Have what waits leave a module alone, but for these of its parameters, given by their ids."""
    waiting: set[_Deferred] = set()
    for one in modules_of(module):
        for hook in _hooks_on(one) if one._forward_pre_hooks else ():
            names = hook.names_in(one)
            hook.deferred.leave(name for name, t in names.items() if id(t) not in skipped)
            waiting.add(hook.deferred)
    for deferred in waiting:
        whole = deferred.whole()
        if deferred.is_left:
            deferred.take_off(module if whole is None else whole)


def defer(module: nn.Module, run: Run, skips: Callable[[str], bool]) -> None:
    """Have something run when a call of a module, or of a part, shows the last of its shapes.

    A call of a part that does not is a RuntimeError: it would be of what nobody has initialised.

    Args:
        module: the module.
        run: what initialises it.
        skips: whether a parameter or buffer of this name, within the module, is not initialised.
    """
    _Deferred(run, skips).put_on(module)


@contextmanager
def quiet(module: nn.Module) -> Iterator[None]:
    """Have calls of a module and its parts start nothing: they are those of an initialiser."""
    waiting = {h.deferred for one in modules_of(module) for h in _hooks_on(one)}
    for one in waiting:
        one.trials += 1
    try:
        yield
    finally:
        for one in waiting:
            one.trials -= 1
