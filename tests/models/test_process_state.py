"""What a recording has on for the whole process: no longer than it is on, and not in children."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import Any

import pytest
import torch
from support.patch_helpers import in_thread
from torch import nn
from torch.utils import _python_dispatch as dispatch

from fastinit import materialize


def _state() -> dict[str, Any]:
    """Give what is the process's, and recordings change."""
    return {
        "collector": gc.isenabled(),
        "default dtype": torch.get_default_dtype(),
        "threads": threading.Thread.start,
        "modes": dispatch._is_in_torch_dispatch_mode,
        "torch.nn.init": nn.init.normal_.__code__,
        "layers": nn.Linear.reset_parameters.__code__,
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_has_nothing_of_the_recordings_of_other_threads() -> None:
    inside, outside = threading.Event(), threading.Event()
    before, there = _state(), {}

    def factory() -> nn.Module:
        there.update(_state())
        inside.set()
        assert outside.wait(60)
        return nn.Linear(2, 2)

    thread = threading.Thread(
        target=lambda: materialize(factory, dtype=torch.float64, key=0), daemon=True
    )
    thread.start()
    assert inside.wait(60)
    assert all(there[name] != before[name] for name in before)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            assert _state() == before
            for dtype in (None, torch.float16):
                made = materialize(lambda: nn.Linear(2, 2), dtype=dtype, key=0)
                assert made.weight.dtype is (dtype or torch.float32)
            assert _state() == before
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    outside.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert _state() == before


_FLOATS = [kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)]
_FLOATS = sorted({kind for kind in _FLOATS if kind.is_floating_point}, key=str)


@pytest.mark.parametrize("dtype", _FLOATS, ids=str)
def test_a_dtype_that_torch_cannot_have_as_default_is_refused_before_anything_runs(
    dtype: torch.dtype,
) -> None:
    before, ran = _state(), []

    def factory() -> nn.Module:
        ran.append(torch.get_default_dtype())
        return nn.Linear(2, 2)

    try:
        torch.set_default_dtype(dtype)
    except TypeError:
        with pytest.raises(TypeError, match=rf"argument 'dtype' is {dtype}, .* meta device"):
            materialize(factory, dtype=dtype, key=0)
        assert ran == []
    else:
        torch.set_default_dtype(before["default dtype"])
        assert materialize(factory, dtype=dtype, key=0).weight.dtype is dtype
    assert _state() == before


def test_a_default_dtype_that_torch_refuses_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = _state()

    def refuse(dtype: torch.dtype) -> None:
        if dtype is not before["default dtype"]:
            raise TypeError(f"no {dtype}")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "set_default_dtype", refuse)
        with pytest.raises(TypeError, match=r"no torch\.float16"):
            materialize(lambda: nn.Linear(2, 2), dtype=torch.float16, key=0)
    assert _state() == before
    made = in_thread(lambda: materialize(lambda: nn.Linear(2, 2), key=0))  # in time
    assert made.weight.dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_meta_module_gets_such_a_dtype(dtype: torch.dtype) -> None:
    with torch.device("meta"):
        layer = nn.Linear(2, 2)
    assert {p.dtype for p in materialize(layer, dtype=dtype, key=0).parameters()} == {dtype}
