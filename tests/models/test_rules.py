"""Rules of `initialize_`: order, selectors, names, complaints."""

from __future__ import annotations

import functools
import math
import re
import warnings
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import NORMAL, Model, assert_same, drawn, values
from torch import nn

import fastinit
from fastinit import initialize_
from fastinit._models import rules as rules_of
from fastinit._models.names import named_tensors
from fastinit._recording import memory


def test_all_that_rules_fill_waits_for_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[int] = []
    run = memory.run_fills

    def counted(fills: Any) -> None:
        launches.append(len(fills))
        run(fills)

    monkeypatch.setattr(memory, "run_fills", counted)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    initialize_(model, {"*.bias": nn.init.zeros_, "default": fastinit.xavier_uniform_}, key=0)
    assert launches == [4]


def test_rules_in_order() -> None:
    model = Model()
    model.layers[0].first.bias.data.fill_(9)
    rules = {
        re.compile(r"layers\.1\..*weight$"): functools.partial(nn.init.constant_, val=5.0),
        "layers.0.first.bias": functools.partial(nn.init.constant_, val=0.01),
        "*.bias": nn.init.zeros_,
        nn.LayerNorm: nn.init.ones_,
        (nn.Embedding, 2): functools.partial(fastinit.normal_, std=0.5),
        2: NORMAL,
        "default": None,
    }
    initialize_(model, rules, key=3)
    block = model.layers[1]
    assert (block.first.weight == 5).all()
    assert (block.norm.weight == 5).all()
    assert (model.layers[0].first.bias == 0.01).all()
    assert (block.first.bias == 0).all()
    assert (model.layers[0].norm.weight == 1).all()
    assert (model.layers[0].norm.bias == 0).all()
    expected = fastinit.normal_(torch.empty(20, 8), 0.0, 0.5, key=drawn("embed.weight"))
    assert same_bits(model.embed.weight.data, expected)
    expected = fastinit.normal_(torch.empty(20, 8), 0.0, 0.02, key=drawn("head.weight"))
    assert same_bits(model.head.weight.data, expected)


def test_rules_that_take_the_name() -> None:
    seen = []

    def scaled(tensor: torch.Tensor, name: str) -> None:
        seen.append(name)
        layer = int(name.split(".")[1]) if name.startswith("layers") else 0
        fastinit.normal_(tensor, std=0.02 / math.sqrt(2 * (layer + 1)))

    def named(tensor: torch.Tensor, std: float, *, name: str = "") -> None:
        tensor.normal_(0.0, std)

    model = initialize_(
        Model(), {"layers.*": scaled, "default": functools.partial(named, std=2.0)}, key=3
    )
    assert len(seen) == 10
    expected = fastinit.normal_(torch.empty(8), 0.0, 0.02 / 2, key=drawn("layers.1.norm.weight"))
    assert same_bits(model.layers[1].norm.weight.data, expected)
    assert model.head.weight.std() > 1


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (
            {nn.Linear: NORMAL},
            ValueError,
            r"matches embed\.weight \(20, 8\), layers\.0\.norm",
        ),
        ({3.5: NORMAL}, TypeError, "selector"),
        ({int: NORMAL}, TypeError, "selector"),
        ({True: NORMAL}, TypeError, "selector"),
        ({(): NORMAL}, TypeError, "selector"),
        ({re.compile(b"weight"): NORMAL}, TypeError, "selector"),
        ({"default": 3}, TypeError, "initialiser"),
        ("default", TypeError, "mapping"),
        (3, TypeError, "mapping"),
        ([("default",)], TypeError, "initialiser"),
        ({"default": functools.partial(fastinit.normal_, std=-1.0)}, RuntimeError, "std"),
    ],
)
def test_bad_rules(rules: Any, error: type[Exception], message: str) -> None:
    model = Model()
    before = values(model)
    with pytest.raises(error, match=message):
        initialize_(model, rules, key=3)
    assert_same(values(model), before)


def _embedding(kind: type[nn.Module]) -> nn.Module:
    return kind(6, 4, padding_idx=2)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("road", ["initialize_", "factory", "meta"])
