"""Names of draws whose values go into memory that several parameters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.common import same_bits
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import fastinit
from fastinit import Key, initialize_, materialize, normal_
from fastinit._fills.region import Region
from fastinit._recording.graph import Ref, Storage
from fastinit._recording.naming import UNNAMED, Names

KEY = Key(6)


def _flatten(layers: Sequence[nn.Module]) -> None:
    """As DeepSpeed's and Megatron's optimizers do."""
    parameters = [p for layer in layers for p in layer.parameters()]
    vector_to_parameters(parameters_to_vector(parameters).detach(), parameters)


def _into_one_tensor(layers: Sequence[nn.Module]) -> None:
    flat = torch._utils._flatten_dense_tensors([layer.weight.data for layer in layers])  # type: ignore
    for k, layer in enumerate(layers):
        layer.weight.data = flat[12 * k : 12 * k + 12].view(4, 3)  # type: ignore[union-attr]


def _by(join: Callable[[list[Tensor]], Tensor], part: Callable[[Tensor, int], Tensor]) -> Any:
    def flatten(layers: Sequence[nn.Module]) -> None:
        joined = join([layer.weight.data for layer in layers])  # type: ignore[misc]
        for k, layer in enumerate(layers):
            layer.weight.data = part(joined, k)  # type: ignore[assignment]

    return flatten


def _repeated(tensor: Tensor, k: int) -> Tensor:
    size = tensor.shape[1] // 2
    return tensor[1, size + 4 * k : size + 4 * k + 4, 3:]


_WAYS: dict[str, Callable[[Sequence[nn.Module]], None]] = {
    "parameters_to_vector": _flatten,
    "flatten_dense_tensors": _into_one_tensor,
    "stack": _by(torch.stack, lambda t, k: t[k]),
    "stack in the middle": _by(lambda ts: torch.stack(ts, 1), lambda t, k: t[:, k]),
    "columns": _by(lambda ts: torch.cat(ts, dim=-1), lambda t, k: t[:, 3 * k : 3 * k + 3]),
    "columns, doubled": _by(
        lambda ts: 2 * torch.cat(ts, dim=-1), lambda t, k: t[:, 3 * k : 3 * k + 3] / 2
    ),
    "hstack": _by(torch.hstack, lambda t, k: t[:, 3 * k : 3 * k + 3]),
    "out=": _by(
        lambda ts: torch.cat(ts, out=torch.empty(4 * len(ts), 3)),
        lambda t, k: t[4 * k : 4 * k + 4],
    ),
    "with nothing in between": _by(
        lambda ts: torch.cat([torch.empty(0), *ts]), lambda t, k: t[4 * k : 4 * k + 4]
    ),
    "with constants in between": _by(
        lambda ts: torch.cat([x for t in ts for x in (t, torch.ones(1, 3))]),
        lambda t, k: t[5 * k : 5 * k + 4],
    ),
    "padded": _by(
        lambda ts: F.pad(torch.cat(ts), (0, 0, 2, 5)), lambda t, k: t[4 * k + 2 : 4 * k + 6]
    ),
    "padded and cut": _by(
        lambda ts: F.pad(F.pad(torch.cat(ts), (1, 1, 2, 5)), (-1, 0, -1, -2)),
        lambda t, k: t[4 * k + 1 : 4 * k + 5, :3],
    ),
    "transposed": _by(
        lambda ts: torch.stack(ts, 2).permute(2, 0, 1).contiguous(), lambda t, k: t[k]
    ),
    "copied across": _by(
        lambda ts: torch.empty(4, 3, len(ts)).copy_(torch.stack(ts).permute(1, 2, 0)),
        lambda t, k: t[:, :, k],
    ),
    "expanded": _by(
        lambda ts: torch.stack(ts).unsqueeze(0).expand(2, -1, -1, -1).contiguous(),
        lambda t, k: t[1, k],
    ),
    "broadcast": _by(
        lambda ts: torch.cat(ts) * torch.ones(2, 4 * len(ts), 3),
        lambda t, k: t[1, 4 * k : 4 * k + 4],
    ),
    "repeated": _by(lambda ts: torch.cat(ts).repeat(3, 2, 2), _repeated),
    "columns of columns": _by(
        lambda ts: torch.cat([torch.cat(ts[:2], 1), *ts[2:]], 1),
        lambda t, k: t[:, 3 * k : 3 * k + 3],
    ),
    "on a diagonal": _by(
        lambda ts: torch.block_diag(*ts), lambda t, k: t[4 * k : 4 * k + 4, 3 * k : 3 * k + 3]
    ),
    "complex": _by(
        lambda ts: torch.view_as_real(torch.complex(torch.stack(ts), torch.ones(len(ts), 4, 3))),
        lambda t, k: t[k, ..., 0],
    ),
    "bytes": _by(
        lambda ts: torch.stack(ts).view(torch.uint8).clone().view(torch.float32),
        lambda t, k: t[k],
    ),
    "_foreach_mul": _by(
        lambda ts: torch._foreach_mul([torch.stack(ts)], 1.0)[0],  # type: ignore[arg-type]
        lambda t, k: t[k],
    ),
    "a triangle": _by(lambda ts: torch.stack(ts).triu(-4), lambda t, k: t[k]),
    "_foreach_copy_": _by(lambda ts: _copied(torch.empty(len(ts), 4, 3), ts), lambda t, k: t[k]),
}


def _copied(to: Tensor, tensors: list[Tensor]) -> Tensor:
    torch._foreach_copy_(list(to.unbind()), tensors)  # type: ignore[arg-type]
    return to


def _model(flatten: Callable[[Sequence[nn.Module]], None], names: str) -> nn.ModuleDict:
    model = nn.ModuleDict({name: nn.Linear(3, 4) for name in names})
    flatten([*model.values()])
    return model


@pytest.mark.parametrize("way", _WAYS)
def test_a_layer_more_moves_nothing_in_a_flat_buffer(way: str) -> None:
    plain = initialize_(_model(lambda _: None, "abcd"), key=KEY)
    for names in ("abc", "bacd"):
        model = materialize(lambda names=names: _model(_WAYS[way], names), key=KEY)
        for name, value in model.state_dict().items():
            assert same_bits(value, plain.state_dict()[name]), name


class _Pieces(nn.Module):
    """Parameters that are copied out of the pieces of one tensor, each drawn for itself."""

    def __init__(self, count: int, columns: bool) -> None:
        super().__init__()
        table = torch.empty(4, 4 * count)
        self.parts = nn.ParameterList()
        places = [(slice(None), slice(4 * k, 4 * k + 4)) for k in range(count)]
        if not columns:
            table = table.view(4 * count, 4)
            places = [place[::-1] for place in places]
        for place in reversed(places):
            nn.init.normal_(table[place])
        for place in places:
            self.parts.append(nn.Parameter(table[place] + 1))


@pytest.mark.parametrize("columns", [False, True])
def test_what_flows_out_of_a_piece_names_that_piece(columns: bool) -> None:
    module = materialize(lambda: _Pieces(5, columns), key=KEY)
    for k, part in enumerate(module.parts):
        key = KEY.fold_in(f"parts.{k}").fold_in(0)
        assert same_bits(part.data, normal_(torch.empty(4, 4), key=key) + 1)


class _Shared(nn.Module):
    def __init__(self, before: bool) -> None:
        super().__init__()
        table = torch.zeros(4, 4)
        if before:
            self.first = nn.Parameter(table[0])
        self.second = nn.Parameter(table[1])
        self.third = nn.Parameter(table[2])
        nn.init.normal_(table[1:3])


def test_a_draw_over_two_parameters_has_the_name_of_the_first_of_them() -> None:
    for before in (False, True):
        module = materialize(lambda before=before: _Shared(before), key=KEY)
        expected = normal_(torch.empty(2, 4), key=KEY.fold_in("second").fold_in(0))
        assert same_bits(torch.stack([module.second.data, module.third.data]), expected)


@pytest.mark.parametrize("count", [2, 300])
def test_a_draw_in_pieces_of_which_the_whole_flows_on(count: int) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.empty(count, 4)
            for row in table:
                nn.init.normal_(row)
            self.whole = nn.Parameter(2 * table)
            self.last = nn.Parameter(3 * table[-1])

    module = materialize(Module, key=KEY)
    for k in range(count):
        key = KEY.fold_in("whole").fold_in(k)
        assert same_bits(module.whole[k].data, 2 * normal_(torch.empty(4), key=key))
    assert same_bits(module.last.data, module.whole[-1].data / 2 * 3)


def test_a_report_tells_parameters_of_one_memory_apart() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            flat = torch.empty(40_000)
            self.small = nn.Parameter(flat[:10_000].view(100, 100))
            self.twice = nn.Parameter(flat[10_000:20_000].view(100, 100))
            self.large = nn.Parameter(flat[20_000:].view(200, 100))
            nn.init.normal_(flat, std=0.1)
            nn.init.uniform_(self.large)
            nn.init.zeros_(self.twice)

    found = fastinit.report(materialize(Module, key=KEY))
    assert [(row.name, row.rule, row.flags) for row in found.parameters] == [
        ("small", "normal_", ()),
        ("twice", "constant_", ("written twice",)),
        ("large", "uniform_", ("written twice",)),
    ]
    assert [row.expected.std for row in found.parameters] == [0.1, 0, pytest.approx(12**-0.5)]


def _normal(name: str, *size: int, count: int = 0) -> Tensor:
    return normal_(torch.empty(size), key=KEY.fold_in(name).fold_in(count))


def test_what_is_beside_a_parameter_is_not_its() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.empty(12, 4)
            self.held = nn.Parameter(table[:4])
            self.cache = table[8:]
            nn.init.normal_(table[4:8])
            nn.init.normal_(self.cache)
            self.flows = nn.Parameter(table[4:8] + 1)
            nn.init.normal_(self.held)

    module = materialize(Module, key=KEY)
    assert same_bits(module.held.data, _normal("held", 4, 4))
    assert same_bits(module.cache, _normal("cache", 4, 4))
    assert same_bits(module.flows.data, _normal("flows", 4, 4) + 1)


def test_what_is_overwritten_goes_nowhere() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.empty(4, 4)
            nn.init.normal_(table)
            self.seen = table.tolist()
            nn.init.normal_(table)
            self.weight = nn.Parameter(table.cumsum(0))

    module = materialize(Module, key=KEY)
    assert same_bits(module.weight.data, _normal("weight", 4, 4).cumsum(0))
    assert module.seen == _normal(UNNAMED, 4, 4).tolist()


def _as_integers(table: Tensor) -> list[Tensor]:
    return [*(table.view(torch.int32) + 0).view(torch.float32).view(2, 4)]


def _as_complex(table: Tensor) -> list[Tensor]:
    return [*torch.view_as_real(torch.view_as_complex(table.view(4, 2)) * 1).reshape(2, 4)]


def _of_another_type(table: Tensor) -> list[Tensor]:
    return [*table.double().view(2, 4)]


@pytest.mark.parametrize("parts", [_as_integers, _as_complex, _of_another_type])
def test_parts_that_go_through_another_type_keep_their_names(
    parts: Callable[[Tensor], list[Tensor]],
) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.empty(8)
            nn.init.normal_(table[4:])
            nn.init.normal_(table[:4])
            first, second = parts(table)
            self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    module = materialize(Module, key=KEY)
    for name in ("first", "second"):
        assert torch.equal(module.get_parameter(name).float(), _normal(name, 4))


def test_what_lies_unheld_beside_a_parameter_counts_after_it() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 4))
            nn.init.normal_(self.weight, std=2.0)
            self.weight.data = torch.cat([self.weight.data, self.weight.data])[4:]
            nn.init.normal_(self.weight)

    assert same_bits(materialize(Module, key=KEY).weight.data, _normal("weight", 4, 4))


def test_names_of_what_is_asked_for_before_all_have_one() -> None:
    table = torch.empty(12, 4)
    storage, names = Storage(table, known=False), Names()
    refs = [Ref(storage, Region.of(part)) for part in table.split(4)]
    names.there.add(refs[0], "first")
    names.there.add(refs[1], "second")
    inside = Ref(storage, Region.of(table[9:11]))
    assert names.of(inside) == "first"  # of the storage
    names.there.add(refs[2], "third")
    assert names.of(inside) == "third"
    assert names.of(Ref(storage, Region.of(table[7:9]))) == "second"


_TWICE: dict[str, Callable[[Tensor], Tensor]] = {
    "at once": lambda table: torch.cat([table[:4], table[4:]]) * 2,
    "waiting": lambda table: table.mul_(2),
    "copied while it waits": lambda table: table.mul_(2).clone(),
    "waiting, as a copy": lambda table: table * 2,
}


@pytest.mark.parametrize("way", _TWICE)
def test_a_draw_that_is_overwritten_behind_arithmetic_on_the_whole_is_dead(way: str) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.empty(8, 4)
            self.first, self.second = nn.Parameter(table[:4]), nn.Parameter(table[4:])
            nn.init.normal_(self.first)
            nn.init.normal_(self.second)
            whole = _TWICE[way](table)
            self.first.data, self.second.data = whole[:4], whole[4:]
            nn.init.normal_(self.first)

    module = materialize(Module, key=KEY)
    assert same_bits(module.first.data, _normal("first", 4, 4))
    assert same_bits(module.second.data, 2 * _normal("second", 4, 4))


def test_a_draw_that_nobody_holds_counts_after_those_of_a_parameter_beside() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.empty(8, 4)
            self.weight = nn.Parameter(table[4:])
            nn.init.normal_(table[:4])
            nn.init.normal_(self.weight)

    assert same_bits(materialize(Module, key=KEY).weight.data, _normal("weight", 4, 4))


def test_a_parameter_that_another_has_replaced_counts_after_it() -> None:
    """Though what it was given lies beside a parameter that is still there."""

    class Replaced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.empty(4, 3))
            self.second = nn.Parameter(torch.empty(4, 3))

        @torch.no_grad()
        def reset_parameters(self) -> None:
            both = torch.zeros(4, 6) + 1
            self.first.data, self.second.data = both[:, :3], both[:, 3:]
            nn.init.normal_(self.first)
            self.first = nn.Parameter(torch.randn(4, 3))

    model = Replaced()
    before = model.first
    fastinit.initialize_(model, key=KEY)
    key = KEY.fold_in("first")
    assert same_bits(model.first.detach(), normal_(torch.empty(4, 3), key=key.fold_in(0)))
    assert same_bits(before.detach(), normal_(torch.empty(4, 3), key=key.fold_in(1)))


class _Padded(nn.Module):
    def __init__(self, fill: bool, draw: bool = True) -> None:
        super().__init__()
        self.flat = torch.empty(10, 4)
        self.weight = nn.Parameter(self.flat[:8])
        self.alias = self.weight.detach()
        if draw:
            nn.init.normal_(self.weight)
        if fill:
            nn.init.zeros_(self.flat[8:])


def test_padding_without_values_is_named() -> None:
    assert not materialize(lambda: _Padded(True), key=KEY).flat[8:].any()
    with pytest.raises(ValueError, match=r"writes flat \(attribute\);"):
        materialize(lambda: _Padded(False), key=KEY)
    # What else holds a parameter is not told.
    with pytest.raises(ValueError, match=r"writes weight \(parameter\), flat \(attribute\);"):
        materialize(lambda: _Padded(False, draw=False), key=KEY)


@pytest.mark.parametrize("rows", [1_000, 20_000])
def test_a_report_tells_columns_apart_however_long(rows: int) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.empty(rows, 6)
            self.once, self.often = nn.Parameter(table[:, :3]), nn.Parameter(table[:, 3:])
            nn.init.normal_(table)
            nn.init.uniform_(self.often)
            nn.init.zeros_(table[:, 3:])

    found = fastinit.report(materialize(Module, key=KEY)).parameters
    assert [row.rule for row in found] == ["normal_", "constant_"]
    assert [row.flags for row in found] == [(), ("written 3 times",)]
