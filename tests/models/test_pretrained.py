"""Models of transformers: what it would not call is not called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import drawn
from torch import nn

import fastinit
from fastinit._models.loaded import warn_of_loaded
from fastinit._models.names import named_parameters

transformers: Any = pytest.importorskip("transformers")
FLAG = "_is_hf_initialized"


class Config(transformers.PretrainedConfig):
    model_type = "x-fastinit-test"


def dead(weight: nn.Parameter) -> None:
    """As MiniCPM-V's vision tower has it, where nothing calls it."""
    if not getattr(weight, FLAG, False):
        nn.init.constant_(weight, 7.0)
        setattr(weight, FLAG, True)


class DeadPrivate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def _init_weights(self) -> None:
        dead(self.linear.weight)


class DeadPublic(DeadPrivate):
    def init_weights(self) -> None:
        dead(self.linear.weight)


class DeadApplied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            dead(module.weight)


class DeadReset(DeadPrivate):
    def reset_parameters(self) -> None:
        dead(self.linear.weight)


class Alive(nn.Module):
    """Its constructor calls it, by way of another method."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.own = nn.Parameter(torch.empty(5))
        self.setup()

    def setup(self) -> None:
        [init() for init in [lambda: self._init_weights()]]

    def _init_weights(self) -> None:
        nn.init.constant_(self.own, 2.0)


class Model(transformers.PreTrainedModel):
    config_class = Config

    def __init__(self, config: Config, inner: Callable[[], nn.Module]) -> None:
        super().__init__(config)
        self.inner = inner()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            transformers.initialization.normal_(module.weight, std=0.02)
            transformers.initialization.zeros_(module.bias)


@pytest.mark.parametrize("inner", [DeadPrivate, DeadPublic, DeadApplied, DeadReset, Alive])
def test_only_what_transformers_or_a_constructor_calls(inner: Callable[[], nn.Module]) -> None:
    def factory() -> nn.Module:
        return Model(Config(), inner)

    expected = torch.empty(8, 8)
    fastinit.normal_(expected, std=0.02, key=drawn("inner.linear.weight"))
    with torch.device("meta"):
        bare = factory()
    for model in (
        fastinit.materialize(factory, key=3),
        fastinit.materialize(bare, key=3),
        fastinit.initialize_(factory(), key=3),
    ):
        weight = model.get_parameter("inner.linear.weight")
        assert same_bits(weight.data, expected)
        assert FLAG not in vars(weight)
        if inner is Alive:
            assert (model.get_parameter("inner.own") == 2).all()


def test_what_modules_of_no_framework_define_is_called() -> None:
    assert (fastinit.initialize_(DeadPublic(), key=3).linear.weight == 7).all()
    assert (fastinit.initialize_(nn.Sequential(DeadReset()), key=3)[0].linear.weight == 7).all()


# ---- flags ---------------------------------------------------------------------------------------


def flags_of(model: nn.Module) -> dict[str, Any]:
    holders = {**dict(model.named_modules()), **dict(model.named_parameters())}
    return {name: vars(holder)[FLAG] for name, holder in holders.items() if FLAG in vars(holder)}


def loaded(model: Any, *names: str) -> Any:
    """Mark parameters as transformers does when it loads them."""
    for name in names:
        setattr(model.get_parameter(name), FLAG, True)
    return model


def test_flags_of_construction_and_of_loading_do_not_keep_values() -> None:
    for model in (Model(Config(), Alive), loaded(Model(Config(), Alive), "inner.linear.weight")):
        before, flags = model.inner.linear.weight.detach().clone(), flags_of(model)
        assert flags
        fastinit.initialize_(model, key=3)
        assert not same_bits(model.inner.linear.weight.data, before)
        assert flags_of(model) == flags


def test_a_model_made_on_the_meta_device_is_initialised_afterwards() -> None:
    """So a second `post_init` leaves it alone."""
    with torch.device("meta"):
        model = Model(Config(), Alive)
    fastinit.materialize(model, key=3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.post_init()
    assert all(same_bits(before[name], p.data) for name, p in model.named_parameters())


def test_an_error_leaves_flags_as_they_were() -> None:
    model = loaded(Model(Config(), Alive), "inner.linear.weight")
    vars(model.inner.linear).pop(FLAG)
    flags = flags_of(model)

    def fails(module: nn.Module) -> None:
        if isinstance(module, Alive):
            raise KeyError("here")

    model._init_weights = fails
    with pytest.raises(KeyError, match="here"):
        fastinit.initialize_(model, key=3)
    assert flags_of(model) == flags


def test_loaded_parameters_are_named() -> None:
    model = loaded(Model(Config(), Alive), "inner.linear.weight")
    with pytest.warns(UserWarning, match=r"loaded.*: inner\.linear\.weight; argument 'skip'") as w:
        warn_of_loaded(named_parameters(model))
    assert w[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_loaded(named_parameters(Model(Config(), Alive)))


def test_what_a_factory_loads_as_well_is_not_named() -> None:
    def make() -> nn.Module:
        return loaded(Model(Config(), Alive), "inner.linear.weight")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastinit.initialize_(make(), key=3, factory=make)


class Added(nn.Linear):
    """What others put into a model that is there: whoever does so calls its method."""

    def reset_added_parameters(self, scale: float) -> None:
        nn.init.constant_(self.weight, scale)


def test_what_was_put_into_a_model_afterwards_is_named() -> None:
    model = Model(Config(), Alive)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastinit.initialize_(model, key=3)
    model.inner.linear = Added(8, 8)
    with pytest.warns(UserWarning, match=r"Added\.reset_added_parameters needs arguments"):
        fastinit.initialize_(model, key=3)
