"""What a module is made of, to put it back."""

from __future__ import annotations

import functools
import logging
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._fills.region import Region
from fastinit._models.names import named_modules
from fastinit._models.tree import modules_of
from fastinit._tensors import PLAIN_TYPES, copy_values, is_put_together

_CONTAINERS = (dict, list, set, deque)
_PLAIN = frozenset({OrderedDict, *_CONTAINERS})
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)
_ATOMS_SET = frozenset(_ATOMS)
# What is the whole process's, not a module's: from here one comes to everything.
_SHARED = (ModuleType, logging.Logger)
_TABLES = frozenset({"_parameters", "_buffers", "_modules"})


def _is_torchs_own(value: Any) -> bool:
    """Whether this is what torch keeps of shards: their memory is that of parameters."""
    return str(type(value).__module__).startswith("torch.distributed.")


def _slots_of(value: Any) -> tuple[tuple[str, MemberDescriptorType], ...]:
    """List what holds the attributes of an object that are not in its `__dict__`.

    Those of `__slots__`, and what a `functools.partial` or a bound method is made of.
    """
    kind: Any = type(value)
    return _slots_of_class(kind)


@functools.lru_cache(maxsize=1024)
def _slots_of_class(kind: Any) -> tuple[tuple[str, MemberDescriptorType], ...]:
    return tuple(
        (name, slot)
        for base in kind.__mro__
        for name, slot in vars(base).items()
        if type(slot) is MemberDescriptorType
    )


def _in_slots(value: Any) -> Iterator[tuple[str, Any]]:
    for name, slot in _slots_of(value):
        try:
            yield name, slot.__get__(value)
        except AttributeError:  # nothing is in it
            continue


def _put_in_slots(value: Any, held: Mapping[str, Any]) -> None:
    now = dict(_in_slots(value))
    for name, slot in _slots_of(value):
        if name in held and now.get(name) is not held[name]:
            slot.__set__(value, held[name])
        elif name in now and name not in held:
            slot.__delete__(value)


