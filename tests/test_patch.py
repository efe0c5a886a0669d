"""`fastinit.patch()`: what it reaches, what it leaves alone, and how it is undone.

That fastinit ran is shown by its bits (a keyed draw equals the same fill made directly) and by a
dispatch mode that sees which random kernels ran.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.init import kaiming_uniform_ as early_kaiming_uniform_
from torch.nn.init import trunc_normal_ as early_trunc_normal_
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit
from fastinit import Key

RANDOM_INIT = [
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
]
DICTIONARY = {name: getattr(torch.nn.init, name) for name in RANDOM_INIT}  # as transformers keeps
EXTRA = {"sparse_": (0.3,)}  # arguments without a default


class RandomKernels(TorchDispatchMode):
    """Counts the calls of torch's random kernels and of fastinit's."""

    def __init__(self) -> None:
        super().__init__()
        self.torch: list[str] = []
        self.fastinit: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in func.tags:
            (self.fastinit if func.namespace == "fastinit" else self.torch).append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def only_fastinit() -> Iterator[RandomKernels]:
    """Inside, random kernels of fastinit run and none of torch; the generator is untouched."""
    before = torch.get_rng_state()
    with RandomKernels() as seen:
        yield seen
    assert seen.torch == []
    assert seen.fastinit
    assert torch.equal(torch.get_rng_state(), before)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and bits, NaN included."""
    if (a.dtype, a.shape, a.layout) != (b.dtype, b.shape, b.layout):
        return False
    if a.layout is not torch.strided:
        return torch.equal(a.to_dense(), b.to_dense())
    return torch.equal(
        a.detach().reshape(-1).view(torch.uint8), b.detach().reshape(-1).view(torch.uint8)
    )


def nth(key: int, n: int) -> Key:
    return Key(key).fold_in(n)


def direct(name: str, shape: tuple[int, ...], *args: Any, key: Key | int) -> torch.Tensor:
    return getattr(fastinit, name)(torch.empty(shape), *args, key=key)


def code_objects() -> dict[str, Any]:
    return {
        name: (
            value,
            value.__code__,
            value.__defaults__,
            value.__kwdefaults__,
            value.__closure__,
            dict(vars(value)),
        )
        for name, value in vars(torch.nn.init).items()
        if isinstance(value, types.FunctionType)
    }


PRISTINE = code_objects()  # before any test has patched anything


# What is reached


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


def evaluate(expression: str) -> torch.Tensor:
    image = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    return eval(expression, {"torch": torch, "nn": nn, "image": image})


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


# What torch does itself

REFUSED = [
    "torch.rand()",
    "torch.rand(2.0)",
    "torch.rand(-1)",
    "torch.rand((3,), 2)",
    "torch.rand(3, size=(2,))",
    "torch.rand(3, dtype=torch.int32)",
    "torch.rand(3, layout=torch.sparse_coo)",
    "torch.rand(3, memory_format=torch.contiguous_format)",
    "torch.rand(3, mean=1)",
    "torch.rand(3, dtype=torch.float32, out=torch.empty(3, dtype=torch.float64))",
    "torch.rand(3, out=torch.empty(3, requires_grad=True))",
    "torch.randn(3, generator=1)",
    "torch.randn_like(torch.zeros(3, dtype=torch.int64))",
    "torch.rand_like(torch.eye(3).to_sparse())",
    "torch.rand_like(torch.zeros(3), out=torch.zeros(3))",
    "torch.rand_like()",
    "torch.normal(1.0, 2.0)",
    "torch.normal(1.0, 2.0, 3)",
    "torch.normal(0.0, -1.0, (3,))",
    "torch.normal(torch.zeros(3), -1.0)",
    "torch.normal(torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]))",
    "torch.normal(torch.zeros(3), torch.tensor([1.0, float('nan'), 1.0]))",
    "torch.normal(torch.zeros(3), torch.ones(2))",
    "torch.normal(torch.zeros(3, dtype=torch.int64))",
    "torch.normal(torch.zeros(3), torch.ones(3, dtype=torch.complex64))",
    "torch.normal(torch.zeros(3), 1.0, dtype=torch.float32)",
    "torch.empty(3).normal_(0, -1)",
    "torch.empty(3).normal_(0, 1, None)",
    "torch.empty(3).normal_(0, mean=0)",
    "torch.empty(3).uniform_(a=0)",
    "torch.empty(3).uniform_(2, 1)",
    "torch.empty(3, dtype=torch.int64).uniform_()",
    "torch.empty(1).expand(3).normal_()",
    "torch.empty(3, requires_grad=True).normal_()",
    "torch.empty(3, requires_grad=True).uniform_()",
    "torch.nn.init.normal_(torch.empty(3, dtype=torch.int64))",
    "torch.nn.init.trunc_normal_(torch.empty(3, dtype=torch.complex64))",
    "torch.nn.init.normal_(3)",
    "torch.nn.init.normal_(torch.empty(3), 0, -1)",
    "torch.nn.init.xavier_uniform_(torch.empty(3))",
    "torch.nn.init.sparse_(torch.empty(3), 0.1)",
    "torch.nn.init.normal_(nn.UninitializedParameter())",
    "torch.nn.init.kaiming_normal_(torch.empty(3, 3), nonlinearity='softplus')",
]


