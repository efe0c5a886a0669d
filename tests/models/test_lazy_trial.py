"""The call that shows `initialize_` the shapes of lazy modules: it leaves no trace."""

from __future__ import annotations

import random
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.lazy_models import Trainer, X, linear
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastinit import initialize_


class Divides(nn.Module):
    """Changes what it is given."""

    def __init__(self, lazy: bool) -> None:
        super().__init__()
        self.layer = linear(lazy, 5, 2)

    def forward(self, x: Any) -> Any:
        return self.layer(x.div_(2))


class Counts(Divides):
    def forward(self, x: Any) -> Any:
        return torch.stack([self.layer(one) for one in x])


class Takes(Divides):
    def forward(self, x: Any) -> Any:
        return self.layer(x.pop("x"))


class Differentiates(Divides):
    def forward(self, x: Any) -> Any:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.layer(x).square().sum(), x)[0]


class OnThreads(Divides):
    def __init__(self, lazy: bool) -> None:
        super().__init__(lazy)
        self.other = linear(lazy, 5, 2)

    def forward(self, x: Any) -> Any:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda layer: layer(x), [self.layer, self.other]))


class Compares(Divides):
    def forward(self, x: Any) -> Any:
        first, second = x
        return self.layer(first if first is second else torch.cat([first, second], -1))


@dataclass
class Batch:
    x: torch.Tensor


class OfABatch(Divides):
    def forward(self, x: Any) -> Any:
        return self.layer((x["x"] if isinstance(x, UserDict) else x.x).div_(2))


class Draws(Divides):
    def forward(self, x: Any) -> Any:
        return self.layer(torch.randn(2, 5, generator=x) + random.random())


class Inplace(Divides):
    def forward(self, x: Any) -> Any:
        return self.layer(nn.functional.relu(x, inplace=True))


def _not_a_leaf() -> torch.Tensor:
    return X.clone().requires_grad_() * 1


def _generated() -> Any:
    yield from (X, X)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Divides, lambda: X.clone()),
        (Counts, _generated),
        (Compares, lambda: (X, X)),
        (OfABatch, lambda: Batch(X.clone())),
        (OfABatch, lambda: UserDict(x=X.clone())),
        (Inplace, _not_a_leaf),
        (Counts, lambda: iter([X, X])),
        (Takes, lambda: {"x": X}),
        (Differentiates, lambda: X),
        (OnThreads, lambda: X),
    ],
)
def test_the_call_that_shows_shapes_leaves_no_trace(kind: Any, given: Any) -> None:
    known, module = (initialize_(kind(lazy), key=0) for lazy in (False, True))
    assert torch.equal(module(given()), known(given()))
    assert torch.equal(module(given()), known(given()))


def test_generators_are_where_the_call_alone_leaves_them() -> None:
    results = []
    for lazy in (False, True):
        module, generator = initialize_(Draws(lazy), key=0), torch.Generator().manual_seed(1)
        random.seed(5)
        results.append([module(generator), module(generator)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("gradients", [False, True])
def test_first_calls_under_autocast(gradients: bool) -> None:
    known, module = (initialize_(Trainer(lazy), key=0) for lazy in (False, True))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(gradients):
        assert torch.equal(module(X), known(X))
        assert torch.equal(module(X), known(X))


def test_a_first_call_inside_a_checkpoint() -> None:
    known, module = (initialize_(Trainer(lazy), key=0) for lazy in (False, True))
    for one in (known, module):
        given = X.clone().requires_grad_()
        checkpoint(one, given, use_reentrant=False).sum().backward()
    assert torch.equal(module.net[2].weight.grad, known.net[2].weight.grad)


def test_tensors_of_the_module_change_once() -> None:
    class CountsCalls(Divides):
        def __init__(self, lazy: bool) -> None:
            super().__init__(lazy)
            self.calls = nn.Parameter(torch.zeros(1), requires_grad=False)
            self.seen = torch.zeros(())

        def forward(self, x: Any) -> Any:
            self.calls.add_(1)
            self.seen.add_(1)
            return self.layer(x)

    module = initialize_(CountsCalls(True), key=0, skip="calls")
    module(X)
    assert module.calls == 1
    assert module.seen == 1


def test_hooks_that_come_later_change_what_it_is_given() -> None:
    module = initialize_(nn.Sequential(nn.LazyLinear(3)), key=0)
    module.register_forward_pre_hook(lambda _, given: given[0].flatten(1))
    module.register_forward_pre_hook(
        lambda _, given, named: ((named["x"],), {}), with_kwargs=True, prepend=True
    )
    assert module(x=torch.ones(4, 2, 5)).shape == (4, 3)
    assert module[0].weight.shape == (3, 10)


@pytest.mark.parametrize(
    "held", [torch.ones(2, dtype=torch.complex32), torch.ones(2).to(torch.float8_e5m2)]
)
def test_tensors_of_types_that_torch_does_not_compare(held: torch.Tensor) -> None:
    module = Trainer(True)
    module.held = held
    initialize_(module, key=0)
    module(X)
    assert module.held is held


def test_a_sparse_buffer_that_is_loaded() -> None:
    module = Trainer(True)
    module.register_buffer("table", torch.eye(2).to_sparse())
    initialize_(module, key=0)
    module.load_state_dict({"table": 2 * torch.eye(2).to_sparse()}, strict=False)
    module(X)
    assert torch.equal(module.table.to_dense(), 2 * torch.eye(2))


def test_an_initialiser_may_call_a_part_of_what_waits() -> None:
    class Scaled(nn.Linear):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            with torch.no_grad():
                self.weight.div_(self(torch.ones(1, 5)).norm())

    known, module = (nn.Sequential(Scaled(5, 5), linear(lazy, 5, 2)) for lazy in (False, True))
    for one in (known, module):
        initialize_(one, key=0)
        initialize_(one[0], key=1, prefix="0")
    assert torch.equal(module(X), known(X))
