"""Tensors two of whose elements share memory are refused, and no others."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinit

OPS = torch.ops.fastinit


def shares_memory(sizes: list[int], strides: list[int]) -> bool:
    offsets = [
        sum(i * s for i, s in zip(index, strides, strict=True))
        for index in itertools.product(*map(range, sizes))
    ]
    return len(set(offsets)) < len(offsets)


def refused(tensor: torch.Tensor) -> bool:
    try:
        OPS.uniform_(tensor, key=1)
    except RuntimeError as error:
        assert "may refer to a single memory location" in str(error)
        return True
    return False


@settings(max_examples=3000, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.one_of(st.integers(0, 12), st.integers(0, 120))),
        max_size=5,
    )
)
def test_as_counted(dims: list[tuple[int, int]]) -> None:
    sizes, strides = [n for n, _ in dims], [s for _, s in dims]
    tensor = torch.zeros(1 + 5 * 5 * 120).as_strided(sizes, strides)
    assert refused(tensor) == shares_memory(sizes, strides)


@pytest.mark.parametrize(
    ("size", "stride"),
    [
        ((10**6, 2), (1, 1)),
        ((999, 3), (1, 1)),
        ((1000, 1000), (3, 2)),
        ((5000, 5001), (5000, 4999)),
        ((5,) * 9, (1, 6, 25, 126, 625, 3125, 15626, 78125, 390627)),
    ],
)
def test_large_ones(size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    tensor = torch.zeros(last + 1).as_strided(size, stride)
    assert refused(tensor)
    assert not tensor.any()


def test_coprime_strides_without_overlap() -> None:
    tensor = torch.zeros(3000 * 3001 + 3000 * 2999).as_strided((2999, 3000), (3001, 2999))
    assert not refused(tensor)  # 2999 steps of 3001 are needed to meet 3001 of 2999


def conway_guy(n: int) -> list[int]:
    """Sets all of whose sums of subsets differ, far denser than powers of two."""
    u = [0, 1]
    while len(u) <= n:
        k = len(u) - 1
        u.append(2 * u[k] - u[k - round((2 * k) ** 0.5)])
    return [u[n] - u[k] for k in range(n)]


def test_strides_that_take_a_search() -> None:
    """Both answers come from the search; beyond its limit the answer is that they may overlap."""
    strides = conway_guy(10)
    assert not refused(torch.zeros(sum(strides) + 1).as_strided([2] * 10, strides))
    assert shares_memory([2] * 10, [*strides[:9], strides[9] + strides[8]]) == refused(
        torch.zeros(2 * sum(strides)).as_strided([2] * 10, [*strides[:9], strides[9] + strides[8]])
    )
    strides = conway_guy(16)
    assert refused(torch.zeros(sum(strides) + 1).as_strided([2] * 16, strides))


OVERLAPPING = {
    "unfold": lambda t: t.unfold(0, 6, 1),
    "expand": lambda t: t[:6].expand(5, 6),
    "as_strided": lambda t: t.as_strided((10, 2), (1, 1)),
    "sliding steps": lambda t: t.unfold(0, 6, 4),
}


@pytest.mark.parametrize("view", OVERLAPPING)
@pytest.mark.parametrize(
    "fill",
    [
        fastinit.uniform_,
        fastinit.normal_,
        fastinit.trunc_normal_,
        fastinit.xavier_normal_,
        fastinit.orthogonal_,
        lambda t, **given: fastinit.sparse_(t, 0.5, **given),
        lambda t, **given: fastinit.orthogonal_many_([t], keys=[1]),
        lambda t, **given: OPS.fill_many_([t], [2, 0], [0.0, 1.0, 0.0, 0.0], [1]),
    ],
)
def test_every_fill_refuses_them_and_touches_nothing(fill, view: str) -> None:  # type: ignore[no-untyped-def]
    memory = torch.zeros(40)
    with pytest.raises(RuntimeError, match="single memory location"):
        fill(OVERLAPPING[view](memory), key=1)
    assert not memory.any()


def test_a_refusal_draws_nothing() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="single memory location"):
        fastinit.normal_(torch.zeros(40).unfold(0, 6, 1))
    assert torch.equal(torch.get_rng_state(), before)
