"""Parametrised, normalised and pruned weights: initialisers mean what the layer multiplies by."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import assert_same, drawn, values
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastinit
from fastinit import initialize_, materialize

W = torch.linspace(-1.0, 1.0, 48).reshape(6, 8).sin()


def _quiet(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def old_weight_norm(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _quiet(nn.utils.weight_norm, module, *args, **kwargs)


class RankTwo(nn.Module):
    """Several parameters, of other shapes than the weight."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left @ right

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        return (u * s)[:, :2], v[:2]


class Skew(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu(1) - x.triu(1).mT

    def right_inverse(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu(1)


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    def right_inverse(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


class Positive(nn.Module):
    """Without a right inverse."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()


def registered(module: nn.Module, *steps: nn.Module, name: str = "weight") -> Any:
    for step in steps:
        parametrize.register_parametrization(module, name, step)
    return module


def pruned(module: Any, twice: bool = False) -> Any:
    prune.l1_unstructured(module, "weight", 0.5)
    if twice:
        prune.random_unstructured(module, "weight", 0.2)
    return module


# By what they compute of a weight exactly (to rounding), or from it.
EXACT: dict[str, Callable[[], Any]] = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 6)),
    "weight_norm, dim 1": lambda: parametrizations.weight_norm(nn.Linear(8, 6), dim=1),
    "weight_norm, no dim": lambda: parametrizations.weight_norm(nn.Linear(8, 6), dim=None),
    "old weight_norm": lambda: old_weight_norm(nn.Linear(8, 6)),
    "old weight_norm, no dim": lambda: old_weight_norm(nn.Linear(8, 6), dim=None),
    "chain": lambda: registered(nn.Linear(8, 6), parametrizations._WeightNorm(0), Double()),
    "double": lambda: registered(nn.Linear(8, 6), Double()),
}


def weight_of(module: Any) -> torch.Tensor:
    module.eval()
    with torch.no_grad():
        module(torch.zeros(1, module.in_features))
        return module.weight.detach().clone()


def roads(make: Callable[[], Any], rules: Any) -> list[Any]:
    with torch.device("meta"):
        bare = make()
    made = [initialize_(make(), rules, key=3), materialize(bare, rules=rules, key=3)]
    return [*made, materialize(make, rules=rules, key=3)]


def as_given(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.copy_(W)


@pytest.mark.parametrize("selector", ["weight", "*weight", nn.Linear, 2, (nn.Linear, "weight")])
@pytest.mark.parametrize("kind", EXACT)
def test_a_rule_is_for_the_weight(kind: str, selector: Any) -> None:
    rules = {"bias": nn.init.zeros_, selector: as_given}
    for module in roads(EXACT[kind], rules):
        torch.testing.assert_close(weight_of(module), W)
        assert module.bias.count_nonzero() == 0


class Mine(nn.Linear):
    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.data.copy_(W)  # a counter of its own
            nn.init.zeros_(self.bias)


@pytest.mark.parametrize("kind", EXACT)
def test_reset_parameters_is_for_the_weight(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "Linear", Mine)
    for module in roads(EXACT[kind], None)[:2]:  # a factory's constructor is torch's business
        torch.testing.assert_close(weight_of(module), W)


def test_parents_that_write_the_weight_and_those_that_write_its_parts() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (old_weight_norm(nn.Linear(8, 6)) for _ in range(2))

        def reset_parameters(self) -> None:
            nn.init.constant_(self.one.weight, 0.5)
            nn.init.ones_(self.two.weight_g)

    for net in roads(Net, None)[:2]:
        torch.testing.assert_close(weight_of(net.one), torch.full((6, 8), 0.5))
        torch.testing.assert_close(net.two.weight.detach().norm(dim=1), torch.ones(6))
        torch.testing.assert_close(weight_of(net.two).norm(dim=1), torch.ones(6))
        assert 0.1 < net.two.weight_v.std() < 0.35  # uniform up to 8 ** -0.5


def test_a_weight_that_is_assigned() -> None:
    class Assigns(nn.Linear):
        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.bias.zero_()
            if hasattr(self, "parametrizations"):
                self.weight = W.clone()
            else:
                self.weight = nn.Parameter(W.clone())

    module = registered(Assigns(8, 6), Double())
    kind, original = type(module), module.parametrizations.weight.original
    initialize_(module, key=3)
    torch.testing.assert_close(module.weight, W)
    assert type(module) is kind
    assert module.parametrizations.weight.original is original
    assert [n for n, _ in module.named_parameters()] == ["bias", "parametrizations.weight.original"]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("rules", [None, {"bias": nn.init.zeros_, "default": fastinit.normal_}])
def test_spectral_norm_knows_nothing_of_the_weight_before(old: bool, rules: Any) -> None:
    wrap: Any = nn.utils.spectral_norm if old else parametrizations.spectral_norm
    for layer in (nn.Linear(12, 6), nn.Conv2d(3, 6, 2), nn.ConvTranspose2d(3, 6, 2)):
        x = torch.ones(2, 12) if isinstance(layer, nn.Linear) else torch.ones(2, 3, 4, 4)
        module = wrap(layer)
        initialize_(module, rules, key=3)
        first = values(module)
        for _ in range(5):  # in training, vectors follow the weight
            module(x * torch.rand(1))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)
        module(x)
        initialize_(module, rules, key=3)
        assert_same(values(module), first)
        module.eval()
        module(x)
        dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        matrix = module.weight.detach().transpose(0, dim).flatten(1)
        assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(1.0, abs=0.1)


def test_the_vectors_follow_parts_with_rules_of_their_own() -> None:
    target = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    for old in (False, True):
        if old:
            module = nn.utils.spectral_norm(nn.Linear(4, 4))
        else:
            module = registered(nn.Linear(4, 4), Double())
            parametrizations.spectral_norm(module)
        rules = {
            "bias": None,
            "*.original" if not old else "weight_orig": lambda w: w.copy_(target),
        }
        module = initialize_(module, rules, key=3)
        torch.testing.assert_close(weight_of(module), target / 3, atol=1e-2, rtol=0)


@pytest.mark.parametrize("steps", [(), (Double(),)])
def test_looking_at_a_spectral_norm_does_not_change_it(steps: tuple[nn.Module, ...]) -> None:
    module = parametrizations.spectral_norm(registered(nn.Linear(12, 6), *steps))
    before = values(module)
    fastinit.report(module)
    with pytest.raises(ValueError, match="no rule matches"), pytest.warns(UserWarning):
        initialize_(module, {"nothing": None})
    assert_same(values(module), before)


@pytest.mark.parametrize("shape", [(6, 6), (8, 4), (4, 8)])
def test_orthogonal_parametrisations(shape: tuple[int, int]) -> None:
    def make() -> nn.Module:
        return parametrizations.orthogonal(nn.Linear(shape[1], shape[0], bias=False))

    def made(rules: Any) -> list[Any]:  # torch cannot make them on the meta device
        return [initialize_(make(), rules, key=3), materialize(make, rules=rules, key=3)]

    target = fastinit.orthogonal_(torch.empty(shape), key=5)
    for module in made({"weight": lambda w: w.copy_(target)}):
        torch.testing.assert_close(module.weight.detach(), target, atol=1e-5, rtol=0)
    for module in made(None):
        weight = module.weight.detach()
        small = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
        torch.testing.assert_close(small, torch.eye(len(small)), atol=1e-5, rtol=0)
    twice = [values(initialize_(make(), key=3)) for _ in range(2)]
    assert_same(*twice)


def test_the_buffers_of_a_right_inverse_stay_themselves() -> None:
    module = parametrizations.orthogonal(nn.Linear(6, 6))
    base = module.parametrizations.weight[0].base
    initialize_(module, key=3)
    assert module.parametrizations.weight[0].base is base


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("selector", [None, "*weight", "*weight_orig", nn.Linear])
def test_pruned_weights_keep_their_masks(twice: bool, selector: Any) -> None:
    module = pruned(nn.Linear(8, 6), twice)
    mask, last = module.weight_mask.clone(), module.weight
    rules = None if selector is None else {"bias": None, selector: as_given}
    initialize_(module, rules, key=3)
    assert same_bits(module.weight_mask, mask)
    assert module.weight is last  # what the last call left, up to date
    torch.testing.assert_close(module.weight.detach(), module.weight_orig.detach() * mask)
    if selector is not None:
        torch.testing.assert_close(module.weight_orig.detach(), W)
    assert not same_bits(values(initialize_(module, key=4))["weight_orig"], W)


def test_several_parameters_of_other_shapes() -> None:
    def make() -> nn.Module:
        return registered(nn.Linear(8, 6), RankTwo())

    low = W[:, :2] @ W[:2]
    for module in roads(make, {"bias": nn.init.zeros_, "weight": lambda w: w.copy_(low)}):
        torch.testing.assert_close(module.weight.detach(), low, atol=1e-5, rtol=1e-5)
    for module in roads(make, None):
        assert torch.linalg.matrix_rank(module.weight.detach(), atol=1e-5) == 2


def test_a_recurrent_layer() -> None:
    plain = initialize_(nn.LSTM(8, 4), key=3)
    module = parametrizations.weight_norm(nn.LSTM(8, 4), "weight_hh_l0")
    initialize_(module, key=3)
    assert same_bits(module.weight_ih_l0.data, plain.weight_ih_l0.data)
    weight = module.weight_hh_l0.detach()
    assert 0.2 < weight.std() < 0.4  # uniform up to 4 ** -0.5
    assert module(torch.ones(3, 8))[0].shape == (3, 4)
    rules = {"*weight_hh*": fastinit.orthogonal_, "default": nn.init.zeros_}
    square = parametrizations.weight_norm(nn.RNN(4, 4), "weight_hh_l0")
    weight = initialize_(square, rules, key=3).weight_hh_l0.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-5, rtol=0)


def test_padding_rows_and_fans_are_the_layer_s() -> None:
    module = parametrizations.weight_norm(nn.Embedding(9, 4, padding_idx=2), dim=1)
    initialize_(module, {"default": fastinit.normal_}, key=3)
    assert module.weight[2].count_nonzero() == 0
    assert module.weight.count_nonzero() == 32
    conv = parametrizations.weight_norm(nn.ConvTranspose2d(64, 4, 3, groups=2))
    initialize_(conv, {"bias": None, "default": fastinit.kaiming_normal_}, key=3)
    fan = fastinit.fans(nn.ConvTranspose2d(64, 4, 3, groups=2))["weight"][0]
    assert float(conv.weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.1)


def test_parts_that_have_rules_of_their_own() -> None:
    for norm in ("*weight_g", "*original0"):
        wrap = old_weight_norm if norm == "*weight_g" else parametrizations.weight_norm
        module = wrap(nn.Linear(8, 6))
        rules = {"bias": None, norm: nn.init.ones_, "*weight": as_given}
        weight = weight_of(initialize_(module, rules, key=3))
        torch.testing.assert_close(weight, W / W.norm(dim=1, keepdim=True))
    module = registered(nn.Linear(8, 6), Double(), Positive())
    initialize_(module, {"*.original": as_given, "default": nn.init.zeros_}, key=3)
    torch.testing.assert_close(module.weight.detach(), (2 * W).abs())


def test_without_a_right_inverse() -> None:
    module = nn.Sequential(registered(nn.Linear(8, 6), Positive()))
    before = values(module)
    for rules in (None, {"*bias": None, "default": fastinit.normal_}):
        with pytest.raises(RuntimeError, match=r"Positive.*'weight'.*no right_inverse"):
            initialize_(module, rules, key=3)
        assert_same(values(module), before)
    assert type(module[0]).__name__ == "ParametrizedLinear"
    assert not hasattr(module[0], "_parameters") or "weight" not in module[0]._parameters


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (lambda x: x[:1], "has shape"),
        (lambda x: x.double(), "float64"),
        (lambda x: (x, x), "gives 2 tensors"),
    ],
)
def test_right_inverses_that_change_their_mind(given: Any, error: str) -> None:
    module = registered(nn.Linear(8, 6), Double())
    before = values(module)
    step = module.parametrizations.weight[0]
    step.right_inverse = given
    with pytest.raises(ValueError, match=error):
        initialize_(module, key=3)
    step.right_inverse = functools.partial(Double.right_inverse, step)
    assert_same(values(module), before)
    initialize_(module, key=3)


def test_an_error_in_a_right_inverse_says_where() -> None:
    module = nn.Linear(6, 6)
    parametrizations.orthogonal(module, orthogonal_map="cayley", use_trivialization=False)
    with pytest.raises(NotImplementedError) as caught:
        initialize_(module, key=3)
    text = "\n".join(getattr(caught.value, "__notes__", [str(caught.value)]))
    assert "right_inverse of _Orthogonal, a parametrization of 'weight'" in text
    assert "Linear.reset_parameters" in text


def test_an_initialiser_that_fails_leaves_the_module_as_it_was() -> None:
    class Fails(nn.Linear):
        broken = False

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if self.broken:
                raise KeyError("here")

    for make in (old_weight_norm, parametrizations.weight_norm, pruned):
        module = make(Fails(8, 6))
        module.broken = True
        before, kind, weight = values(module), type(module), vars(module).get("weight")
        with pytest.raises(KeyError, match="here"):
            initialize_(module, key=3)
        assert_same(values(module), before)
        assert type(module) is kind
        assert vars(module).get("weight") is weight


def test_report_says_where_parts_come_from() -> None:
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 6)))
    report = fastinit.report(initialize_(module, key=3))
    assert report.flags == {}
    rules = {row.name: row.rule for row in report.parameters}
    assert "part of 0.weight (WeightNorm)" in rules["0.parametrizations.weight.original0"]
    initialize_(module, {"*.bias": None, "*.weight": fastinit.kaiming_normal_}, key=3)
    rules = {row.name: row.rule for row in fastinit.report(module).parameters}
    expected = "kaiming_normal_() of 0.weight, through WeightNorm"
    assert rules["0.parametrizations.weight.original1"] == expected


def test_selectors_that_match_the_weight_are_not_called_unused() -> None:
    module = parametrizations.weight_norm(nn.Linear(8, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize_(module, {"weight": fastinit.normal_, "default": None}, key=3)
    with pytest.warns(UserWarning, match="'weights' matches no parameter"):
        initialize_(module, {"weights": fastinit.normal_, "default": None}, key=3)


@pytest.mark.parametrize("rules", [None, {"bias": None, "default": fastinit.normal_}])
def test_the_key_is_that_of_the_weight_s_name(rules: Any) -> None:
    for kind in ("old weight_norm", "weight_norm"):
        expected = initialize_(nn.Linear(8, 6), rules, key=3).weight.detach()
        for module in roads(EXACT[kind], rules)[:2]:
            torch.testing.assert_close(weight_of(module), expected)
    spectral = parametrizations.spectral_norm(nn.Linear(8, 6))
    initialize_(nn.Sequential(spectral), {"0.bias": None, "default": fastinit.normal_}, key=3)
    expected = fastinit.normal_(torch.empty(6, 8), key=drawn("0.weight"))
    assert same_bits(spectral.parametrizations.weight.original.data, expected)


@pytest.mark.parametrize("old", [False, True])
def test_a_weight_that_is_skipped_keeps_its_vectors(old: bool) -> None:
    wrap: Any = nn.utils.spectral_norm if old else parametrizations.spectral_norm
    module = wrap(nn.Linear(12, 6))
    before = values(module)
    initialize_(module, key=3, skip="*weight*orig*")
    after = values(module)
    changed = [name for name in before if not same_bits(before[name], after[name])]
    assert changed == ["bias"]


def test_a_part_with_a_rule_needs_no_right_inverse() -> None:
    module = registered(nn.Linear(8, 6), Positive())
    initialize_(module, {"*.original": as_given, "default": None}, key=3)
    torch.testing.assert_close(module.weight.detach(), W.abs())


class Frozen(nn.Linear):
    """Lets nobody set anything."""

    def __setattr__(self, name: str, value: Any) -> None:
        if "frozen" in vars(self):
            raise AttributeError(f"frozen: {name}")
        super().__setattr__(name, value)


def test_a_frozen_module_s_weight_is_initialised() -> None:
    module, plain = (parametrizations.weight_norm(kind(8, 6)) for kind in (Frozen, nn.Linear))
    vars(module)["frozen"] = True
    kind = type(module)
    initialize_(module, key=3)
    assert type(module) is kind
    same_bits(module.weight, initialize_(plain, key=3).weight)
