"""`report`: expected beside measured, each flag, the forward pass, table, dict and picture."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import fastinit
from fastinit import initialize_, materialize, report
from fastinit._models.history import Write, history_of
from fastinit._report.moments import expected, measure


def flags(module: nn.Module, name: str = "weight") -> str:
    return "; ".join(report(module).flags.get(name, ()))


def ruled(rule: Any, module: nn.Module | None = None) -> nn.Module:
    return initialize_(module or nn.Linear(64, 64, bias=False), {"default": rule}, key=3)


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 5), (3, 1500, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_measured(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if dtype is not torch.float32 and math.prod(shape) > 100:
        shape = (10, 9)
    tensor = fastinit.normal_(torch.empty(shape, dtype=dtype), key=1)
    got = measure(tensor.mT if tensor.dim() > 1 else tensor)
    assert got is not None
    values = (torch.view_as_real(tensor) if dtype.is_complex else tensor).double().numpy()
    assert got.mean == pytest.approx(values.mean(), abs=1e-12)
    assert got.std == pytest.approx(values.std(), abs=1e-12)
    assert (got.low, got.high) == (values.min(), values.max())
    assert measure(torch.empty(0)) is None
    assert measure(torch.empty(3, device="meta")) is None


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0, 1, -2, 2),
        (0, 0.02, -2, 2),
        (1, 2, 0, 9),
        (0, 1, 3, 5),
        (0, 1, -9, -8),
        (0, 1, 20, 40),
        (5, 1, -1, 0),
        (0, 1, -math.inf, 1),
        (0, 1, -0.01, 0.02),
        (0, 1, 100, 200),
        (0, 1, -200, -100),
        (1, 0.01, -2, 0),
        (0, 1, -math.inf, -30),
    ],
)
def test_moments_of_truncated_normals(mean: float, std: float, a: float, b: float) -> None:
    write = Write("trunc_normal_", (mean, std, a, b), "trunc_normal_", 9, True)
    found = expected([write], torch.empty(9))
    assert found is not None
    got = found.moments
    assert (got.low, got.high) == (a, b)
    alpha, beta = (a - mean) / std, (b - mean) / std
    peak = min(max(0.0, alpha), beta)
    x = np.linspace(max(alpha, peak - 45), min(beta, peak + 45), 2_000_001)
    weight = np.exp(stats.norm.logpdf(x) - stats.norm.logpdf(x).max())
    middle = (weight * x).sum() / weight.sum()
    spread = math.sqrt((weight * (x - middle) ** 2).sum() / weight.sum())
    assert got.mean == pytest.approx(mean + std * middle, abs=2e-4 * std)
    assert got.std == pytest.approx(std * spread, rel=2e-3)
    fourth = (weight * (x - middle) ** 4).sum() / weight.sum()
    assert found.fourth == pytest.approx(std**4 * fourth, rel=1e-2)


@pytest.mark.parametrize(
    "rule",
    [
        fastinit.uniform_,
        functools.partial(fastinit.normal_, mean=2.0, std=0.1),
        functools.partial(fastinit.trunc_normal_, std=0.5, a=-0.5, b=1.0),
        functools.partial(fastinit.trunc_normal_, mean=1.0, std=0.0),
        nn.init.kaiming_uniform_,
        nn.init.xavier_normal_,
        functools.partial(nn.init.orthogonal_, gain=2.0),
        fastinit.orthogonal_,
        functools.partial(fastinit.sparse_, sparsity=0.4, std=0.3),
        functools.partial(nn.init.sparse_, sparsity=0.4, std=0.3),
        functools.partial(nn.init.constant_, val=0.3),
    ],
)
def test_what_is_as_expected_has_no_flags(rule: Any) -> None:
    module = ruled(rule)
    (row,) = report(module).parameters
    assert row.flags == ()
    assert row.expected is not None
    assert row.measured is not None
    assert row.expected.std == pytest.approx(row.measured.std, rel=0.1)
    assert row.shape == (64, 64)
    assert row.dtype == "float32"
    assert row.name == "weight"
    assert row.rule.startswith(getattr(rule, "func", rule).__name__)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (64, 4, 3, 3), (8, 4, 3, 3)])
def test_what_is_expected_of_orthogonal_matrices(shape: tuple[int, ...]) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.empty(shape))
    (row,) = report(ruled(functools.partial(fastinit.orthogonal_, gain=2.0), module)).parameters
    assert row.flags == ()
    assert row.expected is not None
    assert row.measured is not None
    square = row.measured.std**2 + row.measured.mean**2  # of which the gain tells all
    assert row.expected.std == pytest.approx(math.sqrt(square), rel=1e-5)


def test_parts_are_weighed() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(64, 64))

        def reset_parameters(self) -> None:
            nn.init.normal_(self.weight, std=2.0)
            nn.init.zeros_(self.weight[:32])
            nn.init.normal_(self.weight[32:48], mean=5.0)

    (row,) = report(initialize_(Parts(), key=1)).parameters
    assert row.expected is not None
    assert row.measured is not None
    # 32 rows of the first are left in the arithmetic, then 16 of those
    assert row.expected.mean == pytest.approx(16 * 5 / 64)
    assert row.rule == "normal_, constant_"
    unknown = ruled(lambda w: fastinit.normal_(w).abs_())
    (row,) = report(unknown).parameters
    assert row.expected is None


def _on_zeros() -> nn.Parameter:
    weight = torch.zeros(8, 8)
    weight.diagonal().fill_(-1.0)
    return nn.Parameter(weight)


def test_what_is_written_in_part_is_not_expected_of_the_rest() -> None:
    module = materialize(lambda: nn.ParameterList([_on_zeros()]), key=1)
    (row,) = report(module).parameters
    assert row.expected is None
    assert row.flags == ()

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(64, 64))
            with torch.no_grad():
                self.weight[16:].fill_(1.0)
                self.weight[:16].zero_()

    (row,) = report(materialize(Halves, key=1)).parameters
    assert row.expected is not None
    assert row.expected.mean == 0.75
    assert row.flags == ()


def test_each_flag() -> None:
    with torch.device("meta"):
        assert flags(nn.Linear(3, 3)) == "never written"
    module = nn.Module()
    module.weight = nn.Parameter(torch.empty(3, device="meta"))
    materialize(module, key=1, allow_uninitialized="weight")
    assert flags(module).startswith("never written")

    assert flags(ruled(lambda w: fastinit.normal_(nn.init.zeros_(w)))) == "written twice"
    assert flags(ruled(lambda w: [fastinit.normal_(w) for _ in range(3)])) == "written 3 times"
    tight = functools.partial(fastinit.trunc_normal_, std=0.02)
    assert flags(ruled(tight)) == "truncation inactive (bounds beyond 10 std)"
    half = functools.partial(fastinit.trunc_normal_, std=0.02, a=-0.04)
    assert flags(ruled(half)) == ""

    shard = nn.Linear(64, 64, bias=False)
    shard.weight = nn.Parameter(torch.empty(32, 64))
    assert flags(ruled(fastinit.xavier_normal_, shard)) == "fan computed from a shard"
    assert flags(ruled(fastinit.normal_, shard)) == ""
    for conv in (nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(4, 8, 3, groups=2)):
        assert flags(initialize_(conv, key=1)) == ""
    conv.weight = nn.Parameter(torch.empty(4, 2, 3, 3))
    assert flags(initialize_(conv, key=1)) == "fan computed from a shard"

    module = ruled(fastinit.normal_)
    with torch.no_grad():
        module.weight.mul_(2)
    assert flags(module) == "changed since"
    module = ruled(fastinit.normal_)
    module.weight.data.mul_(1.2)
    assert flags(module).startswith("std off by more than chance (+")
    module.weight.data.add_(1.0)
    assert "mean off by more than chance" in flags(module)
    module.weight.data.zero_()
    assert flags(module) == "constant where random was expected"
    module.weight.data.fill_(float("nan"))
    assert "not finite" in flags(module)

    plain = nn.Linear(3, 3)
    assert report(plain).flags == {}
    nn.init.zeros_(plain.weight)
    assert flags(plain) == "constant where random was expected"


@pytest.mark.parametrize(("errors", "off"), [(-7, True), (-5, False), (5, False), (7, True)])
def test_what_is_off_by_more_than_six_standard_errors(errors: float, off: bool) -> None:
    module = ruled(functools.partial(fastinit.normal_, mean=3.0, std=0.5))
    drawn = module.weight.detach().double()
    n, drawn = drawn.numel(), (drawn - drawn.mean()) / drawn.std(correction=0)
    module.weight.data.copy_(3.0 + 0.5 * (1 + errors / math.sqrt(2 * n)) * drawn)
    assert flags(module).startswith("std off by more than chance") is off
    assert (flags(module) == "") is not off
    module.weight.data.copy_(3.0 + 0.5 * (errors / math.sqrt(n) + drawn))
    assert flags(module) == ("mean off by more than chance" if off else "")


@pytest.mark.parametrize(
    ("low", "high", "flagged"),
    [(-9.9, 9.9, False), (-10.1, 10.1, True), (-9.9, 10.1, False), (-10.1, 9.9, False)],
)
def test_bounds_beyond_ten_standard_deviations(low: float, high: float, flagged: bool) -> None:
    rule = functools.partial(fastinit.trunc_normal_, mean=1.0, std=0.1)
    found = flags(ruled(functools.partial(rule, a=1 + 0.1 * low, b=1 + 0.1 * high)))
    assert found == ("truncation inactive (bounds beyond 10 std)" if flagged else "")


def test_broken_ties() -> None:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    module[1].weight = module[0].weight
    initialize_(module, key=1)
    assert report(module).flags == {}
    module[1].weight = nn.Parameter(module[1].weight.detach().clone())
    assert report(module).flags["0.weight"] == ("tie broken",)


def test_ties_that_transformers_declares() -> None:
    pytest.importorskip("transformers")
    from support.model_zoo import transformers_factory

    model = materialize(transformers_factory("gpt2"), key=1)
    assert not any("tie" in flag for found in report(model).flags.values() for flag in found)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    assert "tie broken" in report(model).flags["lm_head.weight"]


_COMPLEX = torch.tensor([[1 + 2j, 3 - 4j], [0j, 1j]])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
        torch.eye(3).to_mkldnn(),
        _COMPLEX.conj(),
        _COMPLEX.conj().imag,
    ],
    ids=["coo", "csr", "mkldnn", "conjugate", "negative"],
)
def test_every_layout_is_measured(tensor: torch.Tensor) -> None:
    module = nn.Module()
    for name in ("one", "same"):
        module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    rows = report(module).parameters
    dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
    plain = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
    for row in rows:
        assert row.measured is not None
        assert row.measured.mean == pytest.approx(plain.double().mean().item())
        assert row.measured.std == pytest.approx(plain.double().std(correction=0).item())
        assert (row.measured.low, row.measured.high) == (plain.min().item(), plain.max().item())


def test_what_torch_cannot_convert_is_not_measured() -> None:
    kind = getattr(torch, "float4_e2m1fn_x2", None)
    if kind is None:
        pytest.skip("this torch has no such dtype")
    module = nn.Module()
    packed = torch.zeros(3, dtype=torch.uint8).view(kind)
    module.register_parameter("packed", nn.Parameter(packed, requires_grad=False))
    assert report(module).parameters[0].measured is None


def test_lazy_modules_have_to_be_called_before() -> None:
    module = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias of lazy modules have no shape"):
        report(module)
    module(torch.ones(2, 5))
    assert len(report(module).parameters) == 4


def test_table_dict_and_picture(tmp_path: Path) -> None:
    module = initialize_(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), key=1)
    found = report(module, torch.ones(2, 8))
    lines = str(found).splitlines()
    assert lines[0].split()[:4] == ["parameter", "shape", "dtype", "rule"]
    assert "0.weight" in lines[2]
    assert "8×8" in lines[2]
    assert "ReLU" in str(found)
    assert repr(found) == str(found)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["parameters"][0]["name"] == "0.weight"
    assert data["parameters"][0]["expected"]["high"] == pytest.approx(1 / math.sqrt(8))
    assert data["layers"][1]["kind"] == "ReLU"
    assert str(report(nn.ReLU())).count("\n") == 1
    pytest.importorskip("matplotlib")
    for name, what in (("a.png", found), ("b.svg", report(module)), ("c.png", report(nn.ReLU()))):
        what.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_matplotlib_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="matplotlib"):
        report(nn.Linear(2, 2)).plot(tmp_path / "a.png")


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="'module'"):
        report(torch.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("on_meta", [False, True])
def test_what_is_skipped_without_values_was_never_written(on_meta: bool) -> None:
    with torch.device("meta" if on_meta else "cpu"):
        made = nn.Linear(4, 4)

    def make() -> nn.Module:
        layer = nn.Linear(4, 4)
        layer.weight = nn.Parameter(torch.empty(4, 4))
        return layer

    found = report(materialize(made if on_meta else make, key=3, skip="weight")).flags
    assert "never written" in found["weight"]
    assert "bias" not in found
    assert report(initialize_(nn.Linear(4, 4), key=3, skip="weight")).flags == {}


class Parts(nn.Embedding):
    """A few elements are far larger than the others."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0, 0.001)
        with torch.no_grad():
            self.weight[:1].normal_(0, 1)


