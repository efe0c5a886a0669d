"""Initialisation that waits for shapes: models with lazy modules."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from fastinit._models.tree import modules_of
from fastinit._patch.entered import EnteredScope
from fastinit._tensors import is_closed, is_plain, is_put_together, version_of
from fastinit._untraced import untraced


def has_lazy(module: nn.Module) -> bool:
    """Whether something in a module has no shape yet, or has still to see its inputs."""
    lazy = (LazyModuleMixin, UninitializedParameter, UninitializedBuffer)
    modules = modules_of(module)
    kinds = set(map(type, modules))
    for one in modules:
        kinds.update(map(type, one._parameters.values()), map(type, one._buffers.values()))
    return any(issubclass(kind, lazy) for kind in kinds)


def _zeros(
    fill: Callable[..., Any], tensor: Tensor, arguments: Any, generator: Generator | None
) -> Tensor:
    with torch.no_grad():
        return tensor.zero_()


class _ResetWithoutDraws:
    """Stands in for a module's `reset_parameters` while only its shapes matter."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> None:
        scope = EnteredScope(self, None, take=_zeros)
        try:
            kind: Any = type(self.module)
            kind.reset_parameters(self.module)
        finally:
            scope.end()


def _is_expanded(tensor: Tensor) -> bool:
    """Whether elements of a tensor share memory, so that torch writes nothing to it."""
    if is_put_together(tensor):
        return False
    return any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


