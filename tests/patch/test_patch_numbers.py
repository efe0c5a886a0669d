"""`fastinit.patch(key, module=model)`: which number a draw has, and what has no name."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from support.common import same_bits
from support.decoders import Decoder, assert_same, of, uniform, values_of
from support.patch_helpers import direct, nth, same
from torch import nn

import fastinit
from fastinit._models.named_memory import NamedMemory

# ---- how many draws there were -------------------------------------------------------------------


class Redrawn(nn.Module):
    """Initialisers of which some overwrite what others have drawn."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.weight = nn.Parameter(torch.empty(6, 4))

    def reset_parameters(self) -> None:
        draw = nn.init.uniform_
        w = self.weight
        draws: dict[str, list[torch.Tensor]] = {
            "as a whole": [w, w, w],
            "in slices": [w[:3], w[3:], w[:3], w[3:]],
            "a slice": [w, w[2:4], w[2:4]],
            "slices, then the whole": [w[:2], w[4:], w],
            "columns": [w[:, ::2], w[:, 1::2]],
            "what holds a slice": [w[:3], w[2:3], w[:4], w[4:]],
            "flat": [w.view(-1)[5:], w.view(-1)[:5]],
        }
        for tensor in draws[self.way]:
            draw(tensor)


@pytest.mark.parametrize(
    "way",
    [
        "as a whole",
        "in slices",
        "a slice",
        "slices, then the whole",
        "columns",
        "what holds a slice",
        "flat",
    ],
)
def test_draws_that_are_overwritten(way: str) -> None:
    model = Redrawn(way)
    with fastinit.patch(0, module=model):
        model.reset_parameters()
    assert same_bits(model.weight, fastinit.initialize_(Redrawn(way), key=0).weight)


def test_values_that_are_there_together_have_keys_of_their_own() -> None:
    """Where initialize_ would look ahead, a patch cannot: a draw that is overwritten in pieces."""
    weight = nn.Module()
    weight.w = nn.Parameter(torch.empty(4, 3))
    with fastinit.patch(0, module=weight), torch.no_grad():
        nn.init.uniform_(weight.w)
        for row in weight.w:
            nn.init.uniform_(row)
    for number, row in enumerate(weight.w.detach()):
        assert same(row, uniform((3,), "w", number + 1))
    assert len({tuple(row.tolist()) for row in weight.w}) == 4


def test_a_call_that_fails_does_not_count() -> None:
    layer = nn.Linear(3, 4, bias=False)
    with fastinit.patch(0, module=layer), torch.no_grad():
        nn.init.uniform_(layer.weight[:2])
        with pytest.raises(RuntimeError, match="std"):
            nn.init.normal_(layer.weight, std=-1.0)
        nn.init.uniform_(layer.weight[2:])
    assert same(layer.weight[:2].detach(), uniform((2, 3)))
    assert same(layer.weight[2:].detach(), uniform((2, 3), n=1))


def test_a_generator_of_the_caller_s_is_used() -> None:
    layer = nn.Linear(3, 4, bias=False)
    generator = torch.Generator().manual_seed(5)
    with fastinit.patch(0, module=layer), torch.no_grad():
        nn.init.uniform_(layer.weight, generator=generator)
        want = fastinit.uniform_(torch.empty(4, 3), generator=generator.manual_seed(5))
        assert same(layer.weight.detach(), want)
        nn.init.uniform_(layer.weight[:2])
    assert same(layer.weight[:2].detach(), uniform((2, 3)))


# ---- what is not of the module, and what is so no more -------------------------------------------


def test_other_memory_counts_for_itself() -> None:
    layer, other = nn.Linear(3, 4), nn.Linear(3, 4)
    with fastinit.patch(0, module=layer):
        first = torch.rand(5)
        layer.reset_parameters()
        nn.init.uniform_(other.weight)
        layer.reset_parameters()
        last = torch.rand(2, 2)
    assert same(first, direct("uniform_", (5,), key=nth(0, 0)))
    assert same(other.weight.detach(), direct("uniform_", (4, 3), key=nth(0, 1)))
    assert same(last, direct("uniform_", (2, 2), key=nth(0, 2)))
    assert_same(values_of(layer), values_of(fastinit.initialize_(nn.Linear(3, 4), key=0)))


