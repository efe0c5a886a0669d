"""What a factory gives to pools of threads, and what starts these, whoever wraps it meanwhile."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import nn

from fastinit import Key, initialize_, materialize
from fastinit._recording import recorder

KEY = Key(3)
COUNT = 6


class Scaled(nn.Linear):
    """Reads what it has drawn, so that it runs again under keys of its own."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.div_(self.weight.norm().item())


def _build(k: int, more: int = 0) -> tuple[int, nn.Module]:
    time.sleep(0.002 * next(_pauses))  # not in one order
    return k, Scaled(3, 4)


_pauses = itertools.cycle((2, 0, 1, 3, 0, 2, 1))


def _one(k: int) -> tuple[int, nn.Module]:
    return _build(k)


def _async(pool: ThreadPool, got: Callable[..., Any]) -> list[tuple[int, nn.Module]]:
    return [result.get(60) for result in [got(k) for k in range(COUNT)]]


def _by_callbacks(pool: ThreadPool) -> list[tuple[int, nn.Module]]:
    """Each result is what the next task is given for, as joblib does it."""
    made, done = [], threading.Event()

    def take(one: tuple[int, nn.Module]) -> None:
        made.append(one)
        if len(made) == COUNT:
            done.set()
        else:
            pool.apply_async(_build, (len(made),), callback=take)

    pool.apply_async(_build, (0,), {}, take)
    assert done.wait(60)
    return made


def _after_errors(pool: ThreadPool) -> list[tuple[int, nn.Module]]:
    made, done = [], threading.Event()

    def take(error: BaseException) -> None:
        made.append(_build(error.args[0]))
        if len(made) == COUNT:
            done.set()

    def fail(k: int) -> None:
        raise KeyError(k)

    for k in range(COUNT):
        pool.apply_async(fail, (k,), error_callback=take)
    assert done.wait(60)
    return made


WAYS: dict[str, Callable[[ThreadPool], Iterable[tuple[int, nn.Module]]]] = {
    "map": lambda pool: pool.map(_one, range(COUNT)),
    "map in chunks": lambda pool: pool.map(_one, iter(range(COUNT)), 4),
    "map_async": lambda pool: pool.map_async(_one, range(COUNT)).get(60),
    "starmap": lambda pool: pool.starmap(_build, [(k, 0) for k in range(COUNT)]),
    "starmap_async": lambda pool: pool.starmap_async(_build, ((k,) for k in range(COUNT))).get(60),
    "imap": lambda pool: pool.imap(_one, range(COUNT)),
    "imap in chunks": lambda pool: pool.imap(_one, range(COUNT), chunksize=4),
    "imap_unordered": lambda pool: pool.imap_unordered(_one, range(COUNT)),
    "apply": lambda pool: [pool.apply(_build, (k,)) for k in range(COUNT)],
    "apply_async": lambda pool: _async(pool, lambda k: pool.apply_async(_build, (k,), {"more": 1})),
    "callbacks": _by_callbacks,
    "callbacks after errors": _after_errors,
}


@pytest.mark.parametrize("there", ["before", "made inside"])
@pytest.mark.parametrize("way", WAYS)
def test_layers_of_a_thread_pool_have_the_keys_of_their_names(way: str, there: str) -> None:
    expected = materialize(lambda: nn.Sequential(*(Scaled(3, 4) for _ in range(COUNT))), key=KEY)
    pools = [ThreadPool(3)] if there == "before" else []

    def factory() -> nn.Module:
        if not pools:
            pools.append(ThreadPool(3))
        layers = dict(WAYS[way](pools[0]))
        return nn.Sequential(*(layers[k] for k in range(COUNT)))

    try:
        for _ in range(2):
            made = materialize(factory, key=KEY).state_dict()
            for name, value in expected.state_dict().items():
                assert same_bits(made[name], value), name
    finally:
        pools[0].terminate()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_items_that_a_pool_asks_for_when_it_needs_them_belong_to_the_factory(method: str) -> None:
    def weights() -> Iterator[nn.Parameter]:
        for _ in range(COUNT):
            yield nn.Parameter(torch.randn(3) / torch.randn(3).norm().item())

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            run = getattr(pool, method) if pooled else map
            self.all = nn.ParameterList(run(lambda weight: weight, weights()))

    with ThreadPool(1) as pool:
        pooled = False
        expected = materialize(Held, key=KEY).state_dict()
        pooled = True
        for name, value in materialize(Held, key=KEY).state_dict().items():
            assert same_bits(value, expected[name]), name


