"""Writes to every second element of large tensors: too many intervals to be written down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit
from fastinit._recording import memory

_SIZE = (300, 256)  # 38,400 elements in each half


def _angles() -> Tensor:
    return torch.arange(300.0)[:, None] * torch.linspace(0, 1, 128)


class _Positions(nn.Module):
    """As models of vision make their tables."""

    table: Tensor

    def __init__(self, read: str = "") -> None:
        super().__init__()
        table = torch.empty(_SIZE)
        table[:, 0::2] = _angles().sin()
        if read == "numpy between":
            table.numpy()
        table[:, 1::2] = _angles().cos()
        if read == "numpy":
            table.numpy()
        self.sum = float(table.sum()) if read == "sum" else 0.0
        if read == "scaled":
            table[:, 0::2] *= 2
        self.register_buffer("table", table)


def _table() -> Tensor:
    return torch.stack([_angles().sin(), _angles().cos()], -1).reshape(_SIZE)


@pytest.mark.parametrize("read", ["", "numpy between", "numpy", "sum", "scaled"])
def test_a_table_that_is_written_in_two_halves(read: str) -> None:
    module: Any = fastinit.materialize(lambda: _Positions(read), key=0)
    want = _table()
    assert module.sum == (float(want.sum()) if read == "sum" else 0.0)
    if read == "scaled":
        want[:, 0::2] *= 2
    assert same_bits(module.table, want)


class _Halves(nn.Module):
    """A weight that is drawn in two halves."""

    def __init__(self, second: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(_SIZE))
        self.second = second
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight[:, 0::2])
        if self.second:
            nn.init.uniform_(self.weight[:, 1::2])


@pytest.mark.parametrize("how", ["factory", "meta", "initialize_"])
def test_a_weight_that_is_drawn_in_two_halves(how: str) -> None:
    if how == "factory":
        module = fastinit.materialize(_Halves, key=3)
    elif how == "meta":
        with torch.device("meta"):
            module = _Halves()
        fastinit.materialize(module, key=3)
    else:
        module = fastinit.initialize_(_Halves(), key=3)
    want = torch.empty(_SIZE)
    key = fastinit.Key(3).fold_in("weight")
    fastinit.normal_(want[:, 0::2], key=key.fold_in(0))
    fastinit.uniform_(want[:, 1::2], key=key.fold_in(1))
    assert same_bits(module.weight.detach(), want)


class _Redrawn(_Halves):
    """A weight that is drawn as a whole before its halves are, which leave nothing of it."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 5.0)
        super().reset_parameters()


def test_what_two_halves_overwrite_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    run, ran = memory.run_fills, []

    def counted(fills: list[Any], *rest: Any) -> None:
        ran.extend(fills)
        run(fills, *rest)

    monkeypatch.setattr(memory, "run_fills", counted)
    module = fastinit.materialize(_Redrawn, key=3)
    assert len(ran) == 2
    want = fastinit.materialize(_Halves, key=3)
    assert same_bits(module.weight.detach(), want.weight.detach())  # by its keys, too
    (row,), (like,) = fastinit.report(module).parameters, fastinit.report(want).parameters
    assert row.rule == like.rule == "normal_, uniform_"
    ran.clear()
    with fastinit.patch(3, batch=True):
        module = _Redrawn()
    assert len(ran) == 2


def test_a_half_that_nobody_writes_is_named() -> None:
    with pytest.raises(ValueError, match=r"writes weight \(parameter\)"):
        fastinit.materialize(lambda: _Halves(second=False), key=0)

    def read() -> nn.Module:
        module = _Halves(second=False)
        module.weight.detach().numpy()
        return module

    with pytest.raises(ValueError, match=r"writes weight \(parameter\)"):
        fastinit.materialize(read, key=0)
