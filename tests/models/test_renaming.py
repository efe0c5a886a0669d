"""The argument `rename`: experts and pipeline stages that are shared out by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import nn

import fastinit


class Experts(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 4) for _ in range(count))
        self.norm = nn.LayerNorm(4)


def globally(name: str) -> str:
    """Of the rank that has experts 4 to 5."""
    return re.sub(r"^experts\.(\d)", lambda found: f"experts.{int(found[1]) + 4}", name)


MAPPING = {
    f"experts.{k}.{what}": f"experts.{k + 4}.{what}" for k in (0, 1) for what in ("weight", "bias")
}


@pytest.mark.parametrize("rename", [globally, MAPPING])
def test_the_values_are_those_of_the_global_names(rename: Any) -> None:
    want = dict(fastinit.initialize_(Experts(6), key=3).named_parameters())
    with torch.device("meta"):
        on_meta = Experts(2)
    for model in (
        fastinit.initialize_(Experts(2), key=3, rename=rename),
        fastinit.materialize(on_meta, key=3, rename=rename),
        fastinit.materialize(lambda: Experts(2), key=3, rename=rename),
        fastinit.initialize_(Experts(2), key=3, rename=rename, factory=lambda: Experts(2)),
    ):
        for name, parameter in model.named_parameters():
            assert same_bits(parameter, want[globally(name)]), name


NORMS: dict[str, Callable[[Any], Any]] = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
}


def by_parameters(model: nn.Module) -> dict[str, str]:
    return {name: globally(name) for name, _ in model.named_parameters()}


def by_what_is_computed(model: nn.Module) -> dict[str, str]:
    names = [name for name, _ in model.named_parameters() if "weight" not in name]
    return {n: globally(n) for n in (*names, "experts.0.weight", "experts.1.weight")}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rename", [lambda _: globally, by_parameters, by_what_is_computed])
def test_weights_that_experts_compute(norm: str, rename: Callable[[nn.Module], Any]) -> None:
    def normed(count: int) -> nn.Module:
        model = Experts(count)
        for expert in model.experts:
            NORMS[norm](expert)
        return model

    want = dict(fastinit.initialize_(normed(6), key=3).named_parameters())
    model = normed(2)
    fastinit.initialize_(model, key=3, rename=rename(model))
    for name, parameter in model.named_parameters():
        assert same_bits(parameter, want[globally(name)]), name


def test_names_of_nothing_that_is_computed() -> None:
    model = Experts(2)
    nn.utils.parametrizations.weight_norm(model.experts[0])
    with pytest.raises(ValueError, match=r"there is no parameter or buffer 'experts\.1\.scale'"):
        fastinit.initialize_(model, key=3, rename={"experts.1.scale": "experts.5.scale"})
    clash = {"experts.0.weight": "experts.1.weight"}
    with pytest.raises(ValueError, match=r"one name, 'experts\.1\.weight'"):
        fastinit.initialize_(model, key=3, rename=clash)


def test_rules_and_reports_have_the_names_that_are_here() -> None:
    rules = {"experts.0.weight": nn.init.ones_, "default": None}
    model = fastinit.initialize_(Experts(2), rules, key=3, rename=globally)
    assert (model.experts[0].weight == 1).all()
    rows = {row.name: row.rule for row in fastinit.report(model).parameters}
    assert rows["experts.0.weight"] == "ones_()"
    assert rows["experts.1.weight"] == "kaiming_uniform_"


@pytest.mark.parametrize(
    ("rename", "error", "said"),
    [
        (3, TypeError, "argument 'rename' must be a mapping from names to names, or a callable"),
        (
            lambda name: 1,
            TypeError,
            "argument 'rename' must give names, got 1 for 'experts.0.weight'",
        ),
        (
            {"experts.7.weight": "x"},
            ValueError,
            "there is no parameter or buffer 'experts.7.weight'",
        ),
        (
            {"experts.0.weight": "experts.1.weight"},
            ValueError,
            "gives experts.0.weight and experts.1.weight one name",
        ),
    ],
)
@pytest.mark.parametrize("function", [fastinit.initialize_, fastinit.materialize])
def test_bad_names(
    function: Callable[..., Any], rename: Any, error: type[Exception], said: str
) -> None:
    model: Any = Experts(2)
    before = model.experts[0].weight.detach().clone()
    given = model if function is fastinit.initialize_ else lambda: Experts(2)
    with pytest.raises(error, match=re.escape(said)):
        function(given, key=3, rename=rename)
    assert same_bits(model.experts[0].weight.detach(), before)


def test_a_mapping_leaves_what_it_does_not_name() -> None:
    """Also beside something that looks like what a weight is computed from."""

    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3))
            self.weight_v = nn.Parameter(torch.empty(3))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            nn.init.normal_(self.weight)
            nn.init.normal_(self.weight_v)

    model: Any = nn.ModuleDict({"a": Alike()})
    fastinit.initialize_(model, key=3, rename={"a.weight_v": "b.weight_v"})
    for name, parameter in (("a.weight", model["a"].weight), ("b.weight_v", model["a"].weight_v)):
        want = fastinit.normal_(torch.empty(3), key=fastinit.Key(3).fold_in(name).fold_in(0))
        assert same_bits(parameter.detach(), want), name
