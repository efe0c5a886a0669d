"""What constructors do besides filling: reading values, keeping aliases, changing constants."""

from __future__ import annotations

import numpy as np
import torch
from support.common import no_randomness, same_bits
from torch import nn

import fastinit
from fastinit import Key, materialize


def test_the_factory_reads_values() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(9) * 2 + 1)
            self.top = self.a.max().item()
            self.array = self.a.detach().numpy()
            self.b = nn.Parameter(torch.empty(9).fill_(self.top))
            with torch.no_grad():
                self.a[0] = 5.0
                self.array[1] = 6.0
            table = np.ones((3, 3), dtype=np.float32)
            self.c = nn.Parameter(torch.from_numpy(table))
            order = torch.randperm(9)
            self.order = order.tolist()

    with no_randomness():
        made, again = materialize(Reads, key=3), materialize(Reads, key=3)
    # Nobody knew yet what it was for, so the constructor has run twice.
    key = Key(3).fold_in("a").fold_in(0)
    expected = fastinit.normal_(torch.empty(9), key=key) * 2 + 1
    assert made.top == expected.max().item()
    expected[0], expected[1] = 5.0, 6.0
    assert same_bits(made.a.data, expected)
    assert same_bits(again.a.data, expected)
    assert made.b[0].item() == made.top
    assert made.a.data_ptr() == made.array.ctypes.data
    assert sorted(made.order) == list(range(9))
    assert made.order == again.order


def test_who_holds_the_memory_sees_later_fills_at_once() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.empty(3).fill_(1.0))
            array = self.a.detach().numpy()
            nn.init.constant_(self.a, 4.0)
            self.seen = float(array[0])
            nn.init.normal_(self.a)
            self.drawn = array.copy()

    made = materialize(Holds, key=3)
    assert made.seen == 4.0
    assert made.drawn.tolist() == made.a.tolist()


def test_draws_that_look_at_whole_tensors() -> None:
    class Orthogonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Parameter(torch.empty(6, 4)) for _ in range(4))
            fastinit.orthogonal_(self.a, gain=2.0)
            fastinit.orthogonal_many_([self.b, self.c])
            fastinit.sparse_(self.d, 0.5)

    with no_randomness():
        made = materialize(Orthogonal, key=3)
    rules = {
        "a": lambda w: nn.init.orthogonal_(w, 2.0),
        "d": lambda w: nn.init.sparse_(w, 0.5),
        "default": nn.init.orthogonal_,
    }
    expected = fastinit.initialize_(Orthogonal(), rules, key=3)
    for name, value in expected.named_parameters():
        assert torch.allclose(value, made.get_parameter(name), atol=1e-6), name
        key = Key(3).fold_in(name).fold_in(0)
        if name in "bc":
            direct = fastinit.orthogonal_(torch.empty(6, 4), key=key)
            assert torch.allclose(value, direct, atol=1e-6)
    assert fastinit.report(made).flags == {}


def test_constants_that_change_after_they_were_used() -> None:
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.arange(4.0)
            self.first = nn.Parameter(torch.empty(4))
            self.second = nn.Parameter(torch.empty(4))
            with torch.no_grad():
                self.first.copy_(table)
                table.mul_(2)
                self.second.copy_(table)
                table.zero_()

    made = materialize(Changes, key=3)
    assert made.first.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert made.second.tolist() == [0.0, 2.0, 4.0, 6.0]


def test_an_error_in_an_operator_is_torch_s() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.empty(3, 4))
            with torch.no_grad():
                self.a.copy_(torch.ones(5))

    try:
        Wrong()
    except RuntimeError as error:
        native = str(error)
    try:
        materialize(Wrong, key=3)
    except RuntimeError as error:
        assert str(error) == native
    else:
        raise AssertionError


def test_tied_weights_that_are_held_weakly() -> None:
    with torch.device("meta"):
        module = nn.ModuleList([nn.LSTM(3, 4), nn.LSTM(3, 4)])
    module[1].weight_hh_l0 = module[0].weight_hh_l0
    materialize(module, key=3)
    assert module[1].weight_hh_l0 is module[0].weight_hh_l0
    assert module[1]._flat_weights[1] is module[0].weight_hh_l0