def inside(value: Any) -> Iterator[tuple[str, Any]]:
    """List what a container, a function or another object holds; a tensor, as attributes."""
    if isinstance(value, dict):
        yield from ((str(key), item) for key, item in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((str(k), item) for k, item in enumerate(list(value)))
    elif isinstance(value, FunctionType):
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not bound yet
                continue
        given = *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()
        yield from (("", item) for item in (*cells, *given))
        yield from list(vars(value).items())
    elif type(value) in PLAIN_TYPES:
        yield from list(vars(value).items())
    elif isinstance(value, weakref.ref):
        held = value()
        if not isinstance(held, nn.Module):  # which is somebody else's
            yield "()", held
    if _has_attributes(value):
        yield from list(getattr(value, "__dict__", {}).items())
        yield from _in_slots(value)


_APART = (*_ATOMS, *_SHARED, Tensor, nn.Module, FunctionType, weakref.ref)


def _has_attributes(value: Any) -> bool:
    """Whether this is an object whose attributes may be a module's."""
    return not isinstance(value, _APART) and not _is_torchs_own(value)


def _parts_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """List what a module holds, its parameters, buffers and children under their own names."""
    for name, value in vars(module).items():
        yield from list(value.items()) if name in _TABLES else [(name, value)]
    yield from _in_slots(module)


def held_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Find the tensors that modules hold otherwise than as parameters and buffers.

    They may be in lists, dicts, objects, closures and modules that are nobody's children, and have
    the name of the way there.
    """
    seen: set[int] = set()
    family = {*modules_of(module)}
    for path, owner in named_modules(module, prefix):
        # Most of what modules hold is numbers, and tables of hooks without any.
        waiting = [
            (a, owner, v)
            for a, v in (*vars(owner).items(), *_in_slots(owner))
            if (kind := type(v)) not in _ATOMS_SET
            and (kind not in _PLAIN or v)
            and a not in _TABLES
        ]
        for table in (owner._parameters, owner._buffers):
            for attribute, tensor in table.items():
                if type(tensor) in PLAIN_TYPES and (marks := vars(tensor)):
                    waiting += [(f"{attribute}.{a}", owner, v) for a, v in marks.items()]
        waiting.reverse()
        while waiting:
            way, holder, value = waiting.pop()
            if isinstance(value, _ATOMS) or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Tensor):
                yield f"{path}.{way}".removeprefix("."), holder, value
            parts = inside(value)
            if issubclass(type(value), nn.Module):
                if value in family or not family.isdisjoint(modules_of(value)):
                    continue  # what this one is a part of
                holder, parts = value, _parts_of(value)
            found = [
                (f"{way}.{a}" if a else way, holder, item)
                for a, item in parts
                if type(item) not in _ATOMS_SET
            ]
            waiting += reversed(found)
        for attribute, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_leaf and parameter.grad is not None:
                yield f"{path}.{attribute}.grad".removeprefix("."), owner, parameter.grad


_NO_HOOKS: Mapping[Any, Any] = {}


class _TensorState:
    """A tensor as it was: which memory it is on, what hangs on it."""

    __slots__ = ("after", "data", "grad", "hooks", "is_leaf", "marks", "requires_grad", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.data = tensor.data
        self.is_leaf = tensor.is_leaf
        self.grad = tensor.grad if self.is_leaf else None
        self.requires_grad = tensor.requires_grad
        self.marks = vars(tensor).copy()
        hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
        self.hooks: Mapping[Any, Any] = dict(hooks) if hooks else _NO_HOOKS
        self.after: Mapping[Any, Any] = dict(after) if after else _NO_HOOKS

    def put_on_memory(self) -> None:
        """Put it on the memory that it was on."""
        if self.is_moved:
            self.tensor.data = self.data

    def restore(self) -> None:
        """Put all of it back; what is to be its gradient has to be on its own memory again."""
        self.put_on_memory()
        tensor = self.tensor
        if self.is_leaf and not tensor.is_leaf:
            tensor.detach_()
        if tensor.is_leaf:
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
            if tensor.requires_grad is not self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
        self.put_back_marks()

    def put_back_marks(self) -> None:
        """Put back what hangs on the object, whatever memory it is on."""
        tensor = self.tensor
        vars(tensor).clear()
        vars(tensor).update(self.marks)
        for hooks, before in (
            (tensor._backward_hooks, self.hooks),
            (tensor._post_accumulate_grad_hooks, self.after),
        ):
            if hooks is not None:
                hooks.clear()
                hooks.update(before)

    @property
    def is_moved(self) -> bool:
        now, before = self.tensor, self.data
        if now.dtype is not before.dtype or now.device != before.device:
            return True
        return now.untyped_storage()._cdata != before.untyped_storage()._cdata or Region.of(
            now
        ) != Region.of(before)


def _kind_of(container: Any) -> Any:
    """Find the class of Python's whose methods a container is handled by; its own may refuse."""
    return next(kind for kind in (OrderedDict, *_CONTAINERS) if isinstance(container, kind))


def _copy(container: Any) -> Any:
    """Copy what a container holds, into a plain one."""
    kind = type(container)
    if kind in _PLAIN:
        return container.copy()
    kind = _kind_of(container)
    items = kind.items if issubclass(kind, dict) else kind.__iter__
    return kind(list(items(container)))


def _same(now: Any, before: Any) -> bool:
    if extension.holds_same(now, before):
        return True
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        pairs = zip(now.items(), before.items(), strict=True)
        return all(a == b and x is y for (a, x), (b, y) in pairs)
    if isinstance(now, set):
        return bool(now == before)
    return all(a is b for a, b in zip(now, before, strict=True))


def _put_back(container: Any, before: Any) -> None:
    """Give a container what it held."""
    plain = type(container) in _PLAIN
    if _same(container if plain else _copy(container), before):
        return
    kind = _kind_of(container)
    kind.clear(container)
    if issubclass(kind, dict):  # `OrderedDict.update` would ask the class
        for key, value in before.items():
            kind.__setitem__(container, key, value)
    else:
        add = kind.update if issubclass(kind, set) else kind.extend
        add(container, before)


class Snapshot:
    """The objects that make a module: restored, it has these again, and they what they held.

    The values in tensors' memory are not part of it, but for those of tensors that are put together
    of others: what is written to these no recording sees.
    """

    def __init__(self, module: nn.Module) -> None:
        # Parametrizing a module gives it another.
        self._classes = [(one, type(one)) for one in modules_of(module)]
        self._containers: list[Any] = []
        self._held: list[Any] = []  # by each of these
        self._empty: list[Any] = []
        self._in_slots: list[tuple[Any, dict[str, Any]]] = []
        self._tensors: dict[int, _TensorState] = {}
        self._gradients: list[_TensorState] = []
        self._on_meta: list[_TensorState] = []
        self._together: list[tuple[Tensor, Tensor]] = []
        seen: set[int] = set()
        waiting: list[Any] = [module]
        kinds: set[Any] = {kind for _, kind in self._classes}
        slotted = {kind for kind in kinds if _slots_of_class(kind)}
        for one, kind in self._classes if slotted else ():
            if kind in slotted:
                waiting += self._keep_slots(one)
        while waiting:
            for value in self._walk(waiting, seen):
                kind = type(value)
                if kind in PLAIN_TYPES:
                    self._keep_tensor(value)
                    if marks := vars(value):
                        waiting += marks.values()
                elif isinstance(value, _CONTAINERS):
                    self._containers.append(value)
                    self._held.append(copy := _copy(value))
                    waiting += copy.values() if isinstance(copy, dict) else copy
                elif isinstance(value, Tensor):
                    if not is_sharded(value):
                        self._keep_tensor(value)
                elif isinstance(value, (tuple, frozenset)):
                    waiting += value
                elif kind is FunctionType:
                    waiting += [item for _, item in inside(value)]
                if kind not in _ATOMS_SET and kind is not tuple and _has_attributes(value):
                    own = getattr(value, "__dict__", None)
                    if type(own) is dict:
                        waiting.append(own)
                    waiting += self._keep_slots(value)

    def _walk(self, waiting: list[Any], seen: set[int]) -> list[Any]:
        """Keep the plain containers that can be reached, and list what else there is."""
        return extension.walk_held(
            waiting,
            seen,
            self._containers,
            self._held,
            self._empty,
            _PLAIN,
            _ATOMS_SET,
            nn.Module,
        )

    def _keep_slots(self, value: Any) -> Iterable[Any]:
        if not _slots_of(value):
            return ()
        held = dict(_in_slots(value))
        self._in_slots.append((value, held))
        return held.values()

    def _keep_tensor(self, tensor: Tensor) -> None:
        if tensor.is_meta:  # who gives it memory takes that back
            self._on_meta.append(_TensorState(tensor))
        elif is_put_together(tensor):
            self._together.append((tensor, tensor.detach().clone()))
        else:
            state = self._tensors[id(tensor)] = _TensorState(tensor)
            if state.grad is not None and not is_put_together(state.grad):
                self._gradients.append(_TensorState(state.grad))

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All tensors that can be reached."""
        return (state.tensor for state in self._tensors.values())

    def is_unchanged(self, instead: Mapping[int, Any]) -> bool:
        """Whether it is known that all objects hold what they did; tensors may be on other memory.

        It is not known of sets, deques and classes of somebody's own that hold something.

        Args:
            instead: by the id of some containers, copies of what they are to hold instead.
        """
        held: Iterable[Any] = self._held
        if instead:
            held = map(instead.get, map(id, self._containers), self._held)
        return (
            not any(self._empty)
            and all(map(extension.holds_same, self._containers, held))
            and all(_same(dict(_in_slots(value)), held) for value, held in self._in_slots)
        )

    def restore(self) -> None:
        """Put everything back."""
        for module, kind in self._classes:
            if type(module) is not kind:
                object.__setattr__(module, "__class__", kind)  # the class's own may refuse
        for container in self._empty:
            container.clear()
        for value, held in self._in_slots:
            _put_in_slots(value, held)
        with torch.no_grad():
            for container, before in zip(self._containers, self._held, strict=True):
                _put_back(container, before)
            states = [*self._gradients, *self._tensors.values()]
            for state in states:
                state.put_on_memory()
            for state in states:
                state.restore()
            for state in self._on_meta:
                state.put_back_marks()
            for tensor, before in self._together:
                copy_values(tensor, before)

    def restore_tensor(self, tensor: Tensor) -> None:
        """Put one tensor back."""
        state = self._tensors.get(id(tensor))
        if state is not None:
            with torch.no_grad():
                state.restore()
