"""P5: no sample outside of its interval, whatever the arguments; no NaN and no infinity."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.common import bits
from support.promise_cases import COMPLEX, REAL, Case, fill_many
from support.stream_cases import INF
from support.type_values import (
    SMALL,
    largest,
    nearest,
    truncation_bounds,
    uniform_bounds,
)

TYPES = st.sampled_from(REAL)
KEYS = st.integers(0, 2**64 - 1)
DRAWS = settings(max_examples=400, deadline=None, derandomize=True)


@cache
def extreme_blocks() -> list[int]:
    """First elements of blocks of key 0 that hold the least, greatest and middle words."""
    path = Path(__file__).resolve().parents[1] / "vectors" / "seam_elements.txt"
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    near = {0, 1, 2, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1}
    return [int(at, 16) // 4 * 4 for word, *ats in rows for at in ats if int(word, 16) in near]


def values(case: Case, key: int, n: int = 513) -> torch.Tensor:
    """Samples as float64: a strided tensor of them, and those of the extreme words."""
    blocks = extreme_blocks()
    extreme = [case.empty(4) for _ in blocks]
    rows = [case.row([2**50], [first]) for first in blocks]
    fill_many(extreme, [case] * len(rows), [0] * len(rows), rows)
    ordinary = case.fill(case.empty(n, 2)[:, 1], key)
    return torch.cat([part.double() for part in (ordinary, *extreme)])


def test_the_extreme_words_are_extreme() -> None:
    assert len(extreme_blocks()) == 2 * 9
    got = values(Case("float32", "uniform", (0.0, 1.0)), 1)
    assert got.min() == 0 and got.max() == 1 - 2.0**-24
    assert values(Case("float64", "normal", (0.0, 1.0)), 1).abs().max() > 6.5


def inside(got: torch.Tensor, low: float, high: float) -> None:
    assert torch.isfinite(got).all()
    assert (got >= low).all() and (got <= high).all(), (float(got.min()), float(got.max()))


def refused(case: Case) -> bool:
    """Whether the arguments are an error; if so, one that leaves the tensor alone."""
    tensor = case.empty(40).fill_(1)
    before = bits(tensor).copy()
    try:
        case.fill(tensor, 1)
    except RuntimeError:
        assert np.array_equal(bits(tensor), before)
        return True
    return False


@st.composite
def numbers(draw: st.DrawFn, top: float) -> float:
    """Doubles in ±top: of every size down to subnormals, and values of small types."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.floats(-top, top))
    if kind == 1:
        return draw(st.floats(-min(top, 8.0), min(top, 8.0)))
    if kind == 2:
        return draw(st.sampled_from([0.0, -0.0, top, -top, 1.0, -1.0, 5e-324, 1e-45, -1e-45]))
    return float(draw(st.integers(-256, 256))) * 2.0 ** draw(st.integers(-30, 0))


@st.composite
def intervals(draw: st.DrawFn, top: float) -> tuple[float, float]:
    """Two numbers in order, often very near to each other."""
    a = draw(numbers(top))
    b = draw(numbers(top))
    if draw(st.integers(0, 2)) == 0:
        b = a
        for _ in range(draw(st.integers(1, 3))):
            with np.errstate(over="ignore"):
                b = float(np.nextafter(b, INF))
        b = max(b, a + abs(a) * draw(st.sampled_from([0.0, 2.0**-50, 2.0**-24, 2.0**-9, 2.0**-4])))
    a, b = min(a, b), max(a, b)
    assume(b <= top)
    return a, b


@DRAWS
@given(data=st.data(), dtype=TYPES, key=KEYS)
def test_uniform_stays_inside(data: st.DataObject, dtype: str, key: int) -> None:
    top = largest(dtype)
    a, b = data.draw(intervals(top))
    case = Case(dtype, "uniform", (a, b))
    if b - a > top:
        assert refused(case)
        return
    low, high = uniform_bounds(dtype, a, b)
    got = values(case, key)
    inside(got, low, high)
    if a < b and low < high:
        assert (got < b).all() and (got >= a).all()