@pytest.mark.parametrize("key", [None, 0])
@pytest.mark.parametrize("expression", REFUSED)
def test_refuses_what_torch_refuses(expression: str, key: int | None) -> None:
    with pytest.raises(Exception) as native:
        evaluate(expression)
    with pytest.raises(Exception) as ours, fastinit.patch(key):
        evaluate(expression)
    assert ours.type is native.type
    # The next draw is still the first that succeeded: a refused one does not count.
    with fastinit.patch(0):
        with pytest.raises(native.type):
            evaluate(expression)
        assert same(torch.rand(4), direct("uniform_", (4,), key=nth(0, 0)))


FALLBACKS = [
    "torch.randint(0, 100, (8,))",
    "torch.randperm(20)",
    "torch.empty(9).exponential_()",
    "torch.empty(9).bernoulli_()",
    "nn.functional.dropout(torch.ones(50))",
    "torch.rand(6, dtype=torch.complex32)",
    "torch.empty(6, dtype=torch.complex32).uniform_()",
    "torch.nn.init.uniform_(torch.empty(6, dtype=torch.complex32))",
    "torch.rand(4, out=torch.empty(0))",
    "torch.normal(torch.zeros(3, requires_grad=True), 1.0)",
    "(torch.zeros(5, requires_grad=True) * 1).normal_()",
    "torch.nn.init.normal_(torch.empty(3).as_subclass(Overriding))",
]


class Overriding(torch.Tensor):
    """A subclass that is asked about every call, and passes all of them on."""

    seen: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("expression", FALLBACKS)
