"""`fastinit.patch()` belongs to the task that enters it, not to those that run in between."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from support.patch_helpers import PRISTINE, code_objects, direct, in_thread, nth, same

import fastinit

DRAWS: dict[str, Callable[[], torch.Tensor]] = {
    "function": lambda: torch.nn.init.uniform_(torch.empty(3)),
    "method": lambda: torch.empty(3).uniform_(),
    "factory": lambda: torch.rand(3),
}


def _native() -> torch.Tensor:
    torch.manual_seed(5)
    return torch.empty(3).uniform_()


def _pristine() -> bool:
    return code_objects() == PRISTINE and torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("shared", [False, True])
def test_interleaved_tasks_keep_their_keys(draw: Callable[[], torch.Tensor], shared: bool) -> None:
    async def build(patch: fastinit.patch, rounds: int) -> list[torch.Tensor]:
        drawn = []
        with patch:
            for _ in range(rounds):
                await asyncio.sleep(0)
                drawn.append(draw())
        return drawn

    async def unpatched() -> list[torch.Tensor]:
        drawn = []
        for _ in range(4):
            await asyncio.sleep(0)
            torch.manual_seed(5)
            drawn.append(draw())
        return drawn

    async def main() -> tuple[Any, ...]:
        patches = [fastinit.patch(n) for n in range(3)]
        if shared:
            patches = patches[:1] * 3
        # Of different lengths, so that they are left in another order than entered.
        builds = [build(patch, 6 - 2 * n) for n, patch in enumerate(patches)]
        return tuple(await asyncio.gather(*builds, unpatched()))

    *built, native = asyncio.run(main())
    for n, drawn in enumerate(built):
        key = 0 if shared else n
        assert len(drawn) == 6 - 2 * n
        for i, tensor in enumerate(drawn):
            assert same(tensor, direct("uniform_", (3,), key=nth(key, i)))
    expected = _native()
    assert all(same(tensor, expected) for tensor in native)
    assert _pristine()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_tasks_started_inside_belong_to_it_until_it_ends(draw: Callable[[], torch.Tensor]) -> None:
    async def main() -> list[torch.Tensor]:
        late = asyncio.Event()

        async def child(wait: asyncio.Event | None) -> torch.Tensor:
            if wait is not None:
                await wait.wait()
            torch.manual_seed(5)
            return draw()

        with fastinit.patch(9), fastinit.patch(1):
            inside = await asyncio.create_task(child(None))
            outliving = asyncio.create_task(child(late))
            after_it = draw()
        late.set()
        return [inside, after_it, await outliving]

    inside, after_it, outliving = asyncio.run(main())
    assert same(inside, direct("uniform_", (3,), key=nth(1, 0)))
    assert same(after_it, direct("uniform_", (3,), key=nth(1, 1)))
    assert same(outliving, _native())
    assert _pristine()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_threads_with_a_copy_of_the_context_run_torch(draw: Callable[[], torch.Tensor]) -> None:
    def work() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5)
        native = draw()
        with fastinit.patch(2):
            return native, draw()

    async def in_task() -> tuple[torch.Tensor, torch.Tensor]:
        return await asyncio.to_thread(work)

    starts: list[Callable[[], Any]] = [
        lambda: asyncio.run(in_task()),
        lambda: in_thread(functools.partial(contextvars.copy_context().run, work)),
    ]
    for start in starts:
        with fastinit.patch(0):
            native, patched = start()
            assert same(draw(), direct("uniform_", (3,), key=nth(0, 0)))
        assert same(patched, direct("uniform_", (3,), key=nth(2, 0)))
        assert same(native, _native())
    assert _pristine()


def test_entered_in_one_task_and_left_in_another() -> None:
    """Asynchronous fixtures and generators may be closed by another task."""
    patch = fastinit.patch(3)

    async def run(step: Callable[[], Any]) -> Any:
        return step()

    async def in_tasks(*steps: Callable[[], Any]) -> list[Any]:
        def task(step: Callable[[], Any]) -> Coroutine[Any, Any, Any]:
            return run(step)

        return [await asyncio.create_task(task(step)) for step in steps]

    def leave() -> None:
        patch.__exit__(None, None, None)

    def draw() -> torch.Tensor:
        torch.manual_seed(5)
        return torch.rand(3)

    _, between, _, after = asyncio.run(in_tasks(patch.__enter__, draw, leave, draw))
    assert same(between, _native())
    assert same(after, between)
    assert _pristine()
    with pytest.raises(RuntimeError, match="has not entered"):
        leave()


def test_left_while_others_stay() -> None:
    first, second = fastinit.patch(1), fastinit.patch(2)
    first.__enter__()
    with second:
        first.__exit__(None, None, None)
        assert same(torch.rand(3), direct("uniform_", (3,), key=nth(2, 0)))
        with fastinit.patch(4):
            assert same(torch.rand(3), direct("uniform_", (3,), key=nth(4, 0)))
        assert same(torch.rand(3), direct("uniform_", (3,), key=nth(2, 1)))
    assert _pristine()


class _Draws(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, draw: Callable[[], torch.Tensor], key: int | None = None) -> None:
        self.draw = draw
        self.key = key

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.key is None:
            return self.draw()
        with fastinit.patch(self.key):
            return self.draw()


def _loaded(data: _Draws) -> list[torch.Tensor]:
    """Load an element at a time by two workers that are forked here."""
    loader = torch.utils.data.DataLoader(data, 1, num_workers=2, multiprocessing_context="fork")
    return [batch[0] for batch in loader]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("batch", [False, True])
def test_workers_of_a_data_loader_draw_apart(draw: Callable[[], torch.Tensor], batch: bool) -> None:
    found = []
    for key in (1, 1, 2):
        with fastinit.patch(key, batch=batch):
            found.append(_loaded(_Draws(draw)))
    first, again, other = found
    assert all(map(torch.equal, first, again))
    assert len({tuple(x.tolist()) for x in [*first, *other]}) == 8
    with fastinit.patch(1):  # one that is entered in a worker counts there
        expected = direct("uniform_", (3,), key=nth(5, 0))
        assert all(torch.equal(x, expected) for x in _loaded(_Draws(draw, 5)))
