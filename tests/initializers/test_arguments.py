"""What a user of torch.nn.init expects of arguments: which are fine, which are refused."""

from __future__ import annotations

import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from support.common import (
    CONSTANT,
    OTHER_DTYPES,
    RANDOM,
    REAL_DTYPES,
    fill,
    same_bits,
    untouched,
)
from torch import nn

import fastinit

INF, NAN = math.inf, math.nan
EVERY = [*RANDOM, *CONSTANT]
MAX_HALF = 65504.0


# ---- bad arguments -------------------------------------------------------------------------------

BAD = [
    ("uniform_", {"a": 1.0, "b": 0.0}, "a"),
    ("uniform_", {"a": NAN}, "a"),
    ("uniform_", {"b": NAN}, "b"),
    ("uniform_", {"a": -INF}, "a"),
    ("uniform_", {"b": INF}, "b"),
    ("uniform_", {"a": -1e39, "b": 0.0}, "a"),
    ("uniform_", {"b": 1e39}, "b"),
    ("uniform_", {"a": -3e38, "b": 3e38}, "a"),
    ("normal_", {"std": -1.0}, "std"),
    ("normal_", {"std": NAN}, "std"),
    ("normal_", {"std": INF}, "std"),
    ("normal_", {"std": 1e39}, "std"),
    ("normal_", {"mean": NAN}, "mean"),
    ("normal_", {"mean": -INF}, "mean"),
    ("normal_", {"mean": 1e39}, "mean"),
    ("trunc_normal_", {"a": 1.0, "b": 0.0}, "a"),
    ("trunc_normal_", {"a": NAN}, "a"),
    ("trunc_normal_", {"b": NAN}, "b"),
    ("trunc_normal_", {"mean": NAN}, "mean"),
    ("trunc_normal_", {"mean": INF, "b": INF}, "mean"),
    ("trunc_normal_", {"std": NAN}, "std"),
    ("trunc_normal_", {"std": INF}, "std"),
    ("trunc_normal_", {"std": -1.0}, "std"),
    ("xavier_uniform_", {"gain": NAN}, "[ab]"),
    ("xavier_normal_", {"gain": -1.0}, "std"),
    ("xavier_normal_", {"gain": INF}, "std"),
    ("kaiming_uniform_", {"a": NAN}, "[ab]"),
    ("kaiming_normal_", {"a": NAN}, "std"),
    ("sparse_", {"sparsity": 0.5, "std": -1.0}, "std"),
    ("sparse_", {"sparsity": 0.5, "std": NAN}, "std"),
]


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize(("name", "arguments", "named"), BAD)
@pytest.mark.parametrize("keyed", [False, True])
def test_bad_scalars(name, arguments, named, keyed):
    tensor = torch.full((4, 3), 0.5)
    with untouched(tensor), pytest.raises(RuntimeError, match=rf"\b{named}\b"):
        getattr(fastinit, name)(tensor, **arguments, key=1 if keyed else None)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_scalars_on_tensors_without_memory(device):
    for shape in ((0, 3), (2, 3)) if device == "meta" else ((0, 3),):
        with pytest.raises(RuntimeError, match="std"):
            fastinit.normal_(torch.empty(shape, device=device), std=-1.0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("uniform_", {"a": 0.0, "b": 1e5}),
        ("uniform_", {"a": -1e5, "b": 0.0}),
        ("uniform_", {"a": -6e4, "b": 6e4}),
    ],
)
def test_ranges_the_dtype_cannot_hold(name, arguments):
    tensor = torch.zeros(4, 3, dtype=torch.float16)
    with untouched(tensor), pytest.raises(RuntimeError, match="Half"):
        getattr(fastinit, name)(tensor, **arguments)
    with pytest.raises(RuntimeError):  # as torch does
        getattr(nn.init, name)(tensor, **arguments)
    getattr(fastinit, name)(tensor.float(), **arguments)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("value", ["1", b"1", None, [1.0], torch.ones(2), 1j, torch.tensor(1j)])