def test_padding_rows_stay_zero(kind: type[nn.Module], road: str) -> None:
    """As torch's own initialiser leaves them: no gradient would ever move them."""
    rules = {"default": NORMAL}
    if road == "initialize_":
        module = _embedding(kind)
        nn.init.ones_(module.weight)  # type: ignore[arg-type]
        initialize_(module, rules, key=3)
    elif road == "factory":
        module = fastinit.materialize(lambda: _embedding(kind), rules=rules, key=3)
    else:
        with torch.device("meta"):
            module = _embedding(kind)
        fastinit.materialize(module, rules=rules, key=3)
    expected = fastinit.normal_(torch.empty(6, 4), 0.0, 0.02, key=drawn("weight"))
    expected[2] = 0
    assert same_bits(module.get_parameter("weight").data, expected)
    again = {} if road == "initialize_" else {"weight": ("written twice",)}
    assert fastinit.report(module).flags == again


def test_the_padding_row_of_a_tied_weight_stays_zero() -> None:
    model = nn.Module()
    model.head = nn.Linear(4, 6, bias=False)
    model.embed = _embedding(nn.Embedding)
    model.embed.weight = model.head.weight
    initialize_(model, {nn.Linear: NORMAL}, key=3)
    assert not model.head.weight[2].any()
    assert model.head.weight[[0, 1, 3, 4, 5]].all()


def test_an_embedding_without_a_padding_row_has_none() -> None:
    module = initialize_(nn.Embedding(6, 4), {2: NORMAL}, key=3)
    assert module.weight.all()


# ---- buffers -------------------------------------------------------------------------------------


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.attention = nn.Module()  # with a mask that is called as parameters are
        self.attention.register_buffer("bias", torch.ones(3))
        self.register_buffer("table", torch.arange(3.0))


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("table", ["table"]),
        ("*.running_mean", ["norm.running_mean"]),
        ("norm.running_var", ["norm.running_var"]),
        (re.compile("running_(var|mean)"), []),  # does not have the name letter by letter
        (re.compile("(^|[.])running_var$"), ["norm.running_var"]),
        ((nn.BatchNorm1d, "*running_var"), []),
        ((nn.BatchNorm1d, "*.running_var"), ["norm.running_var"]),
        ((nn.Linear, "*.running_var"), []),
        ((2, "*.running_var"), []),
        ("*", []),
        ("default", []),
        ("norm.*", []),
        ("*running*", []),
        (1, []),
        (nn.BatchNorm1d, []),
        ("*bias", []),
        ("*.bias", []),
        ("attention.bias", ["attention.bias"]),
    ],
)
def test_rules_that_mean_buffers(selector: Any, names: list[str]) -> None:
    model = Buffers()
    parameters, found = named_tensors(model)
    checked = rules_of.check([(selector, nn.init.ones_), ("default", None)])
    chosen = rules_of.choose_for_buffers(checked, found, parameters)
    assert [*chosen] == names
    assert all(rule[0] is selector for rule in chosen.values())
    with torch.no_grad():
        for name, rule in chosen.items():
            rules_of.apply(rule, found[name])
            assert (model.get_buffer(name) == 1).all()


def test_the_first_rule_that_means_a_buffer() -> None:
    model = Buffers()
    checked = rules_of.check([("*", None), ("table", nn.init.zeros_), ("*.table", nn.init.ones_)])
    chosen = rules_of.choose_for_buffers(checked, *reversed(named_tensors(model)))
    assert chosen["table"][0] == "table"


def test_unused_rules_and_buffers() -> None:
    model = Buffers()
    parameters, found = named_tensors(model)
    checked = rules_of.check([("table", nn.init.zeros_), ("default", None)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rules_of.warn_of_unused(checked, parameters, "initialize_", found)
    with pytest.warns(UserWarning, match="'table' matches no parameter"):
        rules_of.warn_of_unused(checked, parameters, "initialize_")
    checked = rules_of.check([("tabel", nn.init.zeros_), ("default", None)])
    with pytest.warns(UserWarning, match="'tabel' matches no parameter or buffer"):
        rules_of.warn_of_unused(checked, parameters, "initialize_", found)


def test_an_error_names_the_buffer() -> None:
    model = Buffers()
    rule = ("table", nn.init.xavier_uniform_)
    with pytest.raises(ValueError) as caught:
        rules_of.apply(rule, named_tensors(model).buffers["table"])
    text = "\n".join(getattr(caught.value, "__notes__", [str(caught.value)]))
    assert "rule 'table' gives to table, shape (3,)" in text
