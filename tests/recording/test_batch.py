"""`fastinit.batch()`: what waits, what is dropped, what is raised; see also the random programs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.patch_helpers import in_thread
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import fastinit
from fastinit import _compiled
from fastinit._fills import fill
from fastinit._fills.region import Region
from fastinit._fills.spans import Spans

OPS = torch.ops.fastinit_testing


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[torch.Tensor]]]:
    """The tensors of every launch."""
    seen: list[list[torch.Tensor]] = []
    run = _compiled.fill_many_op

    def count(tensors, *args):
        seen.append(list(tensors))
        run(tensors, *args)

    monkeypatch.setattr(fill, "fill_many_op", count)
    yield seen


def models() -> list[nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            nn.Linear(5, 7),
            nn.Embedding(5, 4, padding_idx=2),
            nn.LSTM(3, 4, 2),
            nn.MultiheadAttention(8, 2),
            nn.ConvTranspose2d(3, 4, 3),
            nn.BatchNorm1d(3),
            nn.Transformer(8, 2, 1, 1, 16),
            nn.Bilinear(2, 3, 4),
        ]


@pytest.mark.parametrize("key", [None, 3])
def test_models_are_those_of_patch_alone(key: int | None) -> None:
    torch.manual_seed(0)
    with fastinit.patch(key):
        eager = models()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    with fastinit.patch(key, batch=True):
        batched = models()
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(eager, batched, strict=True):
        for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert same_bits(p, q), (type(a), name)


def test_one_launch_and_overwritten_draws_are_not_computed(launches) -> None:
    with fastinit.patch(), fastinit.batch():
        layers = [nn.Linear(30, 20) for _ in range(5)]
        for layer in layers:
            nn.init.normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        assert launches == []
    assert len(launches) == 1
    assert sum(t.numel() for t in launches[0]) == 5 * (30 * 20 + 20)


def test_a_part_overwritten_takes_another_launch_and_nothing_else_does(launches) -> None:
    with fastinit.batch():
        many = [fastinit.uniform_(torch.empty(50), key=k) for k in range(20)]
        embedding = fastinit.normal_(torch.empty(6, 4), key=50)
        embedding[2].zero_()
        gates = torch.empty(8, 3)
        for k in range(4):
            fastinit.normal_(gates[2 * k : 2 * k + 2], key=k)
    assert [len(tensors) for tensors in launches] == [20 + 1 + 1 + 4]
    assert OPS.fill_waves(launches[0]) == [0] * 20 + [0, 1] + [0] * 4
    expected = fastinit.normal_(torch.empty(6, 4), key=50)
    expected[2] = 0
    assert same_bits(embedding, expected)
    assert all(same_bits(t, fastinit.uniform_(torch.empty(50), key=k)) for k, t in enumerate(many))


def test_memory_from_outside_is_filled_at_once(launches) -> None:
    outside = torch.empty(40)
    with fastinit.batch():
        fastinit.normal_(outside, key=1)
        assert same_bits(outside, fastinit.normal_(torch.empty(40), key=1))
    assert len(launches) <= 1


def test_storages_are_held_weakly(launches) -> None:
    with fastinit.batch():
        tensor = fastinit.normal_(torch.empty(40), key=1)
        storage = StorageWeakRef(tensor.data.untyped_storage())
        launches.clear()  # looking at the storage has run what waited for it
        del tensor
        gc.collect()
        assert storage.expired()
        fastinit.normal_(torch.empty(40), key=2)
    assert launches == []


def test_large_memory_that_was_read_may_go_inside() -> None:
    with fastinit.batch():
        for _ in range(20):
            read, waits = torch.empty(1 << 18), torch.empty(1 << 18)
            fastinit.normal_(read, key=1)
            fastinit.normal_(waits, key=2)
            total = float(read.sum())
            del read, waits
        kept = fastinit.normal_(torch.empty(1 << 18), key=1)
    assert total == float(kept.sum())


def test_the_unseen_ways_raise_until_the_batch_ends() -> None:
    with fastinit.batch():
        tensor = fastinit.normal_(torch.empty(40), key=1)
        for what in (tensor, tensor[3:], nn.Parameter(tensor, requires_grad=False)):
            with pytest.raises(RuntimeError, match="fill pending"):
                in_thread(what.sum)
            with pytest.raises(RuntimeError, match="fill pending"):
                in_thread(what.zero_)
            with pytest.raises(RuntimeError, match="fill pending"):
                torch.utils.dlpack.to_dlpack(what.detach())
    assert same_bits(in_thread(tensor.clone), fastinit.normal_(torch.empty(40), key=1))


def test_filled_after_an_exception() -> None:
    kept = []
    with pytest.raises(KeyError), fastinit.batch():
        kept.append(fastinit.normal_(torch.empty(9), key=1))
        raise KeyError
    assert same_bits(kept[0], fastinit.normal_(torch.empty(9), key=1))


@pytest.mark.parametrize(
    "arguments", [{"std": -1.0}, {"mean": float("nan")}, {"std": 1e300}, {"mean": "x"}]
)
def test_errors_are_raised_at_the_call(arguments) -> None:
    with pytest.raises((RuntimeError, TypeError)) as eager:
        fastinit.normal_(torch.zeros(3), **arguments)
    state = torch.get_rng_state()
    with fastinit.batch():
        tensor = torch.empty(3)
        fastinit.uniform_(tensor, key=1)
        with pytest.raises(eager.type) as batched:
            fastinit.normal_(tensor, **arguments)
    assert str(batched.value) == str(eager.value)
    assert same_bits(tensor, fastinit.uniform_(torch.empty(3), key=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_overlapping_and_empty_tensors() -> None:
    with fastinit.batch():
        with pytest.raises(RuntimeError):
            fastinit.normal_(torch.empty(3, 1).expand(3, 4))
        state = torch.get_rng_state()
        fastinit.normal_(torch.empty(0, 4))
        fastinit.normal_(torch.empty(4)[:0])
        assert torch.equal(torch.get_rng_state(), state)


def test_pickling_and_copying_inside() -> None:
    import copy

    expected = fastinit.normal_(torch.empty(9), key=1)
    with fastinit.batch():
        a, b, c = (fastinit.normal_(torch.empty(9), key=1) for _ in range(3))
        pickled = pickle.dumps(a)
        copied = copy.deepcopy(nn.Parameter(b))
        plain = copy.deepcopy(c)
    assert same_bits(pickle.loads(pickled), expected)
    assert same_bits(copied, expected)
    assert same_bits(plain, expected)


def test_nested_batches() -> None:
    with fastinit.batch():
        outer = torch.empty(9)
        with fastinit.batch():
            fastinit.normal_(outer, key=1)
            inner = fastinit.normal_(torch.empty(9), key=2)
        fastinit.normal_(inner[:4], key=3)
    assert same_bits(outer, fastinit.normal_(torch.empty(9), key=1))
    assert same_bits(inner[:4], fastinit.normal_(torch.empty(4), key=3))
    assert same_bits(inner[4:], fastinit.normal_(torch.empty(9), key=2)[4:])


def test_memory_of_other_tasks_is_not_taken_in() -> None:
    """They may have this batch's modes on their thread, but do not know of it."""

    async def main() -> torch.Tensor:
        entered, left = asyncio.Event(), asyncio.Event()

        async def inside() -> None:
            with fastinit.batch():
                entered.set()
                await left.wait()

        async def outside() -> torch.Tensor:
            await entered.wait()
            try:
                return await asyncio.to_thread(fastinit.normal_(torch.empty(5), key=3).clone)
            finally:
                left.set()

        return (await asyncio.gather(inside(), outside()))[1]

    assert same_bits(asyncio.run(main()), fastinit.normal_(torch.empty(5), key=3))