def test_parameters_that_come_and_go() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False))
    gone = model[0].weight
    with fastinit.patch(0, module=model), torch.no_grad():
        nn.init.uniform_(model[0].weight)
        model[0].weight = nn.Parameter(torch.empty(2, 3))
        nn.init.uniform_(gone)
        assert same(gone.detach(), direct("uniform_", (4, 3), key=nth(0, 0)))
        nn.init.uniform_(model[0].weight)
        assert same(model[0].weight.detach(), uniform((2, 3), "0.weight"))
        model.append(nn.Linear(2, 2, bias=False))
        nn.init.uniform_(model[1].weight)
        assert same(model[1].weight.detach(), uniform((2, 2), "1.weight"))
        model[1].weight.data = torch.empty(5, 2)
        nn.init.uniform_(model[1].weight)
        assert same(model[1].weight.detach(), uniform((5, 2), "1.weight"))


def test_memory_that_comes_inside() -> None:
    with torch.device("meta"):
        model = Decoder()
    with fastinit.patch(3, module=model), torch.no_grad():
        model.init_weights()
        model.to_empty(device="cpu")
        model.init_weights()
    assert_same(values_of(model), values_of(fastinit.initialize_(Decoder(), key=3)))


def test_memory_is_let_go() -> None:
    layer = nn.Linear(1000, 1000)
    with fastinit.patch(0, module=layer):
        layer.reset_parameters()
        weak = layer.weight.untyped_storage()._weak_ref()
        layer.weight = nn.Parameter(torch.empty(2, 2))
        assert torch.UntypedStorage._expired(weak)
        torch.UntypedStorage._free_weak_ref(weak)


def test_parameters_in_one_storage() -> None:
    flat = torch.empty(30)
    model = nn.Module()
    model.a, model.b = nn.Parameter(flat[:12].view(3, 4)), nn.Parameter(flat[12:].view(6, 3))
    with fastinit.patch(0, module=model), torch.no_grad():
        nn.init.uniform_(model.b[2:])
        nn.init.uniform_(model.a)
    assert same(model.a.detach(), uniform((3, 4), "a"))
    assert same(model.b[2:].detach(), uniform((4, 3), "b"))


def test_parts_with_one_name_are_replicas() -> None:
    parts = [nn.Linear(3, 4) for _ in range(2)]
    replicas = "different tensors called weight, bias, which get the same numbers"
    with pytest.warns(UserWarning, match=replicas) as found, fastinit.patch(0, module=parts):
        for part in parts:
            part.reset_parameters()
    assert_same(values_of(parts[0]), values_of(parts[1]))
    assert found[0].filename == __file__


def test_parts_that_share_a_tensor_have_no_replicas() -> None:
    parts = [nn.Linear(3, 4, bias=False) for _ in range(2)]
    parts[1].weight = parts[0].weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fastinit.patch(0, module=parts):
            parts[0].reset_parameters()


# ---- torch's own draws ---------------------------------------------------------------------------


class TorchDraws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(20))
        self.register_buffer("mask", torch.empty(20, dtype=torch.int64))
        self.b = nn.Parameter(torch.empty(20))

    def draws(self) -> list[Callable[[], object]]:
        return [
            lambda: self.a.bernoulli_(0.5),
            lambda: self.mask.random_(7),
            lambda: self.b.exponential_(2.0),
        ]

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for draw in self.draws():
                draw()


def test_torch_s_own_draws_are_keyed_by_name() -> None:
    want = values_of(fastinit.initialize_(TorchDraws(), key=0))
    model, before = TorchDraws(), torch.get_rng_state()
    with fastinit.patch(0, module=model), torch.no_grad():
        torch.rand(3)
        for draw in reversed(model.draws()):
            draw()
    assert_same(values_of(model), want)
    assert torch.equal(torch.get_rng_state(), before)


