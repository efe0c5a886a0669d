"""What an error in `initialize_` puts back of tensors and classes, and what it never touches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

from fastinit import Key, initialize_, materialize

KEY = Key(3)


class _Fails(Exception):
    pass


class _Layer(nn.Linear):
    def reset_parameters(self) -> None:
        pass


class _Module(nn.Module):
    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer = _Layer(4, 4)
        nn.init.normal_(self.layer.weight)
        self.layer.weight.grad = torch.full((4, 4), 2.0)
        self.change = change

    def reset_parameters(self) -> None:
        self.change(self.layer)
        raise _Fails


def _resized_and_handed_out(layer: Any) -> None:
    layer.weight.mul_(2)
    layer.weight.requires_grad_(False).resize_(50)
    layer.weight.numpy()[:] = 4


def _resized(layer: Any) -> None:
    layer.weight.mul_(2)
    layer.weight.requires_grad_(False).resize_(50).fill_(3)


def _new_data(layer: Any) -> None:
    layer.weight.data = layer.weight.data.clone()
    layer.weight.fill_(3)


def _other_gradient(layer: Any) -> None:
    layer.half()
    layer.weight.grad = None


_CHANGES: list[Callable[[Any], Any]] = [
    lambda layer: layer.weight.clone(),
    lambda layer: layer.weight.data.flip(0),
    lambda layer: torch.cat([layer.weight, layer.weight]),
    lambda layer: layer.weight[torch.tensor([1])],
    lambda layer: layer.weight.data.index_fill_(0, torch.tensor([1]), 5.0),
    lambda layer: layer.weight.grad.zero_(),
    lambda layer: layer.double(),
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.orthogonal,
    _new_data,
    _other_gradient,
    _resized,
    _resized_and_handed_out,
]


@pytest.mark.parametrize("change", _CHANGES)
def test_an_error_puts_back_values_gradients_and_classes(change: Callable[[Any], Any]) -> None:
    module = _Module(change)
    layer: Any = module.layer
    weight, gradient = layer.weight, layer.weight.grad
    before, classes = weight.detach().clone(), [type(one) for one in module.modules()]
    with pytest.raises(_Fails):
        initialize_(module, key=KEY)
    assert [type(one) for one in module.modules()] == classes
    assert layer.weight is weight
    assert weight.requires_grad
    assert same_bits(weight.detach(), before)
    assert weight.grad is gradient
    assert same_bits(gradient, torch.full((4, 4), 2.0))


class _Strict(nn.Module):
    """Lets nobody set attributes but itself, and fails when initialised, as another class."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(2))
        self.weight = nn.Parameter(torch.ones(2))

    def __setattr__(self, name: str, value: Any) -> None:
        if "weight" in self.__dict__.get("_parameters", {}):
            raise AttributeError(f"nobody sets {name}")
        super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        object.__setattr__(self, "__class__", type("_Other", (_Strict,), {}))
        with torch.enable_grad():
            self.get_buffer("scale").mul_(self.weight)
        raise _Fails


def test_an_error_puts_back_what_refuses_to_be_set_and_what_came_into_a_graph() -> None:
    module = _Strict()
    with pytest.raises(_Fails):
        initialize_(module, key=KEY)
    assert type(module) is _Strict
    scale = module.get_buffer("scale")
    assert scale.is_leaf
    assert not scale.requires_grad
    assert same_bits(scale, torch.ones(2))


class _Turns(nn.Module):
    """Draws for the one or the other, by turns."""

    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def reset_parameters(self) -> None:
        _Turns.runs += 1
        drawn = nn.init.normal_(torch.empty(3))
        total = drawn.sum()
        for parameter in (self.one, self.other)[:: 1 if _Turns.runs % 2 else -1]:
            parameter.copy_(drawn)
            drawn = total.expand(3)


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_raised_is_an_error_like_any_other() -> None:
    module = _Turns()
    with pytest.raises(UserWarning, match="names do not settle"):
        initialize_(module, key=KEY)
    assert all(same_bits(p.detach(), torch.ones(3)) for p in module.parameters())


