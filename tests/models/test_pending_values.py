"""Which values there are: in little memory, in halves of words, after errors that are caught."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit
from fastinit import Key, materialize
from fastinit._recording import values

KEY = Key(3)


class _Buffer(nn.Module):
    tensor: Tensor

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.register_buffer("tensor", make())


def _by_numpy(tensor: Tensor, where: list[int], value: float) -> None:
    tensor.numpy()[where] = value


def _by_index(tensor: Tensor, where: list[int], value: float) -> None:
    tensor[torch.tensor(where, dtype=torch.long)] = value


def _by_mask(tensor: Tensor, where: list[int], value: float) -> None:
    mask = torch.zeros(tensor.shape, dtype=torch.bool)
    mask[torch.tensor(where, dtype=torch.long)] = True
    tensor.masked_fill_(mask, value)


Way = Callable[[Tensor, list[int], float], None]
_WAYS = [_by_numpy, _by_index, _by_mask]
_SMALL = [(torch.bool, 1), (torch.bool, 3), (torch.bool, 5), (torch.uint8, 2), (torch.float16, 1)]


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize(("dtype", "size"), [*_SMALL, (torch.float16, 3), (torch.float16, 6)])
def test_what_is_written_in_two_steps_is_written(way: Way, dtype: torch.dtype, size: int) -> None:
    def make() -> Tensor:
        tensor = torch.empty(size, dtype=dtype)
        way(tensor, [*range(0, size, 2)], 1)
        way(tensor, [*range(1, size, 2)], 0)
        return tensor

    assert same_bits(materialize(lambda: _Buffer(make), key=KEY).tensor, make())


@pytest.mark.parametrize("way", _WAYS)
def test_the_last_byte_may_be_written_for_itself(way: Way) -> None:
    def make() -> Tensor:
        tensor = torch.empty(5, dtype=torch.bool)
        tensor[:4] = False
        way(tensor, [4], 1)
        return tensor

    assert same_bits(materialize(lambda: _Buffer(make), key=KEY).tensor, make())


def test_small_numbers_in_two_bytes_are_values() -> None:
    def make() -> Tensor:
        tensor = torch.empty(512, dtype=torch.int16)
        tensor.numpy()[:] = range(-256, 256)
        return tensor

    assert same_bits(materialize(lambda: _Buffer(make), key=KEY).tensor, make())


def _unwritten(tensor: Tensor) -> Tensor:
    return tensor


_COPIES: list[Callable[[Tensor], Tensor]] = [
    _unwritten,
    torch.clone,
    lambda tensor: tensor.flip(0),
    lambda tensor: tensor.repeat(3),
    lambda tensor: tensor[torch.arange(len(tensor))],
]


@pytest.mark.parametrize("copy", _COPIES)
@pytest.mark.parametrize("way", [*_WAYS, None])
@pytest.mark.parametrize("size", [1, 2, 6])
def test_half_a_word_with_values_gives_the_other_half_none(
    way: Way | None, size: int, copy: Callable[[Tensor], Tensor]
) -> None:
    def make() -> Tensor:
        tensor = torch.empty(size, dtype=torch.float16)
        if way is not None and size > 1:
            way(tensor, [*range(0, size, 2)], 1)
        return copy(tensor)

    with pytest.raises(ValueError, match=r"writes tensor \(buffer\)"):
        materialize(lambda: _Buffer(make), key=KEY)


def test_a_column_of_a_long_table_may_be_written_in_pieces() -> None:
    def make() -> Tensor:
        table = torch.empty(40000, 2)  # each piece is few enough intervals, the column is not
        for begin in range(0, 40000, 10000):
            table[begin : begin + 10000, 0] = begin
        return table[:, 0]

    assert same_bits(materialize(lambda: _Buffer(make), key=KEY).tensor, make())


def test_memory_that_has_been_taken_away_since_somebody_got_it() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            held = torch.empty(10)
            held.untyped_storage().resize_(0)
            self.held = [held]
            more = torch.empty(2)
            more.untyped_storage().resize_(16)
            self.more = [more.set_(more.untyped_storage(), 0, (4,)).fill_(1)]

    assert materialize(Module, key=KEY).more[0].tolist() == [1, 1, 1, 1]


# What goes wrong after it has been looked at what it overwrites.
_WRONG: dict[str, Callable[[Tensor], Any]] = {
    "copy_": lambda weight: weight.copy_(torch.ones(3)),
    "out": lambda weight: torch.mm(torch.ones(6, 3), torch.ones(4, 6), out=weight),
    "slice": lambda weight: weight[2:].copy_(torch.ones(3)),
    "between": lambda weight: (weight[4].fill_(2.0), weight[3:5].zero_(), weight.copy_(weight.T)),
}


class _Catches(nn.Module):
    """Tries to load something that does not fit, and goes on with what it had."""

    def __init__(self, wrong: str, then: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(6, 4))
        self.caught = False
        self.reset_parameters(wrong, then)

    def reset_parameters(self, wrong: str, then: str) -> None:
        with torch.no_grad():
            nn.init.normal_(self.weight[:4])
            nn.init.uniform_(self.weight[4:])
            nn.init.ones_(self.weight[0])
            try:
                _WRONG[wrong](self.weight.data)
            except (RuntimeError, ValueError):
                self.caught = True
            if then == "read":
                self.largest = float(self.weight.abs().max())
            elif then == "changed":
                self.weight.clamp_(-0.5, 0.5)
            elif then == "numpy":
                self.weight.numpy()[5] = 7


@pytest.mark.parametrize("then", ["", "read", "changed", "numpy"])
@pytest.mark.parametrize("wrong", sorted(_WRONG))
def test_what_an_operator_was_to_overwrite_stays_if_it_fails(wrong: str, then: str) -> None:
    made: Any = materialize(lambda: _Catches(wrong, then), key=KEY)
    want = torch.empty(6, 4)
    word = KEY.fold_in("weight")
    fastinit.normal_(want[:4], key=word.fold_in(0))
    fastinit.uniform_(want[4:], key=word.fold_in(1))
    want[0] = 1
    with suppress(RuntimeError, ValueError):
        _WRONG[wrong](want)
    if then == "read":
        assert made.largest == float(want.abs().max())
    elif then == "changed":
        want.clamp_(-0.5, 0.5)
    elif then == "numpy":
        want[5] = 7
    assert made.caught
    assert same_bits(made.weight, want)


@pytest.mark.parametrize("way", [_by_numpy, _by_index])
def test_tables_that_are_written_row_by_row_take_work_in_proportion(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = [0]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(marks: Tensor, size: int) -> Any:
            looked[0] += marks.numel()
            return function(marks, size)

        return call

    def make(rows: int) -> Tensor:
        table = torch.empty(rows, 64)
        held = table.numpy() if way is _by_numpy else table
        for k in range(rows):
            if way is _by_numpy:
                held[k] = k
            else:
                way(table[k], [*range(64)], k)
            table[k].add_(1)
        return table

    monkeypatch.setattr(values, "_spans_of", counted(values._spans_of))
    for rows in (8, 80):
        looked[0] = 0
        made = materialize(functools.partial(_Buffer, functools.partial(make, rows)), key=KEY)
        assert same_bits(made.tensor, torch.arange(1.0, rows + 1)[:, None].expand(rows, 64))
        assert looked[0] <= 4 * made.tensor.numel()


class _CatchesOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.square, self.row = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
        self.message = ""
        try:
            fastinit.orthogonal_many_([self.square, self.row])
        except ValueError as error:
            self.message = str(error)


def test_of_many_matrices_none_is_drawn_if_one_cannot_be() -> None:
    made: Any = materialize(_CatchesOne, key=KEY)
    assert same_bits(made.square, torch.ones(4, 4))
    assert made.message == _CatchesOne().message != ""


class _Holds(nn.Module):
    """Holds memory without values in a list, or as an attribute that its initialiser adds."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.layer, self.late = nn.Linear(2, 2), late
        if not late:
            self.held = [torch.empty(3)]

    def reset_parameters(self) -> None:
        if self.late:
            self.added = torch.empty(3)


@pytest.mark.parametrize(
    ("road", "late", "name"),
    [("factory", False, "held.0"), ("meta", True, "added"), ("initialize_", True, "added")],
)
def test_what_a_module_holds_otherwise_has_to_be_written_too(
    road: str, late: bool, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"writes {name} \(attribute\)"):
        if road == "initialize_":
            fastinit.initialize_(_Holds(late), key=KEY)
        elif road == "factory":
            materialize(lambda: _Holds(late), key=KEY)
        else:
            with torch.device("meta"):
                module = _Holds(late)
            materialize(module, key=KEY)
