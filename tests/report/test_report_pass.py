"""`fastinit.report(module, inputs)`: the forward pass, which leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.common import no_randomness
from torch import nn

import fastinit
from fastinit import initialize_, materialize, report


def test_the_forward_pass() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    x = fastinit.normal_(torch.empty(50, 8), key=1)
    before = {n: b.clone() for n, b in module.named_buffers()}
    with no_randomness():
        found = report(module, x)
    assert [row.name for row in found.layers] == ["0", "1", "2", "3"]
    assert [row.kind for row in found.layers] == ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    with torch.no_grad():
        y = module[0](x)
    assert found.layers[0].mean == pytest.approx(y.mean().item(), abs=1e-6)
    assert found.layers[0].std == pytest.approx(y.std(correction=0).item(), rel=1e-5)
    assert found.layers[1].std == pytest.approx(1, abs=0.01)
    assert found.layers[0].shape == (50, 8)
    assert all(torch.equal(b, before[n]) for n, b in module.named_buffers())
    assert not any(m._forward_hooks for m in module.modules())

    bilinear = nn.Bilinear(2, 3, 4)
    pair = (torch.ones(1, 2), torch.ones(1, 3))
    assert len(report(bilinear, pair).layers) == 1
    keywords = {"input1": pair[0], "input2": pair[1]}
    assert report(bilinear, keywords).layers == report(bilinear, pair).layers
    lstm = report(nn.LSTM(3, 4), torch.ones(2, 1, 3)).layers
    assert lstm[0].shape == (2, 1, 4)
    with pytest.raises(RuntimeError):
        report(module, torch.ones(2, 3))
    assert not any(m._forward_hooks for m in module.modules())


class _Stateful(nn.Module):
    """Writes its buffers in place and exchanges them, and fails at the end if it shall."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("cache", None)
        self.register_buffer("row", torch.zeros(1).expand(3))
        self.register_buffer("least", torch.zeros(0))
        self.register_buffer("table", torch.ones(2))
        self.fails = fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache = y = self.norm(x)
        self.average = 0.9 * self.average + y.mean(0)
        self.least.resize_(3).copy_(x.amin(0))  # as torch.ao.quantization's observers
        self.table.data = x
        if self.fails:
            raise ArithmeticError
        return y


def test_the_forward_pass_compiles_nothing() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    compiled: Any = torch.compile(layers, backend="eager")
    counters = torch._dynamo.utils.counters
    counters.clear()
    rows = report(compiled, torch.ones(2, 3)).layers
    assert [row.kind for row in rows] == ["Linear", "ReLU"]
    assert not counters["frames"]
    compiled(torch.ones(2, 3))
    assert counters["frames"]["total"] > 0


@pytest.mark.filterwarnings("ignore:`torch.jit.(script|trace)")
@pytest.mark.parametrize("how", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(2, 4))])
def test_scripted_and_traced_modules(how: Any) -> None:
    def make() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        module[1].weight = module[0].weight
        return nn.Sequential(how(module), nn.Linear(4, 2))

    made = report(materialize(make, key=1), torch.ones(2, 4))
    assert len(made.parameters) == 5
    assert [row.name for row in made.layers] == ["1"]
    assert not any("tie" in flag for row in made.parameters for flag in row.flags)
    ruled_again = initialize_(make(), {"default": nn.init.ones_}, key=1, skip="1.*")
    assert all(row.expected is None or row.flags == () for row in report(ruled_again).parameters)


@pytest.mark.parametrize("fails", [False, True])
def test_the_forward_pass_leaves_buffers_as_they_were(fails: bool) -> None:
    module = _Stateful(fails)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    objects = dict(module._buffers)
    with no_randomness():
        if fails:
            with pytest.raises(ArithmeticError):
                report(module, torch.arange(6.0).view(2, 3))
        else:
            assert report(module, torch.arange(6.0).view(2, 3)).layers
    assert all(module._buffers[name] is buffer for name, buffer in objects.items())
    assert all(torch.equal(b, before[name]) for name, b in module.named_buffers())
