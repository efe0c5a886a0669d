"""`initialize_`: keys by name, rules, and what is left alone."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from support.common import no_randomness, same_bits
from support.initialize_helpers import NORMAL, Block, Model, assert_same, drawn, values
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import fastinit
from fastinit import initialize_
from fastinit._models.names import named_parameters, named_tensors

# ---- names and keys ------------------------------------------------------------------------------


def test_the_key_is_the_name_s() -> None:
    model = Model()
    with no_randomness():
        assert initialize_(model, key=3) is model
    expected = fastinit.kaiming_uniform_(
        torch.empty(8, 8), math.sqrt(5), key=drawn("layers.1.second.weight")
    )
    assert same_bits(model.layers[1].second.weight.data, expected)
    assert same_bits(
        model.embed.weight.data, fastinit.normal_(torch.empty(20, 8), key=drawn("embed.weight"))
    )
    bias = fastinit.uniform_(
        torch.empty(8), -1 / math.sqrt(8), 1 / math.sqrt(8), key=drawn("layers.0.first.bias")
    )
    assert same_bits(model.layers[0].first.bias.data, bias)


@pytest.mark.parametrize("rules", [None, {1: nn.init.zeros_, "default": NORMAL}])
def test_other_layers_and_their_order_do_not_matter(rules: Any) -> None:
    model = initialize_(Model(2), rules, key=3)
    longer = initialize_(Model(4), rules, key=3)
    for name, parameter in model.named_parameters():
        assert same_bits(parameter.data, longer.get_parameter(name).data), name
    reordered = Model(2)
    reordered._modules = dict(reversed(reordered._modules.items()))
    assert [*reordered.state_dict()] != [*model.state_dict()]
    initialize_(reordered, rules, key=3)
    for name, parameter in model.named_parameters():
        assert same_bits(parameter.data, reordered.get_parameter(name).data), name
    alone = initialize_(Block(), rules, key=3, prefix="layers.1")
    assert_same(values(alone), values(model.layers[1]))


def test_wrappers_do_not_matter() -> None:
    expected = values(initialize_(Model(), key=3))
    for wrap in (torch.compile, nn.DataParallel, checkpoint_wrapper, lambda m: m):
        model = Model()
        inside = Model()
        inside.layers[0] = checkpoint_wrapper(inside.layers[0])
        initialize_(wrap(model), key=3)
        assert_same(values(model), expected)
        initialize_(nn.DataParallel(wrap(inside)), key=3)
        assert same_bits(inside.head.weight.data, expected["head.weight"])
        first = inside.layers[0].get_parameter("_checkpoint_wrapped_module.first.weight")
        assert same_bits(first.data, expected["layers.0.first.weight"])


class Residual(nn.Module):
    """Not a wrapper, though all it has is a child called "module" (LeViT's is one such)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.module(x)


def test_a_child_called_module_keeps_its_name() -> None:
    model = nn.Sequential(Residual(nn.Linear(2, 2)), Residual(Residual(nn.Linear(2, 2))))
    names = [name for name, _ in model.named_parameters()]
    assert [*named_parameters(model)] == names
    assert [*named_parameters(nn.DataParallel(model))] == names
    initialize_(model, {"default": NORMAL}, key=3)
    expected = fastinit.normal_(torch.empty(2, 2), 0.0, 0.02, key=drawn("1.module.module.weight"))
    assert same_bits(model.get_parameter("1.module.module.weight").data, expected)


def test_what_is_in_a_wrapper_of_data_parallelism_has_its_own_name() -> None:
    """Also in a subclass, and in those of other libraries, which have the same names."""

    class Mine(nn.DataParallel):
        pass

    class DistributedDataParallel(Residual):
        pass

    class DeepSpeedEngine(Residual):
        pass

    layer = nn.Linear(2, 2)
    for wrap in (nn.DataParallel, Mine, DistributedDataParallel, DeepSpeedEngine, AveragedModel):
        assert [*named_parameters(wrap(layer))] == ["weight", "bias"]
        assert [*named_parameters(nn.Sequential(wrap(layer)))] == ["0.weight", "0.bias"]


def test_names_that_meet_are_refused() -> None:
    parent = nn.Module()
    parent._orig_mod = nn.Linear(2, 2)
    parent.weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="'weight'"):
        named_parameters(parent)


