"""Names of draws that go through operators with several results, and asking what memory is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit
from fastinit import Key, materialize, normal_

KEY = Key(6)


class _Factors(nn.Module):
    """As LoRA by principal singular values: the second result is used before the first."""

    def __init__(self, svd: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.base = nn.Parameter(nn.init.normal_(torch.empty(8, 8)))
        self.a, self.b = nn.Parameter(torch.empty(2, 8)), nn.Parameter(torch.empty(8, 2))
        u, s, v = svd(self.base.data)
        self.a.data = s[:2, None].sqrt() * v[:2]
        self.b.data = u[:, :2] * s[:2].sqrt()
        self.base.data = self.base.data - self.b.data @ self.a.data


def _twice(weight: Tensor) -> Any:
    return torch.linalg.svd(weight)[0], *torch.linalg.svd(weight)[1:]


@pytest.mark.parametrize("svd", [torch.linalg.svd, _twice])
def test_what_any_of_the_results_reaches_first_counts(svd: Callable[[Tensor], Any]) -> None:
    module = materialize(lambda: _Factors(svd), key=KEY)
    drawn = module.base.data + module.b.data @ module.a.data
    expected = normal_(torch.empty(8, 8), key=KEY.fold_in("a").fold_in(0))
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize("order", ["plu", "lup", "upl"])
def test_of_results_that_are_parameters_the_first_of_these_counts(order: str) -> None:
    def make() -> nn.Module:
        module = nn.Module()
        drawn = torch.linalg.lu_factor(torch.randn(4, 4))
        for name, part in zip("plu", torch.lu_unpack(*drawn), strict=True):
            setattr(module, f"{order.index(name)}{name}", part)
        made = nn.Module()
        for k, name in enumerate(order):
            made.register_parameter(name, nn.Parameter(getattr(module, f"{k}{name}")))
        return made

    module: Any = materialize(make, key=KEY)
    drawn = module.p @ module.l @ module.u
    expected = normal_(torch.empty(4, 4), key=KEY.fold_in(order[0]).fold_in(0))
    torch.testing.assert_close(drawn.data, expected)


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        if not self.weight.is_shared():
            self.weight.share_memory_()


def _patched() -> _Shared:
    with fastinit.patch(6, batch=True):
        return _Shared()


@pytest.mark.parametrize(
    "door",
    [
        lambda: fastinit.initialize_(_Shared(), key=KEY),
        lambda: materialize(_Shared, key=KEY),
        _patched,
    ],
)
def test_memory_that_is_asked_whether_it_is_shared(door: Callable[[], _Shared]) -> None:
    weight = door().weight
    assert weight.is_shared()
    assert same_bits(weight.data, door().weight.data)
    assert weight.data.any()


_ALONE = """
import torch, fastinit
from torch import distributed, nn
def make():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    layer = nn.Linear(3, 3)
    distributed.broadcast(layer.weight.data, 0)
    distributed.destroy_process_group()
    return layer
made, want = (fastinit.materialize(f, key=0).weight for f in (make, lambda: nn.Linear(3, 3)))
assert torch.equal(made, want)
"""


def test_a_process_group_that_is_there_for_a_while() -> None:
    done = subprocess.run([sys.executable, "-c", _ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
