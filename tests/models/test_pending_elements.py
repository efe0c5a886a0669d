"""Operators that write to some elements, or copy some: which these are, and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinit import Key, initialize_, materialize

KEY = Key(12)
_OLD = 0.125


class _Model(nn.Module):
    """Has six rows, of which a way that is to be complete writes each."""

    def __init__(
        self, way: Callable[[Tensor], object], dtype: torch.dtype, device: Any = None
    ) -> None:
        super().__init__()
        self.way = way
        self.seen: list[Tensor] = []
        self.weight = nn.Parameter(
            torch.empty(6, 4, dtype=dtype, device=device), requires_grad=False
        )
        if device is None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        made = self.way(self.weight)
        if isinstance(made, Tensor) and made is not self.weight:
            self.weight.copy_(made)


def _on_old(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.fill_(_OLD)
    return model


Make = Callable[..., nn.Module]
_DOORS: dict[str, Callable[[Make], nn.Module]] = {
    "initialize_": lambda make: initialize_(_on_old(make()), key=KEY),
    "factory": lambda make: materialize(make, key=KEY),
    "meta": lambda make: materialize(make(device="meta"), key=KEY),
}
_through = pytest.mark.parametrize("door", _DOORS)


def _i(*rows: int) -> Tensor:
    return torch.tensor(rows)


def _mask(*rows: int) -> Tensor:
    return torch.zeros(6, 1, dtype=torch.bool).index_fill_(0, _i(*rows), True)


def _ones(w: Tensor, *size: int) -> Tensor:
    return torch.ones(size, dtype=w.dtype)


def _half(w: Tensor) -> Tensor:
    """Give what has values in the rows 0, 2 and 4."""
    made = torch.empty_like(w)
    made[::2] = 1
    return made


# Each writes the even rows; then what is left is written, or not.
_SOME: dict[str, Callable[[Tensor], object]] = {
    "index_put_": lambda w: w.index_put_((_i(0, 2, 4),), _ones(w)),
    "by a mask": lambda w: w.__setitem__(_mask(0, 2, 4)[:, 0], 1),
    "by two": lambda w: w.__setitem__((_i(0, 2, 4)[:, None], _i(0, 1, 2, 3)), 1),
    "twice the same": lambda w: w.__setitem__(_i(0, 2, 4, 2, 2), 1),
    "backwards": lambda w: w.__setitem__(_i(-2, -4, -6), 1),
    "of parts": lambda w: [w[k : k + 2].__setitem__(_i(0), 1) for k in (0, 2, 4)],
    "of columns": lambda w: [w[:, k].__setitem__(_i(0, 2, 4), 1) for k in range(4)],
    "transposed": lambda w: w.t().__setitem__((slice(None), _i(0, 2, 4)), 1),
    "index_copy_": lambda w: w.index_copy_(0, _i(0, 2, 4), _ones(w, 3, 4)),
    "index_fill_": lambda w: w.index_fill_(0, _i(0, 2, 4), True),
    "masked_fill_": lambda w: w.masked_fill_(_mask(0, 2, 4), True),
    "masked_scatter_": lambda w: w.masked_scatter_(_mask(0, 2, 4), _ones(w, 12)),
    "put_": lambda w: w.put_(_i(0, 1, 2, 3, *range(8, 12), *range(16, 20)), _ones(w, 12)),
    "scatter_": lambda w: w.scatter_(0, _i(0, 2, 4)[:, None].expand(3, 4), _ones(w, 3, 4)),
    "scatter_ a number": lambda w: w.scatter_(0, _i(0, 2, 4)[:, None].expand(3, 4), 1),
    "fill_diagonal_": lambda w: [
        w[row, column:].view(-1, 1).fill_diagonal_(1, True)
        for row in (0, 2, 4)
        for column in (0, 1)
    ],
    # What is copied of what has no values has none.
    "half": lambda w: w.copy_(_half(w)),
    "half by rows": lambda w: w.index_copy_(0, torch.arange(6), _half(w)),
    "half by numbers": lambda w: w.__setitem__(torch.arange(6), _half(w)),
    "half by a mask": lambda w: w.masked_scatter_(_mask(*range(6)), _half(w)),
    "half scattered": lambda w: w.scatter_(0, torch.arange(6)[:, None].expand(6, 4), _half(w)),
    "its own rows": lambda w: (w[:1].fill_(1), w.__setitem__(_i(2, 4, 5), w[_i(0, 0, 1)])),
    "part of its own": lambda w: (w[::2].fill_(1), w[:2].index_copy_(0, _i(0, 1), w[4:])),
    "over values": lambda w: (w.fill_(1), w.index_copy_(0, _i(1, 3, 5), torch.empty_like(w[:3]))),
    "chosen": lambda w: w.copy_(torch.where(_mask(0, 2, 4), 1, torch.empty_like(w)).to(w)),
    "gathered": lambda w: w.copy_(_half(w).gather(0, torch.arange(6)[:, None].expand(6, 4))),
    "flipped": lambda w: w.copy_(_half(w).flip(0).flip(0)),
    "rolled": lambda w: w.copy_(_half(w).roll(2, 0)),
    "taken": lambda w: w.copy_(_half(w).take(torch.arange(24).view(6, 4))),
    "on a diagonal": lambda w: w.copy_(torch.diag_embed(_half(w))[:, range(4), range(4)]),
    "out of rows": lambda w: torch.index_select(_half(w), 0, torch.arange(6), out=w),
    "put out": lambda w: w.copy_(torch.index_put(_half(w), (_i(2, 4),), _ones(w))),
}
_TYPES = [torch.float32, torch.float16, torch.complex64, torch.uint8, torch.bool, torch.float64]


def _complete(way: Callable[[Tensor], object]) -> Callable[[Tensor], None]:
    def run(w: Tensor) -> None:
        way(w)
        w[1::2].copy_(torch.zeros(3, 4))

    return run


@_through
@pytest.mark.parametrize("dtype", _TYPES)
@pytest.mark.parametrize("way", _SOME)
def test_what_writes_to_some_elements_has_written_these(
    way: str, dtype: torch.dtype, door: str
) -> None:
    def make(device: Any = None) -> nn.Module:
        return _Model(_complete(_SOME[way]), dtype, device)

    made = _DOORS[door](make).weight
    assert torch.equal(made, (_i(1, 0, 1, 0, 1, 0)[:, None].expand(6, 4)).to(dtype))

    def lacking(device: Any = None) -> nn.Module:
        return _Model(_SOME[way], dtype, device)

    with pytest.raises(ValueError, match=r"nothing that _Model defines writes weight"):
        _DOORS[door](lacking)


def test_elements_of_two_types_on_the_same_memory() -> None:
    def write(w: Tensor) -> None:
        real = torch.view_as_real(w)
        real[_i(0, 2, 4)] = 1
        w[_i(1, 3)] = 2
        real[5:].index_fill_(2, _i(0), 3)
        real[5:].index_fill_(2, _i(1), 4)

    made = materialize(lambda: _Model(write, torch.complex64), key=KEY).weight
    assert torch.equal(made[5], torch.full((4,), 3 + 4j)) and made[1].eq(2).all()

    def lack(w: Tensor) -> None:
        write(w)
        w[_i(2, 3)] = torch.empty(2, 4, dtype=w.dtype)
        torch.view_as_real(w)[_i(2, 3), :, 0] = 1

    with pytest.raises(ValueError, match="writes weight"):
        materialize(lambda: _Model(lack, torch.complex64), key=KEY)


_held = torch.empty(8, 4)
_seen: list[list[list[float]]] = []


def _write_and_look(w: Tensor) -> None:
    w[_i(0, 1)] = 1
    _seen.append(_held.tolist())
    assert w[_i(3)].eq(_OLD).all()
    w[2:].fill_(2)


def test_what_has_not_been_written_yet_is_what_it_was_for_who_looks() -> None:
    model = _Model(_write_and_look, torch.float32, "meta")
    model.weight = nn.Parameter(_held.fill_(_OLD)[1:7], requires_grad=False)
    _seen.clear()
    initialize_(model, key=KEY)
    for rows in _seen:
        assert [row[0] for row in rows] == [_OLD, 1, 1, *[_OLD] * 5]
    assert _seen and _held[:, 0].tolist() == [_OLD, 1, 1, 2, 2, 2, 2, _OLD]


@pytest.mark.parametrize("error", [None, KeyError])
def test_an_error_leaves_memory_that_was_written_in_part_as_it_was(error: Any) -> None:
    def write(w: Tensor) -> None:
        w[_i(0, 1)] = 1
        if error is not None:
            raise error("stop")

    model = _on_old(_Model(lambda w: w.fill_(0), torch.float32))
    model.way = write
    with pytest.raises(error or ValueError):
        initialize_(model, key=KEY)
    assert model.weight.eq(_OLD).all()


def test_an_operator_that_fails_has_written_nothing() -> None:
    def write(w: Tensor) -> None:
        w[_i(0, 1)] = 1
        with pytest.raises(IndexError):
            w[_i(0, 6)] = 1
        w[_i(2, 3, 4)] = 1

    with pytest.raises(ValueError, match="writes weight"):
        materialize(lambda: _Model(write, torch.float32), key=KEY)


def test_numpy_and_operators_write_to_one_table() -> None:
    def write(w: Tensor) -> None:
        array = w.numpy()
        array[0] = 1
        w[_i(1, 2)] = 2
        w[_i(3)] = torch.empty(1, 4)  # which has no values
        w[3].mul_(2)
        array[3] = 4
        w[_i(4)] = w[_i(3)]
        array[5] = 6

    made = materialize(lambda: _Model(write, torch.float32), key=KEY).weight
    assert made[:, 0].tolist() == [1, 2, 2, 4, 4, 6]


class _Counting(TorchDispatchMode):
    """Counts the elements that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        written = any(one.alias_info is not None for one in func._schema.returns)
        if isinstance(result, Tensor) and not written:
            self.count += result.numel()
        return result


