"""Recording what initialisers do: draws wait until the names of what they fill are known.

While a recording is on, fills wait; their memory is real, and guarded. Everything else runs as
ever, and whoever needs a value that waits gets it computed first. What depends on a draw is written
down, so that in the end each draw has the name of what it is for, and a key by that name. A draw
whose value was asked for earlier has run under a key that was guessed; where that was wrong, the
initialisers have to run again, with the right one.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor

from fastinit._compiled import extension
from fastinit._fallback import handled
from fastinit._fills.fill import Fill, distribution_of, parse_fill
from fastinit._fills.operators import (
    NATIVE_TO_SHARDS,
    TOGETHER,
    WHOLE_MANY,
    refuse_lists_early,
    written_arguments,
)
from fastinit._fills.region import Region
from fastinit._recording.calls import Calls
from fastinit._recording.counting import counting
from fastinit._recording.data import shown_to_modes
from fastinit._recording.graph import Op, Ref, Storage
from fastinit._recording.groups import Groups
from fastinit._recording.kinds import Kind, Way, kind_of, single
from fastinit._recording.memory import is_real, tensors_in
from fastinit._recording.storage_set import StorageSet
from fastinit._recording.values import bytes_of
from fastinit._tensors import is_closed
from fastinit.initializers.draw import INITIALIZERS
from fastinit.key import NOTHING, Key, source

_ALL = 1 << 62


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _compute_before_fork() -> None:
    """Compute what waits before a process forks: nobody would know of what its child reads."""
    for recorder in list(_recorders):
        if not recorder.ended:
            recorder.compute_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_compute_before_fork)


class Recorder(Calls):
    """One recording: what it does with each operator. Arguments as those of `Waiting`.

    Attributes:
        followed: tensors that were there when it began, and their names.
        declared: memory that was given a name meanwhile.
        repeated: what initialisers have done that is to be done again, by what it depends on.
        apart: the names of DTensors that nobody takes care of, by the addresses of their storages.
        spared: storages that are to stay as they are, whatever is done to them.
        spoken: with which groups of processes initialisers communicate.
    """

    def __init__(self, key: Key, table: Mapping[Any, int] = NOTHING, *, waits: bool = True) -> None:
        super().__init__(key, table, waits=waits)
        _recorders.add(self)
        self.followed: list[tuple[Tensor, str]] = []
        self.declared: list[tuple[Ref, str]] = []
        self.repeated: dict[Any, Any] = {}
        self.apart: Mapping[int, str] = {}
        self.spared = StorageSet()
        self.spoken = Groups()

    def follow(self, tensor: Tensor, name: str, *, anew: bool) -> None:
        """Record what happens to a tensor that is there already.

        Args:
            tensor: the tensor.
            name: its name.
            anew: whether it is to get new values, so that those it has do not count.
        """
        if not is_real(tensor):
            return
        region = Region.of(tensor)
        if region.numel == 0:
            return
        storage = self.storage_of(tensor)
        if storage is None:
            storage = self.register(tensor, known=not anew)
            storage.outside = True
        if storage.outside and not anew:
            storage.write(region)
        self.names.there.add(Ref(storage, region), name)
        self.followed.append((tensor, name))
        storage.followed = True

    def unfollow(self, tensors: Iterable[Tensor]) -> None:
        """Let go of tensors that were followed for a while."""
        gone = {id(tensor) for tensor in tensors}
        self.followed = [one for one in self.followed if id(one[0]) not in gone]

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Keep what tensors hold that are there already, to put it back if need be."""
        with self.lock:
            tensors = [*tensors]
            for tensor, storage in zip(tensors, self.storages_of(tensors), strict=True):
                if storage is None and is_real(tensor) and tensor.numel() > 0:
                    self.register(tensor, known=True).outside = True

    def share(self, arrays: Iterable[Any]) -> None:
        """See to it that what others may write past torch can be told.

        Args:
            arrays: NumPy's, which may be on the memory of tensors.
        """
        places = [array.__array_interface__["data"][0] for array in arrays]
        storages = self.storages()
        for storage in storages if places else [one for one in storages if one.escaped]:
            untyped = storage.alive() if storage.outside and not storage.guarded else None
            if untyped is None:
                continue
            held = False
            if places and untyped.device.type == "cpu":
                begin = untyped.data_ptr()
                held = any(begin <= at < begin + storage.nbytes for at in places)
            storage.escaped = storage.escaped or held
            anew = storage.escaped and storage.followed and not storage.is_full
            if held or anew:
                self.remember(storage)
            if anew:
                self.see_past_torch(storage)

    def declare(self, name: str, tensor: Tensor) -> None:
        """Give memory that stands for something else that one's name."""
        with self.busy(), torch._C.DisableTorchFunction():
            storage = self.storage_of(tensor) or self.register(tensor, known=False)
            self.names.there.add(Ref(storage, Region.of(tensor)), name)
            self.declared.append((Ref(storage, Region.of(tensor)), name))

    def leave(self, keys: Mapping[Any, int] = NOTHING, most: int | None = None) -> None:
        self.followed.clear()  # which holds tensors
        super().leave(keys, most)

    def compute_all(self) -> None:
        """Compute all that waits, for somebody who may read any of it."""
        with self.busy():
            for storage in self.storages():
                if storage.pending:
                    self._read(storage)

    # ---- operators -------------------------------------------------------------------------------

    def dispatch(self, func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator, or let it wait."""
        way = kind.way
        if way is Way.PASS or self.ended or self.thread.busy:
            return func(*args, **kwargs)
        if kwargs:
            self.remember_state(kwargs.get("generator"))
        if way is Way.ALLOCATE:
            return self.allocate(func, args, kwargs)
        if way is Way.MAKE:
            return self.made(func(*args, **kwargs))
        if kind.mutable and way is not Way.RESIZE:
            self._check_writable(func, args, kwargs)
        if kind.communicates:
            self.spoken.note(args)
        with self.lock:
            fill = parse_fill(func, args, kwargs)
            if fill is not None and self._fill(func, args[0], fill):
                return args[0] if func.namespace == "aten" else None
            if way is Way.RESIZE:
                return self._resize(func, args, kwargs)
            if (
                way is Way.RESERVE
                and args[1:] == (None,) * len(args[1:])
                and not any(kwargs.values())
            ):
                return self._reserve()
            together = way is Way.TOGETHER
            if together:  # what has memory of its own here is nobody else's
                func = TOGETHER[func]
                kind, way = kind_of(func), Way.WHOLE
            if way is Way.EACH:
                return self._each(func, args, kwargs)
            if kind.lists:
                with counting(args[0]):
                    run = self._foreach if way is Way.FOREACH else self._call
                    return run(func, kind, args, kwargs)
            if way is Way.FOREACH:
                return self._foreach(func, kind, args, kwargs)
            if way in (Way.WHOLE, Way.DRAW) and self._wait_to_draw(func, args, kwargs, together):
                return args[0] if func.namespace == "aten" else None
            if way is Way.IN_PLACE and self._wait_to_change(func, args, kwargs):
                return args[0]
            if way is Way.COPY and self._wait_to_copy(args, kwargs):
                return args[0]
            if way is Way.ELEMENTWISE:
                made = self._wait_as_copy(func, args, kwargs)
                if made is not None:
                    return made
            return self._call(func, kind, args, kwargs)

    def allocate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make memory that nobody has written to."""
        result = func(*args, **kwargs)
        like = args[0] if args and isinstance(args[0], Tensor) else None
        with self.lock:
            if self.waits:
                of = self.storage_of(like) if like is not None and is_real(like) else None
                self.close(result, stands_in=of is not None and of.stands_in, watched=True)
            elif is_real(result) and result.numel() > 0:
                self.set_watchpoint(self.register(result, known=False))
        return result

    def _check_writable(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse to write where torch would, which says so after it has written; or crashes."""
        closes = not torch.is_inference_mode_enabled()
        for tensor in written_arguments(func, args, kwargs):
            if closes and tensor.is_inference():
                raise RuntimeError(
                    f"fastinit: {func} would write to {self._named(tensor)}, an inference tensor, "
                    "which can be written inside torch.inference_mode() only; call fastinit there, "
                    "or clone it"
                )
            fault = extension.storage_fault(tensor)
            if fault is None or tensor in self.spared:
                continue
            if not any(argument.is_out for argument in func._schema.arguments):  # those may grow
                raise RuntimeError(
                    f"fastinit: {func} would write to {self._named(tensor)}, which {fault}; "
                    "nothing was written"
                )

    def _named(self, tensor: Tensor) -> str:
        storage = self.storage_of(tensor)
        name = storage and self.names.of(Ref(storage, Region.of(tensor)))
        return name or f"a tensor of shape {tuple(tensor.shape)}"

    def check_apart(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse what is done to a DTensor that nobody takes care of."""
        if self.ended or self.thread.busy or func in NATIVE_TO_SHARDS:
            return
        for tensor in tensors_in((args, kwargs)):
            local = getattr(tensor, "_local_tensor", None)
            name = None if local is None else self.apart.get(extension.storage_address(local))
            if name is not None:
                raise NotImplementedError(
                    f"fastinit: an initialiser uses {name} ({func}), a DTensor that the module "
                    "holds otherwise than as a parameter or buffer, and of which only a part is "
                    "here; register it as a buffer"
                )

    def _each(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        single, tensors, numbers = WHOLE_MANY[func], args[0], args[1]
        keys = kwargs.get("keys") or [None] * len(tensors)
        refuse_lists_early(func, tensors, args[1:], kwargs)
        for tensor, number, key in zip(tensors, numbers, keys, strict=True):
            rest = {"key": key, "generator": kwargs.get("generator")}
            self.dispatch(single, kind_of(single), (tensor, number, *args[2:]), rest)

    def _foreach(self, func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        each, count = single(func), len(args[0])
        if count == 0 or any(len(v) != count for v in args if isinstance(v, (list, tuple))):
            return func(*args, **kwargs)  # which objects
        made = []
        for k in range(count):
            one = [value[k] if isinstance(value, (list, tuple)) else value for value in args]
            made.append(self.dispatch(each, kind_of(each), tuple(one), kwargs))
        return None if kind.mutable else made

    def _resize(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give a tensor other memory, or more of it, which nobody has written to."""
        tensor = args[0]
        storage = self.storage_of(tensor)
        for other in tensors_in((args, kwargs)):
            found = self.storage_of(other)
            if found is not None:
                self.compute(found)
        given = [self._storages.get(v._cdata) for v in args if isinstance(v, torch.UntypedStorage)]
        for found in given:
            if found is not None:
                self.unguard(found)
        had = tensor.untyped_storage().nbytes() if is_real(tensor) else 0
        try:
            result = func(*args, **kwargs)
        finally:
            for found in given:
                if found is not None and found.pending:
                    self.guard(found)
        if not is_real(tensor) or func._schema.name == "aten::set_":
            return result
        if tensor.untyped_storage().nbytes() > had:
            if storage is None:
                storage = self.register(tensor, known=False)
                storage.written.add(0, had)
            elif storage.known:
                storage.known = False
                storage.written.add(0, had)
        return result

    def _reserve(self) -> int:
        """Give code that wants a key as a number, before it is known what for, one of ours."""
        draw = self._next_draw()
        key = self._guess(draw, ())
        self._log(Op("a key", draw=draw, key=key, read=True))
        return key

    # ---- ways to memory that are no operators ----------------------------------------------------

    def hand_out(self, values: Sequence[Any], keeps: bool) -> None:
        """Compute tensors whose memory somebody wants to read, or, if he keeps it, to write."""
        if self.ended:
            return
        with self.busy():
            for tensor in tensors_in(values):
                storage = self.storage_of(tensor)
                if storage is None:
                    if keeps and is_real(tensor) and tensor.numel() > 0:
                        self.register(tensor, known=True).escaped = True
                    continue
                self._read(storage)
                if keeps:
                    storage.escaped = True
                    self._watch(storage, tensor.dtype)

    def _read(self, storage: Storage) -> None:
        """Compute a storage for somebody who reads it."""
        self.compute(storage)
        if storage.drawn:
            every = Region((_ALL,), (1,), 0, torch.uint8)
            self._log(Op("read", (Ref(storage, every),), read=True))

    def copied(self, tensor: Tensor, memo: dict[Any, Any]) -> None:
        """Copy the memory of a tensor that is about to be deep-copied."""
        if self.ended:
            return
        with self.busy():
            storage = self.storage_of(tensor)
            untyped = None if storage is None else storage.alive()
            copies = memo.setdefault("torch", {})
            if storage is None or untyped is None or storage.address in copies:
                return
            clone = torch.ops.aten.clone.default
            copy = self._wait_as_copy(clone, (tensor,), {})
            if copy is None or copy.untyped_storage().nbytes() != untyped.nbytes():
                self.compute(storage)
                copy = self._call(clone, kind_of(clone), (bytes_of(untyped),), {})
            copies[storage.address] = copy.untyped_storage()
            made = self.storage_of(copy)
            if made is not None and not storage.known:
                made.written = storage.written.copy()

    # ---- draws of a patch ------------------------------------------------------------------------

    def take(
        self,
        function: Callable[..., Any],
        tensor: Tensor,
        arguments: tuple[Any, ...],
        generator: Generator | None,
    ) -> Any:
        """Let a draw wait that a patch has redirected to one of fastinit's functions."""
        if not self._take_fill(function, tensor, arguments, generator):
            with self.labelled(function.__name__), shown_to_modes():
                function(tensor, *arguments, generator=generator)
        return tensor

    def _take_fill(
        self,
        function: Callable[..., Any],
        tensor: Tensor,
        arguments: tuple[Any, ...],
        generator: Generator | None,
    ) -> bool:
        """Let wait what a function would fill with, without a call of its operator in between."""
        how = INITIALIZERS.get(function)
        name = None if how is None else distribution_of(how.op)
        if how is None or name is None:
            return False
        if not handled(tensor, how.dtypes) or is_closed(tensor) or extension.storage_fault(tensor):
            return False
        given = source(None, generator, function.__name__)
        values = how.values(tensor, arguments, NOTHING)
        if values is None:
            return True
        with self.busy():
            self.remember_state(generator)
            return self._fill(how.op, tensor, Fill(name, tuple(values), **given), function.__name__)

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Call what is recorded inside by this label."""
        thread = self.thread
        thread.label, before = label, thread.label
        try:
            yield
        finally:
            thread.label = before