def test_scalars_of_the_wrong_type(name, value):
    parameters = list(inspect.signature(getattr(fastinit, name)).parameters)[1:-2]
    for parameter in set(parameters) & {"a", "b", "mean", "std", "gain", "sparsity"}:
        expected: type[Exception] | tuple[type[Exception], ...] = TypeError
        if name.startswith("kaiming"):  # a slope that is no number
            if value is None:
                continue  # means the default slope
            expected = (TypeError, ValueError)
        arguments = {"sparsity": 0.3} if name == "sparse_" else {}
        arguments[parameter] = value
        tensor = torch.zeros(4, 3)
        with untouched(tensor), pytest.raises(expected):
            getattr(fastinit, name)(tensor, **arguments)


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("keyed", [False, True])
def test_integer_tensors(name, dtype, keyed):
    tensor = torch.zeros(4, 3, dtype=dtype)
    with untouched(tensor), pytest.raises(NotImplementedError):
        fill(name, tensor, key=1 if keyed else None)


@pytest.mark.parametrize("name", RANDOM)
def test_self_overlapping_tensors(name):
    tensor = torch.zeros(1, 3).expand(4, 3)
    before = tensor.clone()
    for keyed in (None, 1):
        if name == "orthogonal_" and keyed is None:
            continue  # refused at the end, when the generator has moved
        with pytest.raises(RuntimeError, match="single memory location"):
            fill(name, tensor, key=keyed)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("key", [None, 1])
def test_what_is_no_tensor(name, key):
    with pytest.raises(AttributeError if key is None else TypeError):
        fill(name, [[1.0, 2.0]], key=key)


# ---- arguments that are fine ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("value", [0.3, -1.0, 0.0, -0.0])
def test_degenerate_distributions_are_constants(dtype, value):
    expected = torch.full((4, 3), value + 0.0, dtype=torch.float64).to(dtype)  # +0.0, not -0.0
    for tensor in (
        fastinit.uniform_(torch.empty(4, 3, dtype=dtype), value, value),
        fastinit.normal_(torch.empty(4, 3, dtype=dtype), value, 0.0),
        fastinit.trunc_normal_(torch.empty(4, 3, dtype=dtype), value, 0.0),
    ):
        assert same_bits(tensor, expected)


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize(
    ("mean", "a", "b", "value"),
    [(0.0, -2.0, 2.0, 0.0), (5.0, -2.0, 2.0, 2.0), (-5.0, -2.0, 2.0, -2.0), (1.0, 3.0, INF, 3.0)],
)
def test_trunc_normal_without_deviation_is_the_clamped_mean(mean, a, b, value):
    tensor = fastinit.trunc_normal_(torch.empty(9), mean, 0.0, a, b)
    assert torch.equal(tensor, torch.full((9,), value))


@pytest.mark.parametrize(("a", "b"), [(-INF, INF), (-INF, 0.5), (-0.5, INF), (1.0, INF)])
def test_infinite_truncation_bounds(a, b):
    tensor = fastinit.trunc_normal_(torch.empty(1000), a=a, b=b)
    assert tensor.isfinite().all()
    assert tensor.min() >= a
    assert tensor.max() <= b
    assert tensor.unique().numel() > 900


SCALARS = [
    np.float64,
    np.float32,
    np.float16,
    torch.tensor,
    lambda x: torch.tensor(x, dtype=torch.float64, requires_grad=True),
    lambda x: torch.tensor([x], dtype=torch.float64),
    np.array,
]


