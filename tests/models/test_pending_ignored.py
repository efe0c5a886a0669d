"""Operators that do not look at what they write over if they are told so: `beta=0`, for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit
from fastinit import Key, initialize_, materialize

KEY = Key(11)


class _Model(nn.Module):
    def __init__(self, way: Callable[[Tensor], object], device: Any = None) -> None:
        super().__init__()
        self.way = way
        self.weight = nn.Parameter(torch.empty(4, 4, device=device))
        if device is None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.way(self.weight)


_DOORS: dict[str, Callable[[Callable[[Tensor], object]], nn.Module]] = {
    "initialize_": lambda way: initialize_(_Model(way), key=KEY),
    "factory": lambda way: materialize(lambda: _Model(way), key=KEY),
    "meta": lambda way: materialize(_Model(way, "meta"), key=KEY),
}
_through = pytest.mark.parametrize("door", _DOORS)


def _drawn(count: int, *shape: int) -> Tensor:
    return fastinit.normal_(torch.empty(*shape), key=KEY.fold_in("weight").fold_in(count))


def _in_place(name: str, *shapes: tuple[int, ...], **how: Any) -> Callable[[Tensor], Any]:
    return lambda w: getattr(w.view(shapes[0]), name)(*map(torch.randn, shapes[1:]), beta=0, **how)


def _of(name: str, input: Callable[[], Tensor], *shapes: tuple[int, ...], **how: Any) -> Any:
    function = getattr(torch, name)
    return lambda w: w.copy_(function(input(), *map(torch.randn, shapes), beta=0, **how).view_as(w))


def _into(name: str, input: Callable[[Tensor], Tensor], *shapes: tuple[int, ...]) -> Any:
    function = getattr(torch, name)
    return lambda w: function(input(w), *map(torch.randn, shapes), beta=0, out=w)


def _empty(*size: int) -> Callable[[], Tensor]:
    return lambda: torch.empty(*size)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(torch.zeros(4, 4), a, b, beta=0)


_MATRICES = ((4, 2), (2, 4))
_OF_MATRICES: dict[str, Callable[[Tensor], object]] = {
    "in place": _in_place("addmm_", (4, 4), *_MATRICES),
    "a product": _of("addmm", _empty(4, 4), *_MATRICES),
    "a bias": _of("addmm", _empty(4), *_MATRICES),
    "zero as a float": lambda w: w.addmm_(torch.randn(4, 2), torch.randn(2, 4), beta=0.0),
    "a draw beside": _of("addmm", lambda: torch.randn(4, 4), *_MATRICES),
    "a draw before": lambda w: (
        w.normal_(),
        w.addmm_(torch.randn(4, 2), torch.randn(2, 4), beta=0),
    ),
    "out of itself": _into("addmm", lambda w: w, *_MATRICES),
    "out of nothing": _into("addmm", lambda w: torch.empty(4, 4), *_MATRICES),
    "a list of rows": lambda w: w.copy_(
        torch.stack([*torch.addmm(torch.empty(4), torch.randn(4, 2), torch.randn(2, 4), beta=0)])
    ),
}


@_through
@pytest.mark.parametrize("way", _OF_MATRICES)
def test_what_is_ignored_has_no_part_in_values_or_keys(way: str, door: str) -> None:
    made = _DOORS[door](_OF_MATRICES[way]).weight
    assert same_bits(made.detach(), _product(_drawn(0, 4, 2), _drawn(1, 2, 4)))
    assert not made.isnan().any()


_OTHERS: dict[str, Callable[[Tensor], object]] = {
    "attention": _of("baddbmm", _empty(1, 4, 4), (1, 4, 2), (1, 2, 4), alpha=0.5),
    "baddbmm_": _in_place("baddbmm_", (1, 4, 4), (1, 4, 2), (1, 2, 4), alpha=0.5),
    "addbmm": _of("addbmm", _empty(4, 4), (2, 4, 2), (2, 2, 4)),
    "addbmm_": _in_place("addbmm_", (4, 4), (2, 4, 2), (2, 2, 4)),
    "addmv": _of("addmv", _empty(16), (16, 3), (3,)),
    "addmv_": _in_place("addmv_", (16,), (16, 3), (3,)),
    "addr": _of("addr", _empty(4, 4), (4,), (4,)),
    "addr_": _in_place("addr_", (4, 4), (4,), (4,)),
    "scatter_reduce_": lambda w: w.scatter_reduce_(
        0, _rows(4), torch.randn(4, 4), "sum", include_self=False
    ),
    "scatter_reduce": lambda w: w.copy_(
        torch.empty(4, 4).scatter_reduce(0, _rows(4), torch.randn(4, 4), "sum", include_self=False)
    ),
    "index_reduce_": lambda w: w.index_reduce_(
        0, torch.arange(4), torch.randn(4, 4), "amax", include_self=False
    ),
    "index_reduce": lambda w: w.copy_(
        torch.empty(4, 4).index_reduce(
            0, torch.arange(4), torch.randn(4, 4), "amax", include_self=False
        )
    ),
    "in two steps": lambda w: [
        w.scatter_reduce_(0, rows, torch.randn(4, 4), "sum", include_self=False)
        for rows in (_rows(2), _rows(2) + 2)
    ],
}
_warnings = pytest.mark.filterwarnings("ignore:index_reduce")


def _rows(count: int) -> Tensor:
    return torch.arange(count)[:, None].expand(count, 4)


@_warnings
@_through
@pytest.mark.parametrize("way", _OTHERS)
def test_what_ignores_what_was_there_needs_no_values(way: str, door: str) -> None:
    made = _DOORS[door](_OTHERS[way]).weight
    assert not made.isnan().any() and made.std() > 0
    assert same_bits(made, _DOORS["factory"](_OTHERS[way]).weight)


_LACKING: dict[str, Callable[[Tensor], object]] = {
    "looked at": lambda w: w.addmm_(torch.randn(4, 2), torch.randn(2, 4)),
    "looked at by a little": lambda w: w.copy_(
        torch.addmm(torch.empty(4, 4), torch.randn(4, 2), torch.randn(2, 4), beta=1e-3)
    ),
    "a factor": lambda w: w.addmm_(torch.empty(4, 2), torch.randn(2, 4), beta=0),
    "a factor of its own": lambda w: w.addmm_(w, torch.randn(4, 4), beta=0),
    "a factor that is out": lambda w: torch.addmm(w, w, torch.randn(4, 4), beta=0, out=w),
    "included": lambda w: w.scatter_reduce_(0, _rows(4), torch.randn(4, 4), "sum"),
    "included, and told so": lambda w: w.index_reduce_(
        0, torch.arange(4), torch.randn(4, 4), "prod", include_self=True
    ),
    "a row left": lambda w: w.scatter_reduce_(
        0, _rows(3), torch.randn(4, 4), "sum", include_self=False
    ),
    "a row left of a copy": lambda w: w.copy_(
        torch.empty(4, 4).scatter_reduce(0, _rows(3), torch.randn(4, 4), "sum", include_self=False)
    ),
    "of nothing": lambda w: w.scatter_reduce_(
        0, _rows(4), torch.empty(4, 4), "sum", include_self=False
    ),
}


@_warnings
@_through
@pytest.mark.parametrize("way", _LACKING)
def test_what_is_looked_at_needs_values(way: str, door: str) -> None:
    with pytest.raises(ValueError, match=r"nothing that _Model defines writes weight"):
        _DOORS[door](_LACKING[way])
