"""`initialize_`: keys by name, rules, what modules define themselves, and what is left alone."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
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


class Forwarding(nn.Module):
    """Hands on what it has not to what it wraps, as PEFT's models do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


@pytest.mark.parametrize("wrap", [torch.compile, checkpoint_wrapper, Forwarding])
def test_what_wrappers_hand_on_runs_once(wrap: Callable[[nn.Module], nn.Module]) -> None:
    class Scaled(nn.Sequential):
        def init_weights(self) -> None:
            with torch.no_grad():
                self.get_parameter("0.weight").mul_(0.5)

    expected = values(initialize_(Scaled(nn.Linear(4, 8)), key=3, prefix="inner"))
    model = Scaled(nn.Linear(4, 8))
    initialize_(wrap(model), key=3, prefix="" if wrap is Forwarding else "inner")
    assert_same(values(model), expected)


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


# ---- what modules define -------------------------------------------------------------------------


def test_parents_come_after_their_children() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Linear(4, 4)
            self.calls: list[str] = []

        def reset_parameters(self) -> None:
            self.calls.append("reset")
            nn.init.constant_(self.child.bias, 7.0)

        def init_weights(self, scale: float = 2.0) -> None:
            self.calls.append("init")
            with torch.no_grad():
                self.child.weight.mul_(scale)

    module = initialize_(Parent(), key=3)
    assert module.calls == ["reset", "init"]
    assert (module.child.bias == 7).all()
    plain = initialize_(nn.Linear(4, 4), key=3, prefix="child")
    assert same_bits(module.child.weight.data, plain.weight.data * 2)


class _Either(nn.Linear):
    def __init__(self, value: float) -> None:
        super().__init__(2, 2)
        self.value = value

    @property
    def init_weights(self) -> Any:
        def fill(module: nn.Module | None = None) -> None:
            nn.init.constant_(self.weight, self.value)

        return fill if self.value else None


def test_methods_that_a_class_gives_some_modules_alone() -> None:
    module = initialize_(nn.Sequential(_Either(0.0), _Either(1.0), _Either(2.0)), key=3)
    assert [(layer.weight == k).all().item() for k, layer in enumerate(module)] == [0, 1, 1]


def test_methods_that_a_module_has_of_its_own() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    module[1].init_weights = lambda: nn.init.ones_(module[1].weight)
    module[2].reset_parameters = lambda: [nn.init.zeros_(p) for p in module[2].parameters()]
    initialize_(module, key=3)
    assert [(layer.weight == 2 - k).all().item() for k, layer in enumerate(module)] == [0, 1, 1]


def test_methods_that_need_arguments_are_their_parents_business() -> None:
    class Child(nn.Linear):
        def init_weights(self, std: float) -> None:
            nn.init.normal_(self.weight, std=std)

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = Child(4, 4)

        def init_weights(self) -> None:
            self.child.init_weights(0.5)

    class Applied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Linear(4, 4)

        def _init_weights(self, module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.5)

    expected = fastinit.normal_(torch.empty(4, 4), 0.0, 0.5, key=drawn("child.weight"))
    assert same_bits(initialize_(Parent(), key=3).child.weight.data, expected)
    assert same_bits(initialize_(Applied(), key=3).child.weight.data, expected)


