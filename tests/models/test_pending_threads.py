"""Threads, tasks and processes that belong to a recording, and those that outlive it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.patch_helpers import in_thread
from torch import nn
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit
from fastinit import Key, materialize

KEY = Key(3)


def _word(name: str, n: int = 0) -> Key:
    return KEY.fold_in(name).fold_in(n)


class Scaled(nn.Linear):
    """Reads what it has drawn."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.div_(self.weight.norm().item())


def _pool(count: int) -> concurrent.futures.ThreadPoolExecutor:
    pool = concurrent.futures.ThreadPoolExecutor(count)
    list(pool.map(time.sleep, [0.01] * count * 2))  # so that its threads are there
    return pool


def test_layers_that_threads_build_have_the_keys_of_their_names() -> None:
    expected = materialize(lambda: nn.Sequential(*(Scaled(3, 4) for _ in range(6))), key=KEY)
    own = threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit
    with _pool(3) as before:

        def pooled() -> nn.Module:
            return nn.Sequential(*before.map(lambda _: Scaled(3, 4), range(6)))

        def own_pool() -> nn.Module:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                return nn.Sequential(*pool.map(lambda _: Scaled(3, 4), range(6)))

        def started() -> nn.Module:
            layers: list[Any] = [None] * 6

            def build(k: int) -> None:
                layers[k] = Scaled(3, 4)

            threads = [threading.Thread(target=build, args=(k,)) for k in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return nn.Sequential(*layers)

        def in_tasks() -> nn.Module:  # which run in copies of this thread's context
            async def build() -> list[nn.Module]:
                return await asyncio.gather(*(asyncio.to_thread(Scaled, 3, 4) for _ in range(6)))

            return nn.Sequential(*asyncio.run(build()))

        state = torch.get_rng_state()
        for make in (pooled, own_pool, started, in_tasks):
            for name, value in materialize(make, key=KEY).state_dict().items():
                assert same_bits(value, expected.state_dict()[name]), (make.__name__, name)
        assert torch.equal(torch.get_rng_state(), state)
    assert (threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit) == own


def test_materialize_in_several_threads_keeps_dtypes_and_the_default_one() -> None:
    dtypes = [torch.float32, torch.bfloat16, None]

    def one(k: int) -> bool:
        dtype = dtypes[k % 3]
        made = materialize(
            lambda: nn.Sequential(*(nn.Linear(4, 4) for _ in range(20))), None, dtype
        )
        return {p.dtype for p in made.parameters()} == {dtype or torch.float32}

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(24)))
    assert torch.get_default_dtype() is torch.float32


def test_batches_of_tasks_that_take_turns() -> None:
    read: list[Any] = []

    async def build(key: int, rounds: int) -> list[torch.Tensor]:
        made = []
        with fastinit.patch(key, batch=True):
            for _ in range(rounds):
                await asyncio.sleep(0)
                made.append(torch.empty(4).normal_())
                await asyncio.sleep(0)
                if len(made) > 2:  # what waits here is seen, whoever has left meanwhile
                    read.append(made[-2].sum().item())
                    read.append(made[-3].tolist())
        for tensor in made:  # nothing waits any more, though others are not done
            in_thread(tensor.clone)
        return made

    async def main() -> list[list[torch.Tensor]]:
        return await asyncio.gather(*(build(k, n) for k, n in enumerate((1, 4, 3, 5))))

    for key, made in enumerate(asyncio.run(main())):
        for n, tensor in enumerate(made):
            assert same_bits(tensor, fastinit.normal_(torch.empty(4), key=Key(key).fold_in(n)))
    assert torch._C._len_torch_dispatch_stack() == 0
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_process_reads_what_the_model_gets() -> None:
    class Forks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writer, self.weight.detach().numpy().tobytes())
                os._exit(0)
            self.seen = os.read(reader, 16)
            os.waitpid(child, 0)
            os.close(reader)
            os.close(writer)

    made = materialize(Forks, key=KEY)
    assert made.seen == made.weight.detach().numpy().tobytes()
    assert same_bits(made.weight.data, fastinit.normal_(torch.empty(4), key=_word("weight")))


def test_a_thread_that_outlives_the_factory_is_torch_s_again() -> None:
    def make() -> Any:
        layer: Any = nn.Linear(3, 4)
        layer.pool = concurrent.futures.ThreadPoolExecutor(1)
        layer.pool.submit(int).result()
        return layer

    made = materialize(make, key=KEY)
    with made.pool as pool:
        assert pool.submit(lambda: torch.randn(3).sum().item()).result() is not None
        pool.submit(lambda: nn.init.constant_(made.weight, 2.0)).result()
        pool.submit(lambda: nn.init.uniform_(made.bias, 3.0, 3.0)).result()
    assert (made.weight == 2).all()
    assert (made.bias == 3).all()