def test_threads_of_threads_have_their_numbers_whoever_comes_first() -> None:
    """Runs of a factory may see them start in another order."""
    order: list[int] = []

    def factory() -> nn.Module:
        layers: list[Any] = [None] * 4
        first = len(order) // 2 % 2  # of the two, in each run the other
        may = [threading.Event(), threading.Event()]
        may[first].set()

        def build(k: int) -> None:
            layers[k] = Scaled(3, 4)

        def start(k: int) -> None:
            assert may[k].wait(60)
            order.append(k)
            threads = [threading.Thread(target=build, args=(2 * k + n,)) for n in range(2)]
            for thread in threads:
                thread.start()
                thread.join()
            may[1 - k].set()

        both = [threading.Thread(target=start, args=(k,)) for k in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        return nn.Sequential(*layers)

    expected = materialize(lambda: nn.Sequential(*(Scaled(3, 4) for _ in range(4))), key=KEY)
    made = materialize(factory, key=KEY).state_dict()
    assert order == [0, 1, 1, 0]
    for name, value in expected.state_dict().items():
        assert same_bits(made[name], value), name


METHODS = [
    (threading.Thread, "start"),
    (ThreadPoolExecutor, "submit"),
    (ThreadPool, "__init__"),
    (ThreadPool, "apply_async"),
    (ThreadPool, "_map_async"),
    (ThreadPool, "imap"),
    (ThreadPool, "imap_unordered"),
]


def _used() -> list[Any]:
    """Use all of them."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(0))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as executor:
        seen.append(executor.submit(lambda: 1).result())
    with ThreadPool(1) as pool:
        seen.append(pool.apply(lambda: 2))
        seen += pool.map(lambda k: k, [3])
        seen += pool.imap(lambda k: k, [4])
        seen += pool.imap_unordered(lambda k: k, [5])
    return seen


@pytest.mark.parametrize(("owner", "name"), METHODS, ids=[name for _, name in METHODS])
def test_what_a_library_puts_around_them_meanwhile_goes_on(owner: type, name: str) -> None:
    before = [vars(kind).get(method) for kind, method in METHODS]
    calls: list[str] = []

    def factory() -> nn.Module:  # imports a library that instruments threads
        inner = getattr(owner, name)
        if not calls:

            @functools.wraps(inner)
            def traced(*args: Any, **kwargs: Any) -> Any:
                calls.append(name)
                return inner(*args, **kwargs)

            setattr(owner, name, traced)
        assert _used() == [*range(6)]
        return nn.Linear(2, 2)

    own = vars(owner).get(name)
    try:
        expected = materialize(lambda: nn.Linear(2, 2), key=KEY)
        for _ in range(3):
            made = materialize(factory, key=KEY)
            assert same_bits(made.weight.data, expected.weight.data)
            count = len(calls)
            assert _used() == [*range(6)]
            assert len(calls) > count > 0  # it is still there, outside too
        others = [method for method in METHODS if method != (owner, name)]
        now = [vars(kind).get(method) for kind, method in others]
        assert now == [before[METHODS.index(method)] for method in others]
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def test_who_keeps_a_thread_keeps_nothing_of_what_it_ran_in() -> None:
    class Own(threading.Thread):
        def run(self) -> None:
            ran.append("class")

    class Starts(nn.Linear):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            plain = threading.Thread(target=lambda: ran.append("target"))
            given = threading.Thread()
            given.run = run_given  # type: ignore[method-assign]
            for thread in (plain, Own(), given):
                threads.append(thread)
                thread.start()
                thread.join()
            with pytest.raises(RuntimeError, match="once"):
                plain.start()

    ran: list[str] = []
    threads: list[threading.Thread] = []
    run_given = functools.partial(ran.append, "own")
    layer = Starts(2, 2)
    ran.clear()
    threads.clear()
    before = weakref.WeakSet(recorder._recorders)
    initialize_(layer, key=KEY)
    assert ran == ["target", "class", "own"]
    assert [vars(thread).get("run") for thread in threads] == [None, None, run_given]
    assert set(recorder._recorders) == set(before)
