"""`fastinit.patch(key, module=model)`: draws keyed by the names of what they are made into."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.decoders import Decoder, Layer, assert_same, drawn, of, stages, uniform, values_of
from support.patch_helpers import direct, nth, same
from torch import nn

import fastinit


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    return values_of(fastinit.initialize_(Decoder(), key=3))


# ---- the same as initialize_, whoever draws ------------------------------------------------------


@pytest.mark.parametrize("batch", [False, True])
def test_values_are_those_of_initialize_(whole: dict[str, torch.Tensor], batch: bool) -> None:
    assert_same(drawn(Decoder(), batch=batch), whole)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_pipeline_stages(whole: dict[str, torch.Tensor], count: int) -> None:
    """Each on a rank of its own, or several on one."""
    parts = stages(Decoder(), count)
    apart: dict[str, torch.Tensor] = {}
    for part in parts:
        apart |= drawn(part)
    assert_same(apart, whole)
    assert_same(drawn(*stages(Decoder(), count)), whole)
    assert_same(drawn(*reversed(parts)), whole)


def test_stages_with_names_of_their_own(whole: dict[str, torch.Tensor]) -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(2))

        def init_weights(self) -> None:
            for layer in self.layers:
                layer.init_weights()

    def globally(name: str) -> str:
        return re.sub(r"\d+", lambda found: str(int(found[0]) + 2), name, count=1)

    names = {name: globally(name) for name in values_of(Stage())}
    for rename in (globally, names):
        got = drawn(Stage(), rename=rename)
        assert_same(got, {name: whole[names[name]] for name in names})


def test_the_order_of_draws_does_not_matter(whole: dict[str, torch.Tensor]) -> None:
    model = Decoder()
    with fastinit.patch(3, module=model), torch.no_grad():
        nn.init.normal_(model.head.weight, std=0.02)
        for layer in reversed(model.layers.values()):
            layer.init_weights()
        model.embedding.reset_parameters()
    assert_same(values_of(model), whole)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_names_are_without_what_wrappers_add(
    whole: dict[str, torch.Tensor], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    wrapped: Any = wrap(Decoder())
    with fastinit.patch(3, module=wrapped), torch.no_grad():
        wrapped.module.init_weights()
    assert_same(values_of(wrapped.module), whole)


def test_a_tied_parameter_has_its_first_name() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    with fastinit.patch(0, module=model):
        model[1].reset_parameters()
    want = fastinit.kaiming_uniform_(torch.empty(4, 3), 5**0.5, key=of("0.weight"))
    assert same(model[0].weight.detach(), want)


def test_every_call_of_a_decorated_function_is_alike() -> None:
    layer = nn.Linear(3, 4)

    @fastinit.patch(0, module=layer)
    def draw() -> torch.Tensor:
        layer.reset_parameters()
        return layer.weight.detach().clone()

    assert same(draw(), draw())
    assert same(draw(), fastinit.initialize_(nn.Linear(3, 4), key=0).weight.detach())


# ---- scopes --------------------------------------------------------------------------------------


def test_without_a_key_one_is_drawn() -> None:
    layers = [nn.Linear(3, 4) for _ in range(3)]
    torch.manual_seed(1)
    with fastinit.patch(module=layers[0]):
        layers[0].reset_parameters()
    after = torch.get_rng_state()
    torch.manual_seed(1)
    assert_same(values_of(layers[0]), values_of(fastinit.initialize_(layers[1])))
    assert torch.equal(torch.get_rng_state(), after)
    with fastinit.patch(module=layers[2]):
        layers[2].reset_parameters()
    assert not same_bits(layers[2].weight, layers[0].weight)


def test_nested() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False))
    with fastinit.patch(0, module=model), torch.no_grad():
        with fastinit.patch(0, module=model[1]):
            nn.init.uniform_(model[1].weight)
            nn.init.uniform_(model[0].weight)
        assert same(model[1].weight.detach(), uniform((4, 3)))
        assert same(model[0].weight.detach(), direct("uniform_", (4, 3), key=nth(0, 0)))
        with fastinit.patch(0):
            nn.init.uniform_(model[0].weight)
        assert same(model[0].weight.detach(), direct("uniform_", (4, 3), key=nth(0, 0)))
        nn.init.uniform_(model[0].weight)
    assert same(model[0].weight.detach(), uniform((4, 3), "0.weight"))


def test_threads_have_patches_of_their_own() -> None:
    models = [Decoder() for _ in range(4)]
    with fastinit.patch(9, module=models[0]):
        threads = [threading.Thread(target=drawn, args=(model,)) for model in models[1:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    want = values_of(fastinit.initialize_(Decoder(), key=3))
    for model in models[1:]:
        assert_same(values_of(model), want)


# ---- wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "given"),
    [(3, "got int"), ("abc", "got a str with a str"), ([3], "got a list with a int")],
)
def test_no_module(module: Any, given: str) -> None:
    said = "fastinit.patch: argument 'module' must be a torch.nn.Module or a sequence of them, "
    with pytest.raises(TypeError, match=re.escape(said + given)):
        fastinit.patch(0, module=module)
    with pytest.raises(TypeError, match="got type"):
        fastinit.patch(0, module=nn.Linear)


def test_wrong_names() -> None:
    layer = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"fastinit.patch: argument 'rename' is about names in"):
        fastinit.patch(0, rename={})
    with pytest.raises(TypeError, match=r"fastinit.patch: argument 'rename' must be a mapping"):
        fastinit.patch(0, module=layer, rename=3)
    for rename, said in (
        ({"wait": "x"}, "there is no parameter or buffer 'wait'"),
        ({"weight": "bias"}, "gives weight and bias one name, 'bias'"),
    ):
        with (
            pytest.raises(ValueError, match=f"fastinit.patch: argument 'rename'.* {said}"),
            fastinit.patch(0, module=layer, rename=rename),
        ):
            pytest.fail("entered")
    with (
        pytest.raises(ValueError, match="gives weight and other one name, 'same'"),
        fastinit.patch(0, module=layer, rename=lambda name: "same" if name != "bias" else name),
    ):
        layer.other = nn.Parameter(torch.empty(3))
        nn.init.uniform_(layer.other)


def test_parts_that_do_not_say_where_they_lie() -> None:
    layer = nn.Linear(3, 4)
    layer.weight.ds_id = 3
    with (
        pytest.raises(NotImplementedError, match="partitioned by DeepSpeed"),
        fastinit.patch(0, module=layer),
    ):
        pytest.fail("entered")


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_scripted_modules_have_names_too() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
    with fastinit.patch(0, module=scripted), torch.no_grad():
        scripted[1].weight.normal_()
    key = fastinit.Key(0).fold_in("1.weight").fold_in(0)
    assert torch.equal(scripted[1].weight, fastinit.normal_(torch.empty(5, 4), key=key))