def test_a_tied_parameter_has_its_first_name() -> None:
    model = Model()
    model.head.weight = model.embed.weight
    names = named_parameters(model)
    assert "head.weight" not in names
    assert names["embed.weight"].aliases == ["head.weight"]
    initialize_(model, key=3)
    assert model.head.weight is model.embed.weight
    assert same_bits(
        model.embed.weight.data, fastinit.normal_(torch.empty(20, 8), key=drawn("embed.weight"))
    )
    shared = nn.ModuleList([nn.Linear(2, 2)] * 2)
    assert [*named_parameters(shared)] == ["0.weight", "0.bias"]


def test_without_a_key_torch_s_generator_decides() -> None:
    torch.manual_seed(1)
    a = values(initialize_(Model()))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert_same(values(initialize_(Model())), a)
    assert torch.equal(torch.get_rng_state(), state)
    b = values(initialize_(Model()))
    assert not same_bits(a["embed.weight"], b["embed.weight"])


def test_the_nth_draw_into_a_parameter() -> None:
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(6, 4))

        def reset_parameters(self) -> None:
            nn.init.uniform_(self.weight)  # overwritten as a whole, so it does not count
            nn.init.zeros_(self.weight)
            for k in range(3):
                nn.init.normal_(self.weight[2 * k : 2 * k + 2], std=k + 1.0)

    module = initialize_(Gates(), key=3)
    for k in range(3):
        expected = fastinit.normal_(torch.empty(2, 4), 0.0, k + 1.0, key=drawn("weight", k))
        assert same_bits(module.weight[2 * k : 2 * k + 2].detach(), expected)


# ---- the rest ----------------------------------------------------------------------------------


class Wrapped(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError


def test_parameters_with_memory_of_their_own_are_refused() -> None:
    module = nn.Linear(2, 2)
    wrapped = torch.Tensor._make_wrapper_subclass(Wrapped, (2, 2))
    module._parameters["weight"] = wrapped  # type: ignore[assignment]
    for run in (initialize_, fastinit.materialize):
        with pytest.raises(NotImplementedError, match=r"weight \(Wrapped\)"):
            run(module, key=3)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="'module'"):
        initialize_(torch.ones(3))  # type: ignore[type-var]
    with pytest.raises(TypeError, match="'key'"):
        initialize_(nn.Linear(2, 2), key="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"meta device.*weight, bias"):
        initialize_(nn.Linear(2, 2, device="meta"))


def test_dtypes_and_layouts() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        module = initialize_(nn.Conv2d(3, 4, 3).to(dtype), key=3)
        expected = initialize_(nn.Conv2d(3, 4, 3), key=3)
        if dtype is torch.bfloat16:
            assert same_bits(module.weight.data, expected.weight.data.to(dtype))
        last = nn.Conv2d(3, 4, 3).to(dtype=dtype, memory_format=torch.channels_last)
        assert_same(values(initialize_(last, key=3)), values(module))


def test_version_counters_move() -> None:
    module = nn.Linear(3, 3)
    version = module.weight._version
    initialize_(module, key=3)
    assert module.weight._version > version


def test_views_of_one_storage() -> None:
    flat = torch.zeros(30)
    module = nn.Module()
    module.a, module.b = nn.Parameter(flat[:12].view(3, 4)), nn.Parameter(flat[12:])
    initialize_(module, {"default": NORMAL}, key=3)
    assert same_bits(module.a.data, fastinit.normal_(torch.empty(3, 4), 0.0, 0.02, key=drawn("a")))
    assert same_bits(flat[12:], fastinit.normal_(torch.empty(18), 0.0, 0.02, key=drawn("b")))


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    quiet = values(initialize_(Model(), key=3))
    assert capsys.readouterr() == ("", "")
    assert_same(values(initialize_(Model(), key=3, progress=True)), quiet)
    assert "100%" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="tqdm"):
        initialize_(Model(), key=3, progress=True)


def test_buffers_have_names_too() -> None:
    assert [*named_tensors(nn.DataParallel(nn.BatchNorm1d(3))).buffers] == [
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]
