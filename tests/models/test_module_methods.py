"""`initialize_` runs what modules define for themselves: which methods, in which order, once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import no_randomness, same_bits
from support.initialize_helpers import assert_same, drawn, values
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import fastinit
from fastinit import initialize_


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
