"""`fastinit.batch()`: fills that wait for each other and run together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from fastinit._compiled import extension
from fastinit._fills.fill import Fill, parse_fill, run_fills
from fastinit._fills.operators import (
    ALLOCATING,
    ESCAPES,
    METADATA_ONLY,
    DispatchMode,
    made_of_others,
)
from fastinit._fills.region import Region
from fastinit._tensors import is_plain, on_handled_device


class _Closed:
    """A storage that nothing but fills has touched since it was allocated, and those fills."""

    __slots__ = ("pending", "storage")

    def __init__(self, storage: torch.UntypedStorage) -> None:
        # Weakly: the memory goes when its last tensor does. Its address is not used again as long
        # as this is held, so it can be told from other storages by it.
        self.storage = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self.pending: list[tuple[Region, Fill]] = []

    def add(self, region: Region, fill: Fill) -> None:
        self.pending = [other for other in self.pending if not region.covers(other[0])]
        self.pending.append((region, fill))

    def alive(self) -> torch.UntypedStorage | None:
        storage: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(
            self.storage.cdata
        )
        return storage


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


class _Queue:
    """The closed storages of one batch.

    A storage allocated inside the batch is closed: its fills wait, and its memory is guarded, so
    that whoever reaches it in a way that the batch does not see gets an error. The first thing that
    touches its data and is not a fill opens it for good: what waits is run first, and later fills
    run at once, as somebody may now hold its memory.
    """

    def __init__(self) -> None:
        self._closed: dict[int, _Closed] = {}

    def close(self, tensor: Any) -> None:
        if (
            type(tensor) is Tensor
            and tensor.layout is torch.strided
            and on_handled_device(tensor)
            and not tensor.is_meta
            and not tensor.is_inference()
            and tensor.numel() > 0
        ):
            storage = tensor.untyped_storage()
            self._closed[storage._cdata] = _Closed(storage)
            extension.guard_storage(storage._cdata, True)

    def _address(self, tensor: Tensor) -> int | None:
        """Find the tensor among the closed storages."""
        if tensor.layout is not torch.strided:
            return None
        try:
            address: int = tensor.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):  # a kind of tensor that has none
            return None
        return address if address in self._closed else None

    def touched(self, values: Iterable[Any]) -> list[int]:
        """List the closed storages that an operator's arguments reach: all, for wrapped ones."""
        found = []
        for tensor in _tensors(values):
            if not is_plain(type(tensor)):
                return list(self._closed)
            address = self._address(tensor)
            if address is not None:
                found.append(address)
        return found

    def add(self, func: Any, tensor: Tensor, fill: Fill) -> bool:
        """Queue a fill if it can wait, with its key taken now; say whether it did."""
        address = self._address(tensor) if type(tensor) in _PLAIN else None
        region = None if address is None else Region.of(tensor)
        if address is None or region is None or region.numel == 0 or region.overlaps_itself:
            return False
        if fill.draws:  # what it would complain about must be said here
            example = torch.empty(0, dtype=tensor.dtype, device="meta")
            func(example, *fill.args, key=fill.key, generator=fill.generator)
        self._closed[address].add(region, fill.keyed(tensor.device))
        if func.namespace != "aten":  # for torch's operators autograd has done so on the way here
            torch.autograd.graph.increment_version(tensor)
        return True

    def open(self, addresses: Iterable[int]) -> None:
        """Take the guards off, then run what waits for these storages."""
        opened = [c for c in (self._closed.pop(a, None) for a in addresses) if c is not None]
        fills = []
        for closed in opened:
            storage = closed.alive()
            if storage is not None:
                extension.guard_storage(storage._cdata, False)
                fills += [(region.on(storage), fill) for region, fill in closed.pending]
        run_fills(fills)

    def open_all(self) -> None:
        self.open(list(self._closed))


_PLAIN = (Tensor, torch.nn.Parameter)


class _DispatchMode(DispatchMode):
    """Sees every operator of its thread."""

    def __init__(self, queue: _Queue) -> None:
        super().__init__()
        self._queue = queue

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if made_of_others(func):
            with self:
                return func.decompose(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            fill = parse_fill(func, args, kwargs)
            if fill is not None and self._queue.add(func, args[0], fill):
                return args[0] if func.namespace == "aten" else None
            if not (func in METADATA_ONLY or (func.is_view and func.namespace == "aten")):
                touched = self._queue.touched((args, kwargs))
                if touched:
                    self._queue.open(touched)
        result = func(*args, **kwargs)
        if func in ALLOCATING:
            with torch._C.DisableTorchFunction():
                self._queue.close(result)
        return result


class _FunctionMode(TorchFunctionMode):
    """Sees the functions that read a tensor's memory without an operator."""

    def __init__(self, queue: _Queue) -> None:
        super().__init__()
        self._queue = queue

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in ESCAPES or func is torch.Tensor.__deepcopy__:
            with torch._C.DisableTorchFunction():
                self._queue.open(self._queue.touched((args, kwargs or {})))
        return func(*args, **(kwargs or {}))


class batch:
    """Queue the fills made inside and run them together on leaving: one launch per device.

    A context manager. On the thread that enters it, the fills of fastinit (under `patch()`
    torch's, too), `fill_` and `zero_` wait if they go to memory that was allocated inside; those
    that a later fill overwrites entirely are never computed. Everything else runs at once. What
    comes out is, bit for bit, what the same code gives without `batch()`: keys are drawn when a
    fill is called, and errors raised there; order is kept; an operator that needs a tensor whose
    fills wait gets them run first. So do `numpy()`, `tolist()`, `data_ptr()`, printing and whatever
    else hands a tensor's memory on. Everything is filled on leaving, also after an exception.

    Memory that waits is guarded: reaching it in a way that no mode of this thread sees (another
    thread, a C extension) raises a RuntimeError that says "fill pending", and never reads garbage.

    Batches nest, each for the memory allocated inside it.

    Raises:
        RuntimeError: if it is entered twice at a time, or left without being entered.

    Examples:
        >>> with fastinit.patch(), fastinit.batch():  # or fastinit.patch(batch=True)
        ...     model = torch.nn.Transformer()
    """

    def __init__(self) -> None:
        self._entered: ExitStack | None = None

    def __enter__(self) -> batch:
        if self._entered is not None:
            raise RuntimeError("this batch() has been entered already")
        stack = ExitStack()
        queue = _Queue()
        stack.callback(queue.open_all)
        stack.enter_context(_DispatchMode(queue))
        stack.enter_context(_FunctionMode(queue))
        self._entered = stack
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stack, self._entered = self._entered, None
        if stack is None:
            raise RuntimeError("this batch() has not been entered")
        stack.__exit__(exc_type, exc_value, traceback)
