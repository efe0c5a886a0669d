"""Names of draws that lie beside parameters, or flow into these by way of other operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.common import same_bits
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import fastinit
from fastinit import Key, materialize, normal_

KEY = Key(6)


class _Columns(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        table = torch.empty(rows, 6)
        self.first = nn.Parameter(table[:, :3])
        self.second = nn.Parameter(table[:, 3:])
        nn.init.normal_(table[:, 3:5])
        nn.init.normal_(table[:, 5:])
        nn.init.normal_(table[:, :3])


@pytest.mark.parametrize("rows", [10, 20_000])
def test_columns_of_a_long_table_are_told_apart(rows: int) -> None:
    module = materialize(lambda: _Columns(rows), key=KEY)
    for value, columns, name, n in (
        (module.first, 3, "first", 0),
        (module.second[:, :2], 2, "second", 0),
        (module.second[:, 2:], 1, "second", 1),
    ):
        expected = normal_(torch.empty(rows, columns), key=KEY.fold_in(name).fold_in(n))
        assert same_bits(value.data, expected)


class _Beside(nn.Module):
    """Something without a name that lies beside what has one, and goes elsewhere."""

    def __init__(self, number: float | Tensor) -> None:
        super().__init__()
        table = torch.empty(2, 4)
        nn.init.normal_(table[1])
        nn.init.normal_(table[0])
        self.a = nn.Parameter(table[0])
        self.b = nn.Parameter(table * number)


@pytest.mark.parametrize("number", [2.0, torch.full((2, 4), 2.0)])
def test_what_lies_beside_a_parameter_has_the_name_of_where_it_goes(number: Any) -> None:
    module = materialize(lambda: _Beside(number), key=KEY)
    a, b = (normal_(torch.empty(4), key=KEY.fold_in(name).fold_in(0)) for name in "ab")
    assert same_bits(module.a.data, a)
    assert same_bits(module.b.data, 2 * torch.stack([a, b]))


class _IntoTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        drawn, table = nn.init.normal_(torch.empty(8)), torch.empty(8)
        self.z = nn.Parameter(table[:4])
        self.a = nn.Parameter(table[4:])
        torch.mul(drawn, torch.ones(8), out=table)


def test_what_flows_into_two_parameters_at_once_has_the_name_of_the_first_of_them() -> None:
    module = materialize(_IntoTwo, key=KEY)
    expected = normal_(torch.empty(8), key=KEY.fold_in("z").fold_in(0))
    assert same_bits(torch.cat([module.z.data, module.a.data]), expected)


class _Powers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        drawn = nn.init.normal_(torch.empty(8))
        self.weight = nn.Parameter(torch._foreach_pow([drawn], 2.0)[0])  # type: ignore[arg-type]


def test_an_operator_on_lists_whose_like_for_one_tensor_takes_a_number_first() -> None:
    drawn = normal_(torch.empty(8), key=KEY.fold_in("weight").fold_in(0))
    assert same_bits(materialize(_Powers, key=KEY).weight.data, drawn**2)


_PARTLY: dict[str, Callable[[Tensor], Tensor]] = {
    "pad": lambda t: F.pad(t, (0, 4)),
    "tril_": lambda t: t.view(4, 4).tril_(5).view(-1),
    "complex": lambda t: torch.complex(t, t).real.clone(),
    "masked_fill": lambda t: t.masked_fill(torch.zeros(16, dtype=torch.bool), torch.tensor(1.0)),
    "scatter": lambda t: t.scatter(0, torch.tensor([15]), 1.0),
    "index_put": lambda t: t.index_put((torch.tensor([15]),), torch.tensor(1.0)),
    "slice_scatter": lambda t: torch.zeros(16).slice_scatter(t),
    "block_diag": lambda t: torch.block_diag(t, t)[0],
    "take": lambda t: t.take(torch.arange(16)),
}


@pytest.mark.parametrize("way", _PARTLY)
def test_copies_of_what_has_values_in_part_have_them_there(way: str) -> None:
    def build(end: int) -> nn.Module:
        module, memory = nn.Module(), torch.empty(16)
        nn.init.normal_(memory[:12])
        module.weight = nn.Parameter(_PARTLY[way](memory)[:end])
        return module

    weight = materialize(lambda: build(12), key=KEY).weight
    expected = normal_(torch.empty(12), key=KEY.fold_in("weight").fold_in(0))
    assert same_bits(weight.data, expected)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="weight"):
        materialize(lambda: build(13), key=KEY)


@pytest.mark.parametrize("flat", [False, True])
def test_what_was_a_parameter_keeps_its_name_in_memory_of_others(flat: bool) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.empty(4))
            self.second = nn.Parameter(torch.empty(4))

        def reset_parameters(self) -> None:
            if flat:
                vector_to_parameters(parameters_to_vector(self.parameters()), self.parameters())
            nn.init.normal_(self.second)
            self.old = nn.init.normal_(self.first).detach()
            self.first = nn.Parameter(nn.init.normal_(torch.empty(4)))

    module = fastinit.initialize_(Module(), key=KEY)
    for value, name, n in (
        (module.second, "second", 0),
        (module.first, "first", 0),
        (module.old, "first", 1),
    ):
        expected = normal_(torch.empty(4), key=KEY.fold_in(name).fold_in(n))
        assert same_bits(value.detach(), expected)


def test_what_nobody_has_any_more_names_no_draw() -> None:
    class Replaced(nn.Module):
        """One draw goes to two parameters side by side, of which one is replaced then."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.empty(4))
            self.second = nn.Parameter(torch.empty(4))

        def reset_parameters(self) -> None:
            nn.init.normal_(self.first)
            flat = torch.cat([self.first.data, self.first.data])
            self.first.data, self.second.data = flat[:4], flat[4:]
            self.first = nn.Parameter(torch.randn(4))

    module = fastinit.initialize_(Replaced(), key=KEY)
    for name in ("first", "second"):
        expected = normal_(torch.empty(4), key=KEY.fold_in(name).fold_in(0))
        assert same_bits(module.get_parameter(name).data, expected), name


