"""One test for each `test_*` of torch's own test/nn/test_init.py, under the same name.

They check the behaviour that those check; the seed is fixed (conftest.py), so a distribution test
that passes once passes always.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from scipy import stats
from support.common import DEVICES
from torch.nn import functional

import fastinit
from fastinit import init

# The chance that a good generator fails, were the seed not fixed.
ALPHA = 1e-4


@pytest.fixture(autouse=True)
def _shapes() -> None:
    random.seed(123)


def zeros(dims: int, low: int, high: int) -> torch.Tensor:
    return torch.zeros([random.randint(low, high) for _ in range(dims)])


def p_value(tensor: torch.Tensor, distribution: stats.distributions.rv_frozen) -> float:
    return stats.kstest(tensor.double().flatten().numpy(), distribution.cdf).pvalue


def is_uniform(tensor: torch.Tensor, a: float, b: float) -> bool:
    return p_value(tensor, stats.uniform(a, b - a)) > ALPHA


def is_normal(tensor: torch.Tensor, mean: float, std: float) -> bool:
    return p_value(tensor, stats.norm(mean, std)) > ALPHA


def is_trunc_normal(tensor: torch.Tensor, mean: float, std: float, a: float, b: float) -> bool:
    frozen = stats.truncnorm((a - mean) / std, (b - mean) / std, loc=mean, scale=std)
    return p_value(tensor, frozen) > ALPHA


def fans(tensor: torch.Tensor) -> tuple[int, int]:
    field = tensor[0, 0].numel()
    return tensor.shape[1] * field, tensor.shape[0] * field


@pytest.mark.parametrize(
    "name",
    [
        "linear",
        *(f"conv{d}d" for d in (1, 2, 3)),
        *(f"conv_transpose{d}d" for d in (1, 2, 3)),
    ],
)
def test_calculate_gain_linear(name):
    assert init.calculate_gain(name) == 1


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("sigmoid", 1),
        ("tanh", 5 / 3),
        ("relu", math.sqrt(2)),
        ("leaky_relu", math.sqrt(2 / (1 + 0.01**2))),
        ("selu", 0.75),
    ],
)
def test_calculate_gain_nonlinear(name, gain):
    assert init.calculate_gain(name) == gain


@pytest.mark.parametrize(("slope", "used"), [(None, 0.01), (0, 0), (0.01, 0.01), (10, 10)])
def test_calculate_gain_leaky_relu(slope, used):
    assert init.calculate_gain("leaky_relu", slope) == math.sqrt(2 / (1 + used**2))


@pytest.mark.parametrize("slope", [True, [1], {"a": "b"}])
def test_calculate_gain_leaky_relu_only_accepts_numbers(slope):
    with pytest.raises(ValueError, match="param"):
        init.calculate_gain("leaky_relu", slope)


@pytest.mark.parametrize("name", ["xy", "relux", "", "a" * 25, None, ["relu"]])
def test_calculate_gain_only_accepts_valid_nonlinearities(name):
    with pytest.raises(ValueError, match="nonlinearity"):
        init.calculate_gain(name)


@pytest.mark.parametrize("dims", [1, 2, 4])
def test_uniform(dims):
    tensor = zeros(dims, *(30, 50) if dims < 4 else (15, 20))
    a = random.uniform(-3, 3)
    b = a + random.uniform(1, 5)
    init.uniform_(tensor, a=a, b=b)
    assert is_uniform(tensor, a, b)
    assert not is_uniform(tensor, b, b + 1), "the test cannot tell another interval"


@pytest.mark.parametrize("dims", [1, 2, 4])
def test_normal(dims):
    tensor = zeros(dims, *(30, 50) if dims < 4 else (15, 20))
    mean, std = random.uniform(-3, 3), random.uniform(1, 5)
    init.normal_(tensor, mean=mean, std=std)
    assert is_normal(tensor, mean, std)
    assert not is_normal(tensor, mean + 2 * std, std), "the test cannot tell another mean"


def test_trunc_normal_generator():
    generator = torch.Generator().manual_seed(42)
    drawn = init.trunc_normal_(torch.empty(5), generator=generator)
    torch.manual_seed(42)
    assert torch.equal(drawn, init.trunc_normal_(torch.empty(5)))
    assert is_trunc_normal(drawn, 0, 1, -2, 2)


@pytest.mark.parametrize("dims", [1, 2, 4])
def test_constant(dims):
    value = random.uniform(1, 10)
    tensor = init.constant_(zeros(dims, 1, 5), value)
    assert torch.equal(tensor, torch.full_like(tensor, value))


@pytest.mark.parametrize("dims", [1, 2, 4])
def test_ones_and_zeros(dims):
    tensor = torch.full_like(zeros(dims, 1, 5), math.nan)
    assert torch.equal(init.ones_(tensor), torch.ones(tensor.shape))
    assert torch.equal(init.zeros_(tensor), torch.zeros(tensor.shape))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (2, 5), (5, 2)])
def test_eye(rows, columns):
    tensor = init.eye_(torch.full((rows, columns), 7.0))
    for i in range(rows):
        for j in range(columns):
            assert tensor[i, j] == (i == j)


@pytest.mark.parametrize("dims", [0, 1, 3])
def test_eye_only_works_on_2d_inputs(dims):
    with pytest.raises(ValueError, match="2 dimensions"):
        init.eye_(zeros(dims, 1, 3))


@pytest.mark.parametrize("dims", [3, 4, 5])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_dirac_properties(dims, groups):
    for _ in range(5):
        per_group, *kernel = (random.randint(1, 5) for _ in range(4))
        inputs = random.randint(1, 5 * groups)
        tensor = torch.randn((per_group * groups, inputs, *kernel)[:dims])
        init.dirac_(tensor, groups)
        expected = min(per_group, inputs) * groups
        assert tensor.count_nonzero() == expected
        assert tensor.sum() == expected


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dirac_identity(dims, groups):
    inputs, per_group, size, kernel = 3, 9 // groups, 5, 3
    data = torch.randn(8, inputs, *[size] * dims)
    weight = init.dirac_(torch.empty(per_group * groups, inputs, *[kernel] * dims), groups)
    result = getattr(functional, f"conv{dims}d")(data, weight)
    inner = data[(slice(None), slice(None), *[slice(1, -1)] * dims)]
    for group in range(groups):
        passed = result[:, per_group * group : per_group * (group + 1)]
        torch.testing.assert_close(passed[:, :inputs], inner)
        assert passed[:, inputs:].count_nonzero() == 0


@pytest.mark.parametrize("dims", [1, 2, 6])
def test_dirac_only_works_on_3_4_5d_inputs(dims):
    with pytest.raises(ValueError, match="3, 4 or 5 dimensions"):
        init.dirac_(zeros(dims, 1, 3))


@pytest.mark.parametrize("dims", [0, 1])
def test_xavier_uniform_errors_on_inputs_smaller_than_2d(dims):
    with pytest.raises(ValueError, match="2 dimensions"):
        init.xavier_uniform_(zeros(dims, 1, 1))


@pytest.mark.parametrize("dims", [0, 1])
def test_xavier_normal_errors_on_inputs_smaller_than_2d(dims):
    with pytest.raises(ValueError, match="2 dimensions"):
        init.xavier_normal_(zeros(dims, 1, 1))


@pytest.mark.parametrize("dims", [2, 4])
@pytest.mark.parametrize("gain", [None, 0.3, 1.7])
def test_xavier_uniform(dims, gain):
    tensor = zeros(dims, 20, 25)
    init.xavier_uniform_(tensor, **({} if gain is None else {"gain": gain}))
    bound = (gain or 1) * math.sqrt(6 / sum(fans(tensor)))
    assert is_uniform(tensor, -bound, bound)


@pytest.mark.parametrize("dims", [2, 4])
@pytest.mark.parametrize("gain", [None, 0.3, 1.7])
def test_xavier_normal(dims, gain):
    tensor = zeros(dims, 20, 25)
    init.xavier_normal_(tensor, **({} if gain is None else {"gain": gain}))
    assert is_normal(tensor, 0, (gain or 1) * math.sqrt(2 / sum(fans(tensor))))


@pytest.mark.parametrize("dims", [0, 1])
def test_kaiming_uniform_errors_on_inputs_smaller_than_2d(dims):
    with pytest.raises(ValueError, match="2 dimensions"):
        init.kaiming_uniform_(zeros(dims, 1, 1))


@pytest.mark.parametrize("dims", [0, 1])
def test_kaiming_normal_errors_on_inputs_smaller_than_2d(dims):
    with pytest.raises(ValueError, match="2 dimensions"):
        init.kaiming_normal_(zeros(dims, 1, 1))


def test_kaiming_uniform_warning_on_0element_tensor():
    with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op"):
        init.kaiming_uniform_(torch.empty(0, 1))


def test_kaiming_normal_warning_on_0element_tensor():
    with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op"):
        init.kaiming_normal_(torch.empty(0, 1))


@pytest.mark.parametrize("dims", [2, 4])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("slope", [None, 0.4, 1.9])
def test_kaiming_uniform(dims, mode, slope):
    tensor = zeros(dims, 20, 25)
    init.kaiming_uniform_(tensor, mode=mode, **({} if slope is None else {"a": slope}))
    fan = fans(tensor)[mode == "fan_out"]
    bound = math.sqrt(6 / ((1 + (slope or 0) ** 2) * fan))
    assert is_uniform(tensor, -bound, bound)


@pytest.mark.parametrize("dims", [2, 4])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("slope", [None, 0.4, 1.9])
def test_kaiming_normal(dims, mode, slope):
    tensor = zeros(dims, 20, 25)
    init.kaiming_normal_(tensor, mode=mode, **({} if slope is None else {"a": slope}))
    fan = fans(tensor)[mode == "fan_out"]
    assert is_normal(tensor, 0, math.sqrt(2 / ((1 + (slope or 0) ** 2) * fan)))


@pytest.mark.parametrize("dims", [1, 3])
def test_sparse_only_works_on_2d_inputs(dims):
    with pytest.raises(ValueError, match="2 dimensions"):
        init.sparse_(zeros(dims, 1, 3), 0.5)


@pytest.mark.parametrize("std", [None, 0.13])
def test_sparse_default_std(std):
    tensor = zeros(2, 30, 35)
    sparsity = random.uniform(0.1, 0.2)
    init.sparse_(tensor, sparsity=sparsity, **({} if std is None else {"std": std}))
    per_column = (tensor == 0).sum(0)
    assert torch.all(per_column == math.ceil(sparsity * tensor.shape[0]))
    assert is_normal(tensor[tensor != 0], 0, std or 0.01)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (20, 2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("gain", [None, 0.3, 1.7])
def test_orthogonal(shape, gain):
    tensor = init.orthogonal_(torch.zeros(shape), **({} if gain is None else {"gain": gain}))
    matrix = tensor.flatten(1)
    product = matrix.t() @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.t()
    expected = torch.eye(len(product)) * (gain or 1.0) ** 2
    torch.testing.assert_close(product, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [n for n in init.__all__ if n + "_" in init.__all__])
def test_deprecation(name):
    arguments = {"constant": (1.0,), "sparse": (0.5,)}.get(name, ())
    tensor = torch.randn(3, 3, 3) if name == "dirac" else torch.randn(3, 3)
    with pytest.warns(FutureWarning, match=f"`fastinit.{name}` is deprecated.*`fastinit.{name}_`"):
        assert getattr(fastinit, name)(tensor, *arguments) is tensor


def assert_within(tensor: torch.Tensor, a: float, b: float) -> None:
    # The bounds as the dtype has them: it may not hold a and b themselves.
    low, high = (torch.tensor(x, dtype=tensor.dtype).item() for x in (a, b))
    assert tensor.min().item() >= low
    assert tensor.max().item() <= high


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dims", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trunc_normal_all_dtypes(device, dims, dtype):
    tensor = zeros(dims, *(30, 50) if dims < 4 else (15, 20)).to(device, dtype)
    mean, std = random.uniform(-3, 3), random.uniform(0.01, 1)
    a, b = random.uniform(mean - 2 * std, mean), random.uniform(mean, mean + 2 * std)
    init.trunc_normal_(tensor, mean=mean, std=std, a=a, b=b)
    assert_within(tensor, a, b)
    assert is_trunc_normal(tensor.cpu(), mean, std, a, b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trunc_normal_low_precision(device, dtype):
    tensor = init.trunc_normal_(torch.empty(10_000, dtype=dtype, device=device), a=-2.0, b=2.0)
    assert_within(tensor, -2, 2)
    assert is_trunc_normal(tensor.cpu(), 0, 1, -2, 2)


# bfloat16 has 65 values in [2, 3]: a test for continuous distributions would see the steps.
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_trunc_normal_narrow_interval(device, dtype):
    tensor = init.trunc_normal_(torch.empty(10_000, dtype=dtype, device=device), a=2.0, b=3.0)
    assert_within(tensor, 2, 3)
    assert is_trunc_normal(tensor.cpu(), 0, 1, 2, 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "least"),
    [
        (torch.float32, 5000),
        (torch.float64, 5000),
        (torch.float16, 3000),
        (torch.bfloat16, 1000),
    ],
)
def test_trunc_normal_unique_values(device, dtype, least):
    tensor = init.trunc_normal_(torch.empty(10_000, dtype=dtype, device=device))
    assert_within(tensor, -2, 2)
    assert tensor.isfinite().all()
    assert tensor.unique().numel() > least


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_trunc_normal_no_boundary_values_small_std(device, dtype):
    tensor = init.trunc_normal_(torch.empty(10_000, dtype=dtype, device=device), std=0.1)
    assert (tensor.abs() == 2).sum() == 0