@DRAWS
@given(data=st.data(), dtype=TYPES, key=KEYS)
def test_truncated_normal_stays_inside(data: st.DataObject, dtype: str, key: int) -> None:
    top = largest(dtype)
    widest = largest("float64" if dtype == "float64" else "float32")
    a, b = data.draw(intervals(top))
    if data.draw(st.integers(0, 3)) == 0:
        a = -INF
    if data.draw(st.integers(0, 3)) == 0:
        b = INF
    mean = data.draw(st.one_of(numbers(top), numbers(widest), st.just(a), st.just(b)))
    std = abs(data.draw(st.one_of(numbers(8.0), numbers(widest / 64), st.just(0.0))))
    assume(math.isfinite(mean))
    case = Case(dtype, "trunc_normal", (mean, std, a, b))
    got = values(case, key)
    if std == 0:
        low = high = nearest(dtype, min(max(mean, a), b))
        outer = truncation_bounds(dtype, a, b)
        if outer[0] < outer[1]:
            low = high = min(max(low, outer[0]), outer[1])
        else:
            low = high = outer[0]
    else:
        low, high = truncation_bounds(dtype, a, b)
    inside(got, low, high)
    if low < high or low == a:
        assert (got >= a).all() and (got <= b).all()


@DRAWS
@given(data=st.data(), dtype=st.sampled_from([*REAL, *COMPLEX]), key=KEYS)
def test_normal_is_finite(data: st.DataObject, dtype: str, key: int) -> None:
    part = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    top = largest(part)
    widest = largest("float64" if part == "float64" else "float32")
    mean = data.draw(numbers(top))
    std = abs(data.draw(st.one_of(numbers(8.0), numbers(min(top, widest / 16)))))
    case = Case(dtype, "normal", (mean, std))
    tensor = case.fill(case.empty(515), key)
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    assert torch.isfinite(real.double()).all()
    if dtype == part:
        assert torch.isfinite(values(case, key, 1)).all()
    if std == 0:
        assert (real.double() == nearest(part, float(np.float32(mean)) if part in SMALL else mean)
                ).all()  # fmt: skip


# ---- chosen -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("a, b", [(0.0, 1.0), (-1.0, 0.0), (0.5, 1.0), (1.0, 1.5), (-2.0, 3.0)])
def test_uniform_reaches_its_ends_but_never_b(a: float, b: float, dtype: str) -> None:
    low, high = uniform_bounds(dtype, a, b)
    case = Case(dtype, "uniform", (a, b))
    got = case.fill(case.empty(2**20), 11).double()
    inside(got, low, high)
    assert (got < b).all()
    if dtype in SMALL and b != 0:  # towards zero there are too many values
        assert float(got.max()) == high
        # The least value of [0, 1) in half precision takes more words than there are here.
        assert float(got.min()) <= low + (b - a) * 2.0**-15


@pytest.mark.parametrize("dtype", REAL)
def test_equal_ends_are_a_constant(dtype: str) -> None:
    for a in (0.0, -0.0, 0.1, -3.7, largest(dtype), -largest(dtype), 1e-30):
        uniform = Case(dtype, "uniform", (a, a))
        truncated = Case(dtype, "trunc_normal", (0.0, 1.0, a, a))
        for case in (uniform, truncated):
            assert (values(case, 3) == nearest(dtype, a)).all(), case


@pytest.mark.parametrize("dtype", REAL)
def test_zero_std(dtype: str) -> None:
    for mean, a, b in [(0.3, -1.0, 1.0), (-3.0, -1.0, 1.0), (3.0, -1.0, 1.0), (0.3, -INF, INF)]:
        got = values(Case(dtype, "trunc_normal", (mean, 0.0, a, b)), 5)
        assert (got == nearest(dtype, min(max(mean, a), b))).all()
    assert (values(Case(dtype, "normal", (0.25, 0.0)), 5) == 0.25).all()


