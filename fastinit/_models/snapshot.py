"""What a module is made of, to put it back."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._fills.region import Region
from fastinit._models.held import (
    ATOMS_SET,
    CONTAINERS,
    PLAIN,
    PLAIN_IDS,
    has_attributes,
    held_by,
    in_slots,
    kind_of,
    put_in_slots,
    slots_of,
    slots_of_class,
)
from fastinit._models.held_state import is_array, objects_in, putting_back
from fastinit._models.tree import modules_of
from fastinit._tensors import copy_values, is_put_together


class _TensorState(NamedTuple):
    """A tensor as it was: which memory it is on, what hangs on it, how often it was written."""

    tensor: Tensor
    data: Tensor
    is_leaf: bool
    grad: Tensor | None
    requires_grad: bool
    marks: dict[str, Any]
    hooks: dict[int, Any] | None
    after: dict[int, Any] | None
    version: int

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
                hooks.update(before or {})

    @property
    def is_moved(self) -> bool:
        now, before = self.tensor, self.data
        if now.dtype is not before.dtype or now.device != before.device:
            return True
        return now.untyped_storage()._cdata != before.untyped_storage()._cdata or Region.of(
            now
        ) != Region.of(before)


def _copy(container: Any) -> Any:
    """Copy what a container holds, into a plain one."""
    if id(type(container)) in PLAIN_IDS:
        return container.copy()
    kind = kind_of(container)
    items = kind.items if issubclass(kind, dict) else kind.__iter__
    return kind(list(items(container)))


def _same(now: Any, before: Any) -> bool:
    if extension.holds_same(now, before):
        return True
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        pairs = zip(now.items(), before.items(), strict=True)
        return all(a is b and x is y for (a, x), (b, y) in pairs)
    if isinstance(now, set):  # what is in it may refuse to be compared
        return set(map(id, now)) == set(map(id, before))
    return all(a is b for a, b in zip(now, before, strict=True))


def _put_back(container: Any, before: Any) -> None:
    """Give a container what it held."""
    plain = id(type(container)) in PLAIN_IDS
    if _same(container if plain else _copy(container), before):
        return
    kind = kind_of(container)
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

    Attributes:
        sharded: the DTensors among what can be reached, which it does not keep.
        arrays: those of NumPy among it.
    """

    def __init__(self, module: nn.Module) -> None:
        # Parametrizing a module gives it another.
        self._classes = [(one, type(one)) for one in modules_of(module)]
        self._containers: list[Any] = []
        self._held: list[Any] = []  # by each of these
        self._empty: list[Any] = []
        self._in_slots: list[tuple[Any, dict[str, Any]]] = []
        # By id, as `_TensorState` has it, for which most are never asked.
        self._tensors: dict[int, tuple[Any, ...]] = {}
        self._gradients: list[tuple[Any, ...]] = []
        self._on_meta: list[tuple[Any, ...]] = []
        self.sharded: list[Tensor] = []
        self._together: list[tuple[Tensor, Tensor]] = []
        self._states: list[Callable[[], object]] = []
        self.arrays: list[Any] = []
        seen: set[int] = set()
        waiting: list[Any] = [module]
        kinds: set[Any] = {kind for _, kind in self._classes}
        proxies = {kind for kind in kinds if not issubclass(kind, nn.Module)}
        if proxies:  # of modules, which torch takes for them
            waiting += [one.__dict__ for one, kind in self._classes if kind in proxies]
        slotted = {kind for kind in kinds if slots_of_class(kind)}
        for one, kind in self._classes if slotted else ():
            if kind in slotted:
                waiting += self._keep_slots(one)
        # Classes whose instances hold nothing that counts, by their ids: some have no hash.
        apart: dict[int, Any] = {}
        while waiting:
            for value in self._walk(waiting, seen):
                kind = type(value)
                if kind is Parameter or kind is Tensor:
                    self._keep_tensor(value)
                    if marks := vars(value):
                        waiting += marks.values()
                    continue
                if id(kind) in apart:
                    continue
                if kind is FunctionType:
                    waiting += (*held_by(value), *vars(value).values())
                    continue
                attributes = kind is not tuple and has_attributes(kind)
                if issubclass(kind, CONTAINERS):
                    self._containers.append(value)
                    self._held.append(copy := _copy(value))
                    waiting += copy.values() if isinstance(copy, dict) else copy
                elif issubclass(kind, Tensor):
                    if is_sharded(value):
                        self.sharded.append(value)
                    else:
                        self._keep_tensor(value)
                elif issubclass(kind, (tuple, frozenset)):
                    waiting += value if kind is tuple else kind_of(value).__iter__(value)
                elif not attributes:
                    apart[id(kind)] = kind
                if attributes:
                    if put_back := putting_back(value):
                        self._states.append(put_back)
                    if is_array(value):
                        self.arrays.append(value)
                        waiting += objects_in(value)
                    own = extension.attributes_of(value)
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
            PLAIN,
            ATOMS_SET,
            nn.Module,
        )

    def _keep_slots(self, value: Any) -> Iterable[Any]:
        if not slots_of(value):
            return ()
        held = dict(in_slots(value))
        self._in_slots.append((value, held))
        return held.values()

    def _keep_tensor(self, tensor: Tensor) -> None:
        if tensor.is_meta:  # who gives it memory takes that back
            self._on_meta.append(extension.tensor_state(tensor))
        elif is_put_together(tensor):
            self._together.append((tensor, tensor.detach().clone()))
        else:
            state = self._tensors[id(tensor)] = extension.tensor_state(tensor)
            grad = state[3]
            if grad is not None and not is_put_together(grad):
                self._gradients.append(extension.tensor_state(grad))

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All tensors that can be reached."""
        return map(operator.itemgetter(0), self._tensors.values())

    def is_unchanged(self, instead: Mapping[int, Any]) -> bool:
        """Whether it is known that modules and containers hold what they did, on whatever memory.

        It is not known of sets, deques and classes of somebody's own that hold something.

        Args:
            instead: by the id of some containers, copies of what they are to hold instead.
        """
        return not any(self._empty) and extension.all_hold_same(
            self._containers, self._held, instead
        )

    def restore(self) -> None:
        """Put everything back."""
        for module, kind in self._classes:
            if type(module) is not kind:
                object.__setattr__(module, "__class__", kind)  # the class's own may refuse
        for container in self._empty:
            container.clear()
        for value, held in self._in_slots:
            put_in_slots(value, held)
        for put_back in self._states:
            put_back()
        with torch.no_grad():
            for container, before in zip(self._containers, self._held, strict=True):
                _put_back(container, before)
            states = [*map(_TensorState._make, (*self._gradients, *self._tensors.values()))]
            for state in states:
                state.put_on_memory()
            for state in states:
                state.restore()
            for state in map(_TensorState._make, self._on_meta):
                state.put_back_marks()
            for tensor, before in self._together:
                copy_values(tensor, before)
            for state in states:
                extension.set_version(state.tensor, state.version)

    def put_versions_back(self, stay: Iterable[Tensor]) -> None:
        """Have autograd see no write to tensors that were put back, in memory that is theirs alone.

        What was written and put back has the values that graphs have seen.
        """
        address, stay = extension.storage_address, [*stay]
        sharing = Counter(map(address, self.tensors)) if stay else {}
        for tensor in stay:
            state = self._tensors.get(id(tensor))
            if state is not None and sharing[address(tensor)] == 1:
                extension.set_version(tensor, _TensorState._make(state).version)

    def restore_tensor(self, tensor: Tensor) -> None:
        """Put one tensor back."""
        state = self._tensors.get(id(tensor))
        if state is not None:
            with torch.no_grad():
                _TensorState._make(state).restore()