def test_entered_and_left_in_pairs() -> None:
    scope = fastinit.batch()
    with pytest.raises(RuntimeError, match="not been entered"):
        scope.__exit__(None, None, None)
    with scope, pytest.raises(RuntimeError, match="entered already"):
        scope.__enter__()
    with scope:
        pass


class Wrapper(torch.Tensor):
    """Has no memory of its own: what it is computed from is inside."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        made: Any = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*(x.inner if isinstance(x, cls) else x for x in args), **(kwargs or {}))


def test_what_is_wrapped_is_computed_for_who_asks_the_wrapper() -> None:
    with fastinit.batch():
        total = float(Wrapper(fastinit.normal_(torch.empty(5), key=3)).sum())
    assert total == float(fastinit.normal_(torch.empty(5), key=3).sum())


def test_constants_torch_refuses_or_rounds() -> None:
    with fastinit.batch():
        with pytest.raises(RuntimeError):
            torch.empty(3).fill_(1e300)
        whole = torch.empty(3, dtype=torch.float64).fill_((1 << 53) + 1)
        count = torch.empty(3, dtype=torch.int64).fill_((1 << 62) + 1)
        yes = torch.empty(3, dtype=torch.bool).fill_(True)
        infinite = torch.empty(3).fill_(-float("inf"))
    assert whole[0].item() == float((1 << 53) + 1)
    assert count[0].item() == (1 << 62) + 1
    assert yes.all()
    assert (infinite == -float("inf")).all()


@pytest.mark.parametrize(
    ("outer", "inner", "covers", "meets"),
    [
        ((0, (4, 6), (6, 1)), (6, (6,), (1,)), True, True),
        ((6, (6,), (1,)), (0, (4, 6), (6, 1)), False, True),
        ((0, (4, 6), (1, 4)), (0, (24,), (1,)), True, True),
        ((0, (12,), (2,)), (0, (12,), (2,)), True, True),
        ((0, (12,), (2,)), (0, (12,), (1,)), False, True),
        ((0, (12,), (2,)), (1, (12,), (2,)), False, False),
        ((0, (2, 3), (5, 0)), (0, (1,), (1,)), True, True),
        ((0, (20000,), (2,)), (1, (20000,), (2,)), False, True),  # not worth a closer look
        ((2, (4,), (1,)), (3, (2,), (1,)), True, True),
        ((0, (3,), (1,)), (3, (3,), (1,)), False, False),
        ((3, (3,), (1,)), (0, (3,), (1,)), False, False),
        ((6, (3,), (1,)), (0, (3,), (1,)), False, False),
    ],
)
def test_regions(outer, inner, covers: bool, meets: bool) -> None:
    def region(offset, size, stride):
        return Region(size, stride, offset, torch.float32)

    assert region(*outer).covers(region(*inner)) is covers
    spans = Spans()
    spans.add_around(region(*outer))
    assert spans.meets_region(region(*inner)) is meets


def test_regions_that_overlap_themselves() -> None:
    for tensor, expected in [
        (torch.empty(3, 4), False),
        (torch.empty(3, 4).t(), False),
        (torch.empty(3, 1).expand(3, 4), True),
        (torch.empty(9).as_strided((3, 3), (2, 1)), True),
        (torch.empty(9).as_strided((2, 3), (1, 2)), False),
        (torch.empty(1, 1, 5).transpose(0, 2), False),
        (torch.empty(1, 3).expand(2, 3), True),
        (torch.empty(7).as_strided((2, 2), (3, 3)), True),
        (torch.empty(5), False),
        (torch.empty(5)[::2], False),
        (torch.empty(1).expand(2), True),
        (torch.empty(1).expand(1), False),
        (torch.empty(1).as_strided((1,), (0,)), False),
    ]:
        assert Region.of(tensor).overlaps_itself is expected


def test_left_on_another_thread() -> None:
    queue = fastinit.batch()
    with queue:
        filled = torch.empty(3).fill_(1.0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            left = pool.submit(queue.__exit__, None, None, None)
        with pytest.raises(RuntimeError, match="a thread that has not entered it"):
            left.result()
        assert torch._C._len_torch_function_stack() == 1
    assert torch._C._len_torch_function_stack() == torch._C._len_torch_dispatch_stack() == 0
    assert filled.tolist() == [1.0] * 3
    with queue:
        pass
