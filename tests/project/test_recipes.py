"""`docs/recipes.md`: every block runs, and does what the page says."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import nn

import fastinit

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


def blocks() -> dict[str, list[str]]:
    """The code of each section, by its title."""
    found: dict[str, list[str]] = {}
    for section in PAGE.read_text().split("\n## "):
        title = section.partition("\n")[0]
        found[title] = re.findall(r"```python\n(.*?)```", section, re.S)
    return found


SECTIONS = blocks()
FIRST = SECTIONS.pop("# Recipes")[0]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page defines, in the order of the page, and the state after each section."""
    namespace: dict[str, Any] = {}
    exec(FIRST, namespace)
    states: dict[str, Any] = {}
    for title, code in SECTIONS.items():
        printed: list[str] = []
        namespace["print"] = lambda *values, out=printed: out.append(" ".join(map(str, values)))
        for block in code:
            exec(compile(block, f"recipes.md: {title}", "exec"), namespace)
        kept = {}
        for name, value in namespace.items():
            if isinstance(value, nn.Module):
                kept[name] = {n: t.detach().clone() for n, t in value.state_dict().items()}
        states[title] = (kept, printed, dict(namespace))
    return states


def test_every_section_has_a_test() -> None:
    tested = {mark for function in TESTS for mark in function.sections}
    assert tested == set(SECTIONS)
    assert all(SECTIONS.values())


TESTS: list[Any] = []


def of(*titles: str) -> Any:
    def mark(function: Any) -> Any:
        function.sections = titles
        TESTS.append(function)
        return function

    return mark


@of("`model.apply(fn)`")
def test_apply(page: dict[str, Any]) -> None:
    states, _, names = page["`model.apply(fn)`"]
    model = states["model"]
    expected = fastinit.xavier_uniform_(
        torch.empty(16, 8), key=fastinit.Key(0).fold_in("0.weight").fold_in(0)
    )
    assert same_bits(model["0.weight"], expected)
    assert (model["3.bias"] == 0.01).all()
    assert (model["1.weight"] == 1).all()
    assert (model["1.bias"] == 0).all()
    again = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    results = []
    for batch in (False, True):
        with fastinit.patch(key=0, batch=batch):
            fresh = nn.Linear(8, 16)
            again.apply(names["init_weights"])
        results.append(fresh.weight)
    assert same_bits(results[0].data, results[1].data)


@of("A function over all parameters")
def test_all_parameters(page: dict[str, Any]) -> None:
    model = page["A function over all parameters"][0]["model"]
    key = fastinit.Key(0).fold_in("1.bias").fold_in(0)
    assert same_bits(model["1.bias"], fastinit.normal_(torch.empty(16), std=0.02, key=key))


@of("A table from the number of dimensions")
def test_dimensions(page: dict[str, Any]) -> None:
    net = page["A table from the number of dimensions"][0]["net"]
    assert net["0.weight"].std().item() == pytest.approx(math.sqrt(2 / 27), rel=0.2)
    assert net["3.weight"].std().item() == pytest.approx(math.sqrt(2 / 298), rel=0.1)
    assert 0 < net["1.weight"].std() < 0.03


@of("Biases to 0.01, BatchNorm to one and zero, the rest as it is")
def test_biases(page: dict[str, Any]) -> None:
    net = page["Biases to 0.01, BatchNorm to one and zero, the rest as it is"][0]["net"]
    assert (net["0.bias"] == 0.01).all()
    assert (net["3.bias"] == 0.01).all()
    assert (net["1.weight"] == 1).all()
    assert (net["1.bias"] == 0).all()
    own = fastinit.initialize_(nn.Linear(288, 10), key=0, prefix="3")
    assert same_bits(net["3.weight"], own.weight.data)


@of("±1/√fan_in, and a standard deviation of 1/√fan_in")
def test_fan_in(page: dict[str, Any]) -> None:
    states, _, names = page["±1/√fan_in, and a standard deviation of 1/√fan_in"]
    assert states["net"]["3.weight"].std().item() == pytest.approx(1 / math.sqrt(288), rel=0.05)
    weight = torch.empty(50, 4, 5, 5)
    names["uniform_fan_in"](weight)
    assert weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


@of("What `kaiming_uniform_(a=√5)` is")
def test_kaiming(page: dict[str, Any]) -> None:
    printed = page["What `kaiming_uniform_(a=√5)` is"][1]
    uniform, normal = (eval(line) for line in printed)
    assert len(uniform) == len(normal) == 16
    # Before each ReLU, from the second layer on: times sqrt(1/6) against times 1.
    ratios = [b / a for a, b in zip(uniform[2::2], uniform[4::2], strict=False) if a > 0.05]
    assert all(0.2 < ratio < 0.7 for ratio in ratios)
    assert normal[14] > 20 * uniform[14]
    assert 0.3 < normal[14] / normal[2] < 3
    weight = fastinit.kaiming_uniform_(torch.empty(64, 100), a=math.sqrt(5), key=0)
    bound = 1 / math.sqrt(100)
    expected = fastinit.uniform_(torch.empty(64, 100), -bound, bound, key=0)
    assert torch.allclose(weight, expected, rtol=1e-6, atol=1e-9)


@of("Depth- and width-scaled rules")
def test_scaled(page: dict[str, Any]) -> None:
    encoder = page["Depth- and width-scaled rules"][0]["encoder"]
    assert encoder["layers.1.self_attn.out_proj.weight"].std().item() == pytest.approx(
        0.01, rel=0.2
    )
    assert encoder["layers.1.linear1.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert (encoder["layers.1.norm1.weight"] == 1).all()


@of("Constant tables are left alone")
def test_tables(page: dict[str, Any]) -> None:
    tabled = page["Constant tables are left alone"][0]["tabled"]
    assert torch.equal(tabled["table.weight"], torch.arange(8.0).view(4, 2))
    expected = fastinit.initialize_(nn.Linear(2, 2), key=1, prefix="head")
    assert same_bits(tabled["head.weight"], expected.weight.data)


@of("`reset_parameters` of one's own")
def test_reset_parameters(page: dict[str, Any]) -> None:
    scaled = page["`reset_parameters` of one's own"][0]["scaled"]
    key = fastinit.Key(0).fold_in("0.weight").fold_in(0)
    assert same_bits(scaled["0.weight"], fastinit.normal_(torch.empty(4, 4), std=0.5, key=key))
    assert (scaled["0.bias"] == 0).all()
    assert (scaled["1.weight"].abs() <= 0.5).all()


@of("Sequential, nested and ModuleList models", "Shapes that are not known yet", "Large models")
def test_structures(page: dict[str, Any]) -> None:
    states = page["Large models"][0]
    assert "stem.1.0.weight" in states["nested"]
    assert states["lazy"]["0.weight"].shape == (8, 5)
    assert states["model"]["linear1.weight"].dtype is torch.bfloat16
    for name, value in states["layer"].items():
        # Rounded, but at the very ends of a uniform, which bfloat16 keeps in its own way.
        half = states["model"][name].float()
        assert torch.allclose(value, half, rtol=2**-7, atol=0), name
        assert (value.bfloat16() == half).float().mean() > 0.99, name