class _Parametrizes(nn.Module):
    """Parametrizes its layer, by what it reads, each time that it is initialised."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def reset_parameters(self) -> None:
        nn.utils.parametrizations.weight_norm(self.layer)


def test_a_further_run_finds_the_classes_of_before() -> None:
    module: Any = _Parametrizes()
    initialize_(module, key=KEY)
    assert nn.utils.parametrize.is_parametrized(module.layer, "weight")
    kind = type(module.layer)
    assert kind.__mro__[1] is nn.Linear
    norms = torch.linalg.vector_norm(module.layer.weight, dim=1)
    assert torch.allclose(norms, module.layer.parametrizations.weight.original0.flatten())


class _PartOfMore(nn.Module):
    """Has a part of memory that others have, too, and copies it before it writes it."""

    def __init__(self, memory: Tensor, copy: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(memory[:8].view(2, 4))
        self.copy = copy

    def reset_parameters(self) -> None:
        self.copy(self.weight.data)
        nn.init.zeros_(self.weight)


@pytest.mark.parametrize(
    "copy",
    [
        torch.clone,
        lambda weight: weight.flip(0),
        lambda weight: torch.stack([weight, weight]),
        lambda weight: weight.index_fill_(0, torch.tensor([1]), 5.0),
        lambda weight: weight.numpy().sum(),
    ],
)
def test_memory_beside_a_parameter_stays_as_it_is(copy: Callable[[Tensor], Any]) -> None:
    memory = torch.arange(20.0)
    initialize_(_PartOfMore(memory, copy), key=KEY)
    assert memory.tolist() == [0.0] * 8 + np.arange(8.0, 20.0).tolist()


class _Marks(nn.Module):
    """Hangs something on its parameter whenever it is initialised, by what it has read."""

    def __init__(self, error: type[Exception] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))
        self.error = error

    def reset_parameters(self) -> None:
        weight: Any = self.weight
        drawn = torch.randn(3)
        weight.copy_(drawn / drawn.norm())  # another run will give it the right key
        weight.times = getattr(weight, "times", 0) + 1
        weight.register_hook(lambda gradient: 2 * gradient)
        if self.error is not None:
            raise self.error


def test_a_further_run_hangs_nothing_twice_on_what_was_on_the_meta_device() -> None:
    with torch.device("meta"):
        module: Any = _Marks()
    materialize(module, key=KEY)
    module.weight.sum().backward()
    assert module.weight.times == 1
    assert module.weight.grad.tolist() == [2.0] * 3


def test_an_error_takes_off_what_was_hung_on_the_meta_device() -> None:
    with torch.device("meta"):
        module: Any = _Marks(_Fails)
    weight = module.weight
    with pytest.raises(_Fails):
        materialize(module, key=KEY)
    assert module.weight is weight
    assert weight.is_meta
    assert not hasattr(weight, "times")
    assert not weight._backward_hooks


class _Hooks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.called: list[str] = []
        self.weight.register_hook(lambda gradient: self.called.append("first"))
        self.weight.register_hook(lambda gradient: self.called.append("second"))
        self.weight.register_post_accumulate_grad_hook(lambda weight: self.called.append("after"))

    def reset_parameters(self) -> None:
        self.weight._backward_hooks.clear()
        self.weight._post_accumulate_grad_hooks.clear()
        self.weight.register_hook(lambda gradient: self.called.append("other"))
        self.weight.register_post_accumulate_grad_hook(lambda weight: self.called.append("other"))
        raise _Fails


def test_an_error_puts_back_hooks_in_their_order() -> None:
    module = _Hooks()
    module.weight.sum().backward()
    expected, module.called = module.called, []
    with pytest.raises(_Fails):
        initialize_(module, key=KEY)
    module.weight.sum().backward()
    assert module.called == expected == ["first", "second", "after"]
