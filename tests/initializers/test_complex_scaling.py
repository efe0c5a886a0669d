"""Variance scaling of complex tensors: the stated E|z|**2, from twice as many reals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from support.common import no_randomness, same_bits
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fastinit
from fastinit import Key
from fastinit.initializers.variance_scaling import _TRUNCATED_STD, Distribution

DISTRIBUTIONS: list[Distribution] = ["uniform", "normal", "truncated_normal"]
COMPLEX = [torch.complex64, torch.complex128]
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda z: z[0, :4, :6],
    "transposed": lambda z: z[0, :6, :4].T,
    "sliced": lambda z: z[1, ::2, ::3][:4, :6],
    "permuted": lambda z: z.permute(1, 2, 0)[:4, :6, 1],
    "conj": lambda z: z[0, :4, :6].conj(),
    "conj transposed": lambda z: z[0, :6, :4].mH,
    "negative": lambda z: torch._neg_view(z[0, :4, :6]),
    "negative conj": lambda z: torch._neg_view(z[0, ::2, ::3][:4, :6].conj()),
}


def block() -> Tensor:
    return torch.full((3, 20, 20), complex(7, 8), dtype=torch.complex64)


def parts(z: Tensor) -> Tensor:
    return torch.view_as_real(z.resolve_conj().resolve_neg())


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("scale", "mode", "fan"), [(1.0, "fan_in", 300), (2.5, "fan_avg", 350)])
def test_variance_is_what_is_stated(distribution, dtype, scale, mode, fan):
    z = fastinit.variance_scaling_(
        torch.empty(400, 300, dtype=dtype), scale, mode, distribution, key=11
    )
    squares = (z.abs().double() ** 2).flatten()
    error = squares.std().item() / math.sqrt(squares.numel())
    score = (squares.mean().item() - scale / fan) / error
    assert 2 * stats.norm.sf(abs(score)) > 1e-4
    for part in (z.real, z.imag):
        ratio = part.double().var(correction=0).item() * 2 * fan / scale
        assert ratio == pytest.approx(1, abs=0.02)
    correlation = torch.corrcoef(parts(z).reshape(-1, 2).T.double())[0, 1].item()
    assert abs(correlation) < 4 / math.sqrt(z.numel())


@pytest.mark.parametrize("dtype", COMPLEX)
def test_lecun_is_variance_scaling(dtype):
    for function, distribution in (
        (fastinit.lecun_uniform_, "uniform"),
        (fastinit.lecun_normal_, "truncated_normal"),
    ):
        z = function(torch.empty(20, 30, dtype=dtype), key=1)
        want = fastinit.variance_scaling_(
            torch.empty(20, 30, dtype=dtype), 1.0, "fan_in", distribution, key=1
        )
        assert same_bits(parts(z), parts(want))


def test_truncated_parts_stay_within_two_of_their_deviations():
    z = fastinit.lecun_normal_(torch.empty(400, 300, dtype=torch.complex64), key=1)
    std = math.sqrt(1 / 300) / _TRUNCATED_STD  # of the untruncated z
    assert 0.999 * math.sqrt(2) * std < parts(z).abs().max() <= math.sqrt(2) * std * (1 + 1e-7)
    assert z.abs().max() <= 2 * std * (1 + 1e-6)
    p = stats.kstest(parts(z).flatten() * math.sqrt(2) / std, stats.truncnorm(-2, 2).cdf).pvalue
    assert p > 1e-4


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_words_are_those_of_twice_as_many_reals(distribution, dtype):
    z = fastinit.variance_scaling_(
        torch.empty(7, 5, 3, dtype=dtype), 1.3, "fan_out", distribution, key=5
    )
    real = torch.empty(7, 5, 3, 2, dtype=z.real.dtype)
    # The fan is 21, and each part has half the variance.
    fastinit.variance_scaling_(
        real,
        1.3 / 2,
        "fan_out",
        distribution,
        key=5,
        out_dims=(0, 2),
        in_dims=(),
        batch_dims=[1, 3],
    )
    assert torch.allclose(parts(z), real, rtol=1e-6)
    std = math.sqrt(1.3 / 21 / 2)
    if distribution == "truncated_normal":
        std = math.sqrt(1.3 / 21) / _TRUNCATED_STD / math.sqrt(2)
        fastinit.trunc_normal_(real, 0.0, std, -2 * std, 2 * std, key=5)
        assert same_bits(parts(z), real)


# ---- every tensor --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", VIEWS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_layouts(distribution, layout):
    base = block()
    z = VIEWS[layout](base)
    assert z.shape == (4, 6)
    untouched = base.clone()
    with no_randomness():
        assert fastinit.variance_scaling_(z, distribution=distribution, key=3) is z
    want = torch.empty(4, 6, dtype=torch.complex64)
    fastinit.variance_scaling_(want, distribution=distribution, key=3)
    assert torch.equal(z.resolve_conj().resolve_neg(), want)
    assert (base != untouched).sum() == 24


def test_generators():
    generator, other = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    z = fastinit.lecun_normal_(torch.empty(4, 6, dtype=torch.complex64), generator)
    key = fastinit.reserve_key("cpu", other)
    want = fastinit.lecun_normal_(torch.empty(4, 6, dtype=torch.complex64), key=key)
    assert same_bits(parts(z), parts(want))
    assert torch.equal(generator.get_state(), other.get_state())


def test_leaf_and_version():
    leaf = torch.zeros(4, 6, dtype=torch.complex64, requires_grad=True)
    before = leaf._version
    fastinit.lecun_normal_(leaf, key=1)
    assert leaf.is_leaf
    assert leaf.grad_fn is None
    assert leaf._version > before
    with torch.inference_mode():
        inside = fastinit.lecun_normal_(torch.empty(4, 6, dtype=torch.complex64), key=1)
    assert same_bits(parts(leaf.detach()), parts(inside.clone()))
    with pytest.raises(RuntimeError, match="inference"):
        fastinit.lecun_normal_(inside, key=2)
    assert same_bits(parts(leaf.detach()), parts(inside.clone()))


@pytest.mark.parametrize("conj", [False, True])
def test_meta_and_fake(conj):
    with no_randomness():
        z = torch.empty(4, 6, dtype=torch.complex64, device="meta")
        fastinit.lecun_normal_(z.conj() if conj else z)
        with FakeTensorMode():
            z = torch.empty(4, 6, dtype=torch.complex64)
            fastinit.lecun_normal_(z.conj() if conj else z)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "conj"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_compiled(distribution, backend, layout):
    def fill(z: Tensor) -> Tensor:
        return fastinit.variance_scaling_(z, distribution=distribution, key=3)

    torch._dynamo.reset()
    z = VIEWS[layout](block())
    torch.compile(fill, backend=backend, fullgraph=True)(z)
    assert same_bits(parts(z), parts(fill(torch.empty(4, 6, dtype=torch.complex64))))


def test_models():
    def built() -> nn.Module:
        return nn.Linear(6, 4, bias=False, dtype=torch.complex64)

    rules = {"default": fastinit.lecun_normal_}
    key = Key(3).fold_in("weight").fold_in(0)
    want = fastinit.lecun_normal_(torch.empty(4, 6, dtype=torch.complex64), key=key)
    for module in (
        fastinit.initialize_(built(), rules, key=3),
        fastinit.materialize(built, rules=rules, key=3),
    ):
        assert same_bits(parts(module.weight.detach()), parts(want))
    with fastinit.batch():
        z = fastinit.lecun_normal_(torch.empty(4, 6, dtype=torch.complex64), key=key)
    assert same_bits(parts(z), parts(want))


@pytest.mark.parametrize("function", [fastinit.trunc_normal_, fastinit.trunc_normal_tf_])
@pytest.mark.parametrize("given", [{}, {"key": 1}])
def test_truncated_normals_with_bounds_stay_real(function, given):
    z = torch.full((3,), complex(7, 8), dtype=torch.complex64)
    with no_randomness(), pytest.raises(NotImplementedError, match="argument 'tensor' has dtype"):
        function(z, **given)
    assert (z == complex(7, 8)).all()


@pytest.mark.parametrize(
    "function",
    [
        fastinit.normal_,
        fastinit.uniform_,
        fastinit.xavier_normal_,
        fastinit.xavier_uniform_,
        fastinit.lecun_normal_,
        fastinit.lecun_uniform_,
        lambda tensor: fastinit.constant_(tensor, 3.0),
        lambda tensor: fastinit.sparse_(tensor, 0.5),
    ],
)
def test_report_expects_what_complex_draws_give(function):
    module = nn.Linear(64, 64, bias=False, dtype=torch.complex64)
    fastinit.initialize_(module, {"default": function}, key=1)
    assert fastinit.report(module).flags == {}


def test_report_of_a_constant_that_is_none():
    module = fastinit.initialize_(nn.Linear(4, 4), {"default": nn.init.zeros_}, key=1)
    module.weight.data[0, 0] = 3.0
    (flags,) = fastinit.report(module).flags.values()
    assert any("instead of 0" in flag for flag in flags)
