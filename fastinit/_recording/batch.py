"""`fastinit.batch()`: fills that wait for each other and run together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fills.fill import Fill, parse_fill
from fastinit._fills.operators import (
    ESCAPES,
    METADATA_ONLY,
    READERS,
    DispatchMode,
    is_complex,
    is_only_mode,
    is_traced,
    leave_function_mode,
    seeing_lazy,
    taken_apart,
)
from fastinit._fills.region import Region
from fastinit._recording.counting import counting
from fastinit._recording.graph import Op, Ref, Storage, needed_of
from fastinit._recording.kinds import Way, kind_of
from fastinit._recording.memory import Memory, is_real, tensors_in
from fastinit._recording.spectra import SPECTRAL, call_spectral
from fastinit._tensors import is_plain


class _Queue(Memory):
    """The memory of one batch: what was allocated inside it, until something has touched it.

    The first thing that touches its data and is not a fill opens it for good: what waits is run
    first, and later fills run at once, as somebody may now hold its memory.
    """

    def touched(self, values: Iterable[Any]) -> list[Storage]:
        """List the storages that an operator's arguments reach: all, for wrapped ones."""
        found = []
        for tensor in tensors_in(values):
            if not is_plain(type(tensor)):
                return list(self._storages.values())
            storage = self.storage_of(tensor)
            if storage is not None:
                found.append(storage)
        return found

    def add(self, func: Any, tensor: Tensor, fill: Fill) -> bool:
        """Queue a fill if it can wait, with its key taken now; say whether it did."""
        storage = self.storage_of(tensor) if is_real(tensor) else None
        region = None if storage is None else Region.of(tensor)
        if storage is None or region is None or region.numel == 0 or region.overlaps_itself:
            return False
        if tensor.is_conj() or tensor.is_neg() or self.clear_watchpoint(storage):
            return False
        if fill.draws:
            self.accept(func, region.dtype, fill)
        fill = fill.keyed(tensor.device)
        op = Op("", (), (Ref(storage, region),), overwrites=True, fill=fill, ran=False)
        self.wait(op, storage)
        if func.namespace != "aten":  # for torch's operators autograd has done so on the way here
            torch.autograd.graph.increment_version(tensor)
        return True

    def allocate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make memory that nobody has written to; inside this batch, fills of it can wait."""
        result = func(*args, **kwargs)
        if self in _entered.get():
            with torch._C.DisableTorchFunction():
                if not (isinstance(result, Tensor) and result.is_inference()):
                    self.close(result, watched=True)
        return result

    def open(self, storages: Iterable[Storage]) -> None:
        """Run what waits for these storages, and take the guards off."""
        opened = [s for s in storages if self._storages.pop(s.address, None) is not None]
        ops = [op for s in opened for op in needed_of(s)]
        self.run(ops)
        for storage in opened:
            storage.pending.clear()  # which refer to it
            if storage.is_alive:
                self.unguard(storage)

    def open_all(self, but: Collection[Storage] = ()) -> None:
        self.open([storage for storage in self._storages.values() if storage not in but])


# Those of this task: tasks that take turns on a thread have each other's modes on their stack.
_entered: ContextVar[tuple[_Queue, ...]] = ContextVar("fastinit.batch", default=())
_empty = torch.empty  # bound here, as other libraries exchange torch's attributes
_LOOKING = ESCAPES | READERS | {torch.Tensor.__deepcopy__}


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
        kind = kind_of(func)
        if kind.composite:
            with self:
                return taken_apart(func, args, kwargs)
        if is_traced():
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                self._queue.open(self._queue.touched((args, kwargs)))
            return func(*args, **kwargs)
        if kind.way is Way.ALLOCATE:
            return self._queue.allocate(func, args, kwargs)
        with torch._C.DisableTorchFunction():
            fill = parse_fill(func, args, kwargs) if kind.mutable else None
            if fill is not None and self._queue.add(func, args[0], fill):
                return args[0] if func.namespace == "aten" else None
            if not (func in METADATA_ONLY or (func.is_view and func.namespace == "aten")):
                touched = self._queue.touched((args, kwargs))
                if touched:
                    self._queue.open(touched)
        if kind.lists:
            with counting(args[0]):
                return func(*args, **kwargs)
        if is_complex(args):
            with seeing_lazy():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class BatchMode(TorchFunctionMode):
    """Sees the functions that read a tensor's memory without an operator."""

    is_fastinits = True

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
        if func is _empty and not (kwargs and "out" in kwargs) and is_only_mode():
            with torch._C._DisableTorchDispatch():
                return self._queue.allocate(func, args, kwargs or {})
        if func in _LOOKING:
            with torch._C.DisableTorchFunction():
                self._queue.open(self._queue.touched((args, kwargs or {})))
        if func in SPECTRAL:
            return call_spectral(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def __exit__(self, *_: object) -> None:
        leave_function_mode(self)


class batch:
    """Queue the fills made inside and run them together on leaving: one launch per device.

    A context manager. In the thread and task that enter it, the fills of fastinit (under `patch()`
    torch's, too), `fill_` and `zero_` wait if they go to memory that was allocated inside; those
    that a later fill overwrites entirely are never computed. Everything else runs at once. What
    comes out is, bit for bit, what the same code gives without `batch()`: keys are drawn when a
    fill is called, and errors raised there; order is kept; an operator that needs a tensor whose
    fills wait gets them run first. So do `numpy()`, `tolist()`, `data_ptr()`, printing and whatever
    else hands a tensor's memory on. Everything is filled on leaving, also after an exception. (Only
    singular values and eigenvalues without vectors may differ in their last bits, where no Python
    function of torch's asks for them but a scripted one, say, or one of `torch.ops`: under any mode
    torch computes the vectors, too.)

    Memory that waits is guarded: reaching it in a way that no mode of this thread sees (another
    thread, a C extension) raises a RuntimeError that says "fill pending", and never reads garbage.

    Batches nest, each for the memory allocated inside it. As in every dispatch mode of torch's,
    what is compiled runs as it was before, and with `fullgraph=True` torch refuses to.

    Raises:
        RuntimeError: if it is entered twice at a time, or left without being entered, or on a
            thread that has not entered it.

    Examples:
        >>> with fastinit.patch(), fastinit.batch():  # or fastinit.patch(batch=True)
        ...     model = torch.nn.Transformer()
    """

    def __init__(self) -> None:
        self._entered: ExitStack | None = None
        self._thread = 0

    def __enter__(self) -> batch:
        if self._entered is not None:
            raise RuntimeError("this batch() has been entered already")
        queue = _Queue()
        with ExitStack() as stack:
            stack.callback(queue.open_all)
            _entered.set((*_entered.get(), queue))
            stack.callback(lambda: _entered.set(tuple(q for q in _entered.get() if q is not queue)))
            stack.enter_context(_DispatchMode(queue))
            stack.enter_context(BatchMode(queue))
            self._entered, self._thread = stack.pop_all(), threading.get_ident()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stack = self._entered
        if stack is None:
            raise RuntimeError("this batch() has not been entered")
        if self._thread != threading.get_ident():  # whose modes are others
            raise RuntimeError("batch() was left on a thread that has not entered it")
        self._entered = None
        stack.__exit__(exc_type, exc_value, traceback)
