"""`initialize_` before shapes are known, where parts of the module are called, loaded, or drawn."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.lazy_models import Trainer, X, linear
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

import fastinit
from fastinit import Key, initialize_


class Pair(nn.Module):
    """Two nets that are called in turns, and a parameter of its own."""

    def __init__(self, lazy: bool) -> None:
        super().__init__()
        norm = nn.LazyBatchNorm1d() if lazy else nn.BatchNorm1d(8)
        self.first = nn.Sequential(linear(lazy, 5, 8), norm)
        self.second = nn.Sequential(linear(lazy, 8, 3))
        self.scale = nn.Parameter(torch.empty(2))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.scale)


def _nothing_waits(module: nn.Module) -> None:
    for one in module.modules():
        assert not one._forward_pre_hooks
        assert not one._load_state_dict_pre_hooks
        assert "reset_parameters" not in vars(one)


@pytest.mark.parametrize("call", [lambda m: m.net(X), lambda m: m.forward(X), lambda m: m(X)])
def test_a_call_of_what_has_all_the_lazy_modules(call: Any) -> None:
    known, module = (initialize_(Trainer(lazy), key=0) for lazy in (False, True))
    assert torch.equal(call(module), call(known))
    _nothing_waits(module)
    with torch.no_grad():
        module.net[2].bias.add_(1)
    trained = module.net[2].bias.detach().clone()
    module(X)
    assert same_bits(module.net[2].bias.data, trained)


def test_a_call_of_a_part_that_leaves_shapes_open_is_an_error() -> None:
    module = initialize_(Pair(True), key=1)
    text = r"first has been called before Pair is initialised, .* the shapes of second\.0; call the"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=text):
            module.first(X)
    known = initialize_(Pair(False), key=1)
    module.second(known.first(X).detach())  # the last ones
    for name, value in module.state_dict().items():
        if "running" not in name and "tracked" not in name:
            assert same_bits(value, initialize_(Pair(False), key=1).state_dict()[name]), name
    _nothing_waits(module)


def test_parts_can_wait_one_by_one() -> None:
    known, module = Pair(False), Pair(True)
    for one in (known, module):
        for name, part in one.named_children():
            initialize_(part, key=1, prefix=name)
    middle, want = module.first(X), known.first(X)
    assert torch.equal(module.second(middle), known.second(want))
    for name, part in module.named_children():
        _nothing_waits(part)
        for inner, value in part.state_dict().items():
            assert same_bits(value, known.state_dict()[f"{name}.{inner}"]), inner


class Tied(nn.Module):
    def __init__(self, lazy: bool) -> None:
        super().__init__()
        self.head, self.words = nn.Linear(5, 7, bias=False), nn.Embedding(7, 5)
        self.head.weight = self.words.weight
        self.middle = linear(lazy, 5, 5)

    def init_weights(self) -> None:
        nn.init.normal_(self.middle.bias)

    def forward(self, numbers: torch.Tensor) -> Any:
        return self.head(self.middle(self.words(numbers)))


def test_ties_and_parents_are_of_the_whole() -> None:
    known, module = (initialize_(Tied(lazy), key=0) for lazy in (False, True))
    with pytest.raises(RuntimeError, match="words has been called before Tied"):
        module.words(torch.arange(3))
    module.middle(X)
    for name, value in module.state_dict().items():
        assert same_bits(value, known.state_dict()[name]), name
    module = initialize_(Tied(True), key=0)
    table = nn.Embedding(7, 5)
    module.words.load_state_dict(table.state_dict())
    module(torch.arange(3))
    assert same_bits(module.head.weight.data, table.weight.data)


def test_what_has_left_the_whole_waits_by_itself() -> None:
    module = initialize_(nn.Sequential(nn.Linear(5, 5), nn.LazyLinear(3)), key=0)
    old, module[1] = module[1], nn.Linear(5, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    for _ in range(2):
        old(X)
        assert all(bool((parameter == 7).all()) for parameter in module.parameters())
    known = initialize_(nn.Linear(5, 3), key=0, prefix="1")
    assert same_bits(old.weight.data, known.weight.data)
    _nothing_waits(old)


def test_the_last_call_for_the_whole_counts() -> None:
    encoder = nn.Sequential(nn.LazyLinear(5))
    initialize_(encoder, {"default": nn.init.ones_}, key=0)
    one = initialize_(nn.Sequential(encoder, nn.LazyLinear(2)), {"default": nn.init.zeros_}, key=0)
    other = nn.Sequential(encoder, nn.LazyLinear(3))
    initialize_(other, {"default": lambda t: nn.init.constant_(t, 2)}, key=0)
    other(X)
    assert torch.equal(encoder[0].weight, torch.full((5, 5), 2.0))
    one(X)
    assert torch.equal(encoder[0].weight, torch.full((5, 5), 2.0))
    assert not one[1].weight.any()
    _nothing_waits(other)
    _nothing_waits(one)


def test_an_error_of_an_initialiser_leaves_it_waiting() -> None:
    fails = [True]

    def once(tensor: torch.Tensor) -> None:
        if fails:
            fails.clear()
            raise KeyboardInterrupt
        nn.init.ones_(tensor)

    module = nn.Sequential(nn.Linear(5, 5), nn.LazyLinear(2))
    initialize_(module, {"default": once}, key=0)
    before = module[0].weight.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        module(X)
    assert same_bits(module[0].weight.data, before)
    module(X)
    assert all(bool((parameter == 1).all()) for parameter in module.parameters())
    _nothing_waits(module)


def test_what_could_not_be_loaded_is_initialised() -> None:
    module = nn.Sequential(nn.Linear(5, 5), nn.LazyLinear(2))
    initialize_(module, {"default": nn.init.ones_}, key=0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict({"0.weight": torch.zeros(9, 9)}, strict=False)
    module(X)
    assert all(bool((parameter == 1).all()) for parameter in module.parameters())


def test_skipped_parameters_of_a_part_stay() -> None:
    module = initialize_(Trainer(True), key=0, skip="net.0.bias")
    module.net(X)
    assert module.net[0].bias.any()  # what torch has drawn for it
    known = initialize_(Trainer(False), key=0)
    assert same_bits(module.net[0].weight.data, known.net[0].weight.data)


@pytest.mark.parametrize("before", [False, True])
def test_what_is_loaded_into_parts_stays(before: bool) -> None:
    for part, loaded in enumerate((nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))):
        module = nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.LazyLinear(2))
        if isinstance(loaded, nn.BatchNorm1d):
            nn.init.constant_(loaded.running_mean, 7)
        if before:
            module[part].load_state_dict(loaded.state_dict())
        initialize_(module, key=0)
        if not before:
            module[part].load_state_dict(loaded.state_dict())
        module.eval()(X)
        known = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        initialize_(known, key=0)
        if not before:  # otherwise it is initialised like the others
            known[part].load_state_dict(loaded.state_dict())
        for name, value in module.state_dict().items():
            assert same_bits(value, known.state_dict()[name]), name


@pytest.mark.parametrize("lazy", [0, 1])
def test_another_call_for_a_part_counts(lazy: int) -> None:
    module = nn.Sequential(linear(True, 5, 8), linear(bool(lazy), 8, 2))
    known = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 2))
    for one in (module, known):
        initialize_(one, key=0)
        initialize_(one[lazy], {"default": nn.init.ones_}, key=5, prefix="part")
    module(X)
    for name, value in module.state_dict().items():
        assert same_bits(value, known.state_dict()[name]), name
    _nothing_waits(module)


def _pickled(module: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled])
def test_copies_of_parts_have_not_the_whole(copied: Any) -> None:
    module = Trainer(True)
    module.large = nn.Linear(1000, 1000)
    initialize_(module, key=0)
    part = copied(module.net)
    assert len(pickle.dumps(part)) < 100_000
    part(X)
    known = initialize_(Trainer(False), key=0).net
    for name, value in part.state_dict().items():
        assert same_bits(value, known.state_dict()[name]), name
    _nothing_waits(part)


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled])
def test_copies_wait_by_themselves(copied: Any) -> None:
    module = initialize_(nn.Sequential(nn.LazyLinear(8)), {"default": nn.init.ones_}, key=0)
    other, third = copied(module), copied(module)
    initialize_(third, {"default": nn.init.zeros_}, key=0)
    for one, value in ((other, 1), (third, 0), (module, 1)):
        one(X)
        assert torch.equal(one[0].weight, torch.full((8, 5), float(value)))
        _nothing_waits(one)


def test_compiled_before_the_first_call() -> None:
    known = initialize_(Trainer(False), key=0)
    module = initialize_(Trainer(True), key=0)
    compiled = torch.compile(module, backend="eager")
    assert torch.equal(compiled(X), known(X))
    assert torch.equal(compiled(X), known(X))
    _nothing_waits(module)


@pytest.mark.parametrize("order", range(6))
def test_calls_that_skip_what_others_draw(order: int) -> None:
    def run(lazy: bool) -> nn.Module:
        module = nn.Sequential(
            nn.Sequential(nn.Linear(5, 5), linear(lazy, 5, 4)), linear(lazy, 4, 2)
        )
        ones, zeros = {"default": nn.init.ones_}, {"default": nn.init.zeros_}
        if order in (0, 1):
            initialize_(module[0], ones, key=1, prefix="0")
            initialize_(module, zeros if order else None, key=2, skip="0.*")
        elif order == 2:
            initialize_(module, ones, key=0)
            initialize_(module, key=1, skip=["0.0.*", "1.bias"])
        elif order == 3:
            initialize_(module, ones, key=0)
            initialize_(module[0], zeros, key=1, skip="*bias")
        elif order == 4:
            initialize_(module, ones, key=0)
            with pytest.raises(ValueError, match="no rule matches"):
                initialize_(module[0][0], {"weight": nn.init.zeros_}, key=1)
            with pytest.raises(TypeError):
                initialize_(module, key="none")  # type: ignore[arg-type]
        else:
            initialize_(module, key=0)
            initialize_(module[0][1], ones, key=1, skip="bias")
            initialize_(module[0], key=2, skip="1.*")
        module(X)
        _nothing_waits(module)
        return module

    known = run(False).state_dict()
    for name, value in run(True).state_dict().items():
        assert same_bits(value, known[name]), name


def test_skipped_layers_are_what_torch_makes_them() -> None:
    module = initialize_(nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(2)), key=0, skip="0.*")
    module(X)
    assert module[0].weight.std() > 0.1
    _nothing_waits(module)


def test_tensors_of_one_call_are_not_written() -> None:
    module = initialize_(nn.Sequential(nn.Linear(5, 5), nn.LazyLinear(2)), key=0)
    mine = torch.zeros(5, 5)
    with pytest.raises(RuntimeError, match="functional_call has put another tensor"):
        torch.func.functional_call(module, {"0.weight": mine}, (X,))
    assert not mine.any()
    module(X)
    known = initialize_(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2)), key=0)
    assert same_bits(module[1].weight.data, known[1].weight.data)


class OfOnesOwn(LazyModuleMixin, nn.Module):
    """Which becomes no other class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = UninitializedParameter()

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params():
            nn.init.uniform_(self.weight)

    def initialize_parameters(self, x: torch.Tensor) -> None:
        self.weight.materialize((3, x.shape[-1]))
        self.reset_parameters()

    def forward(self, x: torch.Tensor) -> Any:
        return x @ self.weight.t()


@pytest.mark.parametrize("called", [False, True])
def test_lazy_modules_of_ones_own(called: bool) -> None:
    module = nn.Sequential(OfOnesOwn())
    if called:
        module(X)
    initialize_(module, key=0)
    module(X)
    want = fastinit.uniform_(torch.empty(3, 5), key=Key(0).fold_in("0.weight").fold_in(0))
    assert same_bits(module[0].weight.data, want)
    _nothing_waits(module)


def test_a_method_of_the_instance_stays() -> None:
    module = nn.Sequential(nn.LazyLinear(3))
    layer = module[0]

    def reset() -> None:
        nn.init.constant_(layer.weight, 4.0)
        nn.init.zeros_(layer.bias)

    layer.reset_parameters = reset
    initialize_(module, key=0)
    module(X)
    assert torch.equal(layer.weight, torch.full((3, 5), 4.0))
    assert vars(layer)["reset_parameters"] is reset
