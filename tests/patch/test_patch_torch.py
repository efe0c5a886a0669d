"""`fastinit.patch()`: what it leaves to torch.

That fastinit ran is shown by its bits (a keyed draw equals the same fill made directly) and by a
dispatch mode that sees which random kernels ran.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import pytest
import torch
from support.patch_helpers import RandomKernels, direct, evaluate, nth, only_fastinit, same
from torch import nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

import fastinit

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
    """fastinit's ops have neither batching rules nor forward derivatives.

    Its functions know vmap, so those of torch.nn.init are reached there; see below.
    """

    def batched(randomness: str) -> list[torch.Tensor]:
        def each(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (
                x + torch.rand(3),
                torch.randn_like(x),
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


def test_init_functions_inside_vmap() -> None:
    def each(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.init.trunc_normal_(x.clone())

    batched = torch.func.vmap(each, randomness="different")
    with fastinit.patch(0):
        got = batched(torch.zeros(2, 3))
    torch.manual_seed(2)
    with fastinit.patch():
        drawn = batched(torch.zeros(2, 3))
    torch.manual_seed(2)
    key = fastinit.reserve_key("cpu")
    for i in range(2):
        want = fastinit.trunc_normal_(torch.empty(3), key=fastinit.Key(0).fold_in(0).fold_in(i))
        assert same(got[i], want)
        assert same(drawn[i], fastinit.trunc_normal_(torch.empty(3), key=key.fold_in(i)))


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