@pytest.mark.parametrize("convert", SCALARS)
@pytest.mark.parametrize("name", list(RANDOM))
def test_scalars_may_be_tensors_or_numpy_scalars(name, convert):
    arguments = {
        "uniform_": {"a": -0.5, "b": 1.25},
        "normal_": {"mean": 0.5, "std": 2.0},
        "trunc_normal_": {"mean": 0.5, "std": 2.0, "a": -1.0, "b": 0.25},
        "xavier_uniform_": {"gain": 1.5},
        "xavier_normal_": {"gain": 1.5},
        "kaiming_uniform_": {"a": 0.25},
        "kaiming_normal_": {"a": 0.25},
        "orthogonal_": {"gain": 1.5},
        "sparse_": {"sparsity": 0.25, "std": 2.0},
    }[name]
    converted = {parameter: convert(value) for parameter, value in arguments.items()}
    function = getattr(fastinit, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = function(torch.empty(8, 3), **converted, key=2)
    assert same_bits(tensor, function(torch.empty(8, 3), **arguments, key=2))


def test_integers_are_scalars():
    tensor = fastinit.uniform_(torch.empty(9), 1, 3, key=2)
    assert same_bits(tensor, fastinit.uniform_(torch.empty(9), 1.0, 3.0, key=2))
    tensor = fastinit.uniform_(torch.empty(9), np.int64(1), torch.tensor(3), key=2)
    assert same_bits(tensor, fastinit.uniform_(torch.empty(9), 1.0, 3.0, key=2))


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_"])
def test_integers_beyond_doubles(name):
    with untouched(tensor := torch.empty(3)), pytest.raises(OverflowError):
        getattr(fastinit, name)(tensor, 10**400)


@pytest.mark.parametrize("name", [*RANDOM, "constant_"])
def test_default_dtype_and_device_do_not_matter(name):
    plain = fill(name, torch.empty(6, 5), **({"key": 1} if name in RANDOM else {}))
    tensor = torch.zeros(6, 5)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            fill(name, tensor, **({"key": 1} if name in RANDOM else {}))
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_bits(tensor, plain)


# ---- trunc_normal_ -------------------------------------------------------------------------------


def test_truncation_bounds_are_absolute():
    tensor = fastinit.trunc_normal_(torch.empty(10_000), mean=10.0, std=3.0, a=9.0, b=10.5)
    assert tensor.min() >= 9.0
    assert tensor.max() <= 10.5
    assert tensor.max() - tensor.min() > 1.49


@pytest.mark.parametrize(
    ("mean", "std", "warned"),
    [(0.0, 1.0, False), (4.0, 1.0, False), (4.1, 1.0, True), (-4.1, 1.0, True), (2.3, 0.1, True)],
)
def test_trunc_normal_warns_of_a_mean_far_outside(mean, std, warned):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        tensor = fastinit.trunc_normal_(torch.empty(100), mean=mean, std=std)
    assert tensor.abs().max() <= 2
    assert [w.category for w in record] == [UserWarning] * warned
    for warning in record:
        assert "mean is more than 2 std from [a, b]" in str(warning.message)
        assert warning.filename == __file__


# ---- rounding, saturation, bounds ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_dtypes_round_the_float32_value(name, dtype):
    single = fill(name, torch.empty(50_000), key=6)
    short = fill(name, torch.empty(50_000, dtype=dtype), key=6)
    rounded = single.to(dtype)
    if name == "uniform_":  # 1 is not in [0, 1)
        below_one = torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))
        rounded = torch.minimum(rounded, below_one)
    assert same_bits(short, rounded)


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_uniform_never_returns_its_upper_bound(dtype):
    for a, b in ((0.0, 1.0), (-1.0, 0.0), (1.0, 1.5), (-2.0, -1.5)):
        tensor = fastinit.uniform_(torch.empty(200_000, dtype=dtype), a, b, key=6).double()
        assert tensor.min() >= a
        assert tensor.max() < b


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_normal_saturates(dtype):
    largest = torch.finfo(dtype).max
    tensor = fastinit.normal_(torch.empty(1000, dtype=dtype), 0.0, largest, key=6).double()
    assert tensor.isfinite().all()
    assert tensor.max() == largest
    assert tensor.min() == -largest


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize(("a", "b"), [(-0.3, 0.7), (3.0, 5.0), (1.0, 1.0001), (-1e-9, 2e-9)])
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_trunc_normal_never_leaves_its_bounds(dtype, a, b):
    tensor = fastinit.trunc_normal_(torch.empty(100_000, dtype=dtype), a=a, b=b, key=6).double()
    low, high = (torch.tensor(x, dtype=torch.float64).to(dtype).double() for x in (a, b))
    assert tensor.isfinite().all()
    assert tensor.min() >= low
    assert tensor.max() <= high
