"""Samples against the distributions they are said to come from, under fixed keys.

Every p-value must reach statistics_helpers.ALPHA = 1e-6. What is tested on how many draws stands in
sample_checks.py; `make mutants` shows that spoilt samples fail. Kolmogorov-Smirnov on 2²¹ draws,
moments and tails on 5·10⁷ (normal: 2.7·10⁸ and 5·10⁹).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special
from support import sample_checks as checks
from support import statistics_helpers as st
from support.sample_checks import Interval
from support.statistics_helpers import require

import fastinit

INF = math.inf
# In units of σ, with other means and scales among them.
INTERVALS: dict[str, Interval] = {
    "(−2, 2)": (0.0, 1.0, -2.0, 2.0),
    "(3, 5)": (0.0, 1.0, 3.0, 5.0),
    "(8, 9)": (0.0, 1.0, 8.0, 9.0),
    "(−6, 6)": (0.0, 1.0, -6.0, 6.0),
    "(0, ∞)": (0.0, 1.0, 0.0, INF),
    "(−1e-9, 2e-9)": (0.0, 1.0, -1e-9, 2e-9),
    "(−5, −3)": (0.0, 1.0, -5.0, -3.0),
    "(−9, −8)": (0.0, 1.0, -9.0, -8.0),
    "(−∞, 0)": (0.0, 1.0, -INF, 0.0),
    "(−2e-9, 1e-9)": (0.0, 1.0, -2e-9, 1e-9),
    "(20, ∞)": (0.0, 1.0, 20.0, INF),
    "(40, ∞)": (0.0, 1.0, 40.0, INF),
    "(−∞, −35)": (0.0, 1.0, -INF, -35.0),
    "(1.4, 1.9)": (0.0, 1.0, 1.4, 1.9),
    "(−0.3, 2.5)": (0.0, 1.0, -0.3, 2.5),
    "(−2, 2) of σ = 0.02": (0.0, 0.02, -0.04, 0.04),
    "(1, 3) about −2 of σ = 0.5": (-2.0, 0.5, -1.5, -0.5),
}


def key_of(*names: object) -> int:
    """A key of its own for every test: distributions under one key share their words."""
    return int(fastinit.Key(20).fold_in(" ".join(map(str, names))))


@pytest.mark.parametrize("name", checks.NORMAL_CHECKS)
def test_normal(name: str) -> None:
    draw = checks.stream("normal", 0.0, 1.0, key=key_of("normal", name))
    require(checks.NORMAL_CHECKS[name](draw))


@pytest.mark.parametrize("name", checks.UNIFORM_CHECKS)
def test_uniform(name: str) -> None:
    draw = checks.stream("uniform", 0.0, 1.0, key=key_of("uniform", name))
    require(checks.UNIFORM_CHECKS[name](draw))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", checks.TRUNCATED_CHECKS)
@pytest.mark.parametrize("interval", INTERVALS)
def test_truncated_normal(interval: str, name: str, dtype: str) -> None:
    case = INTERVALS[interval]
    key = key_of("trunc_normal", interval, name, dtype)
    draw = checks.stream("trunc_normal", *case, key=key, dtype=dtype)
    require(checks.TRUNCATED_CHECKS[name](draw, case))


@pytest.mark.parametrize("mean, std", [(0.0, 0.02), (-3.0, 0.5), (1e5, 1e-2), (0.0, 1e-40)])
def test_scaled_normals(mean: float, std: float) -> None:
    """Location and scale, as far as float32 is fine enough; float64 everywhere."""
    dtypes = ["float32", "float64"] if abs(mean) < 100 * std and std > 1e-30 else ["float64"]
    for dtype in dtypes:
        draw = checks.stream("normal", mean, std, key=key_of(mean, std, dtype), dtype=dtype)
        x = (draw(0, 2**20).astype(np.float64) - mean) / std
        require({"KS": st.ks(x, special.ndtr)})


@pytest.mark.parametrize("a, b", [(-1e-3, 1e-3), (-0.3, 0.7), (0.0, 1e30), (100.0, 101.0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaled_uniforms(a: float, b: float, dtype: str) -> None:
    draw = checks.stream("uniform", a, b, key=key_of(a, b, dtype), dtype=dtype)
    x = draw(0, 2**20).astype(np.float64)
    assert x.min() >= a and x.max() < b
    require({"KS": st.ks_unit((x - a) / (b - a))})


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_normal(dtype: torch.dtype) -> None:
    x = torch.empty(2**20, dtype=dtype)
    fastinit.normal_(x, 0.0, 2.0, key=key_of(dtype))
    parts = torch.view_as_real(x).double().numpy() / math.sqrt(2.0)
    real, imaginary = parts.T
    report = {"real": st.ks(real, special.ndtr), "imaginary": st.ks(imaginary, special.ndtr)}
    require(report | st.pair(real, imaginary, "parts"))


@pytest.mark.parametrize("shape", [(1500, 700), (256, 64, 8, 8)])
def test_variance_scaling(shape: tuple[int, ...]) -> None:
    """Once through composition: the scales that the fans give."""
    receptive = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * receptive, shape[0] * receptive
    gain = math.sqrt(2.0)
    scales: dict[Callable[..., torch.Tensor], float] = {
        fastinit.kaiming_uniform_: gain / math.sqrt(fan_in),
        fastinit.kaiming_normal_: gain / math.sqrt(fan_in),
        fastinit.xavier_uniform_: math.sqrt(2.0 / (fan_in + fan_out)),
        fastinit.xavier_normal_: math.sqrt(2.0 / (fan_in + fan_out)),
    }
    for function, std in scales.items():
        name = function.__name__
        x = function(torch.empty(shape), key=key_of(name, shape)).double().numpy() / std
        assert x.size >= 10**6
        if "uniform" in name:
            require({name: st.ks_unit(x / (2 * math.sqrt(3.0)) + 0.5)})
        else:
            require({name: st.ks(x, special.ndtr)})


def test_drawn_from_a_generator() -> None:
    """Successive calls without a key: as good as one stream."""
    generator = torch.Generator().manual_seed(4)
    calls = [fastinit.normal_(torch.empty(2**10), generator=generator) for _ in range(2**10)]
    x = torch.stack(calls).numpy()
    report = {"KS": st.ks(x, special.ndtr)} | st.lags(x, (1, 2, 4, 2**10, 2**11))
    report |= st.pair(x[:-1], x[1:], "neighbouring calls")
    require(report | st.within_blocks(x))