MIXTURES: list[tuple[Callable[[], nn.Module], Any]] = [
    (lambda: Parts(1000, 16), None),
    (lambda: nn.Linear(100, 200, bias=False), {"*": lambda t: nn.init.sparse_(t, 0.99)}),
    (lambda: nn.Linear(100, 200, bias=False), {"*": lambda t: nn.init.sparse_(t, 0.9)}),
    (lambda: nn.Linear(40, 60, bias=False), {"*": nn.init.uniform_}),
    (
        lambda: nn.Linear(40, 60, bias=False),
        {"*": functools.partial(fastinit.trunc_normal_, a=-100.0, b=-10.0)},
    ),
]


@pytest.mark.filterwarnings("ignore:mean is more than 2 std from:UserWarning")
@pytest.mark.parametrize(("make", "rules"), MIXTURES)
def test_what_chance_does_to_mixtures(make: Callable[[], nn.Module], rules: Any) -> None:
    """Six standard errors of what is expected, which for mixtures are more than a normal's."""
    for key in range(40):
        assert fastinit.report(fastinit.initialize_(make(), rules, key=key)).flags == {}


@pytest.mark.filterwarnings("ignore:mean is more than 2 std from:UserWarning")
@pytest.mark.parametrize(("make", "rules"), MIXTURES)
def test_the_standard_error_of_mixtures(make: Callable[[], nn.Module], rules: Any) -> None:
    """What many draws have, or more: the parts here are of fixed sizes."""
    stds = []
    for key in range(200):
        (weight,) = fastinit.initialize_(make(), rules, key=key).parameters()
        stds.append(float(weight.detach().double().std(correction=0)))
    module = fastinit.initialize_(make(), rules, key=0)
    history = history_of(module, "weight")
    assert history is not None
    known = expected(history.writes, module.weight)
    assert known is not None
    ratio = known.std_error(weight.numel()) / float(np.std(stds))
    assert 0.8 < ratio < 2.0, ratio
