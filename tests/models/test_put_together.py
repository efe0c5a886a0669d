"""Buffers that are put together of other tensors: sparse and nested ones, and quantised ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import assert_same
from torch import Tensor, nn

import fastinit
from fastinit import Key, initialize_, materialize

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, of what is a prototype
KEY = Key(3)


class Layouts(nn.Module):
    """Values, and numbers of values, are drawn; its initialiser changes them in place."""

    def __init__(self, longest: int = 4, stops: bool = False) -> None:
        super().__init__()
        self.stops = stops
        self.weight = nn.Parameter(torch.randn(8, 8))
        drawn = torch.randn(8, 8)
        chosen = torch.where(drawn > 0, drawn, 0)
        parts = [drawn[:2].clone(), drawn[:longest].clone()]
        self.register_buffer("rows", chosen.to_sparse_csr())
        self.register_buffer("blocks", chosen.to_sparse_bsc((2, 2)))
        self.register_buffer("places", chosen.to_sparse())
        self.register_buffer("nested", torch.nested.nested_tensor(parts))
        self.register_buffer("jagged", torch.nested.nested_tensor(parts, layout=torch.jagged))
        self.register_buffer("eighths", torch.quantize_per_tensor(drawn, 0.125, 0, torch.qint8))

    def held(self) -> dict[str, Tensor]:
        """Give what each holds as ordinary tensors."""
        made = {"eighths": self.get_buffer("eighths").dequantize()}
        for name in ("rows", "blocks", "places"):
            made[name] = self.get_buffer(name).to_dense()
        for name in ("nested", "jagged"):
            made[name] = torch.cat(list(self.get_buffer(name).unbind()))
        return made

    @torch.no_grad()
    def reset_parameters(self) -> None:
        x = torch.randn(8, 8)
        if x.sum() < 1e9:  # read before it has a name, so all of this runs a second time
            self.weight.copy_(x)
        for name in ("rows", "blocks", "places"):
            self.get_buffer(name).mul_(2)
        self.get_buffer("jagged").values().mul_(2)
        for part in self.get_buffer("nested").unbind():
            part.mul_(2)
        self.get_buffer("eighths").copy_(torch.ones(8, 8))
        if self.stops:
            raise ZeroDivisionError


@pytest.fixture
def buffers() -> Iterator[tuple[Layouts, dict[str, Tensor]]]:
    """Give a module and its buffers, which are to stay the objects that they are."""
    module = Layouts()
    before = dict(module.named_buffers())
    yield module, module.held()
    assert all(before[name] is buffer for name, buffer in module.named_buffers())


def test_an_error_puts_back_what_they_held(buffers: tuple[Layouts, dict[str, Tensor]]) -> None:
    module, before = buffers
    module.stops = True
    with pytest.raises(ZeroDivisionError):
        initialize_(module, key=KEY)
    assert_same(module.held(), before)


def test_a_second_run_begins_with_what_they_held(
    buffers: tuple[Layouts, dict[str, Tensor]],
) -> None:
    module, before = buffers
    initialize_(module, key=KEY)
    want = {name: 2 * held for name, held in before.items()} | {"eighths": torch.ones(8, 8)}
    assert_same(module.held(), want)
    weight = fastinit.normal_(torch.empty(8, 8), key=KEY.fold_in("weight").fold_in(0))
    assert same_bits(module.weight.detach(), weight)


def test_parts_of_a_nested_tensor_are_drawn_under_its_name() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = [torch.ones(2, 8), torch.ones(4, 8)]
            self.register_buffer("nested", torch.nested.nested_tensor(parts))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            for part in self.get_buffer("nested").unbind():
                nn.init.normal_(part)

    for module in (materialize(Nested, key=KEY), initialize_(Nested(), key=KEY)):
        for k, part in enumerate(module.get_buffer("nested").unbind()):
            key = KEY.fold_in("nested").fold_in(k)
            assert same_bits(part, fastinit.normal_(torch.empty(part.shape), key=key))


# ---- from a factory ------------------------------------------------------------------------------


def test_values_of_a_factory(buffers: tuple[Layouts, dict[str, Tensor]]) -> None:
    module, before = buffers
    initialize_(module, key=KEY, factory=Layouts)
    made = materialize(Layouts, key=KEY).held()
    assert_same(module.held(), made)
    assert not same_bits(made["rows"], before["rows"])


def test_a_factory_of_other_parts_leaves_them_as_they_were(
    buffers: tuple[Layouts, dict[str, Tensor]],
) -> None:
    module, before = buffers
    with pytest.raises(ValueError, match=r"nested \(\(\(2, 8\), \(4, 8\)\), .*\(5, 8\)\)"):
        initialize_(module, key=KEY, factory=functools.partial(Layouts, 5))
    assert_same(module.held(), before)


# ---- names and values ----------------------------------------------------------------------------

_PLACES = torch.tensor([[0, 1, 2], [2, 0, 1]])
_MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda x: x.to_sparse(),
    "indexed": lambda x: torch.sparse_coo_tensor(_PLACES, x[0, :3], (4, 4)),
    "rows": lambda x: x.to_sparse_csr(),
    "columns": lambda x: x.to_sparse_csc(),
    "blocks": lambda x: x.to_sparse_bsr((2, 2)),
    "joined": lambda x: torch.cat([x.to_sparse(), x.to_sparse()]),
    "dense again": lambda x: torch.sparse.sum(x.to_sparse(), 1).to_dense(),
    "nested": lambda x: torch.nested.nested_tensor([x[:2], x[2:]]),
    "jagged": lambda x: torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged),
    "padded": lambda x: torch.nested.to_padded_tensor(torch.nested.nested_tensor([x, x[2:]]), 0.0),
}


def _dense(tensor: Tensor) -> Tensor:
    if tensor.is_nested:
        return torch.cat(list(tensor.unbind()))
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


class _Holds(nn.Module):
    def __init__(self, make: Callable[[Tensor], Tensor], drawn: Callable[[], Tensor]) -> None:
        super().__init__()
        self.register_buffer("held", make(drawn()))


@pytest.mark.parametrize("kind", _MADE)
def test_what_they_are_made_of_is_drawn_under_their_names(kind: str) -> None:
    make = _MADE[kind]
    keys = [KEY.fold_in(name).fold_in(0) for name in ("0.held", "1.held")]
    want = [make(fastinit.normal_(torch.empty(4, 4), key=key)) for key in keys]

    def factory() -> nn.Module:
        return nn.Sequential(*(_Holds(make, lambda: torch.randn(4, 4)) for _ in want))

    for module, value in zip(materialize(factory, key=KEY), want, strict=True):
        assert same_bits(_dense(module.get_buffer("held")), _dense(value))
    assert torch.equal(_PLACES, torch.tensor([[0, 1, 2], [2, 0, 1]]))


@pytest.mark.parametrize("kind", sorted(_MADE.keys() - {"sparse", "rows", "columns", "blocks"}))
def test_what_nobody_wrote_is_said_of_them(kind: str) -> None:
    with pytest.raises(ValueError, match=r"writes held \(buffer\)"):
        materialize(lambda: _Holds(_MADE[kind], lambda: torch.empty(4, 4)), key=KEY)
    made = materialize(lambda: _Holds(_MADE[kind], lambda: torch.empty(4, 4).fill_(2)), key=KEY)
    want = _dense(_MADE[kind](torch.full((4, 4), 2.0)))
    assert same_bits(_dense(made.get_buffer("held")), want)


def test_a_quantised_tensor_that_nobody_wrote() -> None:
    def empty(_: Tensor) -> Tensor:
        return torch._empty_affine_quantized([8], scale=0.1, zero_point=0, dtype=torch.qint8)

    with pytest.raises(ValueError, match=r"writes held \(buffer\)"):
        materialize(lambda: _Holds(empty, lambda: torch.ones(1)), key=KEY)


def test_what_is_on_meta_is_refused_by_name() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
        size, places = (3, 3), torch.zeros(2, 1, dtype=torch.int64)
        made = torch.sparse_coo_tensor(places, torch.ones(1), size, check_invariants=False)
        model.register_buffer("places", made)
    with pytest.raises(
        NotImplementedError, match=r"on the meta device.*: places; pass the factory"
    ):
        fastinit.materialize(model, key=3)
    assert model.weight.is_meta


def test_what_is_real_beside_meta_stays() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    model.register_buffer("places", torch.eye(3).to_sparse())
    places = model.places
    fastinit.materialize(model, key=3)
    assert model.places is places
    assert torch.equal(model.places.to_dense(), torch.eye(3))
    assert not model.weight.is_meta