def _by_row(change: Callable[[Tensor, int], object]) -> Callable[[Tensor], object]:
    return lambda w: [change(w, k) for k in range(len(w))]


# All that is done once or a few times for each row.
_BY_ROW: dict[str, Callable[[Tensor, int], object]] = {
    "numbers": lambda w, k: w.__setitem__(_i(k), float(k)),
    "rows": lambda w, k: w.index_copy_(0, _i(k), torch.ones(1, 4)),
    "parts": lambda w, k: w[k : k + 1].masked_fill_(torch.ones(1, 4, dtype=torch.bool), 1.0),
    "of others": lambda w, k: w.__setitem__(_i(k), w[_i(k - 1)] if k else 1.0),
    "of itself": lambda w, k: (w[k].mul_(2), w[k].fill_(1)),
    "looked at": lambda w, k: (w.__setitem__(_i(k), 1.0), w[k].add_(1)),
    "of nothing": lambda w, k: (w.__setitem__(_i(k), torch.empty(1, 4)), w[k].fill_(1)),
    "scattered": lambda w, k: w.scatter_(0, _i(k, k, k, k)[None], 1.0),
}


@_through
@pytest.mark.parametrize("way", _BY_ROW)
def test_what_is_written_row_by_row_takes_work_in_proportion(way: str, door: str) -> None:
    def work(rows: int) -> int:
        def make(device: Any = None) -> nn.Module:
            model = _Model(lambda w: None, torch.float32, "meta")
            model.way = _by_row(_BY_ROW[way])
            weight = torch.empty(rows, 4, device=device)
            model.weight = nn.Parameter(weight, requires_grad=False)
            if device is None and door == "factory":
                model.reset_parameters()
            return model

        with _Counting() as counting:
            _DOORS[door](make)
        return counting.count

    few, many = work(64), work(256)
    assert many < 5 * few


