"""P4: small types hold the float32 value clamped and rounded once, float64 a point of its cell."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.promise_cases import Case
from support.stream_cases import INF
from support.type_values import (
    SMALL,
    finite_values,
    largest,
    nearest,
    truncation_bounds,
    uniform_bounds,
)

KEY = 0x0DD_C0FFEE
N = 40_001

UNIFORMS = [(0.0, 1.0), (-0.3, 0.7), (1.0, 1.0625), (-1e-3, 1e-3), (3e-7, 9e-7), (-210.0, 230.0)]
# Wide enough to saturate, and narrow enough for subnormals of each type.
NORMALS = [
    (0.0, 1.0), (0.5, 3.0), (0.0, 300.0), (400.0, 100.0), (0.0, 1e-2), (0.0, 1e-4), (0.0, 1e-6),
    (0.0, 1e-8), (0.0, 3e-39), (1.0, 1e-3),
]  # fmt: skip
HUGE_NORMALS = {
    "float16": [(0.0, 60000.0), (65504.0, 65504.0), (-65000.0, 40000.0)],
    "bfloat16": [(0.0, 2e37), (3.3e38, 2e37), (-3.3e38, 1e37)],
    "float8_e4m3fn": [(448.0, 448.0), (-440.0, 440.0)],
    "float8_e5m2": [(57344.0, 57344.0), (-50000.0, 40000.0)],
}
TRUNCATIONS = [
    (0.0, 1.0, -2.0, 2.0), (0.0, 1.0, -INF, INF), (0.0, 1.0, 3.0, 5.0), (0.0, 1.0, -5.0, -3.0),
    (0.0, 1.0, 31.0, INF), (0.0, 1e-2, -0.3, 1e-3), (1.0, 0.1, 0.9, 1.07), (0.0, 1e-7, -1e-6, 1e-6),
    (0.0, 1e5, -INF, INF), (0.0, 1e5, -1e6, 300.0), (300.0, 1.0, -INF, 301.0),
]  # fmt: skip


def single(dist: str, args: tuple[float, ...]) -> torch.Tensor:
    """float32 values of the same words."""
    return Case("float32", dist, args).fill(torch.empty(N), KEY)


def rounded(values: torch.Tensor, dtype: str, low: float, high: float) -> torch.Tensor:
    """clamp(RN_T(values), low, high): rounding by torch, kept finite before it."""
    top = largest(dtype)
    return values.clamp(-top, top).to(getattr(torch, dtype)).double().clamp(low, high)


def same_values(case: Case, want: torch.Tensor) -> None:
    got = case.fill(case.empty(N), KEY).double()
    wrong = torch.nonzero(got != want).ravel()
    assert len(wrong) == 0, (
        f"{case}: {len(wrong)} differ, the first {got[wrong[0]]:.9g}, not {want[wrong[0]]:.9g}"
    )


@pytest.mark.parametrize("dtype", SMALL)
def test_the_tables_round_as_torch_does(dtype: str) -> None:
    values = finite_values(dtype)
    assert values[-1] == largest(dtype) == -values[0]
    for low, high in pairwise(values[:: 1 if len(values) < 300 else 997]):
        middle = (low + high) / 2
        want = torch.tensor(middle, dtype=torch.float64).to(getattr(torch, dtype))
        assert nearest(dtype, middle) == float(want)


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("args", UNIFORMS)
def test_uniform_is_the_rounded_single(args: tuple[float, float], dtype: str) -> None:
    low, high = uniform_bounds(dtype, *args)
    same_values(Case(dtype, "uniform", args), rounded(single("uniform", args), dtype, low, high))


@pytest.mark.parametrize(
    "dtype, args", [(d, args) for d in SMALL for args in NORMALS + HUGE_NORMALS[d]]
)
def test_normal_is_the_rounded_single(args: tuple[float, float], dtype: str) -> None:
    want = rounded(single("normal", args), dtype, -INF, INF)
    same_values(Case(dtype, "normal", args), want)


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("args", TRUNCATIONS)
def test_truncated_normal_is_the_rounded_single(
    args: tuple[float, float, float, float], dtype: str
) -> None:
    low, high = truncation_bounds(dtype, *args[2:])
    want = rounded(single("trunc_normal", args), dtype, low, high)
    same_values(Case(dtype, "trunc_normal", args), want)


@pytest.mark.parametrize("dtype", SMALL)
def test_the_arguments_saturate_and_underflow(dtype: str) -> None:
    """The fills above do reach what they are about: the largest values, subnormals and zero."""
    tiny = torch.finfo(getattr(torch, dtype)).tiny
    reached = {"largest": 0, "subnormal": 0, "zero": 0}
    for args in NORMALS + HUGE_NORMALS[dtype]:
        case = Case(dtype, "normal", args)
        size = case.fill(case.empty(N), KEY).double().abs()
        reached["largest"] += int((size == largest(dtype)).sum())
        reached["subnormal"] += int(((size > 0) & (size < tiny)).sum())
        reached["zero"] += int((size == 0).sum())
    assert min(reached.values()) > 100, reached


def test_complex_parts_are_real_elements() -> None:
    for dtype, part in (("complex64", "float32"), ("complex128", "float64")):
        got = torch.view_as_real(Case(dtype, "normal", (0.5, 3.0)).fill(
            Case(dtype, "normal").empty(N), KEY
        ))  # fmt: skip
        real = Case(part, "normal", (0.5, 3.0 / math.sqrt(2.0)))
        assert torch.equal(got.ravel(), real.fill(real.empty(2 * N), KEY))


# ---- float64 ------------------------------------------------------------------------------------


def double(dist: str, args: tuple[float, ...]) -> torch.Tensor:
    return Case("float64", dist, args).fill(torch.empty(N, dtype=torch.float64), KEY)


def test_uniform_doubles_lie_in_the_cells_of_singles() -> None:
    offset = double("uniform", (0.0, 1.0)) - single("uniform", (0.0, 1.0)).double()
    assert offset.min() >= 0 and offset.max() < 2.0**-24
    # They fill the cell: 53 bits, not 24.
    assert offset.min() < 2.0**-24 * 1e-3 and offset.max() > 2.0**-24 * 0.999
    scaled = double("uniform", (0.0, 1.0)) * 2.0**53
    assert torch.equal(scaled, scaled.round()) and (scaled % 2 == 1).double().mean() > 0.4


def test_normal_doubles_are_near_singles() -> None:
    close, pairs = single("normal", (0.0, 1.0)).double(), double("normal", (0.0, 1.0))
    radius = pairs[: N - 1].view(-1, 2).norm(dim=1).repeat_interleave(2)
    error = (pairs - close)[: N - 1].abs()
    # Where the radius is large or tiny the word's cell is wide.
    usual = (radius < 4.5) & (radius > 1e-2)
    assert usual.double().mean() > 0.99
    assert (error[usual] <= 3e-6 * radius[usual].clamp(min=1)).all()
    assert len(np.unique(pairs.numpy())) == N


@pytest.mark.parametrize("args", [t for t in TRUNCATIONS if t != (0.0, 1e5, -1e6, 300.0)])
def test_truncated_doubles_are_near_singles(args: tuple[float, float, float, float]) -> None:
    mean, std, a, b = args
    close, exact = single("trunc_normal", args).double(), double("trunc_normal", args)
    score = ((exact - mean) / std).abs().clamp(min=1)
    unusual = (exact - close).abs() > 4e-6 * std * score + 2.0**-23 * exact.abs()
    # Deep tails differ visibly; few words lie there.
    assert unusual.double().mean() < 1e-3
    assert (a <= exact).all() and (exact <= b).all()