@contextmanager
def kept_state(module: nn.Module) -> Iterator[None]:
    """Put the buffers and torch's generators back afterwards, also after an error.

    So also where a module has put another tensor in a buffer's place, or given a buffer another
    size or other memory, as observers of ranges do.
    """
    held = [
        (owner, name, buffer)
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if not (buffer is not None and is_lazy(buffer))
    ]
    buffers = {id(buffer): buffer for _, _, buffer in held if buffer is not None}
    open_ones = [b for b in buffers.values() if not (is_closed(b) or _is_expanded(b))]
    saved = [(b, b.data, b.clone()) for b in open_ones]
    devices = {t.device.index or 0 for t in module.parameters() if t.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            yield
        finally:
            for owner, name, buffer in held:
                owner._buffers[name] = buffer
            for buffer, memory, before in saved:
                if is_plain(type(buffer)) and not is_put_together(buffer):
                    buffer.data = memory  # it may have another size or other memory now
                buffer.copy_(before)


class Run(Protocol):
    """Initialises a module, but for parameters that have been loaded or initialised meanwhile."""

    def __call__(self, module: nn.Module, done: Container[int], path: str) -> object:
        """Do it, given the ids of those parameters.

        `path`: the name of the module in the one that it was asked for, if it has left that.
        """


_now = threading.local()  # whether a call is made to see shapes


@contextmanager
def _seeing_shapes() -> Iterator[None]:
    before = getattr(_now, "shapes", False)
    _now.shapes = True
    try:
        yield
    finally:
        _now.shapes = before


def _named(module: nn.Module, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """List parameters and buffers by all of their names."""
    yield from module.named_parameters(path, remove_duplicate=False)
    yield from module.named_buffers(path, remove_duplicate=False)


@contextmanager
def _kept(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give tensors the values that they have."""
    held = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in held:
                if not torch.equal(tensor, values):
                    tensor.copy_(values)


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
        whole: the module; None where what waits for it is a copy, of a part.
    """

    def __init__(self, run: Run, path: str = "") -> None:
        self.whole: weakref.ref[nn.Module] | None = None
        self._run = run
        self._path = path
        self._done: set[str] = set()
        self._loading: dict[str, _State] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "whole": None}

    def put_on(self, module: nn.Module) -> None:
        """Wait for this module."""
        for path, one in module.named_modules():
            if isinstance(one, torch.jit.ScriptModule):
                continue
            hook = _Hook(self, path, None if path else module)
            # After the hook by which a lazy module infers its own shapes.
            one.register_forward_pre_hook(hook, with_kwargs=True)
            one.register_load_state_dict_pre_hook(hook.note_loaded)
            if callable(getattr(type(one), "reset_parameters", None)) and _is_lazy(one):
                vars(one)["reset_parameters"] = _ResetWithoutDraws(one)

    def take_off(self, module: nn.Module) -> None:
        """Wait for this module no more."""
        for one in module.modules():
            # Not by handles: a copy of the module has copies of this and of its hooks.
            for number, hook in [*one._forward_pre_hooks.items()]:
                if isinstance(hook, _Hook) and hook.deferred is self:
                    del one._forward_pre_hooks[number]
                    one._forward_pre_hooks_with_kwargs.pop(number, None)
            loading = one._load_state_dict_pre_hooks
            for number, hook in [*loading.items()]:
                owner = _owner_of(hook)
                if isinstance(owner, _Hook) and owner.deferred is self:
                    del loading[number]
            if next(_hooks_on(one), None) is None:
                vars(one).pop("reset_parameters", None)

    def leave(self, names: Iterable[str]) -> None:
        """Leave parameters and buffers to whoever has initialised them, or is about to."""
        self._done.update(names)

    def note(self, name: str, tensor: Tensor) -> None:
        """Note that something may be loaded into a tensor."""
        self._loading.setdefault(name, _State.of(tensor))

    def _called(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> None:
        """Initialise the module before it, or a part, is called, if that shows the last shapes."""
        whole = self.whole() if self.whole is not None else None
        if whole is None or (path and module not in modules_of(whole)):
            self._go_on_alone(module, path).called(module, "", args, kwargs)
            return
        named = dict(_named(whole))
        for name, before in self._loading.items():
            now = _State.of(named[name]) if name in named else before
            if now != before and now.version is not None:
                self._done.add(name)
        self._loading.clear()
        if path and self._done.issuperset(name for name, _ in _named(module, path)):
            return  # of what is nobody's business here
        done = {id(t): t for n, t in named.items() if n in self._done and not is_lazy(t)}
        with _kept(done.values()):
            if has_lazy(module):
                with _seeing_shapes(), kept_state(module):
                    module.forward(*args, **kwargs)
            if has_lazy(whole):
                raise RuntimeError(_missing(module, path, whole))
            for one in whole.modules():
                reset = vars(one).get("reset_parameters")
                if isinstance(reset, _ResetWithoutDraws):
                    reset()  # the call has changed its statistics
        self.take_off(whole)
        try:
            with _kept(t for t in done.values() if not isinstance(t, nn.Parameter)):
                self._run(whole, done.keys(), self._path)
        except BaseException:
            self.put_on(whole)
            raise

    called = untraced(_called, "shapes are looked for; call the module once before it is compiled")

    def _go_on_alone(self, module: nn.Module, path: str) -> _Deferred:
        """Have a part wait by itself that has been taken out of the whole, or copied without it."""
        alone = _Deferred(self._run, f"{self._path}.{path}".strip("."))
        stem = f"{path}." if path else ""
        alone._done = {n.removeprefix(stem) for n in self._done if n.startswith(stem)}
        alone._loading = {
            n.removeprefix(stem): s for n, s in self._loading.items() if n.startswith(stem)
        }
        self.take_off(module)
        alone.put_on(module)
        return alone


def _missing(module: nn.Module, path: str, whole: nn.Module) -> str:
    """Word that shapes are not known when there has been a call."""
    if not path:
        return (
            f"fastinit.initialize_: the first call of {type(module).__name__} did not reach all of "
            "its lazy modules, so the shapes of their parameters are not known"
        )
    left = [name for name, one in whole.named_modules() if _is_lazy(one)]
    return (
        f"fastinit.initialize_: {path} has been called before {type(whole).__name__} is "
        f"initialised, which waits for the shapes of {', '.join(left)}; call the whole of "
        f"{type(whole).__name__} first, or initialize_ its parts one by one, each with 'prefix'"
    )


class _Hook:
    """What is on one of the modules that something waits for: the whole, or a part of it."""

    def __init__(self, deferred: _Deferred, path: str, whole: nn.Module | None) -> None:
        self.__setstate__({"deferred": deferred, "path": path, "_whole": whole})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.deferred: _Deferred = state["deferred"]
        self.path: str = state["path"]
        # That of the whole has it, so that a copy of all of it is told which one is the copy.
        self._whole: nn.Module | None = state["_whole"]
        if self._whole is not None:
            self.deferred.whole = weakref.ref(self._whole)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not getattr(_now, "shapes", False):
            self.deferred.called(module, self.path, args, kwargs)

    def names_in(self, module: nn.Module) -> dict[str, Tensor]:
        """Give what the module itself holds, by the names in the whole."""
        stem = f"{self.path}." if self.path else ""
        both = {**module._parameters, **module._buffers}
        return {stem + name: tensor for name, tensor in both.items() if tensor is not None}

    def note_loaded(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        """Note what may be loaded of what the module itself holds."""
        for name, tensor in self.names_in(module).items():
            if prefix + name.rpartition(".")[2] in state_dict:
                self.deferred.note(name, tensor)


def _owner_of(hook: Any) -> Any:
    """Give the object whose method a hook is; torch wraps those that want the module."""
    return getattr(getattr(hook, "hook", hook), "__self__", None)


def _hooks_on(module: nn.Module) -> Iterator[_Hook]:
    return (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _Hook))


def cancel(module: nn.Module) -> None:
    """Forget what waits for a module or parts of it; what waits for more leaves it alone."""
    for one in modules_of(module):
        for hook in [*_hooks_on(one)] if one._forward_pre_hooks else ():
            if hook.path:
                hook.deferred.leave(hook.names_in(one))
            else:
                hook.deferred.take_off(one)


def defer(module: nn.Module, run: Run) -> None:
    """Have something run when a call of a module, or of a part, shows the last of its shapes.

    A call of a part that does not is a RuntimeError: it would be of what nobody has initialised.
    """
    _Deferred(run).put_on(module)


def _own_tensors(module: nn.Module) -> list[Tensor]:
    both = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in both if tensor is not None]


def _is_lazy(module: nn.Module) -> bool:
    """Whether a module itself does; what is loaded into it does not tell it its inputs."""
    return isinstance(module, LazyModuleMixin) or any(map(is_lazy, _own_tensors(module)))