def test_torch_s_own_draws_elsewhere_are_as_in_any_patch() -> None:
    model = TorchDraws()
    seen = []
    for module in (None, model):
        with fastinit.patch(0, module=module):
            seen.append(torch.empty(20).bernoulli_(0.5))
    assert torch.equal(*seen)
    generator = torch.Generator().manual_seed(1)
    with fastinit.patch(0, module=model), torch.no_grad():
        model.a.bernoulli_(0.5, generator=generator)
        want = torch.empty(20).bernoulli_(0.5, generator=generator.manual_seed(1))
        assert same(model.a.detach(), want)
        nn.init.uniform_(model.a[:5])
    assert same(model.a[:5].detach(), uniform((5,), "a"))


def test_shards_by_hand() -> None:
    layer = nn.Linear(4, 3, bias=False)
    with fastinit.patch(0, module=layer), torch.no_grad():
        nn.init.kaiming_uniform_(fastinit.shard(layer.weight, (12, 4), (6, 0)))
    want = fastinit.kaiming_uniform_(torch.empty(12, 4), key=of("weight"))
    assert same(layer.weight.detach(), want[6:9])


class Wrap(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4, bias=False)
        self.embedding = nn.Embedding(4, 3)


def insert(model: nn.Sequential) -> dict[str, nn.Module]:
    old, new = model[0], nn.Linear(3, 4, bias=False)
    model.insert(0, new)
    return {"1.weight": old, "0.weight": new}


def wrap(model: nn.Sequential) -> dict[str, nn.Module]:
    old = model[0]
    model[0] = Wrap(old)
    return {"0.base_layer.weight": old}


def remove(model: nn.Sequential) -> dict[str, nn.Module]:
    old = model[1]
    del model[0]
    return {"0.weight": old}


def rename(model: nn.Sequential) -> dict[str, nn.Module]:
    old = model._modules.pop("0")
    model._modules["first"] = old
    return {"first.weight": old}


def hide(model: nn.Sequential) -> dict[str, nn.Module]:
    """A place that comes before gets what is there already."""
    new = nn.Linear(3, 4, bias=False)
    model.insert(0, new)
    new.weight = model[1].weight
    return {"0.weight": model[1]}


def enclose(model: nn.Sequential) -> dict[str, nn.Module]:
    """A place that comes before gets something new that holds what is there already."""
    model[0] = Wrap(model[1])
    return {"0.base_layer.weight": model[1]}


@pytest.mark.parametrize("change", [insert, wrap, remove, rename, hide, enclose])
@pytest.mark.parametrize("drawn_before", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_what_moves_inside_has_the_name_that_it_has_then(
    change: Callable[[nn.Sequential], dict[str, nn.Module]], drawn_before: bool, turned: bool
) -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False))
    with fastinit.patch(0, module=model), torch.no_grad():
        if drawn_before:
            for layer in model:
                nn.init.uniform_(layer.weight)
        now = change(model)
        layers = [*now.values()][:: -1 if turned else 1]
        if drawn_before:  # the last first, so that nothing is left under the names of others
            layers = [getattr(layer, "base_layer", layer) for layer in reversed(model)]
        for layer in layers:
            nn.init.uniform_(layer.weight)
    for name, layer in now.items():
        assert same(layer.weight.detach(), uniform((4, 3), name)), name


def test_ties_that_are_made_inside() -> None:
    model = Language()
    with fastinit.patch(0, module=model), torch.no_grad():
        model.head.weight = model.embedding.weight
        nn.init.uniform_(model.embedding.weight)
        assert same(model.head.weight.detach(), uniform((4, 3), "head.weight"))
        model.head.weight = nn.Parameter(torch.empty(4, 3))
        nn.init.uniform_(model.embedding.weight)
        assert same(model.embedding.weight.detach(), uniform((4, 3), "embedding.weight"))


@pytest.mark.parametrize("held", [True, False])
def test_numbers_of_what_somebody_still_has(held: bool) -> None:
    """It counts no more once it is out of the module, as for `initialize_`, whoever has it."""
    layer = nn.Linear(3, 4, bias=False)
    with fastinit.patch(0, module=layer), torch.no_grad():
        nn.init.uniform_(layer.weight)
        old = [layer.weight] if held else []
        layer.weight = nn.Parameter(torch.empty(4, 3))
        nn.init.uniform_(layer.weight)
        assert same(layer.weight.detach(), uniform((4, 3), "weight", 0))
        layer.weight.data = torch.empty(4, 3)
        nn.init.uniform_(layer.weight)
        assert same(layer.weight.detach(), uniform((4, 3), "weight", 0))
    assert len(old) == held


