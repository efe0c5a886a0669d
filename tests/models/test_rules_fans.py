"""Rules that scale by fans use those of the module, which shapes do not always tell."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import assert_same, drawn, values
from torch import nn

import fastinit
from fastinit import initialize_

MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 4),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "attention apart": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    "conv": lambda: nn.Conv2d(6, 4, 3),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "depthwise": lambda: nn.Conv1d(4, 8, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(6, 4, (3, 2)),
    "transposed, grouped": lambda: nn.ConvTranspose1d(6, 4, 3, groups=2),
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
    "lstm": lambda: nn.LSTM(4, 6, proj_size=3, bidirectional=True),
    "gru": lambda: nn.GRU(4, 6),
    "cell": lambda: nn.LSTMCell(4, 6),
}
SCALES: dict[str, tuple[Any, Callable[[int, int], float]]] = {
    "xavier_uniform_": (fastinit.xavier_uniform_, lambda i, o: 2 / (i + o)),
    "xavier_normal_": (fastinit.xavier_normal_, lambda i, o: 2 / (i + o)),
    "kaiming_normal_": (fastinit.kaiming_normal_, lambda i, o: 2 / i),
    "kaiming fan_out": (
        functools.partial(fastinit.kaiming_uniform_, mode="fan_out", nonlinearity="linear"),
        lambda i, o: 1 / o,
    ),
    "lecun_normal_": (fastinit.lecun_normal_, lambda i, o: 1 / i),
    "lecun_uniform_": (fastinit.lecun_uniform_, lambda i, o: 1 / i),
    "variance_scaling_": (
        functools.partial(fastinit.variance_scaling_, scale=3.0, mode="fan_avg"),
        lambda i, o: 6 / (i + o),
    ),
    "torch's": (torch.nn.init.xavier_normal_, lambda i, o: 2 / (i + o)),
    "torch's, partial": (
        functools.partial(torch.nn.init.kaiming_uniform_, a=1.0),
        lambda i, o: 1 / i,
    ),
}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("scale", SCALES)
def test_the_fans_are_the_module_s(module: str, scale: str) -> None:
    initialiser, variance = SCALES[scale]
    made = MODULES[module]()
    initialize_(made, {1: nn.init.zeros_, "default": initialiser}, key=3)
    rows = {row.name: row for row in fastinit.report(made).parameters}
    fans = fastinit.fans(made)
    assert fans
    for name, (fan_in, fan_out) in fans.items():
        expected = rows[name].expected
        assert expected is not None, name
        assert expected.std == pytest.approx(math.sqrt(variance(fan_in, fan_out)), rel=1e-6), name
        assert rows[name].flags == (), name


@pytest.mark.parametrize("module", ["attention", "grouped", "lstm", "bilinear"])
def test_the_bits_are_those_of_the_tensor_as_it_is(module: str) -> None:
    made = MODULES[module]()
    initialize_(made, {1: nn.init.zeros_, "default": fastinit.xavier_uniform_}, key=3)
    for name, (fan_in, fan_out) in fastinit.fans(made).items():
        bound = math.sqrt(3) * (1.0 * math.sqrt(2.0 / (fan_in + fan_out)))
        weight = made.get_parameter(name)
        expected = fastinit.uniform_(torch.empty(weight.shape), -bound, bound, key=drawn(name))
        assert same_bits(weight.data, expected), name


@pytest.mark.parametrize("module", MODULES)
def test_materialize_gives_the_same(module: str) -> None:
    rules = {1: nn.init.zeros_, "default": fastinit.xavier_normal_}
    expected = values(initialize_(MODULES[module](), rules, key=3))
    with torch.device("meta"):
        bare = MODULES[module]()
    assert_same(values(fastinit.materialize(bare, rules=rules, key=3)), expected)
    made = fastinit.materialize(MODULES[module], rules=rules, key=3)
    assert_same(values(made), expected)


def test_a_transposed_weight_is_filled_as_it_connects() -> None:
    made = nn.ConvTranspose2d(6, 4, 3, bias=False)
    initialize_(made, {"default": fastinit.kaiming_normal_}, key=3)
    expected = fastinit.kaiming_normal_(torch.empty(4, 6, 3, 3), key=drawn("weight"))
    assert same_bits(made.weight.data, expected.transpose(0, 1))


@pytest.mark.parametrize(
    "initialiser",
    [
        functools.partial(fastinit.xavier_uniform_, batch_dims=1),
        lambda w: fastinit.xavier_uniform_(w),
    ],
)
def test_what_says_its_own_dimensions_is_left_alone(initialiser: Any) -> None:
    """So is a function of one's own, which is given the tensor as it is."""
    made = nn.ConvTranspose2d(6, 4, 3, bias=False)
    initialize_(made, {"default": initialiser}, key=3)
    expected = torch.empty(6, 4, 3, 3)
    options = getattr(initialiser, "keywords", {})
    fastinit.xavier_uniform_(expected, key=drawn("weight"), **options)
    assert same_bits(made.weight.data, expected)


def test_layout_in_memory_does_not_matter() -> None:
    for make in (lambda: nn.Conv2d(6, 4, 3, groups=2), lambda: nn.ConvTranspose2d(6, 4, 3)):
        rules = {1: nn.init.zeros_, "default": fastinit.xavier_uniform_}
        expected = values(initialize_(make(), rules, key=3))
        other = make().to(memory_format=torch.channels_last)
        assert_same(values(initialize_(other, rules, key=3)), expected)


def test_a_shard_is_left_to_its_shape() -> None:
    made = nn.MultiheadAttention(8, 2, bias=False)
    made.in_proj_weight = nn.Parameter(torch.empty(12, 8))
    initialize_(made, {"default": fastinit.xavier_uniform_}, key=3)
    expected = fastinit.xavier_uniform_(torch.empty(12, 8), key=drawn("in_proj_weight"))
    assert same_bits(made.in_proj_weight.data, expected)


def test_a_rule_may_return_the_shard_that_it_has_filled() -> None:
    layer = nn.Linear(8, 3, bias=False)

    def rule(weight: torch.Tensor) -> torch.Tensor:
        return fastinit.kaiming_uniform_(fastinit.shard(weight, (12, 8), (3, 0)))

    fastinit.initialize_(layer, {"weight": rule}, key=0)
    whole = fastinit.Key(0).fold_in("weight").fold_in(0)
    want = fastinit.kaiming_uniform_(torch.empty(12, 8), key=whole)[3:6]
    assert torch.equal(layer.weight.data, want)
