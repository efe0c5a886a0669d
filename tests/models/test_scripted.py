"""Scripted and traced modules, whose tables are no dicts, and which hold no objects of Python's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fastinit
from fastinit import Key, initialize_, materialize

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

KEY = 7


def _scripted() -> nn.Module:
    made: nn.Module = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    return made


def _traced() -> nn.Module:
    # Tracing what counts batches fails under any mode of torch's, in factories, say.
    layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    made: nn.Module = torch.jit.trace(layers, torch.ones(2, 4))
    return made


class _Stem(nn.Module):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem = make()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.stem(x))
        return made


class _Tied(_Stem):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__(make)
        self.tie()

    def tie(self) -> None:
        self.head.weight = dict(self.stem.named_parameters())["0.weight"]


_PLACES: dict[str, Callable[[Callable[[], nn.Module]], nn.Module]] = {
    "root": lambda make: make(),
    "child": _Stem,
    "grandchild": lambda make: nn.Sequential(_Stem(make), nn.Linear(4, 2)),
    "tied": _Tied,
}
_how = pytest.mark.parametrize("make", [_scripted, _traced])
_where = pytest.mark.parametrize("place", _PLACES)
_NORMAL = {"*": nn.init.normal_}
_BUFFERS = {"*.running_mean": nn.init.zeros_, "*.running_var": nn.init.ones_}
_BUFFERS |= {"*.num_batches_tracked": nn.init.zeros_}


def _on_meta(make: Callable[[], nn.Module], place: str) -> nn.Module:
    module = _PLACES[place](make).to("meta")
    if isinstance(module, _Tied):  # torch has parted them
        module.tie()
    return module


def _drawn(name: str, like: Tensor) -> Tensor:
    return fastinit.normal_(torch.empty_like(like), key=Key(KEY).fold_in(name).fold_in(0))


@_how
@_where
def test_without_rules_the_error_names_what_nobody_writes(
    make: Callable[[], nn.Module], place: str
) -> None:
    module = _PLACES[place](make)
    before = {n: (p, p.detach().clone()) for n, p in module.named_parameters()}
    with pytest.raises(ValueError, match=r"writes .*1\.bias \(parameter\)"):
        initialize_(module, key=KEY)
    for name, parameter in module.named_parameters():
        tensor, values = before[name]
        assert parameter is tensor and same_bits(parameter.detach(), values)


@_how
@_where
def test_rules_skips_and_factories(make: Callable[[], nn.Module], place: str) -> None:
    module = initialize_(_PLACES[place](make), _NORMAL, key=KEY)
    for name, parameter in module.named_parameters():
        assert same_bits(parameter.detach(), _drawn(name, parameter)), name
    assert all(row.flags == () for row in fastinit.report(module).parameters)

    made = materialize(lambda: _PLACES[place](make), rules=_NORMAL, key=KEY)
    other = initialize_(_PLACES[place](make), key=KEY, rules=_NORMAL, factory=lambda: made)
    for name, parameter in other.named_parameters():
        assert same_bits(parameter.detach(), _drawn(name, parameter)), name

    left = _PLACES[place](make)
    scripted = [n for n, _ in left.named_parameters() if "head" not in n]
    before = {n: p.detach().clone() for n, p in left.named_parameters()}
    initialize_(left, key=KEY, skip=scripted)
    for name, parameter in left.named_parameters():
        assert same_bits(parameter.detach(), before[name]) == (name in scripted), name


class _LateStem(_Stem):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__(make)
        self.late = nn.Parameter(torch.empty(3))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.late)


@_how
def test_rules_for_some_of_a_factory_leave_the_others(make: Callable[[], nn.Module]) -> None:
    some = {"*1.bias": nn.init.normal_, "default": None}
    made = materialize(lambda: _LateStem(make), rules=some, key=KEY)
    drawn = materialize(lambda: _Stem(make), key=KEY)
    for name, other in drawn.named_parameters():
        one = made.get_parameter(name)
        expected = _drawn(name, one) if name.endswith("1.bias") else other.detach()
        assert same_bits(one.detach(), expected), name
    assert torch.equal(made.late, torch.ones(3))


@_how
@_where
def test_what_is_on_the_meta_device_gets_memory(make: Callable[[], nn.Module], place: str) -> None:
    module = _on_meta(make, place)
    objects = dict(module.named_parameters())
    with pytest.raises(ValueError, match="running_mean"):
        materialize(module, rules=_NORMAL, key=KEY)
    assert all(p is objects[n] and p.is_meta for n, p in module.named_parameters())
    assert all(b.is_meta for b in module.buffers())

    materialize(module, rules={**_BUFFERS, **_NORMAL}, key=KEY)
    for name, parameter in module.named_parameters():
        assert same_bits(parameter.detach(), _drawn(name, parameter)), name
    assert all(p is objects[n] for n, p in module.named_parameters())
    twin = _PLACES[place](make)
    twin.load_state_dict(module.state_dict())
    for name, held in module.eval().state_dict().items():
        assert same_bits(held, twin.state_dict()[name]), name
    x = torch.ones(2, 4)
    assert same_bits(module(x), twin.eval()(x))  # which scripted code sees, too


@_how
@_where
def test_what_is_loaded_on_the_meta_device(make: Callable[[], nn.Module], place: str) -> None:
    state = _PLACES[place](make).state_dict()
    module = materialize(_on_meta(make, place), state_dict=state, key=KEY)
    for name, held in module.state_dict().items():
        assert same_bits(held, state[name]), name


@_how
def test_what_is_loaded_under_other_names(make: Callable[[], nn.Module]) -> None:
    state = _Stem(make).state_dict()
    module = _Stem(make).to("meta")

    def rename(_: nn.Module, found: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name in [*found]:
            found[name.replace("trunk", "stem")] = found.pop(name)

    module.register_load_state_dict_pre_hook(rename)
    old = {name.replace("stem", "trunk"): held for name, held in state.items()}
    materialize(module, state_dict=old, key=KEY)
    for name, held in module.state_dict().items():
        assert same_bits(held, state[name]), name
    whole = nn.Sequential(_Stem(make).to("meta"))
    materialize(whole[0], state_dict=state, key=KEY, prefix="0")  # without the prefix
    for name, held in whole[0].state_dict().items():
        assert same_bits(held, state[name]), name


def test_modules_around_scripted_ones_are_told_what_is_lost() -> None:
    class Zeroed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = _scripted()
            self.last = nn.Linear(4, 4)
            nn.init.zeros_(self.last.weight)

    with pytest.warns(UserWarning, match=r"Zeroed\(\) calls zeros_"):
        initialize_(Zeroed(), key=KEY, skip="stem.*")


@_how
def test_a_patch_names_draws_into_scripted_modules(make: Callable[[], nn.Module]) -> None:
    module = _Stem(make)
    with fastinit.patch(KEY, module=module):
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    for name, parameter in module.named_parameters():
        assert same_bits(parameter.detach(), _drawn(name, parameter)), name


@_how
def test_lazy_modules_wait_beside_scripted_ones(make: Callable[[], nn.Module]) -> None:
    module = nn.Sequential(_Stem(make), nn.LazyLinear(3))
    initialize_(module, _NORMAL, key=KEY)
    module(torch.ones(2, 4))
    for name, parameter in module.named_parameters():
        assert same_bits(parameter.detach(), _drawn(name, parameter)), name


def test_a_scripted_step_of_a_parametrization_may_exchange_its_buffers() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(()))
            self.scale: torch.Tensor

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * self.scale

        @torch.jit.export
        def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
            self.scale = weight.abs().max()
            return weight / self.scale

    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", torch.jit.script(Scaled()))
    initialize_(layer, {"weight": nn.init.normal_, "default": nn.init.zeros_}, key=KEY)
    expected = _drawn("weight", torch.empty(4, 4))
    torch.testing.assert_close(layer.weight.detach(), expected)
