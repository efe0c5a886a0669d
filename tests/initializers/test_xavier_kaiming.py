"""Xavier and Kaiming: fans, gains, modes, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.common import (
    COMPLEX_DTYPES,
    CONSTANT,
    RANDOM,
    REAL_DTYPES,
    fill,
    no_randomness,
    same_bits,
    untouched,
)
from torch import nn

import fastinit

INF, NAN = math.inf, math.nan
EVERY = [*RANDOM, *CONSTANT]
MAX_HALF = 65504.0


# ---- kaiming, xavier -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0, 3)])
@pytest.mark.parametrize("key", [None, 1])
def test_kaiming_of_no_elements_warns_and_returns(name, shape, key):
    tensor = torch.empty(shape)
    with (
        no_randomness(),
        pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op") as record,
    ):
        assert getattr(fastinit, name)(tensor, key=key) is tensor
    assert record[0].filename == __file__


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_kaiming_mode(name):
    function = getattr(fastinit, name)
    for mode in ("fan_in", "fan_out"):
        expected = function(torch.empty(6, 2, 3), mode=mode, key=1)
        assert same_bits(expected, function(torch.empty(6, 2, 3), mode=mode.upper(), key=1))
        assert same_bits(expected, function(torch.empty(6, 2, 3), mode=mode.title(), key=1))
    assert not same_bits(expected, function(torch.empty(6, 2, 3), mode="fan_in", key=1))
    tensor = torch.zeros(6, 2, 3)
    with untouched(tensor), pytest.raises(ValueError, match="'mode' must be 'fan_in' or 'fan_out'"):
        function(tensor, mode="fan_avg")
    for mode in (None, 5):
        with untouched(tensor), pytest.raises(ValueError, match=f"'mode' must be .*, got {mode}"):
            function(tensor, mode=mode)


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
@pytest.mark.parametrize("slope", [True, np.True_, torch.tensor(True), [0.1], "0.1"])
def test_kaiming_slope_must_be_a_number(name, slope):
    tensor = torch.zeros(4, 3)
    with untouched(tensor), pytest.raises(ValueError, match="'param' must be a number"):
        getattr(fastinit, name)(tensor, a=slope)
    getattr(fastinit, name)(tensor, a=slope, nonlinearity="relu")  # not looked at


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_kaiming_nonlinearity(name):
    tensor = torch.zeros(4, 3)
    with untouched(tensor), pytest.raises(ValueError, match="'nonlinearity' must be"):
        getattr(fastinit, name)(tensor, nonlinearity="softmax")
    for nonlinearity in ("linear", "tanh", "relu", "selu"):
        expected = fill("kaiming_normal_", torch.empty(4, 3, dtype=torch.float64), key=1)
        gain = nn.init.calculate_gain(nonlinearity) / nn.init.calculate_gain("leaky_relu", 0)
        scaled = fastinit.kaiming_normal_(
            torch.empty(4, 3, dtype=torch.float64), nonlinearity=nonlinearity, key=1
        )
        torch.testing.assert_close(scaled, expected * gain)


@pytest.mark.parametrize(
    "name", ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"]
)
@pytest.mark.parametrize("shape", [(), (5,)])
def test_fans_need_two_dimensions(name, shape):
    tensor = torch.zeros(shape)
    for key in (None, 1):
        with untouched(tensor), pytest.raises(ValueError, match="at least 2 dimensions"):
            getattr(fastinit, name)(tensor, key=key)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (6, 2, 3, 4), (1, 1), (2, 0, 3)])
def test_fans_are_those_of_torch(shape):
    tensor = torch.empty(shape)
    expected = nn.init._calculate_fan_in_and_fan_out(tensor)
    assert fastinit._calculate_fan_in_and_fan_out(tensor) == expected
    for mode, fan in zip(("fan_in", "FAN_OUT"), expected, strict=True):
        assert fastinit._calculate_correct_fan(tensor, mode) == fan


@pytest.mark.parametrize("dtype", [*REAL_DTYPES, *COMPLEX_DTYPES])
@pytest.mark.parametrize("shape", [(30, 50), (30, 10, 3, 2)])
def test_scaled_fills_are_plain_fills_with_the_bounds_of_torch(shape, dtype):
    """Of complex tensors both parts have these bounds, and |z| this standard deviation."""

    def filled(function, *args, **kwargs):
        return function(torch.empty(shape, dtype=dtype), *args, key=1, **kwargs)

    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    std = 1.5 * math.sqrt(2 / (fan_in + fan_out))
    bound = math.sqrt(3.0) * std
    ours = filled(fastinit.xavier_uniform_, gain=1.5)
    assert same_bits(ours, filled(fastinit.uniform_, -bound, bound))
    ours = filled(fastinit.xavier_normal_, gain=1.5)
    assert same_bits(ours, filled(fastinit.normal_, 0.0, std))
    std = nn.init.calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_out)
    bound = math.sqrt(3.0) * std
    slope = {"a": math.sqrt(5), "mode": "fan_out"}
    ours = filled(fastinit.kaiming_uniform_, **slope)
    assert same_bits(ours, filled(fastinit.uniform_, -bound, bound))
    ours = filled(fastinit.kaiming_normal_, **slope)
    assert same_bits(ours, filled(fastinit.normal_, 0.0, std))
