"""`fastinit.report()`: parameters that have the values of others, and padding rows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastinit
from fastinit import initialize_, report


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_padding_row_that_is_not_zero(kind: type[nn.Module]) -> None:
    module = kind(6, 4, padding_idx=-2)
    assert fastinit.report(module).flags == {}
    with torch.no_grad():
        module.weight[4, 1] = 0.5
    assert fastinit.report(module).flags == {"weight": ("padding row not zero",)}
    with torch.device("meta"):
        assert fastinit.report(kind(6, 4, padding_idx=2)).flags == {"weight": ("never written",)}


def test_copies_of_a_layer_are_flagged() -> None:
    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(16, 2, 32)
        return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    found = report(encoder()).flags
    assert found["layers.2.linear1.weight"] == ("same values as layers.0.linear1.weight",)
    assert "layers.0.linear1.weight" not in found
    assert "layers.2.norm1.weight" not in found  # ones are no draws
    apart = report(initialize_(encoder(), key=3)).flags
    assert not any("same values" in flag for row in apart.values() for flag in row)
    layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
    layers[1].weight.data = layers[0].weight.data  # tied, not copied
    layers[2].load_state_dict(layers[0].state_dict())
    assert report(layers).flags == {"2.weight": ("same values as 0.weight",)}
    with torch.no_grad():
        layers[2].weight[0, 0] += 1e-3
    assert report(layers).flags == {}


def test_what_is_no_draw_is_no_copy() -> None:
    layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(2))
    assert report(initialize_(layers, {"default": nn.init.eye_}, key=3)).flags == {}


def test_delta_orthogonal_filters_are_draws() -> None:
    layers = nn.ModuleList(nn.Conv1d(4, 4, 3, bias=False) for _ in range(2))
    initialize_(layers, {"default": fastinit.delta_orthogonal_}, key=3)
    assert report(layers).flags == {}
    layers[1].load_state_dict(layers[0].state_dict())
    assert "same values as 0.weight" in report(layers).flags["1.weight"]


def test_a_copy_that_a_factory_makes_is_one() -> None:
    def make() -> nn.Module:
        drawn = nn.Linear(4, 4)
        return nn.ModuleList([drawn, copy.deepcopy(drawn)])

    made = fastinit.materialize(make, key=3)
    assert report(made).flags["1.weight"] == ("same values as 0.weight",)


def test_a_padding_row_of_any_embedding_that_holds_the_weight() -> None:
    model = nn.ModuleList([nn.Embedding(5, 3), nn.Embedding(5, 3, padding_idx=-1)])
    model[1].weight = model[0].weight
    assert report(model).flags == {"0.weight": ("padding row not zero",)}
    assert report(initialize_(model, {"default": fastinit.normal_}, key=3)).flags == {}
    assert model[0].weight[4].count_nonzero() == 0