_ON_LISTS: dict[str, Callable[[Any], object]] = {
    "fewer tensors": lambda ts: torch._foreach_add_(ts, ts[:2]),
    "fewer numbers": lambda ts: torch._foreach_mul_(ts, [1.0, 2.0]),
    "none": lambda ts: torch._foreach_zero_([]),
    "none, elsewhere": lambda ts: torch._foreach_mul([], 2.0),
    "fewer, elsewhere": lambda ts: torch._foreach_mul(ts, ts[:2]),
}


@pytest.mark.parametrize("way", _ON_LISTS)
def test_lists_that_torch_refuses_are_refused_before_any_is_changed(way: str) -> None:
    class Module(nn.Module):
        @torch.no_grad()
        def __init__(self) -> None:
            super().__init__()
            tensors = [nn.init.normal_(torch.empty(3)) for _ in range(3)]
            with pytest.raises(RuntimeError, match=r"^Tensor list"):
                _ON_LISTS[way](tensors)
            self.of = nn.ParameterList(tensors)

    Module()
    for k, value in enumerate(materialize(Module, key=KEY).of):
        expected = normal_(torch.empty(3), key=KEY.fold_in(f"of.{k}").fold_in(0))
        assert same_bits(value.data, expected)


def test_who_watches_draws_is_told_of_all_parameters_that_one_is_into_and_of_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            flat = torch.empty(16)
            self.a, self.b, self.pad = nn.Parameter(flat[:4]), nn.Parameter(flat[4:8]), flat[8:]
            nn.init.normal_(flat[:8])
            nn.init.uniform_(self.pad)

    seen: list[tuple[int, str]] = []
    watch = [lambda tensor, name, numbers, key: seen.append((tensor.storage_offset(), name))]
    monkeypatch.setattr("fastinit._distributed.fill.OBSERVERS", watch)
    monkeypatch.setattr("fastinit._models.session.OBSERVERS", watch)
    materialize(Module, key=KEY)
    assert seen == [(0, "normal_"), (4, "normal_")]


@pytest.mark.parametrize("way", ["block_diag", "constant_pad_nd"])
def test_what_joining_overwrites_with_constants_is_dead(way: str) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 4), requires_grad=False)
            nn.init.normal_(self.weight)
            block = torch.empty(2, 2)
            nn.init.normal_(block)
            if way == "block_diag":
                torch.ops.aten.block_diag.out([block, torch.ones(2, 2)], out=self.weight)
            else:
                torch.ops.aten.constant_pad_nd.out(block, [0, 2, 0, 2], 1.0, out=self.weight)

    weight = fastinit.materialize(Module, key=5).weight
    key = fastinit.Key(5).fold_in("weight").fold_in(0)
    assert same_bits(weight[:2, :2].clone(), fastinit.normal_(torch.empty(2, 2), key=key))


