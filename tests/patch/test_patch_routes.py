"""`fastinit.patch()`: what it reaches.

That fastinit ran is shown by its bits (a keyed draw equals the same fill made directly) and by a
dispatch mode that sees which random kernels ran.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.patch_helpers import (
    DICTIONARY,
    EXTRA,
    RANDOM_INIT,
    direct,
    evaluate,
    nth,
    only_fastinit,
    same,
)
from torch import nn
from torch.nn.init import kaiming_uniform_ as early_kaiming_uniform_
from torch.nn.init import trunc_normal_ as early_trunc_normal_

import fastinit


@pytest.mark.parametrize("name", RANDOM_INIT)
@pytest.mark.parametrize("route", ["attribute", "dictionary", "partial", "alias"])
def test_init_functions_are_reached(name: str, route: str) -> None:
    args = EXTRA.get(name, ())
    function = getattr(torch.nn.init, name)
    if route == "dictionary":
        function = DICTIONARY[name]
    elif route == "partial":
        function = functools.partial(function)
    elif route == "alias":
        function = getattr(torch.nn.init, name[:-1], None)
        if function is None:
            assert name == "trunc_normal_"  # the only one torch never had under an old name
            return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the aliases are deprecated
        with fastinit.patch(7), only_fastinit():
            first = function(torch.empty(5, 6), *args)
            second = function(torch.empty(5, 6), *args)
    assert same(first, direct(name, (5, 6), *args, key=nth(7, 0)))
    assert same(second, direct(name, (5, 6), *args, key=nth(7, 1)))


def test_names_imported_before_are_reached() -> None:
    weight = nn.Parameter(torch.empty(4, 8))
    with fastinit.patch(key=1), only_fastinit():
        assert early_trunc_normal_(weight, std=0.02, a=-0.04, b=0.04) is weight
        first = weight.detach().clone()
        early_kaiming_uniform_(weight, a=5**0.5)
    assert same(first, direct("trunc_normal_", (4, 8), 0.0, 0.02, -0.04, 0.04, key=nth(1, 0)))
    assert same(weight, direct("kaiming_uniform_", (4, 8), 5**0.5, key=nth(1, 1)))


def test_every_random_function_of_torch_is_exchanged() -> None:
    """A change of a signature in a new torch would silently leave a function to torch."""
    functions = [*DICTIONARY.values(), torch.nn.init._no_grad_trunc_normal_]
    before = [function.__code__ for function in functions]
    with fastinit.patch():
        exchanged = [
            function.__code__ is not code for function, code in zip(functions, before, strict=True)
        ]
        for name in set(torch.nn.init.__all__) - set(RANDOM_INIT):
            assert hasattr(torch.nn.init, name)
    assert all(exchanged)
    assert [function.__code__ for function in functions] == before


def test_keyword_arguments_and_defaults_stay() -> None:
    with fastinit.patch(3):
        first = torch.nn.init.normal_(tensor=torch.empty(9), std=2.0)
        options = {"nonlinearity": "relu", "mode": "FAN_OUT"}
        second = torch.nn.init.kaiming_normal_(torch.empty(3, 4), **options)
        with pytest.raises(TypeError, match="unexpected keyword"):
            torch.nn.init.normal_(torch.empty(2), sigma=1.0)
        with pytest.raises(TypeError, match="missing 1 required"):
            torch.nn.init.sparse_(torch.empty(2, 2))
    assert same(first, direct("normal_", (9,), 0.0, 2.0, key=nth(3, 0)))
    assert same(second, direct("kaiming_normal_", (3, 4), 0, "fan_out", "relu", key=nth(3, 1)))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 5),
    "conv": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv_transpose": lambda: nn.ConvTranspose1d(4, 6, 3),
    "embedding": lambda: nn.Embedding(7, 5, padding_idx=1),
    "embedding_bag": lambda: nn.EmbeddingBag(7, 5),
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
    "lstm": lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True, proj_size=2),
    "attention": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
    "attention_kdim": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 16),
    "adaptive_softmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]),
    "lazy": lambda: _materialised(nn.LazyLinear(5)),
}


def _materialised(module: nn.Module) -> nn.Module:
    module(torch.zeros(2, 4))
    return module


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore:enable_nested")
@pytest.mark.parametrize("name", MODULES)
def test_torch_modules_are_reached(name: str) -> None:
    def build(key: int) -> list[torch.Tensor]:
        with fastinit.patch(key), only_fastinit():
            return [p.detach().clone() for p in MODULES[name]().parameters()]

    first, again, other = build(0), build(0), build(1)
    assert all(map(same, first, again))
    random = [a.unique().numel() > 2 for a in first]
    assert any(random)
    assert all(same(a, b) != r for a, b, r in zip(first, other, random, strict=True))
    assert all(torch.isfinite(p).all() for p in first)


def test_reset_parameters() -> None:
    layer = nn.Linear(4, 3, bias=False)
    with fastinit.patch(5), only_fastinit():
        layer.reset_parameters()
    assert same(layer.weight, direct("kaiming_uniform_", (3, 4), 5**0.5, key=nth(5, 0)))


def test_methods_are_reached() -> None:
    weight = nn.Parameter(torch.empty(3, 5))
    strided = torch.zeros(6, 4)
    with fastinit.patch(2), only_fastinit():
        assert weight.data.normal_(0, 0.5).data_ptr() == weight.data_ptr()
        with torch.no_grad():
            weight[1].uniform_(-2, b := 3)
            strided[::2].t().normal_(std=2, mean=1)
        drawn = torch.empty(8).uniform_(**{"from": 4, "to": 5})
        by_name = torch.Tensor.normal_(torch.empty(4), 3.0)
        half = torch.empty(7, dtype=torch.bfloat16).normal_()
    expected = direct("normal_", (3, 5), 0.0, 0.5, key=nth(2, 0))
    expected[1] = direct("uniform_", (5,), -2.0, b, key=nth(2, 1))
    assert same(weight, expected)
    assert same(strided[::2].t(), direct("normal_", (4, 3), 1.0, 2.0, key=nth(2, 2)))
    assert not strided[1::2].any()
    assert same(drawn, direct("uniform_", (8,), 4.0, 5.0, key=nth(2, 3)))
    assert same(by_name, direct("normal_", (4,), 3.0, key=nth(2, 4)))
    assert same(half, fastinit.normal_(torch.empty(7, dtype=torch.bfloat16), key=nth(2, 5)))


FACTORIES: list[tuple[str, str]] = [
    ("torch.rand(3, 4)", "uniform_"),
    ("torch.rand((3, 4))", "uniform_"),
    ("torch.rand([3, 4], dtype=torch.float64)", "uniform_"),
    ("torch.rand(size=torch.Size([3, 4]), requires_grad=True)", "uniform_"),
    ("torch.rand(())", "uniform_"),
    ("torch.rand(0, 3)", "uniform_"),
    ("torch.rand(5, device='cpu', layout=torch.strided, pin_memory=False)", "uniform_"),
    ("torch.rand(5, generator=None, device=None, dtype=None, layout=None)", "uniform_"),
    ("torch.rand(5, out=torch.empty(5, dtype=torch.float64))", "uniform_"),
    ("torch.rand(5, dtype=torch.complex64)", "uniform_"),
    ("torch.randn(3, 4)", "normal_"),
    ("torch.randn((3, 4), dtype=torch.float16)", "normal_"),
    ("torch.randn(3, 4, dtype=torch.complex64)", "normal_"),
    ("torch.randn(size=(7,), dtype=torch.bfloat16, requires_grad=True)", "normal_"),
    ("torch.randn(5, 2, out=torch.empty(2, 5).t())", "normal_"),
    ("torch.rand_like(image)", "uniform_"),
    ("torch.rand_like(input=image, dtype=torch.float64, requires_grad=True)", "uniform_"),
    ("torch.rand_like(image, memory_format=torch.contiguous_format)", "uniform_"),
    ("torch.rand_like(nn.Parameter(image))", "uniform_"),
    ("torch.randn_like(image, device='cpu', layout=torch.strided)", "normal_"),
    ("torch.randn_like(torch.zeros(3, dtype=torch.int64), dtype=torch.float32)", "normal_"),
    ("torch.normal(0.0, 1.0, (3, 4))", "normal_"),
    ("torch.normal(0, 1, [3, 4], dtype=torch.float64)", "normal_"),
    ("torch.normal(mean=0.0, std=1.0, size=(3, 4), requires_grad=True)", "normal_"),
    ("torch.normal(0.0, 1.0, (6,), out=torch.empty(6))", "normal_"),
    ("torch.normal(torch.zeros(5, dtype=torch.float64))", "normal_"),
    ("torch.normal(torch.zeros(5), 1)", "normal_"),
    ("torch.normal(mean=0.0, std=torch.ones(2, 3, dtype=torch.bfloat16))", "normal_"),
    ("torch.normal(torch.zeros(2, 1), torch.ones(3, dtype=torch.float64))", "normal_"),
    ("torch.normal(image, 1.0)", "normal_"),
    ("torch.normal(torch.tensor(0.0), torch.tensor(1.0), (2, 3))", "normal_"),
    ("torch.normal(torch.zeros(2, 3), 1.0, out=torch.empty(2, 3, dtype=torch.float64))", "normal_"),
    ("torch.normal(torch.zeros(3, dtype=torch.complex64), torch.ones(3))", "normal_"),
]


@pytest.mark.parametrize(("expression", "name"), FACTORIES)
def test_factories_make_what_torch_makes(expression: str, name: str) -> None:
    native = evaluate(expression)
    with fastinit.patch(4), only_fastinit():
        ours = evaluate(expression)
    for attribute in ("dtype", "shape", "device", "layout", "requires_grad", "is_leaf"):
        assert getattr(ours, attribute) == getattr(native, attribute), attribute
    assert ours.stride() == native.stride()
    assert type(ours) is type(native)
    expected = torch.empty(native.shape, dtype=native.dtype)
    assert same(ours, getattr(fastinit, name)(expected, key=nth(4, 0)))


def test_normal_scales_and_shifts_with_tensors() -> None:
    mean, std = torch.tensor([[1.0], [-100.0]]), torch.tensor([0.5, 2.0, 0.0])
    with fastinit.patch(0):
        both = torch.normal(mean, std)
        one = torch.normal(10.0, std)
        numbers = torch.normal(10, 3, (4,))
        aliased = mean.clone()
        assert torch.normal(aliased, 0.0, out=aliased) is aliased
    z = direct("normal_", (2, 3), key=nth(0, 0))
    torch.testing.assert_close(both, z * std + mean)
    torch.testing.assert_close(one, direct("normal_", (3,), key=nth(0, 1)) * std + 10)
    assert same(numbers, direct("normal_", (4,), 10.0, 3.0, key=nth(0, 2)))
    assert torch.equal(aliased, mean)


def test_distributions_module_is_reached() -> None:
    with fastinit.patch(0), only_fastinit():
        sample = torch.distributions.Normal(torch.zeros(3), torch.ones(3)).sample((2,))
    assert same(sample, direct("normal_", (2, 3), key=nth(0, 0)))


@pytest.mark.parametrize("name", ["normal_", "uniform_"])
@pytest.mark.parametrize("road", ["key", "module", "materialize"])
def test_methods_that_others_have_wrapped(
    name: str, road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a profiler does; a mode is told of the wrapper."""
    original, calls = getattr(torch.Tensor, name), []

    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            with torch.no_grad():
                getattr(self.weight, name)()

    def drawn() -> torch.Tensor:
        if road == "materialize":
            return fastinit.materialize(Drawn, key=0).weight.detach()
        module = Drawn()
        with fastinit.patch(0, module=module if road == "module" else None):
            module.reset_parameters()
        return module.weight.detach()

    want = drawn()
    for _ in range(2):  # wrappers come and go

        def wrapper(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, wrapper)
        assert torch.equal(drawn(), want)
    assert calls
    monkeypatch.setattr(torch.Tensor, name, original)
    assert torch.equal(drawn(), want)
