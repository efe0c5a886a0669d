"""Tied parameters under what modules define: the place that others are tied to decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import assert_same, drawn, values
from torch import nn

import fastinit
from fastinit import initialize_, materialize

Factory = Callable[[], Any]


def roads(factory: Factory) -> list[Any]:
    with torch.device("meta"):
        bare = factory()
    return [initialize_(factory(), key=3), materialize(bare, key=3)]


class LanguageModel(nn.Module):
    """The head is named first, the embedding is what it is tied to."""

    def __init__(self, tie: str) -> None:
        super().__init__()
        self.head = nn.Linear(8, 16, bias=False)
        self.embed = nn.Embedding(16, 8, padding_idx=3)
        if tie == "object":
            self.head.weight = self.embed.weight
        elif tie == "data":
            self.head.weight.data = self.embed.weight.data
        elif tie == "parameter of its data":
            self.head.weight = nn.Parameter(self.embed.weight.data)
        elif tie == "view":
            self.head.weight = nn.Parameter(self.embed.weight.data.view(-1).view(16, 8))


@pytest.mark.parametrize("tie", ["object", "data", "parameter of its data", "view"])
def test_an_embedding_decides(tie: str) -> None:
    for model in roads(lambda: LanguageModel(tie)):
        assert model.head.weight.data_ptr() == model.embed.weight.data_ptr()
        assert (model.head.weight is model.embed.weight) == (tie == "object")
        assert model.embed.weight[3].count_nonzero() == 0
        expected = fastinit.normal_(torch.empty(16, 8), key=drawn("head.weight"))
        rows = [k for k in range(16) if k != 3]
        assert same_bits(model.embed.weight.data[rows], expected[rows])


@pytest.mark.parametrize("data", [False, True])
def test_otherwise_the_first_place_decides(data: bool) -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(4, 32, bias=False)
            self.decoder = nn.Linear(32, 4, bias=False)
            if data:  # transposed, so the fans of the two differ
                self.decoder.weight.data = self.encoder.weight.data.t()
            else:
                self.decoder.weight = self.encoder.weight

    expected = initialize_(nn.Linear(4, 32, bias=False), key=3, prefix="encoder").weight
    for model in roads(Autoencoder):
        assert same_bits(model.encoder.weight.data, expected.data)
        assert model.decoder.weight.data_ptr() == model.encoder.weight.data_ptr()


def test_a_place_that_nothing_writes_does_not_decide() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(4))
            self.decoder = nn.Linear(9, 4)
            self.decoder.bias = self.bias

    for model in roads(Head):
        assert model.bias is model.decoder.bias
        expected = fastinit.uniform_(torch.empty(4), -1 / 3, 1 / 3, key=drawn("bias"))
        assert same_bits(model.bias.data, expected)


class Custom(nn.Module):
    """What has its own way of writing."""

    def __init__(self, write: str, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))
        self.write, self.value = write, value

    def reset_parameters(self) -> None:
        with torch.no_grad():
            if self.write == "init":
                nn.init.constant_(self.weight, self.value)
            elif self.write == ".data":
                self.weight.data.fill_(self.value)
            elif self.write == "copy":
                self.weight.copy_(torch.full((3,), self.value))
            elif self.write == "init of .data":
                nn.init.uniform_(self.weight.data, self.value, self.value)


class Several(nn.Module):
    def __init__(self, writes: list[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Custom(w, float(k)) for k, w in enumerate(writes))
        for layer in self.layers:
            layer.weight = self.layers[0].weight


@pytest.mark.parametrize("write", ["init", ".data", "copy", "init of .data"])
def test_the_first_place_that_is_written_decides(write: str) -> None:
    for number, writes in enumerate([[write, write], ["none", write, write]]):
        for model in roads(lambda w=writes: Several(w)):  # type: ignore[misc]
            assert model.layers[1].weight is model.layers[0].weight
            assert model.layers[0].weight.tolist() == [float(number)] * 3


def test_what_holds_all_places_initialises_them_tied() -> None:
    """Its constructor ties, then calls this: the last that writes decides, as in torch."""

    class Whole(LanguageModel):
        def __init__(self) -> None:
            super().__init__("object")
            self.reset_parameters()

        def reset_parameters(self) -> None:
            nn.init.normal_(self.embed.weight, std=3.0)
            nn.init.constant_(self.head.weight, 0.5)

    with torch.device("meta"):
        bare = Whole()
    for model in (initialize_(Whole(), key=3), materialize(bare, key=3), materialize(Whole, key=3)):
        assert (model.embed.weight == 0.5).all()


class Hooked(nn.Module):
    """Its constructor ties, then initialises each module: minGPT's way."""

    def __init__(self, head_first: bool) -> None:
        super().__init__()
        for name in ("head", "embed") if head_first else ("embed", "head"):
            layer = nn.Linear(8, 16, bias=False) if name == "head" else nn.Embedding(16, 8, 3)
            self.add_module(name, layer)
        self.head.weight = self.embed.weight
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, 5.0, 6.0)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            module.weight.data[module.padding_idx].zero_()


