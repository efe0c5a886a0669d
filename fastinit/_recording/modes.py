"""What shows a recording every torch call of its thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fills.operators import ESCAPES, DispatchMode, made_of_others
from fastinit._fills.region import Region
from fastinit._recording.memory import meta_storage
from fastinit._recording.recorder import Recorder

_ANY: Any = torch.Tensor
_set_data = _ANY.data.__set__
# Answered with the device where the tensor is going to be, so that code that makes something beside
# it makes it there.
_DEVICE_QUESTIONS: dict[Any, Callable[[torch.device], Any]] = {
    _ANY.device.__get__: lambda device: device,
    _ANY.is_meta.__get__: lambda device: False,
    _ANY.is_cpu.__get__: lambda device: device.type == "cpu",
}


class OperatorWatch(DispatchMode):
    """Sees operators."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if made_of_others(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            return self._recorder.dispatch(func, args, kwargs or {})


class FunctionWatch:
    """Sees the functions that operators do not tell about."""

    # What it wants to be called with.
    functions: ClassVar[frozenset[Any]] = frozenset({*_DEVICE_QUESTIONS, *ESCAPES, _set_data})

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function that operators do not tell about."""
        recorder = self._recorder
        question = _DEVICE_QUESTIONS.get(func)
        if question is not None:
            with torch._C.DisableTorchFunction():
                storage = recorder.storage_of(args[0])
                if storage is not None and args[0].device.type == "meta":
                    return question(recorder.device or storage.device or torch.device("cpu"))
        elif func == _set_data:
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                args = (args[0], self._assignable(args[0], args[1]))
        elif func in ESCAPES:
            with torch._C.DisableTorchFunction():
                args = tuple(self._handed_out(value) for value in args)
        return func(*args, **kwargs)

    def _assignable(self, target: Tensor, value: Tensor) -> Tensor:
        """Give `value` on the side, meta or not, that `target.data` can be set to."""
        recorder = self._recorder
        if target.device.type == "meta" and value.device.type != "meta":
            storage = recorder.track(value)
            region = Region.of(value)
            untyped = meta_storage(storage.nbytes)
            recorder.register(untyped, storage)
            return region.on(untyped)
        if target.device.type != "meta" and value.device.type == "meta":
            ref = recorder.ref(value)
            untyped = recorder.runner().memory(ref.storage)
            recorder.register(untyped, ref.storage)
            return ref.region.on(untyped)
        return value

    def _handed_out(self, value: Any) -> Any:
        """Compute a tensor whose memory somebody wants; nothing about it waits any longer."""
        recorder = self._recorder
        storage = recorder.storage_of(value)
        if storage is None:
            return value
        real = recorder.real(value)
        recorder.remember(storage)
        storage.escaped = True
        return real
