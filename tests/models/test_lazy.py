"""`initialize_` before shapes are known."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import no_randomness, same_bits
from torch import nn
from torch.nn.parameter import is_lazy

import fastinit
from fastinit import initialize_


class Net(nn.Module):
    """Lazy and known layers, statistics, and a parent that initialises its children."""

    def __init__(self, lazy: bool, parent: bool) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3) if lazy else nn.Conv2d(3, 4, 3)
        self.norm = nn.LazyBatchNorm2d() if lazy else nn.BatchNorm2d(4)
        self.known = nn.Conv2d(4, 4, 3)
        self.stats = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.LazyLinear(5) if lazy else nn.Linear(64, 5)
        if parent:
            self.init_weights = self._scaled

    def _scaled(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        x = self.stats(self.known(self.norm(self.conv(x))))
        return self.head(self.drop(x).flatten(1)) * scale


X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
RULES = {2: nn.init.xavier_uniform_, 4: nn.init.kaiming_normal_, "default": nn.init.zeros_}


@pytest.mark.parametrize("parent", [False, True])
@pytest.mark.parametrize("rules", [None, RULES])
def test_equal_to_known_shapes(rules: Any, parent: bool) -> None:
    expected = initialize_(Net(False, parent), rules, key=3)
    module = Net(True, parent)
    with no_randomness():
        assert initialize_(module, rules, key=3) is module
    assert is_lazy(module.head.weight)
    torch.manual_seed(7)
    y = expected(X, scale=2.0)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(module(X, scale=2.0), y)
    assert torch.equal(torch.get_rng_state(), after)  # nothing but the dropout of the real call
    values = expected.state_dict()
    for name, value in module.state_dict().items():
        assert same_bits(value, values[name]), name
    assert module.stats.num_batches_tracked == 1
    before = {n: p.clone() for n, p in module.named_parameters()}
    module(X)
    assert all(same_bits(p.data, before[n].data) for n, p in module.named_parameters())
    assert "reset_parameters" not in vars(module.head)
    initialize_(module, rules, key=4)
    assert not same_bits(module.head.weight.data, before["head.weight"].data)
    initialize_(module, rules, key=3)
    assert same_bits(module.head.weight.data, before["head.weight"].data)


def test_the_key_is_drawn_at_once_and_the_last_one_counts() -> None:
    expected, module = nn.Linear(3, 2), nn.LazyLinear(2)
    torch.manual_seed(1)
    initialize_(expected)
    torch.manual_seed(1)
    initialize_(module, key=9)
    initialize_(module)
    torch.manual_seed(5)
    module(torch.ones(1, 3))
    assert same_bits(module.weight.data, expected.weight.data)
    assert len(module._forward_pre_hooks) == 0
    assert type(module) is nn.Linear


def test_each_parameter_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = fastinit._fills.fill.fill_many_op

    def count(tensors: Any, *rest: Any) -> None:
        drawn.extend(t.numel() for t in tensors)
        real(tensors, *rest)

    monkeypatch.setattr(fastinit._fills.fill, "fill_many_op", count)
    module = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2))
    initialize_(module, key=3)
    module(torch.ones(1, 3))
    module(torch.ones(1, 3))
    assert sum(drawn) == sum(p.numel() for p in module.parameters())


def test_shapes_that_the_call_does_not_show() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.LazyLinear(2), nn.LazyLinear(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    module = initialize_(Half(), key=3)
    with pytest.raises(RuntimeError, match="did not reach"):
        module(torch.ones(1, 3))


def test_what_waits_keeps_nothing_alive_and_copies() -> None:
    module = initialize_(nn.Sequential(nn.LazyLinear(4)), key=3)
    copied = copy.deepcopy(module)
    alive = weakref.ref(module)
    del module
    gc.collect()
    assert alive() is None
    copied(torch.ones(1, 3))
    expected = initialize_(nn.Sequential(nn.Linear(3, 4)), key=3)
    assert same_bits(copied[0].weight.data, expected[0].weight.data)
    assert len(copied._forward_pre_hooks) == 0


def test_an_error_of_the_call_leaves_it_waiting() -> None:
    module = initialize_(nn.Sequential(nn.LazyLinear(4), nn.Linear(5, 2)), key=3)
    with pytest.raises(RuntimeError, match="shape"):
        module(torch.ones(1, 3))
    module[1] = nn.Linear(4, 2)
    module(torch.ones(1, 3))
    expected = initialize_(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), key=3)
    check: Callable[..., bool] = same_bits
    assert check(module[1].weight.data, expected[1].weight.data)
    assert check(module[0].weight.data, expected[0].weight.data)


def test_buffers_alone_may_be_lazy() -> None:
    model = nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.Linear(3, 2))
    fastinit.initialize_(model, key=0)
    model.eval()(torch.ones(4, 3))
    assert type(model[0].running_mean) is torch.Tensor
    expected = fastinit.initialize_(
        nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)), key=0
    )
    assert torch.equal(model[1].weight, expected[1].weight)