def test_what_fastinit_does_not_handle_is_torch_s(expression: str) -> None:
    """Without a key the very bits of torch; with one they are reproducible, and do not count."""

    def run() -> torch.Tensor:
        namespace = {"torch": torch, "nn": nn, "Overriding": Overriding}
        return eval(expression, namespace).detach().as_subclass(torch.Tensor)

    torch.manual_seed(12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, about resizing out=
        native = run()
        after_native = torch.get_rng_state()
        torch.manual_seed(12)
        with fastinit.patch():
            assert same(run(), native)
        assert torch.equal(torch.get_rng_state(), after_native)

        results = []
        for key in (0, 0, 1):
            with fastinit.patch(key):
                results.append(run())
                assert same(torch.rand(4), direct("uniform_", (4,), key=nth(key, 0)))
            assert torch.equal(torch.get_rng_state(), after_native)
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_autograd_s_rules_for_methods() -> None:
    with fastinit.patch(0):
        leaf = torch.zeros(3, requires_grad=True)
        for method in (leaf.normal_, leaf.uniform_):
            with pytest.raises(RuntimeError, match="leaf Variable"):
                method()
        assert torch.equal(leaf, torch.zeros(3))

        inner = leaf * 2
        inner.normal_()
        assert inner.grad_fn is not None
        inner.sum().backward()
        assert torch.equal(leaf.grad, torch.zeros(3))  # the draw does not depend on the leaf

        with torch.no_grad():
            leaf.normal_()
        torch.nn.init.uniform_(leaf)  # never recorded
        assert leaf.is_leaf
        assert leaf.requires_grad
        assert same(leaf, direct("uniform_", (3,), key=nth(0, 1)))

        used = torch.ones(3, requires_grad=True)
        base = torch.ones(3)
        loss = (used * base).sum()
        base.normal_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_functions_that_draw_nothing_stay() -> None:
    with fastinit.patch(0), RandomKernels() as seen:
        torch.nn.init.constant_(torch.empty(2), 3.0)
        torch.nn.init.zeros_(torch.empty(2))
        torch.nn.init.ones_(torch.empty(2))
        torch.nn.init.eye_(torch.empty(2, 2))
        torch.nn.init.dirac_(torch.empty(2, 2, 3))
        assert torch.nn.init.calculate_gain("relu") == 2**0.5
    assert seen.torch == seen.fastinit == []


def test_overrides_of_subclasses_are_honoured() -> None:
    tensor = torch.empty(3).as_subclass(Overriding)
    Overriding.seen.clear()
    with fastinit.patch(0):
        torch.nn.init.kaiming_uniform_(tensor.view(1, 3))
        tensor.normal_()
    assert torch.nn.init.kaiming_uniform_ in Overriding.seen
    assert torch.Tensor.normal_ in Overriding.seen


@pytest.mark.parametrize("outside", [False, True])
def test_other_function_modes_see_what_torch_shows_them(outside: bool) -> None:
    class SkipInit(TorchFunctionMode):
        """As empty-init contexts do: functions of torch.nn.init do nothing."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            return func(*args, **kwargs)

    contexts = [SkipInit(), fastinit.patch(0)]
    with contexts[not outside], contexts[outside]:
        for name in ("uniform_", "normal_", "kaiming_uniform_"):
            assert not getattr(torch.nn.init, name)(torch.zeros(2, 2)).any()
        # torch does not offer these to modes.
        assert torch.nn.init.xavier_normal_(torch.zeros(2, 2)).any()


def test_inside_a_mode_that_passes_calls_on() -> None:
    class Watching(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Watching(), fastinit.patch(0), Watching(), only_fastinit():
        first, second = torch.nn.init.normal_(torch.empty(4)), torch.empty(4).uniform_()
    assert same(first, direct("normal_", (4,), key=nth(0, 0)))
    assert same(second, direct("uniform_", (4,), key=nth(0, 1)))


def test_default_devices() -> None:
    with torch.device("meta"), fastinit.patch(0):
        assert torch.rand(3).is_meta
        assert nn.Linear(2, 2).weight.is_meta
        assert torch.normal(0.0, 1.0, (3,)).device.type == "cpu"  # as without a patch
    with fastinit.patch(0), torch.device("meta"):
        assert torch.randn(3).is_meta
        assert torch.rand(3, device="cpu").device.type == "cpu"
    with fastinit.patch(0):
        torch.set_default_device("meta")
        try:
            assert torch.randn(3).is_meta
        finally:
            torch.set_default_device(None)
        assert same(torch.rand(2), direct("uniform_", (2,), key=nth(0, 1)))
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch itself, for dual
@pytest.mark.parametrize("key", [None, 0])
def test_transforms_are_torch_s(key: int | None) -> None:
    """fastinit's ops have neither batching rules nor forward derivatives."""

    def batched(randomness: str) -> list[torch.Tensor]:
        def each(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (
                x + torch.rand(3),
                torch.randn_like(x),
                torch.nn.init.normal_(x.clone()),
                x.clone().uniform_(),
            )

        return list(torch.func.vmap(each, randomness=randomness)(torch.zeros(2, 3)))

    def dual() -> list[torch.Tensor]:
        with forward_ad.dual_level():
            x = forward_ad.make_dual(torch.zeros(3), torch.ones(3))
            drawn = [torch.normal(x, 1.0), torch.normal(0.0, x + 1), x.clone().normal_()]
            return [t for d in drawn for t in forward_ad.unpack_dual(d) if t is not None]

    with pytest.raises(RuntimeError, match="randomness error mode"), fastinit.patch(key):
        torch.func.vmap(torch.rand_like, randomness="error")(torch.zeros(2, 3))
    for draw in (lambda: batched("different"), dual):
        torch.manual_seed(2)
        native = draw()
        torch.manual_seed(2)
        with fastinit.patch(key):
            first = draw()
            if key is not None:
                assert same(torch.rand(3), direct("uniform_", (3,), key=nth(0, 0)))
        if key is None:
            assert all(map(same, first, native))
        with fastinit.patch(key):
            again = draw()
        assert len(first) == len(native)
        assert key is None or all(map(same, again, first))


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    before = torch.get_rng_state()
    with fastinit.patch(), FakeTensorMode():
        assert nn.Linear(3, 2).weight.shape == (2, 3)
        assert torch.randn(4).normal_().shape == (4,)
        assert torch.normal(torch.zeros(3), torch.ones(2, 1)).shape == (2, 3)
    with FakeTensorMode(), fastinit.patch(1):
        assert torch.randint(3, (4,)).shape == (4,)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_compiling_inside_and_after() -> None:
    """Not a promise that compiled code is patched, but it must not break, nor outlive the patch."""

    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.init.normal_(x) * 2

    compiled = torch.compile(draw, backend="eager")
    with fastinit.patch(0):
        inside = compiled(torch.empty(5))
    assert same(inside, direct("normal_", (5,), key=nth(0, 0)) * 2)
    torch.manual_seed(1)
    after = compiled(torch.empty(5))
    torch.manual_seed(1)
    assert same(after, draw(torch.empty(5)))


# Keys and generators


def test_without_a_key_it_is_the_drop_in() -> None:
    torch.manual_seed(5)
    expected = [
        fastinit.kaiming_uniform_(torch.empty(3, 4), 5**0.5),
        fastinit.normal_(torch.empty(7), 1.0, 2.0),
        fastinit.uniform_(torch.empty(2, 2)),
    ]
    after = torch.get_rng_state()
    torch.manual_seed(5)
    with fastinit.patch(), RandomKernels() as seen:
        drawn = [nn.Linear(4, 3, bias=False).weight, torch.empty(7).normal_(1, 2), torch.rand(2, 2)]
    assert all(map(same, drawn, expected))
    assert torch.equal(torch.get_rng_state(), after)
    assert seen.torch == []


@pytest.mark.parametrize("key", [None, 0])
def test_a_generator_of_the_caller_s_is_used(key: int | None) -> None:
    calls: list[Callable[[torch.Generator], torch.Tensor]] = [
        lambda g: torch.nn.init.trunc_normal_(torch.empty(5), generator=g),
        lambda g: torch.nn.init.kaiming_uniform_(torch.empty(5, 2), generator=g),
        lambda g: torch.nn.init.sparse_(torch.empty(5, 2), 0.5, generator=g),
        lambda g: torch.empty(5).normal_(generator=g),
        lambda g: torch.rand(5, generator=g),
        lambda g: torch.randn(5, generator=g, out=torch.empty(5)),
        lambda g: torch.normal(0.0, 1.0, (5,), generator=g),
        lambda g: torch.normal(torch.zeros(5), 1.0, generator=g),
    ]
    if "generator" in torch.ops.aten.rand_like.overloads():
        calls.append(lambda g: torch.rand_like(torch.empty(5), generator=g))
    before = torch.get_rng_state()
    for call in calls:
        generator = torch.Generator().manual_seed(3)
        states, results = [generator.get_state()], []
        with fastinit.patch(key):
            for _ in range(2):
                results.append(call(generator))
                states.append(generator.get_state())
            generator.manual_seed(3)
            assert same(call(generator), results[0])
            assert key is None or same(torch.rand(3), direct("uniform_", (3,), key=nth(0, 0)))
        assert not same(*results)
        assert not torch.equal(states[0], states[1])
        assert not torch.equal(states[1], states[2])
    if key is not None:
        assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(8)
    with fastinit.patch(key):
        drawn = torch.rand(6, generator=generator)
    assert same(drawn, fastinit.uniform_(torch.empty(6), generator=generator.manual_seed(8)))


def test_draws_are_numbered_in_order() -> None:
    """Composite functions, tensors' normals, empty and meta tensors each count once."""
    draws: list[Callable[[], torch.Tensor]] = [
        lambda: torch.nn.init.kaiming_uniform_(torch.empty(2, 3)),
        lambda: torch.nn.init.orthogonal_(torch.empty(3, 3)),
        lambda: torch.nn.init.sparse_(torch.empty(3, 3), 0.5),
        lambda: torch.nn.init.trunc_normal_(torch.empty(3), std=0.3, a=-0.1),
        lambda: torch.normal(torch.zeros(3), torch.ones(3)),
        lambda: torch.rand(0),
        lambda: torch.randn(3, device="meta"),
        lambda: torch.nn.init.trunc_normal_(torch.empty(3, device="meta")),
        lambda: torch.nn.init.orthogonal_(torch.empty(3, 2, device="meta")),
        lambda: torch.empty(3, dtype=torch.float16).uniform_(),
    ]
    for count in range(len(draws) + 1):
        with fastinit.patch(9):
            for draw in draws[:count]:
                draw()
            assert same(torch.rand(5), direct("uniform_", (5,), key=nth(9, count)))


def test_accepted_keys() -> None:
    expected = direct("uniform_", (3,), key=Key(11).fold_in(0))
    for key in (11, Key(11), torch.tensor(11).item()):
        with fastinit.patch(key=key):
            assert same(torch.rand(3), expected)
    with fastinit.patch(key=Key(2**64 - 1)):
        assert same(torch.rand(3), direct("uniform_", (3,), key=Key(2**64 - 1).fold_in(0)))
    for wrong in (1.5, "0", True, torch.Generator()):
        with pytest.raises(TypeError, match="'key'"):
            fastinit.patch(wrong)
    with pytest.raises(ValueError, match="'key'"):
        fastinit.patch(2**64)


def test_a_key_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = []
    for key in (0, 0, 1):
        with fastinit.patch(key):
            drawn.append((torch.randint(1 << 30, (5,)), torch.rand(5)))
            torch.manual_seed(99)  # what the code inside does to it does not matter either
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    with pytest.raises(ZeroDivisionError), fastinit.patch(0):
        torch.randperm(5)
        1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


def test_own_functions_inside_a_keyed_patch() -> None:
    """They are no draws of the patch: without `key=` the seeded generator decides."""
    before = torch.get_rng_state()

    def build() -> torch.Tensor:
        with fastinit.patch(3):
            first = fastinit.normal_(torch.empty(4))
            assert same(torch.rand(4), direct("uniform_", (4,), key=nth(3, 0)))
            assert same(fastinit.normal_(torch.empty(4), key=1), direct("normal_", (4,), key=1))
            return first

    assert same(build(), build())
    assert torch.equal(torch.get_rng_state(), before)


# Entering and leaving


def test_everything_is_restored() -> None:
    names = set(vars(torch.nn.init))
    for key in (None, 3):
        with fastinit.patch(key), fastinit.patch():
            assert code_objects() != PRISTINE
            assert set(vars(torch.nn.init)) == names
        assert code_objects() == PRISTINE
        with pytest.raises(ValueError, match="mine"), fastinit.patch(key):
            torch.rand(3)
            raise ValueError("mine")
        assert code_objects() == PRISTINE
        assert set(vars(torch.nn.init)) == names
        assert torch._C._len_torch_function_stack() == 0
    with RandomKernels() as seen:
        nn.Linear(3, 3)
        torch.rand(3)
    assert seen.fastinit == []
    assert len(seen.torch) == 3


def test_source_and_signature_stay_readable_inside() -> None:
    import inspect

    outside = inspect.getsource(torch.nn.init.normal_), inspect.signature(torch.nn.init.normal_)
    with fastinit.patch():
        inside = inspect.getsource(torch.nn.init.normal_), inspect.signature(torch.nn.init.normal_)
        assert torch.nn.init.normal_.__code__.co_name == "normal_"
    assert inside == outside


def test_patches_nest() -> None:
    before = torch.get_rng_state()
    with fastinit.patch(0):
        a0 = torch.rand(3)
        with fastinit.patch(1):
            b0 = torch.rand(3)
            r1 = torch.randint(1 << 30, (3,))
            b1 = torch.nn.init.normal_(torch.empty(3))
        a1 = torch.empty(3).normal_()
        r0 = torch.randint(1 << 30, (3,))
        with fastinit.patch():  # from the generator that the outer one has seeded
            free = torch.nn.init.normal_(torch.empty(3))
        a2 = torch.nn.init.uniform_(torch.empty(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(a0, direct("uniform_", (3,), key=nth(0, 0)))
    assert same(b0, direct("uniform_", (3,), key=nth(1, 0)))
    assert same(b1, direct("normal_", (3,), key=nth(1, 1)))
    assert same(a1, direct("normal_", (3,), key=nth(0, 1)))
    assert same(a2, direct("uniform_", (3,), key=nth(0, 2)))
    with fastinit.patch(0):
        assert torch.equal(torch.randint(1 << 30, (3,)), r0)
        assert same(fastinit.normal_(torch.empty(3)), free)
    with fastinit.patch(1):
        assert torch.equal(torch.randint(1 << 30, (3,)), r1)


def test_one_object_entered_again_and_again() -> None:
    patch = fastinit.patch(4)
    expected = direct("uniform_", (3,), key=nth(4, 0))
    with patch as entered:
        assert entered is patch
        assert same(torch.rand(3), expected)
        with patch:
            assert same(torch.rand(3), expected)
            torch.rand(3)
        assert same(torch.rand(3), direct("uniform_", (3,), key=nth(4, 1)))
    with patch:
        assert same(torch.rand(3), expected)
    with pytest.raises(RuntimeError, match="has not entered"):
        patch.__exit__(None, None, None)


def test_left_out_of_order() -> None:
    """Generators and exit stacks may do that: what is left stays in force."""
    before = torch.get_rng_state()
    first, second = fastinit.patch(1), fastinit.patch(2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert same(torch.rand(3), direct("uniform_", (3,), key=nth(2, 0)))
    second.__exit__(None, None, None)
    assert code_objects() == PRISTINE
    assert torch._C._len_torch_function_stack() == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_decorator() -> None:
    @fastinit.patch(key=6)
    def build(depth: int, *, scale: float = 1.0) -> list[torch.Tensor]:
        """Builds."""
        drawn = [torch.nn.init.normal_(torch.empty(3), std=scale)]
        if depth:
            drawn += build(depth - 1, scale=scale)
        return [*drawn, torch.rand(3)]

    assert (build.__name__, build.__doc__) == ("build", "Builds.")
    drawn = build(2, scale=0.5)
    assert len(drawn) == 6
    for i in range(3):  # each call counts from 0, and the outer ones go on after it
        assert same(drawn[i], direct("normal_", (3,), 0.0, 0.5, key=nth(6, 0)))
        assert same(drawn[3 + i], direct("uniform_", (3,), key=nth(6, 1)))
    assert all(map(same, build(2, scale=0.5), drawn))

    with pytest.raises(ZeroDivisionError):
        fastinit.patch()(lambda: 1 / 0)()
    assert torch._C._len_torch_function_stack() == 0

    with pytest.raises(TypeError, match=r"@fastinit\.patch\(\)"):
        fastinit.patch(build)

    def generator_function() -> Iterator[int]:
        yield 1

    async def coroutine_function() -> None:
        pass

    for unsuitable in (generator_function, coroutine_function, nn.Linear):
        with pytest.raises(TypeError, match="cannot decorate"):
            fastinit.patch()(unsuitable)


# Threads


def in_thread(function: Callable[[], Any]) -> Any:
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def test_other_threads_run_torch() -> None:
    def native() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [
            early_trunc_normal_(torch.empty(50), generator=generator),
            torch.nn.init.kaiming_normal_(torch.empty(5, 5), generator=generator),
            torch.nn.init.orthogonal_(torch.empty(5, 5), generator=generator),
            torch.rand(9, generator=generator),
            # fastinit's own fallback ends in the exchanged function.
            fastinit.uniform_(torch.empty(9, dtype=torch.complex64), generator=generator),
        ]

    expected = native()
    with fastinit.patch(0):
        from_thread = in_thread(native)
        patched = native()
        with pytest.raises(RuntimeError, match="has not entered"):
            in_thread(lambda: leaving.__exit__(None, None, None))
        own = in_thread(lambda: fastinit.patch(5)(lambda: torch.rand(3))())
        assert same(torch.rand(3), direct("uniform_", (3,), key=nth(0, 0)))
    assert all(map(same, from_thread, expected))
    assert not any(map(same, patched[:-1], expected))
    assert same(own, direct("uniform_", (3,), key=nth(5, 0)))


leaving = fastinit.patch()


def test_threads_patching_at_once() -> None:
    before = torch.get_rng_state()
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            barrier.wait(60)
            for i in range(150):
                key = number * 1000 + i
                with fastinit.patch(key):
                    weight = torch.nn.init.normal_(torch.empty(3, 4))
                    method = torch.empty(3).uniform_()
                assert same(weight, direct("normal_", (3, 4), key=nth(key, 0)))
                assert same(method, direct("uniform_", (3,), key=nth(key, 1)))
                generator = torch.Generator().manual_seed(i)
                native = torch.nn.init.normal_(torch.empty(20), generator=generator)
                assert same(native, torch.empty(20).normal_(generator=generator.manual_seed(i)))
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert not failures, failures
    assert code_objects() == PRISTINE
    assert torch.equal(torch.get_rng_state(), before)


# Libraries

TIMM_LIKE = """
import torch

def _trunc_normal_(tensor, mean, std, a, b):
    return tensor.fill_(-77.0)

def trunc_normal_(tensor, mean=0., std=1., a=-2., b=2.):
    with torch.no_grad():
        return _trunc_normal_(tensor, mean, std, a, b)

def trunc_normal_tf_(tensor, mean=0., std=1., a=-2., b=2.):
    with torch.no_grad():
        _trunc_normal_(tensor, 0, 1.0, a, b)
        tensor.mul_(std).add_(mean)
    return tensor

def variance_scaling_(tensor, scale=1.0):
    trunc_normal_tf_(tensor, std=scale)
"""


@pytest.fixture
def timm_like(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("timm.layers.weight_init")
    exec(compile(TIMM_LIKE, "timm_like", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_timm_s_truncated_normals(timm_like: types.ModuleType) -> None:
    early, early_tf = timm_like.trunc_normal_, timm_like.trunc_normal_tf_
    codes = [timm_like._trunc_normal_.__code__, early_tf.__code__]
    weight = nn.Parameter(torch.empty(40))
    with fastinit.patch(0), only_fastinit() as seen:
        absolute = early(weight, std=0.02, a=-0.03, b=0.05).detach().clone()
        standardised = early_tf(weight, mean=1.0, std=0.02).detach().clone()
        timm_like.variance_scaling_(weight, 3.0)
    assert len(seen.fastinit) == 3
    assert same(absolute, direct("trunc_normal_", (40,), 0.0, 0.02, -0.03, 0.05, key=nth(0, 0)))
    assert same(standardised, direct("trunc_normal_", (40,), 1.0, 0.02, 0.96, 1.04, key=nth(0, 1)))
    assert same(weight, direct("trunc_normal_", (40,), 0.0, 3.0, -6.0, 6.0, key=nth(0, 2)))
    assert [timm_like._trunc_normal_.__code__, early_tf.__code__] == codes
    assert (early(weight) == -77).all()
    with fastinit.patch(0):
        assert (in_thread(lambda: early(torch.empty(3))) == -77).all()
        assert torch.equal(early_tf(torch.empty(3), mean=1.0, std=-2.0), torch.full((3,), 155.0))
        early_tf(torch.empty(3), 0.5, 0.0, -float("inf"), float("inf"))


def test_timm_imported_inside_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next patch to be entered finds it; until then its tensor methods are reached."""
    module = types.ModuleType("timm.layers.weight_init")
    exec(TIMM_LIKE.replace("fill_(-77.0)", "uniform_(a, b)"), module.__dict__)
    code = module._trunc_normal_.__code__
    with fastinit.patch(0):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        first = module.trunc_normal_(torch.empty(9))
        with fastinit.patch(1):
            second = module.trunc_normal_(torch.empty(9))
    assert same(first, direct("uniform_", (9,), -2.0, 2.0, key=nth(0, 0)))
    assert same(second, direct("trunc_normal_", (9,), key=nth(1, 0)))
    assert module._trunc_normal_.__code__ is code


def test_the_real_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("timm is not installed")
    # Its file alone: importing timm itself would also need torchvision.
    name = "timm.layers.weight_init"
    path = f"{found.submodule_search_locations[0]}/layers/weight_init.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    with fastinit.patch(0), only_fastinit() as seen:
        a = module.trunc_normal_(torch.empty(30), std=0.5)
        b = module.trunc_normal_tf_(torch.empty(30), std=0.5)
        module.lecun_normal_(torch.empty(6, 5))
        module.variance_scaling_(torch.empty(6, 5), distribution="uniform")
        module.variance_scaling_(torch.empty(6, 5), distribution="normal")
        module.init_weight_vit(nn.Linear(4, 4, bias=False), "block")
    assert len(seen.fastinit) == 7
    assert same(a, direct("trunc_normal_", (30,), 0.0, 0.5, -2.0, 2.0, key=nth(0, 0)))
    assert same(b, direct("trunc_normal_", (30,), 0.0, 0.5, -1.0, 1.0, key=nth(0, 1)))


def transformers_config(family: str) -> Any:
    transformers = pytest.importorskip("transformers")
    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "gpt2":
        return transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=8)
    if family == "vit":
        return transformers.ViTConfig(
            **tiny, intermediate_size=32, image_size=8, patch_size=4, num_labels=3
        )
    if family == "clip":
        text = {**tiny, "intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 8}
        vision = {**tiny, "intermediate_size": 32, "image_size": 8, "patch_size": 4}
        return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return transformers.MambaConfig(
        hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=50, time_step_rank=4
    )


@pytest.mark.parametrize("family", ["gpt2", "vit", "clip", "mamba"])
def test_transformers_models(family: str) -> None:
    config = transformers_config(family)
    from transformers import AutoModel

    def build(key: int | None) -> dict[str, torch.Tensor]:
        with fastinit.patch(key):
            return dict(AutoModel.from_config(config).named_parameters())

    with only_fastinit() as seen:
        first = build(0)
    assert len(seen.fastinit) > len(first) // 3
    again, other = build(0), build(1)
    for name, parameter in first.items():
        assert torch.isfinite(parameter).all(), name
        assert same(parameter, again[name]), name
    changed = [name for name, parameter in first.items() if not same(parameter, other[name])]
    assert len(changed) > len(first) // 3
    # Native and patched set the same parameters to constants.
    native = dict(AutoModel.from_config(config).named_parameters())
    for name, parameter in native.items():
        if parameter.unique().numel() == 1:
            assert torch.equal(parameter, first[name]), name

    torch.manual_seed(3)
    drop_in = build(None)
    torch.manual_seed(3)
    assert all(map(same, drop_in.values(), build(None).values()))


def test_transformers_dictionary_and_guard() -> None:
    pytest.importorskip("transformers")
    from transformers import initialization

    with fastinit.patch(0), only_fastinit(), initialization.guard_torch_init_functions():
        a = initialization.trunc_normal_(torch.empty(9), std=2.0)
        b = torch.nn.init.xavier_uniform_(torch.empty(3, 4))
        c = initialization.TORCH_INIT_FUNCTIONS["normal_"](torch.empty(9))
        d = initialization.lecun_normal_(torch.empty(3, 4))
    assert same(a, direct("trunc_normal_", (9,), 0.0, 2.0, key=nth(0, 0)))
    assert same(b, direct("xavier_uniform_", (3, 4), key=nth(0, 1)))
    assert same(c, direct("normal_", (9,), key=nth(0, 2)))
    assert torch.isfinite(d).all()