def test_a_task_that_is_still_running_when_the_factory_ends_is_torch_s_again() -> None:
    ended, entered = threading.Event(), threading.Event()

    def late() -> list[torch.Tensor]:
        entered.set()
        assert ended.wait(30)
        filled = nn.init.constant_(torch.empty(3), 2.0)
        uniform = nn.init.uniform_(torch.zeros(3), 3.0, 3.0)
        return [filled.clone(), uniform.clone(), torch.zeros(3).fill_(4.0).clone()]

    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def make() -> Any:
            layer: Any = nn.Linear(3, 4)
            layer.late = pool.submit(late)
            assert entered.wait(30)
            return layer

        made = materialize(make, key=KEY)
        ended.set()
        values = [tensor.tolist() for tensor in made.late.result()]
    assert values == [[2.0] * 3, [3.0] * 3, [4.0] * 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_several_child_processes_read_what_was_drawn_until_then() -> None:
    def read_by_child(*tensors: torch.Tensor) -> bytes:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for tensor in tensors:
                    os.write(writer, tensor.detach().numpy().tobytes())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as file:
            return file.read()

    class Forks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[bytes] = []
            held: list[torch.Tensor] = []
            for k in range(3):
                self.register_parameter(f"w{k}", nn.Parameter(torch.randn(4)))
                held.append(self.get_parameter(f"w{k}"))
                self.seen.append(read_by_child(*held))

    made = materialize(Forks, key=KEY)
    values = [fastinit.normal_(torch.empty(4), key=_word(f"w{k}")) for k in range(3)]
    for k in range(3):
        assert same_bits(made.get_parameter(f"w{k}").data, values[k])
        assert made.seen[k] == b"".join(value.numpy().tobytes() for value in values[: k + 1])


def test_threads_of_a_factory_may_want_another_default_dtype() -> None:
    ways = [torch.float16, torch.float64, None, torch.float64]

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.made: list[Any] = [None] * len(ways)
            self.own = nn.Linear(2, 2)

            def make(k: int) -> None:
                part = materialize(lambda: nn.Linear(2, 2), dtype=ways[k], key=k)
                self.made[k] = part.weight.dtype

            threads = [
                threading.Thread(target=make, args=(k,), daemon=True) for k in range(len(ways))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)

    made = materialize(Parts, dtype=torch.bfloat16, key=KEY)
    assert made.made == [torch.float16, torch.float64, torch.bfloat16, torch.float64]
    assert made.own.weight.dtype is torch.bfloat16
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("second", ["batch", "materialize"])
def test_modes_that_overlap_on_two_threads_leave_torch_as_it_was(second: str) -> None:
    """Its flags say no longer that there is a mode, by which compilers would stay out."""
    inside, outside = threading.Event(), threading.Event()

    def first() -> None:
        with fastinit.batch():
            inside.set()
            outside.wait()

    def last() -> None:
        inside.wait()
        if second == "batch":
            with fastinit.batch():
                outside.set()
                one.join()
                flags.append(dispatch._is_in_torch_dispatch_mode)
        else:
            fastinit.materialize(factory, key=0)

    def factory() -> nn.Module:
        outside.set()
        one.join()
        flags.append(dispatch._is_in_torch_dispatch_mode)
        return nn.Linear(2, 2)

    flags: list[bool] = []
    one, other = threading.Thread(target=first), threading.Thread(target=last)
    for thread in (one, other):
        thread.start()
    for thread in (one, other):
        thread.join()
    assert flags == [True]  # while there was one
    assert not dispatch._is_in_torch_dispatch_mode
    assert not dispatch.is_in_torch_dispatch_mode(include_infra_modes=False)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    torch.compile(nn.Linear(2, 2), backend="eager")(torch.ones(1, 2))
    assert counters["frames"]["total"] == 1


class Seeing(TorchDispatchMode):
    """Somebody else's mode."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_mode_of_another_thread_is_still_told_of() -> None:
    with Seeing():

        def work() -> None:
            with fastinit.batch():
                pass
            flags.append(dispatch._is_in_torch_dispatch_mode)

        flags: list[bool] = []
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert flags == [True]
    assert not dispatch._is_in_torch_dispatch_mode


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_modes_of_threads_that_a_child_has_not() -> None:
    inside, outside = threading.Event(), threading.Event()

    def other() -> None:
        with fastinit.batch():
            inside.set()
            outside.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        with fastinit.batch():
            pass
        os._exit(int(dispatch._is_in_torch_dispatch_mode))
    outside.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not dispatch._is_in_torch_dispatch_mode


def test_an_operator_in_python_waits_for_threads_of_the_recording() -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:

        @torch.library.custom_op("fastinit_test::halves", mutates_args=())
        def halves(x: torch.Tensor) -> torch.Tensor:
            tasks = [pool.submit(torch.mul, half, 2) for half in x.clone().chunk(2)]
            return torch.cat([task.result(timeout=30) for task in tasks])

        def factory() -> nn.Module:
            layer = nn.Linear(4, 4)
            with torch.no_grad():
                layer.weight.copy_(halves(layer.weight))
            return layer

        made = materialize(factory, key=KEY)
        assert same_bits(made.weight, 2 * materialize(lambda: nn.Linear(4, 4), key=KEY).weight)


class Dropped(nn.Module):
    """Draws by an operator that takes no generator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.native_dropout(torch.ones(8, 8), 0.5, True)[0])


def test_a_recording_inside_another_keeps_its_key_for_every_operator() -> None:
    found: list[nn.Module] = []

    def factory() -> nn.Module:
        inner = materialize(Dropped, key=1)
        found.append(inner)
        return nn.Sequential(nn.Linear(2, 2), inner)

    thread = threading.Thread(target=lambda: materialize(factory, key=KEY), daemon=True)
    thread.start()
    thread.join(30)  # it waited for itself
    assert not thread.is_alive()
    alone = materialize(Dropped, key=1).weight
    assert found
    assert all(same_bits(one.weight, alone) for one in found)  # type: ignore[arg-type]