def test_values_that_an_initialiser_reads_are_there() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.empty(30))
            self.b = nn.Parameter(torch.empty(30))
            self.register_buffer("top", torch.zeros(()))
            self.seen: list[Any] = []

        def reset_parameters(self) -> None:
            nn.init.normal_(self.a)
            nn.init.zeros_(self.b)
            self.seen = [self.a.max().item(), self.a.tolist(), self.a.detach().numpy().sum()]
            if self.a.mean() < 100:
                nn.init.constant_(self.b, self.a.max().item())
            self.top.copy_(self.a.detach().max())
            self.seen.append(repr(self.b))

    module = initialize_(Reads(), key=3)
    expected = fastinit.normal_(torch.empty(30), key=drawn("a"))
    assert same_bits(module.a.data, expected)
    assert module.seen[0] == expected.max().item()
    assert module.seen[1] == expected.tolist()
    assert module.seen[2] == pytest.approx(expected.sum().item(), rel=1e-4)
    assert (module.b == expected.max()).all()
    assert module.top == expected.max()
    assert "Parameter containing" in module.seen[3]


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.mul_(0.5),
        lambda w: w.div_(3).clamp_(-0.1, 0.1),
        lambda w: w.copy_(torch.linalg.qr(torch.randn(6, 6))[0]),
        lambda w: w.copy_(torch.arange(36.0).view(6, 6) * w),
        lambda w: w[2].zero_(),
        lambda w: w.t()[1:3].fill_(2.0),
        lambda w: w.index_fill_(0, torch.tensor([1, 2]), 4.0),
        lambda w: w.masked_fill_(torch.eye(6, dtype=torch.bool), 0.0),
        lambda w: w.add_(torch.rand_like(w)),
        lambda w: w.copy_(torch.ones(6, 6).exponential_()),
        lambda w: w.bernoulli_(0.3),
        lambda w: nn.init.orthogonal_(w),
        lambda w: nn.init.sparse_(w, 0.3),
        lambda w: fastinit.orthogonal_(w),
        lambda w: fastinit.sparse_(w, 0.3),
        lambda w: nn.init.eye_(w),
        lambda w: w.numpy().fill(3.0),
        lambda w: w.set_(torch.ones(6, 6)) if False else w.lerp_(torch.ones(6, 6), 0.5),
        lambda w: torch.nn.init.normal_(w, generator=torch.Generator().manual_seed(1)),
        lambda w: torch.add(w, 1, out=w),
    ],
)
def test_any_operator_on_a_weight(change: Any) -> None:
    """The same as its effect on the weight that was there before, and the same twice."""

    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(6, 6))

        def reset_parameters(self) -> None:
            with torch.no_grad():
                nn.init.normal_(self.weight)
                change(self.weight.data)

    with no_randomness():
        module = initialize_(Changed(), key=3)
        again = initialize_(Changed(), key=3)
    assert same_bits(module.weight.data, again.weight.data)
    assert torch.isfinite(module.weight).all()
    before = fastinit.normal_(torch.empty(6, 6), key=drawn("weight"))
    assert not same_bits(module.weight.data, before)
    sources = change.__code__.co_names
    if not {"randn", "rand_like", "exponential_", "bernoulli_", "nn", "fastinit", "init"} & {
        *sources
    }:
        change(before)
        assert same_bits(module.weight.data, before)


def test_what_nothing_writes_is_an_error_and_nothing_is_touched() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(4))
            self.part = nn.Parameter(torch.ones(4))

        def reset_parameters(self) -> None:
            nn.init.zeros_(self.part[:2])

    module = Plain()
    before = values(module)
    with pytest.raises(
        ValueError,
        match=r"writes scale \(parameter\), part \(parameter\);.* or skip it; what a constructor "
        r"gives values, initialize_\(module, factory=factory\) initialises",
    ):
        initialize_(module, key=3)
    assert_same(values(module), before)
    initialize_(module, key=3, skip=["scale", re.compile("^par")])
    assert_same(
        {n: v for n, v in values(module).items() if "." not in n},
        {"scale": torch.ones(4), "part": torch.ones(4)},
    )
    assert not same_bits(module.linear.weight.data, before["linear.weight"])
    initialize_(module, {"scale": nn.init.ones_, "part": nn.init.ones_, "default": None}, key=3)


def test_changing_what_was_there_is_no_initialisation() -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3))

        def reset_parameters(self) -> None:
            self.weight.data.mul_(2)

    module = Scales()
    with pytest.raises(ValueError, match=r"writes weight \(parameter\)"):
        initialize_(module, key=3)
    assert (module.weight == 1).all()


def test_batch_norm_s_statistics_are_reset() -> None:
    module = nn.BatchNorm1d(3)
    module(torch.randn(9, 3))
    initialize_(module, key=3)
    assert module.num_batches_tracked == 0
    assert (module.running_mean == 0).all()


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


def test_of_diffusers_only_what_a_constructor_calls() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def _init_weights(self, module: nn.Module) -> None:
            raise AttributeError("what it needs is there no more")

    class Alive(Dead):
        def __init__(self) -> None:
            super().__init__()
            self.apply(self._init_weights)

        def _init_weights(self, module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                nn.init.ones_(module.weight)

    for kind in (Dead, Alive):
        kind.__module__ = "diffusers.models.unets"
    plain = initialize_(nn.ModuleDict({"layer": nn.Linear(4, 4)}), key=3)
    for name, value in initialize_(Dead(), key=3).state_dict().items():
        assert same_bits(value, plain.state_dict()[name])
    assert (initialize_(Alive(), key=3).layer.weight == 1).all()