@pytest.mark.parametrize("dtype", REAL)
def test_negative_zero_counts_as_zero(dtype: str) -> None:
    """In every argument, and no bound or constant is a negative zero."""
    pairs = [
        (("uniform", (-0.0, 1.0)), ("uniform", (0.0, 1.0))),
        (("uniform", (-1.0, -0.0)), ("uniform", (-1.0, 0.0))),
        (("uniform", (-0.0, -0.0)), ("uniform", (0.0, 0.0))),
        (("normal", (-0.0, 1.0)), ("normal", (0.0, 1.0))),
        (("normal", (-0.0, -0.0)), ("normal", (0.0, 0.0))),
        (("trunc_normal", (-0.0, 1.0, -0.0, 2.0)), ("trunc_normal", (0.0, 1.0, 0.0, 2.0))),
        (("trunc_normal", (-0.0, 1.0, -2.0, -0.0)), ("trunc_normal", (0.0, 1.0, -2.0, 0.0))),
        (("trunc_normal", (-0.0, -0.0, -1.0, 1.0)), ("trunc_normal", (0.0, 0.0, -1.0, 1.0))),
    ]
    for (dist, args), (_, plain) in pairs:
        got, want = Case(dtype, dist, args), Case(dtype, dist, plain)
        assert np.array_equal(got.whole(9, 333), want.whole(9, 333)), got
    for dist, args in [("uniform", (-0.0, -0.0)), ("normal", (-0.0, 0.0)),
                       ("trunc_normal", (1.0, 0.0, -1.0, -0.0)),
                       ("trunc_normal", (0.0, 1.0, -1e-60, -0.0))]:  # fmt: skip
        case = Case(dtype, dist, args)
        got = case.fill(case.empty(50), 9)
        assert (got.double() <= 0).all()
        if dtype != "float64":  # which holds 1e-60
            assert not torch.signbit(got.double()).any(), case


@pytest.mark.parametrize("dtype", REAL)
def test_infinite_bounds(dtype: str) -> None:
    for mean, std in [(0.0, 1.0), (5.0, 0.01), (0.0, 1e4), (-1e4, 1.0), (1e4, 1e-3), (0.0, 1e30)]:
        for a, b in [(-INF, INF), (0.0, INF), (-INF, 0.0), (2.0, INF), (-INF, -2.0)]:
            got = values(Case(dtype, "trunc_normal", (mean, std, a, b)), 13, 4001)
            inside(got, *truncation_bounds(dtype, a, b))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_words_at_the_edges(dtype: str) -> None:
    """Many draws from intervals whose ends the transform itself just reaches."""
    intervals = [(0.1, 0.3), (1e-3, 1e-3 + 1e-9), (-0.7, 0.1), (123456.7, 123457.1), (0.0, 1e-38)]
    for a, b in intervals:
        case = Case(dtype, "uniform", (a, b))
        got = values(case, 17, 2**19)
        inside(got, *uniform_bounds(dtype, a, b))
        assert (got < b).all() and (got >= a).all()
        for mean, std in [(0.0, 1.0), (a, b - a), (b, 0.01)]:
            case = Case(dtype, "trunc_normal", (mean, std, a, b))
            got = values(case, 17, 2**17)
            assert (got >= a).all() and (got <= b).all()


@pytest.mark.parametrize("dtype", REAL)
def test_arguments_that_are_errors(dtype: str) -> None:
    top, nan = largest(dtype), math.nan
    widest = largest("float64" if dtype == "float64" else "float32")
    for dist, args in [
        ("uniform", (1.0, 0.5)), ("uniform", (nan, 1.0)), ("uniform", (0.0, nan)),
        ("uniform", (0.0, INF)), ("uniform", (-INF, 0.0)), ("uniform", (-top, top)),
        ("uniform", (0.0, top * 1.5)), ("uniform", (-top * 1.5, 0.0)),
        ("normal", (0.0, -1.0)), ("normal", (0.0, -5e-324)), ("normal", (nan, 1.0)),
        ("normal", (0.0, nan)), ("normal", (INF, 1.0)), ("normal", (0.0, INF)),
        ("normal", (top * 1.5, 1.0)), ("normal", (0.0, widest / 15)),
        ("trunc_normal", (nan, 1.0, -2.0, 2.0)), ("trunc_normal", (0.0, nan, -2.0, 2.0)),
        ("trunc_normal", (0.0, 1.0, nan, 2.0)), ("trunc_normal", (0.0, 1.0, -2.0, nan)),
        ("trunc_normal", (0.0, 1.0, 2.0, -2.0)), ("trunc_normal", (0.0, -1.0, -2.0, 2.0)),
        ("trunc_normal", (INF, 1.0, -2.0, 2.0)), ("trunc_normal", (0.0, INF, -2.0, 2.0)),
        ("trunc_normal", (0.0, widest / 63, -2.0, 2.0)),
        ("trunc_normal", (0.0, 1.0, INF, INF)), ("trunc_normal", (0.0, 1.0, -INF, -INF)),
        ("trunc_normal", (0.0, 1.0, top * 1.5, INF)),
    ]:  # fmt: skip
        assert refused(Case(dtype, dist, args)), args