def test_marks_that_lead_are_found_at_once() -> None:
    from fastinit._fills.marks import Marks
    from fastinit._fills.region import Region

    def region(offset: int, size: int) -> Region:
        return Region((size,), (1,), offset, torch.float32)

    marks = Marks(0, 400)
    marks.put(0, 200, True)
    assert not marks.holds(0, 200, False) and marks.holds(0, 204, False)
    (view,) = marks.views(region(0, 100), removes=True)
    view[3] = False
    assert marks.holds(0, 200, False) and not marks.holds(0, 12, False)
    marks.put(12, 16, True)
    assert not marks.holds(0, 200, False)
    marks.put(100, 101, False)  # by bytes from now on
    assert marks.holds(0, 101, False) and not marks.holds(0, 100, False)
    assert [len(marks.views(region(25, 1))), marks.views(region(25, 1))[0].item()] == [4, False]
    marks.put_region(region(25, 1), True)
    assert not marks.holds(0, 200, False)
    marks.put_region(region(2, 1), False)
    assert marks.holds(0, 200, False)
    marks.put_region(region(2, 1), True)
    other = marks.copy()
    marks.extend(-4, 404)
    assert marks.holds(-4, 0, False) and not marks.holds(0, 200, False)
    other.put(0, 1, False)
    assert other.holds(0, 4, False) and not marks.holds(0, 4, False)


INTO: dict[str, Callable[[Tensor], object]] = {
    "index_put": lambda t: t.__setitem__(torch.tensor([0, 2]), torch.empty(2, 3)),
    "index_copy": lambda t: t.index_copy_(0, torch.tensor([0, 2]), torch.empty(2, 3)),
    "scatter": lambda t: t.scatter_(0, torch.zeros(2, 3, dtype=torch.long), torch.empty(2, 3)),
    "masked_scatter": lambda t: t.masked_scatter_(t == t, torch.empty(4, 3)),
    "masked_fill": lambda t: t.masked_fill_(t == t, torch.empty(())),
    "index_fill": lambda t: t.index_fill_(0, torch.tensor([1]), torch.empty(())),
    "put": lambda t: t.put_(torch.tensor([0, 2]), torch.empty(2)),
}


@pytest.mark.parametrize("how", INTO)
@pytest.mark.parametrize("door", ["initialize_", "materialize"])
def test_what_had_values_all_along_may_lose_some(how: str, door: str) -> None:
    """Memory that nobody has had to write down: of zeros, say."""

    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reset_parameters()

        def reset_parameters(self) -> None:
            made = torch.zeros(4, 3)
            INTO[how](made)
            self.weight = nn.Parameter(made)

    with pytest.raises(ValueError, match=r"nothing that Holds defines writes weight"):
        if door == "initialize_":
            initialize_(Holds(), key=0)
        else:
            materialize(Holds, key=0)