def test_numbers_of_what_has_another_name_now() -> None:
    """Its values are in the module, so they count."""
    layers = nn.ModuleList(nn.Linear(3, 4, bias=False) for _ in range(2))
    with fastinit.patch(0, module=layers), torch.no_grad():
        for layer in layers:
            nn.init.uniform_(layer.weight)
        layers.insert(0, nn.Linear(3, 4, bias=False))
        nn.init.uniform_(layers[0].weight)
    names = [("0.weight", 1), ("0.weight", 0), ("1.weight", 0)]
    for layer, (name, number) in zip(layers, names, strict=True):
        assert same(layer.weight.detach(), uniform((4, 3), name, number))


def test_numbers_of_what_is_written_over_under_another_name() -> None:
    layers = nn.ModuleList(nn.Linear(3, 4, bias=False) for _ in range(2))
    first, second = layers
    with fastinit.patch(0, module=layers), torch.no_grad():
        for layer in layers:
            nn.init.uniform_(layer.weight)
        first.weight, second.weight = second.weight, first.weight
        for layer in layers:
            nn.init.uniform_(layer.weight)
    # The first finds the number of what the second has now.
    assert same(first.weight.detach(), uniform((4, 3), "0.weight", 1))
    assert same(second.weight.detach(), uniform((4, 3), "1.weight", 0))


def test_parts_that_hold_each_other() -> None:
    one, other = Wrap(nn.Linear(3, 4, bias=False)), nn.Module()
    one.other, other.one = other, one
    with fastinit.patch(0, module=[one, other]), torch.no_grad():
        nn.init.uniform_(one.base_layer.weight)
        nn.init.uniform_(one.base_layer.weight)
    assert same(one.base_layer.weight.detach(), uniform((4, 3), "base_layer.weight"))


class Equal(nn.Module):
    """Cannot be compared before it is made, nor hashed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.size = 3

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal) and self.size == other.size


def test_modules_of_their_own_mind_are_made_inside() -> None:
    layer = nn.Linear(3, 4, bias=False)
    with fastinit.patch(0, module=layer), torch.no_grad():
        Equal()
        nn.init.uniform_(layer.weight)
    assert same(layer.weight.detach(), uniform((4, 3), "weight"))


def test_the_module_is_not_looked_at_for_each_registration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []
    look = NamedMemory._look
    monkeypatch.setattr(NamedMemory, "_look", lambda self: looks.append(1) or look(self))
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
    with fastinit.patch(0, module=model), torch.no_grad():
        for layer in model:
            layer.register_buffer("mask", torch.ones(2))
            layer.scale = nn.Parameter(torch.ones(2))
            layer.norm = nn.LayerNorm(2)
            nn.init.normal_(layer.weight)
    assert len(looks) == 1


def test_no_hooks_are_left() -> None:
    tables = [
        torch.nn.modules.module._global_parameter_registration_hooks,
        torch.nn.modules.module._global_module_registration_hooks,
        torch.nn.modules.module._global_buffer_registration_hooks,
    ]
    before = [len(table) for table in tables]
    layer = nn.Linear(3, 4)
    with pytest.raises(KeyError), fastinit.patch(0, module=layer), fastinit.check_ranks(layer):
        assert [len(table) - 1 for table in tables] == before
        raise KeyError
    assert [len(table) for table in tables] == before


def test_no_hooks_are_left_by_what_cannot_be_entered() -> None:
    tables = [
        torch.nn.modules.module._global_parameter_registration_hooks,
        torch.nn.modules.module._global_module_registration_hooks,
    ]
    before = [len(table) for table in tables]
    with pytest.raises(ValueError, match="nope"):
        fastinit.patch(0, module=nn.Linear(2, 2), rename={"nope": "x"}).__enter__()
    assert [len(table) for table in tables] == before