class AppliesItself(Hooked):
    def init_weights(self) -> None:
        self.apply(self._init_weights)


@pytest.mark.parametrize("kind", [Hooked, AppliesItself])
@pytest.mark.parametrize("head_first", [False, True])
def test_a_hook_for_each_module_finds_them_tied(kind: Any, head_first: bool) -> None:
    """So the last that it is called for decides, as in torch and in the constructor itself."""
    made = materialize(lambda: kind(head_first), key=3)
    ours = roads(lambda: kind(head_first))
    for model in (kind(head_first), made, *ours):
        assert model.head.weight is model.embed.weight
        assert (model.embed.weight[3].count_nonzero() == 0) == head_first
        assert (model.embed.weight.max() > 5) == (not head_first)
    for model in ours:
        assert same_bits(model.embed.weight.data, made.embed.weight.data)


def test_a_hook_below_what_holds_all_places_finds_them_apart() -> None:
    """The head is outside of what the hook is called for, so it is the embedding that decides."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Hooked(False)
            self.head = nn.Linear(8, 16, bias=False)
            self.inner.head = nn.Identity()
            self.head.weight = self.inner.embed.weight

    for model in roads(Whole):
        assert model.head.weight is model.inner.embed.weight
        assert model.head.weight[3].count_nonzero() == 0
        assert 0.01 < model.head.weight.std() < 0.03


def test_modules_that_are_shared_are_no_ties_that_part() -> None:
    layer = nn.Linear(4, 4)
    model = nn.ModuleList([nn.Sequential(layer), nn.Sequential(layer)])
    weight = layer.weight
    initialize_(model, key=3)
    assert model[0][0] is model[1][0] is layer
    assert layer.weight is weight
    assert_same(values(layer), values(initialize_(nn.Linear(4, 4), key=3, prefix="0.0")))


def test_an_error_leaves_ties_as_they_were() -> None:
    class Fails(nn.Linear):
        def reset_parameters(self) -> None:
            if hasattr(self, "armed"):
                raise KeyError("here")

    model = nn.ModuleList([nn.Linear(4, 4), Fails(4, 4)])
    model[1].weight, model[1].armed = model[0].weight, True
    before = values(model)
    with pytest.raises(KeyError, match="here"):
        initialize_(model, key=3)
    assert model[1].weight is model[0].weight
    assert_same(values(model), before)


def test_what_lies_beside_each_other_is_not_tied() -> None:
    flat = torch.zeros(8)
    model = nn.ModuleList([Custom("init", 1.0), Custom("init", 2.0)])
    model[0].weight, model[1].weight = nn.Parameter(flat[:3]), nn.Parameter(flat[3:6])
    initialize_(model, key=3)
    assert flat.tolist() == [1.0] * 3 + [2.0] * 3 + [0.0] * 2


# ---- transformers --------------------------------------------------------------------------------


def tied_model(keys: Any, head_first: bool, tie_now: bool) -> Any:
    transformers: Any = pytest.importorskip("transformers")
    initialization: Any = pytest.importorskip("transformers.initialization")

    class Config(transformers.PretrainedConfig):
        model_type = "x-fastinit-ties"

    class Inner(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.embed = nn.Embedding(16, 8, padding_idx=3)
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                initialization.constant_(module.weight, 5.0)
            elif isinstance(module, nn.Embedding):
                initialization.normal_(module.weight, std=0.02)
                initialization.zeros_(module.weight[module.padding_idx])

    class Outer(Inner):
        _tied_weights_keys = keys

        def __init__(self, config: Any) -> None:
            nn.Module.__init__(self)
            transformers.PreTrainedModel.__init__(self, config)
            if head_first:
                self.head = nn.Linear(8, 16, bias=False)
            self.inner = Inner(config)
            if not head_first:
                self.head = nn.Linear(8, 16, bias=False)
            if tie_now:
                self.head.weight = self.inner.embed.weight
            else:
                self.post_init()

        _init_weights = Inner._init_weights

    return lambda: Outer(Config(tie_word_embeddings=True))


@pytest.mark.parametrize("head_first", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_what_transformers_ties_to_decides(head_first: bool, inside: bool) -> None:
    keys = {"head.weight": "inner.embed.weight"}
    factory = tied_model(keys, head_first, False)
    wrapped = (lambda: nn.Sequential(factory())) if inside else factory
    for whole in roads(wrapped):
        model = whole[0] if inside else whole
        assert model.head.weight is model.inner.embed.weight
        assert model.head.weight[3].count_nonzero() == 0
        assert 0.015 < model.head.weight.std() < 0.025


def test_a_head_that_embeddings_are_tied_to() -> None:
    factory = tied_model({"inner.embed.weight": "head.weight"}, False, False)
    for model in roads(factory):
        assert model.head.weight is model.inner.embed.weight
        assert (model.head.weight == 5).all()


def test_the_declared_source_of_several_places() -> None:
    """One more place, which the constructor ties and nothing declares, is named first."""
    outer = tied_model({"inner.embed.weight": "head.weight"}, False, False)

    def factory() -> Any:
        model = outer()
        model._modules = {"extra": nn.Embedding(16, 8), **model._modules}
        model.extra.weight = model.head.weight
        return model

    for model in roads(factory):
        assert model.extra.weight is model.head.weight is model.inner.embed.weight
        assert (model.head.weight == 5).all()


def test_what_is_around_models_of_transformers_finds_them_tied() -> None:
    transformers: Any = pytest.importorskip("transformers")
    inner = tied_model({"head.weight": "inner.embed.weight"}, True, False)

    class Config(transformers.PretrainedConfig):
        model_type = "x-fastinit-around"

    class Middle(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self) -> None:
            super().__init__(Config())
            self.model = inner()
            self.post_init()

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.middle = Middle()

        def reset_parameters(self) -> None:
            nn.init.constant_(self.middle.model.head.weight, 7.0)

    for whole in roads(Around):
        assert (whole.middle.model.inner.embed.weight == 7).all()


@pytest.mark.parametrize("keys", [["head.weight"], [r"head\.w.*"]])
def test_lists_of_older_releases_name_what_is_tied(keys: list[str]) -> None:
    """They are patterns of the places that are not saved."""
    factory = tied_model(None, True, True)
    for make in (initialize_, lambda m, key: fastinit.initialize_(nn.Sequential(m), key=key)[0]):
        model = factory()
        model._tied_weights_keys, model.all_tied_weights_keys = keys, None
        make(model, key=3)
        assert model.head.weight is model.inner.embed.weight
        assert model.head.weight[3].count_nonzero() == 0
        assert 0.015 < model.head.weight.std() < 0.025
    model._tied_weights_keys = ["inner.embed.weight"]
    initialize_(model, key=3)
    assert (model.inner.embed.weight == 5).all()
