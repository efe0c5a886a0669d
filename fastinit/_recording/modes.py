"""What shows a recording every torch call of its threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fills.operators import (
    ESCAPES,
    READERS,
    DispatchMode,
    is_complex,
    is_only_mode,
    is_traced,
    seeing_lazy,
    taken_apart,
)
from fastinit._recording.data import ASKING, asked
from fastinit._recording.kinds import Way, kind_of
from fastinit._recording.memory import tensors_in
from fastinit._recording.recorder import Recorder
from fastinit._recording.sharding import Sharding
from fastinit._recording.spectra import SPECTRAL, call_spectral
from fastinit._tensors import overrides_dispatch

_empty = torch.empty  # bound here, as other libraries exchange torch's attributes
# Of these nobody has the memory afterwards.
_READING = READERS | frozenset(
    {
        Tensor.__format__,
        Tensor.__reduce_ex__,
        Tensor.__repr__,
        Tensor.is_shared,
        Tensor.tolist,
    }
)


class OperatorWatch(DispatchMode):
    """Sees operators."""

    def __init__(self, recorder: Recorder, sharding: Sharding | None = None) -> None:
        super().__init__()
        self._recorder = recorder
        self._sharding = sharding

    def end(self, nobody: Recorder) -> None:
        """Let all by, on a thread that outlives the recording, and hold nothing of it."""
        self._recorder, self._sharding = nobody, None
        self.tell_no_more()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kind, sharding = kind_of(func), self._sharding
        for given in types:
            if overrides_dispatch(given):  # it takes itself apart, and its parts come back here
                if sharding is None:
                    if self._recorder.apart:
                        self._recorder.check_apart(func, args, kwargs or {})
                    return NotImplemented
                return sharding.dispatch(self, func, kind, args, kwargs or {})
        if sharding is not None:
            sharding.check(func, kind, args, kwargs or {})
        if kind.composite:
            with self:
                return taken_apart(func, args, kwargs or {})
        with torch._C.DisableTorchFunction():
            if is_traced():
                with _disable_current_modes():
                    self._recorder.hand_out((args, kwargs or {}), keeps=False)
                return func(*args, **(kwargs or {}))
            if kind.way is Way.CALL and is_complex(args):
                with seeing_lazy():
                    return self._recorder.dispatch(func, kind, args, kwargs or {})
            return self._recorder.dispatch(func, kind, args, kwargs or {})


class FunctionWatch:
    """Sees the functions that operators do not tell about."""

    # What it wants to be called with.
    functions: ClassVar[frozenset[Any]] = (
        ASKING | ESCAPES | READERS | SPECTRAL | {_empty, Tensor.__deepcopy__, Tensor.__setitem__}
    )

    def __init__(self, recorder: Recorder, sharding: Sharding | None = None) -> None:
        self._recorder = recorder
        self._sharding = sharding

    def end(self, nobody: Recorder) -> None:
        """Let all by, likewise."""
        self._recorder, self._sharding = nobody, None

    def call(
        self, mode: TorchFunctionMode, func: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a torch function that operators do not tell about, or take long to.

        Args:
            mode: what has seen it.
            func: the function.
            args: its arguments.
            kwargs: likewise.
        """
        if func is _empty:
            return self._allocate(args, kwargs)
        if self._recorder.ended:
            return func(*args, **kwargs)
        if func is Tensor.__setitem__:
            if self._sharding is not None:
                args = self._sharding.assigned(*args)
            return func(*args, **kwargs)
        if func in SPECTRAL:
            return call_spectral(func, tuple(args), kwargs)
        if func in ASKING and not self._recorder.thread.busy:
            args, kwargs = asked(func, args, kwargs, mode)
        with torch._C.DisableTorchFunction():
            if func is Tensor.__deepcopy__:
                self._recorder.copied(args[0], args[1])
            elif func in ESCAPES or func in READERS:
                # Of its own tensor `new_tensor` asks the type and the device only.
                given = args[1:] if func is Tensor.new_tensor else args
                self._recorder.hand_out((given, kwargs), func not in _READING)
        if func in READERS:
            with self._recorder.busy():  # what they write past the dispatcher is written
                result = func(*args, **kwargs)
            return self._recorder.made(result, tensors_in((args, kwargs)))
        return func(*args, **kwargs)

    def _allocate(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run `torch.empty`, which every parameter begins with.

        The way to its operator takes longer than all that is done with it.
        """
        recorder = self._recorder
        if recorder.ended or recorder.thread.busy or "out" in kwargs or not is_only_mode():
            return _empty(*args, **kwargs)
        with torch._C._DisableTorchDispatch():
            return recorder.allocate(_empty, tuple(args), kwargs)