@pytest.mark.parametrize("read", [True, False])
def test_a_draw_that_goes_to_several_is_the_first_s(read: bool) -> None:
    """In the order in which they are made of it, not in that of names."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            drawn = torch.randn(4)
            if read:
                drawn.sum().item()
            first, second = (drawn * 2).exp(), (drawn * 3).exp()
            self.second, self.first = nn.Parameter(second), nn.Parameter(first)

    drawn = normal_(torch.empty(4), key=KEY.fold_in("first").fold_in(0))
    model = materialize(Two, key=KEY)
    assert same_bits(model.first.detach(), (drawn * 2).exp())
    assert same_bits(model.second.detach(), (drawn * 3).exp())


@pytest.mark.parametrize(
    "part",
    [
        lambda w: w[1:],
        lambda w: w[:, 2:4],
        lambda w: w[::2],
        lambda w: w[1:3, 1:],
        lambda w: w.t()[3],
        lambda w: w.view(-1)[5:17],
    ],
)
def test_a_draw_that_is_overwritten_in_part_of_what_is_copied_then(part: Any) -> None:
    """What is copied of the memory later is not made of it any more."""

    class Copied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.zeros(4, 6))
            nn.init.normal_(part(self.first))
            self.seen = self.first.sum().item()
            self.second = nn.Parameter(self.first.detach().clone())
            nn.init.constant_(part(self.first), 5)
            self.half().float()

    model = materialize(Copied, key=KEY)
    want = torch.zeros(4, 6)
    normal_(part(want), key=KEY.fold_in("second").fold_in(0))
    assert same_bits(model.second.detach(), want.half().float())
    assert model.seen == want.sum().item()


# ---- an RNN's weights, as cuDNN wants them -------------------------------------------------------


@pytest.fixture
def _flatten_on_the_cpu() -> Iterator[None]:
    """`torch._cudnn_rnn_flatten_weight`: one buffer of all weights, which become views of it."""

    def flatten(weights: list[torch.Tensor], *_: object) -> torch.Tensor:
        flat = torch.full((sum(w.numel() + 3 for w in weights),), float("nan"))
        at = 3
        for weight in reversed(weights):
            place = flat[at : at + weight.numel()].view(weight.shape)
            place.copy_(weight)
            weight.set_(place)
            at += weight.numel() + 3
        return flat

    library = torch.library.Library("aten", "IMPL")
    library.impl("_cudnn_rnn_flatten_weight", flatten, "CPU")
    yield
    library._destroy()


@pytest.mark.usefixtures("_flatten_on_the_cpu")
def test_weights_that_cudnn_lays_in_one_buffer_keep_their_names() -> None:
    def moved(layers: int) -> nn.Module:
        model = nn.ModuleList(nn.LSTM(3, 4, num_layers=2) for _ in range(layers))
        for layer in model:
            weights = [w.data for w in layer._flat_weights]
            numbers = (4, layer.input_size, 2, layer.hidden_size, 0, 2, False, False)
            torch._cudnn_rnn_flatten_weight(weights, *numbers)
            for weight, place in zip(layer._flat_weights, weights, strict=True):
                weight.data = place
        return model

    model = fastinit.materialize(lambda: moved(2), key=3)
    want = fastinit.materialize(lambda: nn.ModuleList(nn.LSTM(3, 4, 2) for _ in range(2)), key=3)
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == 2
    for (name, one), (_, other) in zip(
        model.named_parameters(), want.named_parameters(), strict=True
    ):
        assert same_bits(one.detach(), other.detach()), name
    flags = fastinit.report(model).flags
    assert not any("memory" in flag for found in flags.values() for flag in found), flags


@pytest.mark.usefixtures("_flatten_on_the_cpu")
def test_weights_without_values_are_told_apart_in_one_buffer() -> None:
    def factory(all_of_them: bool) -> nn.Module:
        layer = nn.LSTM(3, 4)
        if not all_of_them:
            layer.weight_hh_l0.data = torch.empty(16, 4)
        weights = [w.data for w in layer._flat_weights]
        torch._cudnn_rnn_flatten_weight(weights, 4, 3, 2, 4, 0, 1, False, False)
        for weight, place in zip(layer._flat_weights, weights, strict=True):
            weight.data = place
        return layer

    fastinit.materialize(lambda: factory(True), key=3)
    with pytest.raises(ValueError, match=r"writes weight_hh_l0 \(parameter\);"):
        fastinit.materialize(lambda: factory(False), key=3)
