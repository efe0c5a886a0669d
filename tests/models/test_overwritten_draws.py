"""Which number a draw has beside others that were overwritten, whoever has kept what these gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import drawn
from torch import Tensor, nn
from torch.nn.utils import prune

import fastinit
from fastinit import initialize_, materialize


def uniform(n: int, name: str = "layer.weight") -> Tensor:
    return fastinit.uniform_(torch.empty(4, 3), key=drawn(name, n))


def normal(n: int, name: str = "layer.weight") -> Tensor:
    return fastinit.normal_(torch.empty(4, 3), key=drawn(name, n))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 3))
        nn.init.uniform_(self.weight)


def as_buffer(model: Any, value: Tensor) -> None:
    model.register_buffer("kept", value)


def as_parameter(model: Any, value: Tensor) -> None:
    model.kept = nn.Parameter(value)


def in_another_module(model: Any, value: Tensor) -> None:
    model.beside = nn.Module()
    model.beside.kept = nn.Parameter(value)


def as_attribute(model: Any, value: Tensor) -> None:
    model.kept = value


def in_a_list(model: Any, value: Tensor) -> None:
    model.held = [value]


HOLDERS: list[Callable[[Any, Tensor], None]] = [
    as_buffer,
    as_parameter,
    in_another_module,
    as_attribute,
    in_a_list,
]
MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "a copy": torch.clone,
    "a part": lambda weight: weight[1:3].clone(),
    "arithmetic": lambda weight: weight * 2 + 1,
    "a product": lambda weight: weight.t() @ weight,
    "a constant, because of it": lambda weight: torch.full((2,), weight.max().item()),
}


def kept_of(model: Any) -> Tensor:
    if hasattr(model, "held"):
        return model.held[0]
    kept = model.beside.kept if hasattr(model, "beside") else model.kept
    return kept.detach()


@pytest.mark.parametrize("hold", HOLDERS, ids=[hold.__name__ for hold in HOLDERS])
@pytest.mark.parametrize("made", MADE)
def test_who_keeps_what_a_constructor_draws_over_changes_no_weight(
    hold: Callable[[Any, Tensor], None], made: str
) -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer()
            hold(self, MADE[made](self.layer.weight.detach()))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            nn.init.normal_(self.layer.weight)

    class Drops(Keeps):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.layer = nn.Linear(3, 4, bias=False)

    model = materialize(Keeps, key=3)
    assert same_bits(model.layer.weight.data, normal(0))
    assert same_bits(model.layer.weight.data, initialize_(Drops(), key=3).layer.weight.data)
    assert same_bits(kept_of(model), MADE[made](uniform(1)))


def test_statistics_of_a_trial_run_change_no_weight() -> None:
    """A constructor runs its layers to see a shape; BatchNorm's buffers keep what it has seen."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            with torch.no_grad():
                seen = self.norm(self.conv(torch.ones(2, 1, 8, 8)))
            self.head = nn.Linear(seen[0].numel(), 2)
            self.init_weights()

        def init_weights(self) -> None:
            for layer in (self.conv, self.head):
                nn.init.normal_(layer.weight)
                nn.init.uniform_(layer.bias)

    made, given = materialize(Net, key=3), initialize_(Net(), key=3)
    for (name, one), other in zip(made.named_parameters(), given.parameters(), strict=True):
        assert same_bits(one.data, other.data), name
    assert made.norm.running_mean.count_nonzero() == 4


def plain(layer: nn.Module) -> nn.Module:
    return layer


def pruned(layer: nn.Module) -> nn.Module:
    return prune.custom_from_mask(layer, "weight", torch.ones(4, 3))


COMPUTED: list[Any] = [
    plain,
    pruned,
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
]


class Redraws(nn.Module):
    """What it has drawn first stays in a buffer, if it keeps that."""

    def __init__(self, way: Any, keeps: bool) -> None:
        super().__init__()
        self.layer = way(nn.Linear(3, 4, bias=False))
        self.keeps = keeps
        self.register_buffer("kept", torch.zeros(4, 3))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.layer.weight)
        if self.keeps:
            with torch.no_grad():
                self.kept.copy_(self.layer.weight)
        nn.init.normal_(self.layer.weight)


@pytest.mark.parametrize("way", COMPUTED, ids=[way.__name__ for way in COMPUTED])
def test_who_keeps_what_an_initialiser_draws_over_changes_no_weight(way: Any) -> None:
    model, other = (initialize_(Redraws(way, keeps), key=3) for keeps in (True, False))
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert same_bits(one.data, two.data), name
    assert same_bits(model.kept, uniform(1))


def test_a_patch_gives_the_weight_the_same_number() -> None:
    """What is kept has the number that the weight had then: nobody could know what comes."""
    model = Redraws(plain, True)
    with fastinit.patch(3, module=model):
        model.reset_parameters()
    assert same_bits(model.layer.weight.data, normal(0))
    assert same_bits(model.kept, uniform(0))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(4, 3)), nn.Parameter(torch.empty(4, 3))


def test_what_comes_back_by_way_of_another_parameter_counts_in_its_order() -> None:
    class Returns(Two):
        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.b.copy_(nn.init.uniform_(self.a))
                nn.init.normal_(self.a)
                self.a.add_(self.b)

    model = initialize_(Returns(), key=3)
    assert same_bits(model.b.data, uniform(0, "a"))
    assert same_bits(model.a.data, normal(1, "a") + uniform(0, "a"))


def test_several_that_are_kept_count_in_their_order_after_the_others() -> None:
    class Passes(Two):
        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.b[:2].copy_(nn.init.uniform_(self.a)[:2])
                self.b[2:].copy_(nn.init.uniform_(self.a)[2:])
                nn.init.normal_(self.a)
                nn.init.normal_(self.a[1:])

    model = initialize_(Passes(), key=3)
    rest = fastinit.normal_(torch.empty(3, 3), key=drawn("a", 1))
    assert same_bits(model.a.data, torch.cat([normal(0, "a")[:1], rest]))
    assert same_bits(model.b.data, torch.cat([uniform(2, "a")[:2], uniform(3, "a")[2:]]))


def test_what_is_left_beside_a_parameter_in_one_memory_counts_after_it() -> None:
    """The draw into both has the name of the first, of which nothing of it is left."""

    class Flat(Two):
        def __init__(self) -> None:
            super().__init__()
            self.flat = torch.empty(8, 3)
            self.a.data, self.b.data = self.flat[:4], self.flat[4:]

        def reset_parameters(self) -> None:
            nn.init.uniform_(self.flat)
            nn.init.normal_(self.a)

    model = initialize_(Flat(), key=3)
    both = fastinit.uniform_(torch.empty(8, 3), key=drawn("a", 1))
    assert same_bits(model.a.data, normal(0, "a"))
    assert same_bits(model.b.data, both[4:])
