"""Buffers that are put together of other tensors: sparse and nested ones, and quantised ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator

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
