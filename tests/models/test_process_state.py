"""What a recording has on for the whole process: no longer than it is on, and not in children."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support.patch_helpers import in_thread
from torch import nn
from torch.utils import _python_dispatch as dispatch

import fastinit
from fastinit import initialize_, materialize
from fastinit._recording import recorder


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


class Daemon:
    """A thread that does what it is told to, until the end."""

    def __init__(self) -> None:
        self.told, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.task: Callable[[], Any] = int
        self.result: Any = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while self.told.acquire() and self.task is not None:
            try:
                self.result = self.task()
            except BaseException as error:
                self.result = error
            self.done.release()

    def do(self, task: Callable[[], Any]) -> Any:
        self.task = task
        self.told.release()
        assert self.done.acquire(timeout=60)
        if isinstance(self.result, BaseException):
            raise self.result
        result, self.result = self.result, None
        return result

    def end(self) -> None:
        self.task = None  # type: ignore[assignment]
        self.told.release()
        self.thread.join(60)
        assert not self.thread.is_alive()


class Held(nn.Linear):
    """Starts one, and has it do something."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def reset_parameters(self) -> None:
        daemons.append(Daemon())
        daemons[-1].do(super().reset_parameters)


class Reads(Held):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.weight.data.div_(self.weight.norm().item())


class Fails(Held):
    def __init__(self) -> None:
        super().__init__()
        raise KeyError("it")


daemons: list[Daemon] = []


def _fails() -> None:
    with pytest.raises(KeyError, match="it"):
        materialize(Fails, key=0)


DOORS: dict[str, Callable[[], Any]] = {
    "factory": lambda: materialize(Held, dtype=torch.float64, key=0),
    "runs again": lambda: materialize(Reads, key=0),
    "initialize_": lambda: initialize_(Held(), key=0),
    "error": _fails,
}


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    while daemons:
        daemons.pop().end()


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("door", DOORS)
def test_a_thread_that_outlives_a_recording_keeps_nothing_of_it_on(door: str) -> None:
    before, recorders = _state(), weakref.WeakSet(recorder._recorders)
    DOORS[door]()
    assert _state() == before
    assert daemons
    nobody = set(recorder._recorders) - set(recorders)
    assert all(one.ended and not one.log for one in nobody)
    assert len(nobody) <= 1

    def works() -> None:
        """What is done there is torch's business."""
        seed = torch.get_rng_state()
        layer = nn.Linear(3, 3)
        assert not torch.equal(torch.get_rng_state(), seed)
        assert torch.equal(layer.weight.data.clone().fill_(2), torch.full((3, 3), 2.0))
        assert torch.equal(nn.init.constant_(torch.empty(3), 2), torch.tensor([2.0] * 3))
        assert torch.empty(2).zero_().numpy().tolist() == torch.tensor([0, 0]).tolist()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: torch.ones(2).sum().item()).result(60) == 2
        thread = threading.Thread(target=layer.reset_parameters)
        thread.start()
        thread.join()
        with fastinit.batch():
            assert nn.Linear(2, 2).weight.isfinite().all()

    state = torch.get_rng_state()
    daemons[0].do(works)
    torch.set_rng_state(state)
    assert _state() == before

    def materializes(dtype: torch.dtype) -> torch.Tensor:
        return materialize(lambda: nn.Linear(2, 2), dtype=dtype, key=0).weight.data

    found = daemons[0].do(lambda: materializes(torch.float16))
    assert torch.equal(found, materializes(torch.float16))
    assert _state() == before

    def factory() -> nn.Module:  # nobody's numbers, and the flags of another recording stay
        there = _state()
        while daemons:
            daemons.pop().end()
        assert _state() == there
        assert there["modes"]
        return nn.Linear(2, 2)

    materialize(factory, key=0)
    assert _state() == before


@pytest.mark.usefixtures("ended")
def test_a_thread_that_outlives_a_recording_takes_turns_with_all_others() -> None:
    before = _state()
    inside, outside, tried = threading.Event(), threading.Event(), threading.Event()
    dtypes: list[torch.dtype] = []

    def inner() -> nn.Module:
        inside.set()
        assert outside.wait(60)
        return nn.Linear(2, 2)

    def factory() -> nn.Module:
        daemons.append(Daemon())
        daemons[0].task = lambda: materialize(inner, dtype=torch.float64, key=0)
        daemons[0].told.release()
        assert inside.wait(60)
        return nn.Linear(2, 2)

    materialize(factory, dtype=torch.bfloat16, key=0)  # ends while the other is inside
    assert torch.get_default_dtype() is before["default dtype"]
    outside.set()
    assert daemons[0].done.acquire(timeout=60)
    assert _state() == before

    def waits() -> None:
        tried.set()
        made = materialize(lambda: nn.Linear(2, 2), dtype=torch.float64, key=0)
        dtypes.append(made.weight.dtype)

    def another() -> nn.Module:
        daemons[0].task = waits
        daemons[0].told.release()
        assert tried.wait(60)
        assert not daemons[0].done.acquire(timeout=0.2)
        assert not dtypes
        return nn.Linear(2, 2)

    made = materialize(another, dtype=torch.float16, key=0)
    assert made.weight.dtype is torch.float16
    assert daemons[0].done.acquire(timeout=60)
    assert dtypes == [torch.float64]
    assert _state() == before
