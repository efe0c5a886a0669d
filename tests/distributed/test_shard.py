"""fastinit.shard(): every initialiser gives a part the bits of its place in the full tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import OTHER_DTYPES, bits, no_randomness, same_bits
from support.shard_cases import CONSTANT, DRAWN, KEY, dtypes_of, fill, same, shapes_of, whole
from torch._subclasses.fake_tensor import FakeTensorMode

import fastinit
from fastinit._distributed.layout import boxes_of_range


def cuts(size: int) -> list[tuple[int, int]]:
    """A dimension in three parts: one is empty."""
    third = size // 3
    return [(0, third), (third, third), (third, size)]


@pytest.mark.parametrize("name", [*DRAWN, *CONSTANT])
def test_boxes(name: str) -> None:
    """All parts, one dimension cut at a time; every second one transposed in memory."""
    dtypes = dtypes_of(name) + (OTHER_DTYPES if name in CONSTANT else [])
    for dtype in dtypes:
        for shape in shapes_of(name):
            want = whole(name, shape, dtype)
            for dim, size in enumerate(shape):
                for begin, end in cuts(size):
                    part = [*shape]
                    part[dim] = end - begin
                    offset = [begin if k == dim else 0 for k in range(len(shape))]
                    local = torch.empty(part, dtype=dtype)
                    if begin % 2:
                        local = torch.empty(part[::-1], dtype=dtype).permute(
                            *range(len(part))[::-1]
                        )
                    shard = fastinit.shard(local, shape, offset)
                    version = local._version
                    assert fill(name, shard) is shard
                    assert local._version > version
                    assert same(name, local, want.narrow(dim, begin, end - begin)), (dtype, offset)


@pytest.mark.parametrize("name", [*DRAWN, *CONSTANT])
def test_ranges(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.complex64):
        if dtype not in dtypes_of(name):
            continue
        for shape in shapes_of(name):
            want = whole(name, shape, dtype).flatten()
            for begin, end in ((0, 7), (5, 5), (11, want.numel() - 3), (0, want.numel())):
                local = torch.empty(2 * (end - begin), dtype=dtype)[::2]
                fill(name, fastinit.shard(local, shape, start=begin))
                assert same(name, local, want[begin:end]), (dtype, shape, begin)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_ranges_are_boxes(data: st.DataObject) -> None:
    size = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    total = math.prod(size)
    begin = data.draw(st.integers(0, total))
    end = data.draw(st.integers(begin, total))
    numbers = np.arange(total).reshape(size)
    boxes = boxes_of_range(size, begin, end)
    taken = [
        numbers[tuple(slice(o, o + n) for o, n in zip(*box, strict=True))].ravel() for box in boxes
    ]
    assert np.array_equal(np.concatenate([*taken, np.arange(0)]), np.arange(begin, end))
    assert len(boxes) <= 2 * len(size) - 1


def test_far_into_a_tensor() -> None:
    """Beyond 2³¹ rows, columns and elements, boxes and ranges number elements alike."""
    columns = 2**33 + 7
    row, column = 2**20 + 3, 2**32 + 11
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
        box, flat = torch.empty(1, 50, dtype=dtype), torch.empty(50, dtype=dtype)
        full = (2**24, columns)
        fastinit.normal_(fastinit.shard(box, full, (row, column)), key=KEY)
        fastinit.normal_(fastinit.shard(flat, full, start=row * columns + column), key=KEY)
        assert same_bits(box[0], flat)


def test_fans_are_of_the_full_size() -> None:
    local = torch.empty(4, 1024)
    fastinit.kaiming_uniform_(fastinit.shard(local, (4096, 1024), (8, 0)), mode="fan_out", key=KEY)
    assert local.abs().max() <= math.sqrt(6 / 4096)
    assert local.abs().max() > 0.99 * math.sqrt(6 / 4096)


def test_sparse_counts_zeros_of_the_full_column() -> None:
    parts = [torch.empty(n, 40) for n in (0, 1, 60, 39)]
    first = 0
    for part in parts:
        fastinit.sparse_(fastinit.shard(part, (100, 40), (first, 0)), 0.25, key=KEY)
        first += part.shape[0]
    assert torch.all((torch.cat(parts) == 0).sum(0) == 25)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("place", [(0, 0), (40, 300), (250, 690)])
def test_sparse_by_ranking_is_the_same(place: tuple[int, int], sparsity: float) -> None:
    """What devices without a kernel of their own run."""
    local = torch.empty(50, 10)
    fastinit.sparse_(fastinit.shard(local, (300, 700), place), sparsity, key=8)
    ranked = fastinit.normal_(torch.empty(300, 700), 0.0, 0.01, key=8)
    ranked = ranked[place[0] : place[0] + 50, place[1] : place[1] + 10].clone()
    count = math.ceil(sparsity * 300)
    if count:
        torch.ops.fastinit_testing.zero_smallest_(ranked, count, 8, [300, 700, *place])
    assert same_bits(local, ranked)


# ---- without a key -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
def test_one_key_is_drawn_whatever_is_here(name: str) -> None:
    """The states of ranks agree: those that hold all, some and nothing, as boxes or as ranges."""
    shape = shapes_of(name)[0]
    torch.manual_seed(3)
    want = DRAWN[name](torch.empty(shape))
    state = torch.get_rng_state()
    count, zeros = want.numel(), (0,) * len(shape)
    held = {
        "all": fastinit.shard(torch.empty(shape), shape, zeros),
        "rows": fastinit.shard(torch.empty(2, *shape[1:]), shape, (1, *zeros[1:])),
        "nothing": fastinit.shard(torch.empty(0, *shape[1:]), shape, zeros),
        "a range": fastinit.shard(torch.empty(count - 9), shape, start=4),
        "an empty range": fastinit.shard(torch.empty(0), shape, start=4),
    }
    for what, shard in held.items():
        torch.manual_seed(3)
        DRAWN[name](shard)
        assert torch.equal(torch.get_rng_state(), state), what
    assert same_bits(held["all"].part.local, want)
    assert same_bits(held["rows"].part.local, want[1:3].contiguous())
    assert same_bits(held["a range"].part.local, want.flatten()[4 : count - 5])


def test_nothing_is_drawn_for_a_tensor_without_elements() -> None:
    shard = fastinit.shard(torch.empty(0, 3), (0, 3), (0, 0))
    with no_randomness():
        fastinit.normal_(shard)
        fastinit.sparse_(shard, 0.5)
        fastinit.orthogonal_(shard)


def test_a_generator_of_ones_own() -> None:
    generator = torch.Generator().manual_seed(4)
    local = torch.empty(3, 5)
    with no_randomness():
        fastinit.normal_(fastinit.shard(local, (9, 5), (3, 0)), generator=generator)
    want = fastinit.normal_(torch.empty(9, 5), generator=torch.Generator().manual_seed(4))
    assert same_bits(local, want[3:6])


# ---- what is refused -----------------------------------------------------------------------------

LOCAL = torch.zeros(3, 4)
WRONG: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (ValueError, "either 'offset', .* or 'start'", (LOCAL, (3, 4)), {}),
    (ValueError, "either 'offset', .* or 'start'", (LOCAL, (3, 4), (0, 0)), {"start": 0}),
    (ValueError, "at offset .1, 0. is not in a tensor of size .3, 4.", (LOCAL, (3, 4), (1, 0)), {}),
    (ValueError, "one number of dimensions", (LOCAL, (3, 4), (0,)), {}),
    (ValueError, "one number of dimensions", (LOCAL, 12, 0), {}),
    (ValueError, "must not be negative", (LOCAL, (3, 4), (0, -1)), {}),
    (ValueError, "must not be negative", (LOCAL, (-3, 4), (0, 1)), {}),
    (ValueError, "1 dimension to be a range", (LOCAL, (3, 4)), {"start": 0}),
    (ValueError, "which has 12", (LOCAL.flatten(), (3, 4)), {"start": 1}),
    (TypeError, "'offset' must be an integer or a sequence", (LOCAL, (3, 4), (0.0, 1)), {}),
    (TypeError, "'start' must be an integer, got", (LOCAL.flatten(), (3, 4)), {"start": (0, 0)}),
    (TypeError, "'start' must be an integer, got", (LOCAL.flatten(), (3, 4)), {"start": 0.0}),
    (ValueError, "fewer than 2..63 elements", (LOCAL, (2**61, 4), (0, 0)), {}),
    (ValueError, "fewer than 2..63 elements", (LOCAL.flatten(), 2**63), {"start": 0}),
    (ValueError, "fewer than 2..63 elements", (LOCAL[:0], (0, 2**63), (0, 0)), {}),
    (TypeError, "'full_size' must be an integer or a sequence", (LOCAL, None, (0, 1)), {}),
    (TypeError, "an ordinary tensor, got list", ([1.0], 1, 0), {}),
    (TypeError, "must be strided", (LOCAL.to_sparse(), (3, 4), (0, 0)), {}),
    (TypeError, "is a view whose conjugate", (torch.zeros(3, dtype=torch.cfloat).conj(), 3, 0), {}),
    (TypeError, "or negative is still", (torch.zeros(3, dtype=torch.cfloat).conj().imag, 3, 0), {}),
]


@pytest.mark.parametrize(("error", "message", "arguments", "named"), WRONG)
def test_wrong_descriptions(
    error: type[Exception], message: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message) as caught:
        fastinit.shard(*arguments, **named)
    assert "fastinit.shard: " in str(caught.value)


def test_transforms_are_refused() -> None:
    def fill(row: torch.Tensor) -> torch.Tensor:
        return fastinit.normal_(fastinit.shard(row, (4,), (0,)), key=1)

    with pytest.raises(NotImplementedError, match=r"fastinit\.shard: not inside torch\.func"):
        torch.vmap(fill)(torch.zeros(2, 3))


def test_shards_are_for_initialisers_alone() -> None:
    shard = fastinit.shard(LOCAL.clone(), (9, 4), (3, 0))
    assert tuple(shard.shape) == (9, 4)
    assert repr(shard) == "fastinit.shard(<torch.float32, (3, 4)>, (9, 4), (3, 0))"
    for function in (torch.nn.init.normal_, torch.sum, lambda t: t + 1, lambda t: t[0]):
        with pytest.raises(NotImplementedError, match="the tensor that it was made from"):
            function(shard)
    with pytest.raises(TypeError, match="an ordinary tensor, got TensorShard"):
        fastinit.shard(shard, (9, 4), (0, 0))


@pytest.mark.parametrize("flat", [False, True])
def test_bad_arguments_leave_everything_as_it_was(flat: bool) -> None:
    local = torch.zeros(12 if flat else (3, 4))
    shard = (
        fastinit.shard(local, (9, 4), start=3) if flat else fastinit.shard(local, (9, 4), (3, 0))
    )
    calls: list[tuple[type[Exception], Callable[[], object]]] = [
        (RuntimeError, lambda: fastinit.normal_(shard, std=-1.0)),
        (RuntimeError, lambda: fastinit.uniform_(shard, 2.0, 1.0)),
        (ValueError, lambda: fastinit.sparse_(shard, 1.5)),
        (ValueError, lambda: fastinit.orthogonal_(shard, batch_dims=1)),
        (ValueError, lambda: fastinit.orthogonal_(shard, method="lu")),  # type: ignore[arg-type]
        (ValueError, lambda: fastinit.delta_orthogonal_(shard)),
        (ValueError, lambda: fastinit.dirac_(shard)),
        (ValueError, lambda: fastinit.normal_(shard, generator=torch.Generator(), key=1)),
    ]
    for error, call in calls:
        with no_randomness(), pytest.raises(error):
            call()
        assert not local.any()
        assert local._version == 0
    integers = fastinit.shard(torch.zeros(12, dtype=torch.int64), (9, 4), start=3)
    for call in (fastinit.normal_, fastinit.orthogonal_, fastinit.kaiming_uniform_):
        with no_randomness(), pytest.raises(NotImplementedError):
            call(integers)


def test_memory_that_elements_share_is_refused() -> None:
    base = torch.zeros(4)
    with pytest.raises(RuntimeError, match="single memory location"):
        fastinit.normal_(fastinit.shard(base.expand(3, 4), (9, 4), (0, 0)), key=1)
    with torch.inference_mode():
        closed = torch.zeros(3, 4)
    for fill_it in (lambda t: fastinit.normal_(t, key=1), fastinit.zeros_, fastinit.eye_):
        with pytest.raises(RuntimeError, match="inference tensor"):
            fill_it(fastinit.shard(closed, (9, 4), (0, 0)))


OPERATORS: dict[str, tuple[Any, ...]] = {
    "fill_shard_": ("normal_", [0.0, 1.0]),
    "sparse_shard_": (0.5, 1.0),
    "orthogonal_shard_": (1.0,),
}


@pytest.mark.parametrize("boxes", [[0, 0, 3, 4, 3, 0], []])
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, boxes: list[int]) -> None:
    op = getattr(torch.ops.fastinit, name).default
    arguments = (*OPERATORS[name], [9, 4], boxes)
    torch.library.opcheck(op, (torch.zeros(3, 4), *arguments), {"key": -3})
    # Without the comparison with an eager run, which would draw other values.
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, (torch.zeros(3, 4), *arguments), test_utils=utils)


@pytest.mark.parametrize("name", OPERATORS)
def test_meta_and_fake_calls_draw_nothing(name: str) -> None:
    op = getattr(torch.ops.fastinit, name)
    arguments = (*OPERATORS[name], [9, 4], [0, 0, 3, 4, 3, 0])
    with no_randomness():
        op(torch.zeros(3, 4, device="meta"), *arguments)
        with FakeTensorMode():
            op(torch.zeros(3, 4), *arguments)


def test_operators_check_their_boxes() -> None:
    ops = torch.ops.fastinit

    def call(boxes: list[int], full: tuple[int, ...] = (9, 4), name: str = "normal_") -> None:
        ops.fill_shard_(torch.zeros(3, 4), name, [0.0, 1.0], list(full), boxes, key=1)

    call([0, 0, 1, 4, 0, 0, 1, 0, 2, 4, 5, 0])
    for boxes, message in (
        ([0, 0, 3, 4, 0], "it takes 6 for each"),
        ([0, 0, 4, 4, 0, 0], "is not in the shard"),
        ([-1, 0, 1, 4, 0, 0], "is not in the shard"),
        ([0, 0, 3, 4, 7, 0], "is not in the full size"),
        ([0, 0, 2, 4, 0, 0, 1, 0, 2, 4, 5, 0], "share elements"),
    ):
        with pytest.raises(ValueError, match=message):
            call(boxes)
    with pytest.raises(ValueError, match="no distribution is called 'cauchy_'"):
        call([], name="cauchy_")
    with pytest.raises(ValueError, match="a shard of 3 dimensions"):
        call([0, 0, 0, 1, 1, 1, 0, 0, 0], (2, 2, 2))


def test_boxes_with_rows_between_each_others() -> None:
    """Two halves of the columns, as fused projections have them: one launch, all threads."""
    full = fastinit.normal_(torch.empty(64, 4000), key=3)
    local = torch.empty(64, 2000)
    boxes = [0, 0, 64, 1000, 0, 1000, 0, 1000, 64, 1000, 0, 3000]
    torch.ops.fastinit.fill_shard_(local, "normal_", [0.0, 1.0], [64, 4000], boxes, key=3)
    assert np.array_equal(bits(local), bits(full[:, [*range(1000, 2000), *range(3000, 4000)]]))


def test_parameters() -> None:
    """Leaves that require grad, with grad enabled, as every initialiser takes them."""
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    shard = fastinit.shard(parameter, (8, 4), (4, 0))
    for name in ("normal_", "orthogonal_", "sparse_", "zeros_", "eye_", "constant_"):
        fill(name, shard)
        assert same_bits(parameter.detach(), whole(name, (8, 4), torch.float32)[4:])
        assert parameter.is_leaf and parameter.requires_grad and parameter.grad_fn is None


def test_batches_fill_shards() -> None:
    with fastinit.batch():
        local = torch.empty(3, 5)
        waiting = fastinit.normal_(torch.empty(20), key=1)
        fastinit.normal_(fastinit.shard(local, (9, 5), (3, 0)), key=KEY)
        fastinit.uniform_(local[0], key=2)
    assert same_bits(waiting, fastinit.normal_(torch.empty(20), key=1))
    assert same_bits(local[1:], whole_rows(9, 5)[4:6])
    assert same_bits(local[0], fastinit.uniform_(torch.empty(5), key=2))


def whole_rows(rows: int, columns: int) -> torch.Tensor:
    return fastinit.normal_(torch.empty(rows, columns), key=KEY)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", DRAWN)
def test_devices_without_kernels(name: str, flat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard elsewhere is filled on the CPU and copied; here one is taken for such."""
    size = shapes_of(name)[0]
    local = torch.zeros(20) if flat else torch.zeros(2, *size[1:])
    there = local.data_ptr()
    handled = fastinit._distributed.fill.on_handled_device
    monkeypatch.setattr(
        fastinit._distributed.fill,
        "on_handled_device",
        lambda t: handled(t) and t.data_ptr() != there,
    )
    calls: list[torch.device] = []
    monkeypatch.setattr(
        fastinit._distributed.fill, "reserve_word", lambda device, _: calls.append(device) or 5
    )
    zeros = (0,) * (len(size) - 1)
    shard = (
        fastinit.shard(local, size, start=7) if flat else fastinit.shard(local, size, (1, *zeros))
    )
    fill(name, shard)
    want = whole(name, size, torch.float32)
    assert same(name, local, want.flatten()[7:27] if flat else want[1:3])
    assert not calls  # a key was given
    if flat or name != "delta_orthogonal_":  # whose matrix is here
        DRAWN[name](shard)
        assert calls == [local.device]


def test_scalars() -> None:
    local = torch.zeros(())
    fastinit.normal_(fastinit.shard(local, (), ()), key=3)
    assert same_bits(local, fastinit.normal_(torch.zeros(()), key=3))
