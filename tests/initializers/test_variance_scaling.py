"""variance_scaling_ and what is made of it, batches of weights, timm's bounds, fans of modules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support.common import (
    COMPLEX_DTYPES,
    REAL_DTYPES,
    elsewhere,
    no_randomness,
    same_bits,
    untouched,
)
from torch import nn

import fastinit
from fastinit import Fans

INF, NAN = math.inf, math.nan
N = 200 * 50 * 10  # elements of the tensor below

# ---- variance scaling ----------------------------------------------------------------------------


def standard_errors(samples: np.ndarray, variance: float) -> float:
    """How far the mean square is from a variance, in its own standard errors."""
    squares = samples**2
    return abs(squares.mean() - variance) / (squares.std() / math.sqrt(squares.size))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
@pytest.mark.parametrize("scale", [1.0, 0.3, 4])
def test_distribution_and_variance(mode, distribution, scale):
    fan = {"fan_in": 500, "fan_out": 2000, "fan_avg": 1250}[mode]
    tensor = torch.empty(200, 50, 10)
    assert fastinit.variance_scaling_(tensor, scale, mode, distribution, key=1) is tensor
    samples = tensor.double().numpy().ravel()
    std = math.sqrt(scale / fan)
    assert standard_errors(samples, std**2) < 4
    expected = {
        "uniform": stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std),
        "normal": stats.norm(scale=std),
        "truncated_normal": stats.truncnorm(-2, 2, scale=std / stats.truncnorm(-2, 2).std()),
    }[distribution]
    assert stats.kstest(samples, expected.cdf).pvalue > 1e-4
    # Without the correction the variance would be 0.774 of what it has to be.
    assert standard_errors(samples, 0.88**2 * std**2) > 10


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_is_the_plain_fill_with_those_arguments(dtype):
    def filled(function, *args, **kwargs):
        return function(torch.empty(20, 30, dtype=dtype), *args, key=1, **kwargs)

    std = math.sqrt(1 / 30)
    wide = std / 0.87962566103423978
    expected = filled(fastinit.trunc_normal_, 0.0, wide, -2 * wide, 2 * wide)
    assert same_bits(filled(fastinit.lecun_normal_), expected)
    assert same_bits(filled(fastinit.variance_scaling_), expected)
    bound = math.sqrt(3.0) * std
    expected = filled(fastinit.uniform_, -bound, bound)
    assert same_bits(filled(fastinit.lecun_uniform_), expected)
    assert same_bits(filled(fastinit.variance_scaling_, distribution="uniform"), expected)
    std = math.sqrt(2.5 / 25)
    expected = filled(fastinit.normal_, 0.0, std)
    assert same_bits(filled(fastinit.variance_scaling_, 2.5, "fan_avg", "normal"), expected)


@pytest.mark.parametrize("dtype", COMPLEX_DTYPES)
def test_of_complex_tensors_each_part_has_half_the_variance(dtype):
    def filled(function, *args, **kwargs):
        return function(torch.empty(20, 30, dtype=dtype), *args, key=1, **kwargs)

    std = math.sqrt(1 / 30)
    bound = math.sqrt(1.5) * std
    expected = filled(fastinit.uniform_, -bound, bound)
    assert same_bits(filled(fastinit.lecun_uniform_), expected)
    expected = filled(fastinit.normal_, 0.0, std)
    assert same_bits(filled(fastinit.variance_scaling_, distribution="normal"), expected)


def test_glorot_and_he_are_cases_of_it():
    shape = (20, 30)
    for ours, other in (
        (("fan_avg", "uniform"), fastinit.xavier_uniform_),
        (("fan_avg", "normal"), fastinit.xavier_normal_),
    ):
        scaled = fastinit.variance_scaling_(torch.empty(shape), 1.0, *ours, key=1)
        torch.testing.assert_close(scaled, other(torch.empty(shape), key=1))
    scaled = fastinit.variance_scaling_(torch.empty(shape), 2.0, "fan_in", "normal", key=1)
    he = fastinit.kaiming_normal_(torch.empty(shape), nonlinearity="relu", key=1)
    torch.testing.assert_close(scaled, he)


@pytest.mark.parametrize(
    ("shape", "dims", "fans"),
    [
        ((7, 5), {}, (5, 7)),
        ((7, 5, 3, 2), {}, (30, 42)),
        ((7, 5), {"in_dims": 0, "out_dims": 1}, (7, 5)),
        ((3, 2, 5, 7), {"in_dims": -2, "out_dims": -1}, (30, 42)),  # JAX's order
        ((7, 2, 5), {"in_dims": (1, 2), "out_dims": 0}, (10, 7)),
        ((4, 7, 5), {"batch_dims": 1}, (5, 7)),
        ((2, 4, 7, 5, 3), {"batch_dims": 2}, (15, 21)),
        ((7, 5, 4), {"batch_dims": [2]}, (5, 7)),
        ((7, 4, 5), {"batch_dims": (-2,)}, (5, 7)),
        ((4, 6), {"in_dims": [], "out_dims": 1}, (4, 24)),
        ((9,), {"in_dims": [], "out_dims": 0}, (1, 9)),
    ],
)
def test_dims(shape, dims, fans):
    fan_in, fan_out = fans
    for mode, fan in (("fan_in", fan_in), ("fan_out", fan_out), ("fan_avg", sum(fans) / 2)):
        ours = fastinit.variance_scaling_(torch.empty(shape), 1.0, mode, "normal", key=1, **dims)
        assert same_bits(ours, fastinit.normal_(torch.empty(shape), 0.0, math.sqrt(1 / fan), key=1))
    uniform = fastinit.lecun_uniform_(torch.empty(shape), key=1, **dims)
    bound = math.sqrt(3.0) * math.sqrt(1 / fan_in)
    assert same_bits(uniform, fastinit.uniform_(torch.empty(shape), -bound, bound, key=1))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"scale": 0}, ValueError, "'scale' must be positive"),
        ({"scale": -1.0}, ValueError, "'scale' must be positive"),
        ({"scale": NAN}, ValueError, "'scale' must be positive"),
        ({"scale": INF}, ValueError, "'scale' must be positive"),
        ({"scale": "1"}, TypeError, "'scale' must be a real number"),
        ({"mode": "fan"}, ValueError, "'mode' must be 'fan_in', 'fan_out' or 'fan_avg', got 'fan'"),
        ({"distribution": "cauchy"}, ValueError, "'distribution' must be .*got 'cauchy'"),
        ({"distribution": ["normal"]}, ValueError, "'distribution' must be .*got .'normal'."),
        (
            {"in_dims": "a"},
            TypeError,
            "'in_dims' must be an integer or a sequence of them, got str",
        ),
        ({"out_dims": (1.0,)}, TypeError, "'out_dims' must be an integer .*, got float"),
        ({"batch_dims": None}, TypeError, "'batch_dims' must be an integer .*, got NoneType"),
        ({"in_dims": 3}, IndexError, "'in_dims' names dimension 3 of a tensor with 3"),
        ({"out_dims": -4}, IndexError, "'out_dims' names dimension -4"),
        ({"in_dims": 0}, ValueError, "name each dimension once at most"),
        ({"in_dims": 1, "out_dims": -2}, ValueError, "name each dimension once at most"),
        ({"batch_dims": [1], "in_dims": 1}, ValueError, "name each dimension once at most"),
        ({"batch_dims": 2}, ValueError, "at least 2 dimensions besides"),
        ({"batch_dims": -1}, ValueError, "must not be negative"),
        ({"key": 1, "generator": torch.Generator()}, ValueError, "exclude each other"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    tensor = torch.zeros(4, 3, 2)
    with untouched(tensor), pytest.raises(error, match=message):
        fastinit.variance_scaling_(tensor, **kwargs)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("function", [fastinit.variance_scaling_, fastinit.lecun_normal_])
@pytest.mark.parametrize("kwargs", [{}, {"key": 1}])
@pytest.mark.parametrize("dtype", [torch.complex32, torch.int32, torch.bool])
def test_other_dtypes_are_refused_by_those_that_can_be(function, kwargs, dtype):
    tensor = torch.zeros(4, 3, dtype=dtype)
    with untouched(tensor), pytest.raises(NotImplementedError, match=rf"{dtype}; .*complex64"):
        function(tensor, **kwargs)


def test_shapes_without_fans():
    for shape in ((), (5,)):
        with pytest.raises(ValueError, match="at least 2 dimensions"):
            fastinit.variance_scaling_(torch.zeros(shape))
    with no_randomness():
        fastinit.variance_scaling_(torch.empty(0, 3))
        fastinit.lecun_normal_(torch.empty(3, 0, device="meta"))
        fastinit.lecun_uniform_(torch.empty(3, 4, device="meta"))


# ---- batches of weights --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_",
                                  "kaiming_normal_"])  # fmt: skip
def test_batch_dims(name):
    """(8, 32, 16): torch takes the 8 for outputs, which makes the fans 512 and 128."""
    function = getattr(fastinit, name)
    batch = function(torch.empty(8, 32, 16), key=1, batch_dims=1)
    # The elements of the batch are those of a flat tensor; its scale is that of one matrix.
    flat = function(torch.empty(8 * 32 * 16 // 16, 16), key=1).reshape(8, 32, 16)
    ratio = (batch / flat).double()
    assert torch.allclose(ratio, ratio.mean())
    expected = math.sqrt((16 + 256) / (16 + 32)) if "xavier" in name else 1.0
    assert math.isclose(ratio.mean(), expected, rel_tol=1e-5)
    if "kaiming" in name:
        out = function(torch.empty(8, 32, 16), mode="fan_out", key=1, batch_dims=1)
        torch.testing.assert_close(out * math.sqrt(32), batch * math.sqrt(16))
    assert same_bits(function(torch.empty(4, 3), key=1, batch_dims=0),
                     function(torch.empty(4, 3), key=1))  # fmt: skip
    tensor = torch.zeros(8, 32)
    with untouched(tensor), pytest.raises(ValueError, match="besides those of the batch"):
        function(tensor, batch_dims=1)
    with untouched(tensor), pytest.raises(ValueError, match="'batch_dims' must not be negative"):
        function(tensor, batch_dims=-1)


@pytest.mark.parametrize("name", ["xavier_normal_", "kaiming_uniform_", "orthogonal_"])
def test_batch_dims_elsewhere(name, monkeypatch):
    """On a device without code of ours: with a key as everywhere, without one refused."""
    tensor, function = torch.zeros(3, 6, 5), getattr(fastinit, name)
    expected = function(torch.zeros(3, 6, 5), key=1, batch_dims=1)
    elsewhere(monkeypatch, tensor)
    with untouched(tensor), pytest.raises(NotImplementedError, match="no argument 'batch_dims'"):
        function(tensor, batch_dims=1)
    assert same_bits(function(tensor, key=1, batch_dims=1), expected)


# ---- timm's truncated normal ---------------------------------------------------------------------


def test_bounds_in_standard_deviations():
    ours = fastinit.trunc_normal_tf_(torch.empty(500), 1.0, 0.5, -1.0, 2.0, key=1)
    assert same_bits(ours, fastinit.trunc_normal_(torch.empty(500), 1.0, 0.5, 0.5, 2.0, key=1))
    default = fastinit.trunc_normal_tf_(torch.empty(500), std=0.1, key=1)
    assert default.abs().max() <= 0.2
    half = fastinit.trunc_normal_tf_(torch.empty(500), 3.0, 2.0, 0.0, INF, key=1)
    assert half.min() >= 3
    for a, b in ((-2.0, 2.0), (-INF, INF), (1.0, 2.0)):
        assert torch.all(fastinit.trunc_normal_tf_(torch.empty(5), 3.0, 0.0, a, b, key=1) == 3)


@pytest.mark.parametrize("arguments", [(0, -1.0), (0, 1.0, 2.0, 1.0), (0, 0.0, 2.0, 1.0), (NAN,)])
def test_bad_bounds(arguments):
    tensor = torch.zeros(5)
    with untouched(tensor), pytest.raises(RuntimeError):
        fastinit.trunc_normal_tf_(tensor, *arguments)


# ---- fans of modules -----------------------------------------------------------------------------

WEIGHT = "weight"
MODULES = [
    (nn.Linear(3, 5), {WEIGHT: (3, 5)}),
    (nn.Bilinear(3, 4, 5), {WEIGHT: (12, 5)}),
    (nn.Conv1d(4, 6, 3), {WEIGHT: (12, 18)}),
    (nn.Conv2d(4, 6, (3, 5), stride=2, padding=1, dilation=2), {WEIGHT: (60, 90)}),
    (nn.Conv3d(4, 6, 2), {WEIGHT: (32, 48)}),
    (nn.Conv2d(8, 12, 3, groups=4), {WEIGHT: (18, 27)}),
    (nn.Conv2d(8, 8, 7, groups=8), {WEIGHT: (49, 49)}),
    (nn.ConvTranspose1d(4, 6, 3), {WEIGHT: (12, 18)}),
    (nn.ConvTranspose2d(8, 12, 3, groups=4), {WEIGHT: (18, 27)}),
    (nn.Embedding(100, 7), {WEIGHT: (1, 7)}),
    (nn.EmbeddingBag(100, 7), {WEIGHT: (1, 7)}),
    (nn.MultiheadAttention(8, 2), {"in_proj_weight": (8, 8), "out_proj.weight": (8, 8)}),
    (
        nn.MultiheadAttention(8, 2, kdim=3, vdim=5),
        {"q_proj_weight": (8, 8), "k_proj_weight": (3, 8), "v_proj_weight": (5, 8),
         "out_proj.weight": (8, 8)},
    ),
    (nn.RNN(3, 7), {"weight_ih_l0": (3, 7), "weight_hh_l0": (7, 7)}),
    (
        nn.GRU(3, 7, num_layers=2, bidirectional=True),
        {f"weight_ih_l{k}{d}": (14 if k else 3, 7) for k in (0, 1) for d in ("", "_reverse")}
        | {f"weight_hh_l{k}{d}": (7, 7) for k in (0, 1) for d in ("", "_reverse")},
    ),
    (
        nn.LSTM(3, 7, proj_size=2),
        {"weight_ih_l0": (3, 7), "weight_hh_l0": (2, 7), "weight_hr_l0": (7, 2)},
    ),
    (nn.LSTMCell(3, 7), {"weight_ih": (3, 7), "weight_hh": (7, 7)}),
    (nn.GRUCell(3, 7), {"weight_ih": (3, 7), "weight_hh": (7, 7)}),
    (nn.LayerNorm(4), {}),
    (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Sequential(nn.Conv1d(5, 2, 1))),
     {"0.weight": (3, 5), "2.0.weight": (5, 2)}),
]  # fmt: skip


@pytest.mark.parametrize(("module", "expected"), MODULES, ids=lambda v: type(v).__name__)
def test_fans(module, expected):
    found = fastinit.fans(module)
    assert found == expected
    assert all(isinstance(value, Fans) for value in found.values())
    names = {name for name, p in module.named_parameters() if p.dim() > 1 and "bias" not in name}
    assert set(found) == names


@pytest.mark.parametrize(
    "module",
    [m for m, _ in MODULES if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))],
    ids=lambda m: type(m).__name__,
)
def test_fans_count_what_is_connected(module):
    """Inputs that one output depends on, outputs that one input reaches, away from the edges."""
    nn.init.ones_(module.weight)
    for stride in ("stride", "dilation", "padding"):
        if hasattr(module, stride):
            setattr(module, stride, (1 if stride != "padding" else 0,) * len(module.kernel_size))
    nd = len(getattr(module, "kernel_size", ()))
    shape = (1, module.weight.shape[1], *(15,) * nd) if nd else (1, module.in_features)
    if nd:
        shape = (1, module.in_channels, *shape[2:])
    x = torch.zeros(shape, requires_grad=True)
    out = module(x)
    middle = (0, 0, *(n // 2 for n in out.shape[2:]))
    out[middle].backward()
    reached = torch.zeros(shape)
    reached[(0, 0, *(n // 2 for n in shape[2:]))] = 1
    fan_out = int((module(reached) - module(torch.zeros(shape))).abs().gt(0.5).sum())
    assert fastinit.fans(module)["weight"] == (int(x.grad.abs().gt(0).sum()), fan_out)


NORMED = {
    "linear": (lambda: nn.Linear(3, 4), "weight"),
    "convolution": (lambda: nn.Conv1d(4, 6, 3), "weight"),
    "lstm": (lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2), "weight_ih_l0"),
    "rnn": (lambda: nn.RNN(3, 4, 2), "weight_hh_l1"),
    "cell": (lambda: nn.GRUCell(3, 4), "weight_ih"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_fans_of_what_is_computed(kind, norm):
    """Are those that it has without that, under the name that it has without that."""
    make, name = NORMED[kind]
    found = fastinit.fans(norm(make(), name))
    assert found == fastinit.fans(make())
    assert [*found] == [n for n, _ in make().named_parameters() if n.startswith("weight")]
