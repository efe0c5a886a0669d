"""`fill_many_`: tensors of several kinds, dtypes and layouts, and shards, in one call."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.common import no_randomness, same_bits, untouched

import fastinit  # noqa: F401 (registers the op)

OPS = torch.ops.fastinit
CONSTANT, UNIFORM, NORMAL, TRUNC_NORMAL, WORDS = range(5)


def mixed(base: int = 0) -> tuple[list[torch.Tensor], list[int], list[float], list[int]]:
    """Fills of every kind, several dtypes and layouts, a shard, an empty and a scalar tensor."""
    rows = [
        (torch.zeros(7, 5), UNIFORM, (-1.0, 2.0, 0.0, 0.0)),
        (torch.zeros(9, dtype=torch.bfloat16), NORMAL, (0.5, 2.0, 0.0, 0.0)),
        (torch.zeros(4, 6, dtype=torch.float64).t(), TRUNC_NORMAL, (0.5, 2.0, -1.0, 3.0)),
        (torch.zeros(3, 4, dtype=torch.int32), WORDS, (0.0,) * 4),
        (torch.zeros(6, dtype=torch.float16), CONSTANT, (0.1, 0.0, 0.0, 0.0)),
        (torch.zeros(0, 3), NORMAL, (0.0, 1.0, 0.0, 0.0)),
        (torch.zeros(()), NORMAL, (0.0, 1.0, 0.0, 0.0)),
        (torch.zeros(2, 3, dtype=torch.complex64), NORMAL, (0.0, 1.0, 0.0, 0.0)),
        (torch.zeros(1000, 300), NORMAL, (0.0, 1.0, 0.0, 0.0)),
    ]
    plan = [number for _, kind, _ in rows for number in (kind, 0)]
    return (
        [tensor for tensor, _, _ in rows],
        plan,
        [x for *_, args in rows for x in args],
        [base - k for k in range(len(rows))],
    )


def one_by_one(base: int = 0) -> list[torch.Tensor]:
    tensors, plan, args, keys = mixed(base)
    for k, (tensor, kind) in enumerate(zip(tensors, plan[::2], strict=True)):
        a = args[4 * k : 4 * k + 4]
        if kind == CONSTANT:
            tensor.fill_(a[0])
        elif kind == WORDS:
            torch.ops.fastinit_testing.random_words_(tensor, key=keys[k])
        else:
            op = {UNIFORM: OPS.uniform_, NORMAL: OPS.normal_, TRUNC_NORMAL: OPS.trunc_normal_}[kind]
            op(tensor, *(a if kind == TRUNC_NORMAL else a[:2]), key=keys[k])
    return tensors


def test_fill_many_is_one_fill_after_another():
    tensors, plan, args, keys = mixed(2)
    versions = [t._version for t in tensors]
    with no_randomness():
        assert OPS.fill_many_(tensors, plan, args, keys) is None
    for many, single in zip(tensors, one_by_one(2), strict=True):
        assert same_bits(many, single)
    assert all(t._version > v for t, v in zip(tensors, versions, strict=True))


def test_fill_many_opcheck():
    tensors, plan, args, keys = mixed()
    torch.library.opcheck(OPS.fill_many_.default, (tensors, plan, args, keys))


def test_fill_many_on_meta():
    tensors, plan, args, keys = mixed()
    with no_randomness():
        OPS.fill_many_([t.to("meta") for t in tensors], plan, args, keys)


def test_fill_many_of_shards():
    for kind, args in ((UNIFORM, [0.0, 1.0, 0.0, 0.0]), (NORMAL, [0.0, 1.0, 0.0, 0.0])):
        full, pieces = torch.zeros(6, 7, 5), torch.zeros(6, 7, 5)
        OPS.fill_many_([full], [kind, 0], args, [9])
        shards, plan = [], []
        for row in (0, 2, 4):
            for column in (0, 3):
                shard = pieces[row : row + 2, column : column + (3 if column == 0 else 4)]
                shards.append(shard)
                plan += [kind, 3, 6, 7, 5, row, column, 0]
        OPS.fill_many_(shards, plan, args * len(shards), [9] * len(shards))
        assert same_bits(full, pieces)


def test_fill_many_in_order_where_tensors_overlap():
    tensor = torch.zeros(8)
    args = [1.0, 0, 0, 0, 2.0, 0, 0, 0]
    OPS.fill_many_([tensor, tensor[4:]], [CONSTANT, 0, CONSTANT, 0], args, [0, 0])
    assert tensor.tolist() == [1.0] * 4 + [2.0] * 4


ZERO = [0.0] * 4


@pytest.mark.parametrize(
    ("plan", "args", "keys", "message"),
    [
        ([CONSTANT, 0], ZERO, [], "keys"),
        ([CONSTANT, 0], ZERO[:3], [0], "args"),
        ([CONSTANT, 0], ZERO * 2, [0], "args"),
        ([CONSTANT], ZERO, [0], "plan"),
        ([], ZERO, [0], "plan"),
        ([CONSTANT, 0, 0], ZERO, [0], "plan"),
        ([5, 0], ZERO, [0], "plan"),
        ([-1, 0], ZERO, [0], "plan"),
        ([CONSTANT, -1], ZERO, [0], "plan"),
        ([CONSTANT, 1, 4, 0], ZERO, [0], "plan"),
        ([CONSTANT, 2, 4, 3, 0], ZERO, [0], "plan"),
        ([CONSTANT, 2, 4, 3, 1, 0], ZERO, [0], "shard"),
        ([CONSTANT, 2, 4, 3, -1, 0], ZERO, [0], "shard"),
        ([CONSTANT, 2, 2**62, 2**62, 0, 0], ZERO, [0], "full size"),
        ([NORMAL, 0], [0.0, -1.0, 0.0, 0.0], [0], "std"),
        ([UNIFORM, 0], [1.0, 0.0, 0.0, 0.0], [0], "a"),
        ([WORDS, 0], ZERO, [0], "int32"),
    ],
)
def test_fill_many_checks_everything_first(plan, args, keys, message):
    first, second = torch.zeros(3), torch.zeros(4, 3)
    with untouched(first), untouched(second), pytest.raises(RuntimeError, match=message):
        OPS.fill_many_([first, second], [CONSTANT, 0, *plan], [1.0, 0, 0, 0, *args], [0, *keys])


@pytest.mark.parametrize("order", [1, -1])
def test_fill_many_of_a_device_it_cannot_fill(order):
    tensor = torch.zeros(3)
    mixed = [tensor, torch.zeros(3, device="meta")][::order]
    with untouched(tensor), pytest.raises(RuntimeError, match=r"cpu beside meta"):
        OPS.fill_many_(mixed, [CONSTANT, 0] * 2, [1.0, 0.0, 0.0, 0.0] * 2, [0, 0])


# ---- tensors that share memory -------------------------------------------------------------------


def waves_by_pairs(tensors: list[torch.Tensor]) -> list[int]:
    """Each tensor's wave, looking at every pair: one more than the latest before it that it meets.

    Two tensors meet where the bytes from the first to the last element of each do.
    """
    waves: list[int] = []
    spans = [(t.data_ptr(), t.data_ptr() + (t.numel() - 1) * t.stride(0) * 4 + 4) for t in tensors]
    for k, (begin, end) in enumerate(spans):
        met = [waves[j] for j, (low, high) in enumerate(spans[:k]) if begin < high and low < end]
        waves.append(1 + max(met, default=-1))
    return waves


@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(1, 12), st.sampled_from([1, 1, 1, 2])),
        min_size=1,
        max_size=40,
    )
)
def test_waves(pieces):
    memory = torch.zeros(128)
    tensors = [memory[start : start + n * step : step][:n] for start, n, step in pieces]
    assert torch.ops.fastinit_testing.fill_waves(tensors) == waves_by_pairs(tensors)
    order = torch.zeros(128)
    for k, (start, n, step) in enumerate(pieces):
        order[start : start + n * step : step][:n] = k + 1
    plan, args = (
        [CONSTANT, 0] * len(pieces),
        [x for k in range(len(pieces)) for x in (k + 1.0, 0, 0, 0)],
    )
    OPS.fill_many_(tensors, plan, args, [0] * len(pieces))
    assert torch.equal(memory, order)


@given(data=st.data())
def test_boxes_of_one_tensor_wait_only_for_those_they_share_elements_with(data):
    size = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(size))))
    numbers = (
        torch.arange(math.prod(size))
        .view([size[k] for k in order])
        .permute([order.index(k) for k in range(len(size))])
    )
    memory = torch.zeros(math.prod(size)).as_strided(size, numbers.stride())
    boxes, held, waves = [], [], []
    for _ in range(data.draw(st.integers(1, 12))):
        ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in size]
        box = [slice(min(a, n - 1), max(a + 1, b)) for (a, b), n in zip(ends, size, strict=True)]
        boxes.append(memory[tuple(box)])
        elements = set(numbers[tuple(box)].flatten().tolist())
        waves.append(
            1 + max((w for w, e in zip(waves, held, strict=True) if e & elements), default=-1)
        )
        held.append(elements)
    assert torch.ops.fastinit_testing.fill_waves(boxes) == waves
