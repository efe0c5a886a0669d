"""`fastinit.patch(key, module=model)`: every draw into what has a name has the key of that name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.decoders import assert_same, values_of
from torch import nn
from torch._ops import OpOverloadPacket

import fastinit


class Drawn(nn.Module):
    """Something that is initialised in a way of its own."""

    def __init__(self, way: Callable[[Any], object]) -> None:
        super().__init__()
        self.way = way
        self.w = nn.Parameter(torch.ones(6))
        self.matrix = nn.Parameter(torch.zeros(4, 4))
        self.other = nn.Parameter(torch.zeros(4, 4))
        self.register_buffer("b", torch.zeros(6))
        self.register_buffer("i", torch.zeros(6, dtype=torch.int64))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.w.fill_(-1.0)
        self.matrix.zero_()
        self.other.zero_()
        self.way(self)


_aten, _ours = torch.ops.aten, torch.ops.fastinit
WAYS: dict[str, Callable[[Any], object]] = {
    "init": lambda m: nn.init.normal_(m.w),
    "own": lambda m: fastinit.normal_(m.w),
    "own, of a view": lambda m: fastinit.trunc_normal_(m.matrix[1]),
    "own, scaled": lambda m: fastinit.kaiming_uniform_(m.matrix),
    "own, twice": lambda m: (fastinit.normal_(m.w[:3]), fastinit.uniform_(m.w[3:])),
    "orthogonal_": lambda m: fastinit.orthogonal_(m.matrix),
    "orthogonal_many_": lambda m: fastinit.orthogonal_many_([m.matrix, m.other]),
    "sparse_": lambda m: fastinit.sparse_(m.matrix, 0.5),
    "normal(out=)": lambda m: torch.normal(torch.zeros(6), torch.ones(6), out=m.b),
    "normal(number, out=)": lambda m: torch.normal(torch.zeros(6), 2.0, out=m.b),
    "bernoulli(out=)": lambda m: torch.bernoulli(torch.full((6,), 0.5), out=m.b),
    "randperm(out=)": lambda m: torch.randperm(6, out=m.i),
    "randint(out=)": lambda m: torch.randint(99, (6,), out=m.i),
    "multinomial(out=)": lambda m: torch.multinomial(torch.ones(6), 6, out=m.i),
    "dropout of a draw": lambda m: (nn.init.normal_(m.w), F.dropout(m.w, inplace=True)),
    "operator": lambda m: _aten.normal_(m.w, 0.0, 1.0),
    "operator's overload": lambda m: _aten.bernoulli_.float(m.b, 0.5),
    "own operator": lambda m: _ours.normal_(m.w, 0.0, 1.0),
}


def _in_place() -> list[str]:
    """Name the functions of torch that multiply what they are given by a draw: torch says so."""
    found = []
    for name in dir(torch):
        public = name.endswith("_") and not name.startswith("_")
        family = getattr(_aten, name, None) if public else None
        if isinstance(family, OpOverloadPacket):
            tags = [tag for one in family.overloads() for tag in getattr(family, one).tags]
            found += [name] * (torch.Tag.nondeterministic_seeded in tags)
    for name, func in vars(F).items():
        if inspect.isfunction(func):
            found += [name] * ({"training", "inplace"} <= inspect.signature(func).parameters.keys())
    return found


def _changed_by(name: str) -> Callable[[Any], object]:
    func = getattr(torch if name.endswith("_") else F, name)
    how = {"p": 0.5, "train": True} if name.endswith("dropout_") else {"training": True}
    how |= {} if name.endswith("_") else {"inplace": True}
    dims = {"dropout2d": 2, "dropout3d": 3}.get(name, 1)
    return lambda m: func(m.w.view(1, -1, *[1] * dims), **how)


WAYS |= {name: _changed_by(name) for name in _in_place()}


def test_what_torch_says_that_it_changes_in_place() -> None:
    assert {"dropout", "rrelu", "dropout_", "rrelu_", "feature_dropout_"} <= WAYS.keys()


@pytest.mark.parametrize("way", WAYS)
def test_every_draw_into_a_name_has_its_key(way: str) -> None:
    def patched(before: int) -> dict[str, torch.Tensor]:
        module = Drawn(WAYS[way])
        with fastinit.patch(0, module=module):
            for _ in range(before):
                torch.rand(1)
                torch.randint(9, (1,))
            module.reset_parameters()
        return values_of(module)

    want = values_of(fastinit.initialize_(Drawn(WAYS[way]), key=0))
    for before in (0, 1, 3):
        assert_same(patched(before), want)


def test_draws_of_one_call_into_what_has_no_name() -> None:
    """Each has the key that it has in any patch."""

    def drawn(module: nn.Module | None) -> list[torch.Tensor]:
        with fastinit.patch(0, module=module):
            return fastinit.orthogonal_many_([torch.empty(4, 4), torch.empty(4, 4)])

    first, second = drawn(nn.Linear(4, 4))
    assert not torch.equal(first, second)
    assert all(map(torch.equal, (first, second), drawn(None)))


def test_what_changes_a_draw_has_another_number() -> None:
    """What a dropout is multiplied by must not follow from the draw that it changes."""
    module = Drawn(lambda m: (nn.init.normal_(m.w), F.dropout(m.w, inplace=True)))
    with fastinit.patch(0, module=module):
        module.reset_parameters()
    key = fastinit.Key(0).fold_in("w")
    drawn = fastinit.normal_(torch.empty(6), key=key.fold_in(0))
    generator = torch.Generator().manual_seed(int(key.fold_in(1)) % 2**63)
    kept = torch.empty(6).bernoulli_(0.5, generator=generator) > 0
    assert torch.equal(module.w.data, torch.where(kept, 2 * drawn, 0.0))


def test_keys_and_generators_of_ones_own_stay() -> None:
    module, generator = Drawn(lambda m: None), torch.Generator().manual_seed(3)
    with fastinit.patch(0, module=module), torch.no_grad():
        fastinit.normal_(module.w, key=5)
        fastinit.uniform_(module.b, generator=generator)
    assert torch.equal(module.w.data, fastinit.normal_(torch.empty(6), key=5))
    want = fastinit.uniform_(torch.empty(6), generator=generator.manual_seed(3))
    assert torch.equal(module.get_buffer("b"), want)


def _refused(m: Any) -> None:
    with pytest.raises(ValueError, match="dimensions"):
        fastinit.orthogonal_many_([m.matrix, m.w])


@pytest.mark.parametrize(
    "call",
    [
        lambda m: F.dropout(m.matrix.data, 0.5, training=False, inplace=True),
        lambda m: F.dropout(m.matrix.data, 0.0, True, True),
        lambda m: F.dropout(m.matrix.data, 1.0, True, True),
        lambda m: F.dropout(m.matrix.data, 0.5, True),
        lambda m: torch.dropout_(m.matrix.data, 0.5, False),
        lambda m: torch.feature_alpha_dropout_(m.matrix.data, 1, True),
        _refused,
    ],
)
def test_what_draws_nothing_does_not_count(call: Callable[[Any], object]) -> None:
    module = Drawn(lambda m: None)
    with fastinit.patch(0, module=module), torch.no_grad():
        call(module)
        fastinit.normal_(module.matrix[:2])
    key = fastinit.Key(0).fold_in("matrix").fold_in(0)
    assert torch.equal(module.matrix.data[:2], fastinit.normal_(torch.empty(2, 4), key=key))
