"""What constructors do to their children: repeated from a factory, or said to be missing."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import assert_same, values
from torch import nn

import fastinit
from fastinit import Key
from fastinit._models.constructed import initialize_from
from fastinit._models.constructors import lost
from fastinit._models.names import matches, named_parameters
from fastinit._models.tree import Tree


class Block(nn.Module):
    """A residual block that starts as nothing, and a layer of small weights."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        nn.init.zeros_(self.norm.weight)
        self.siren = nn.Linear(3, width)
        nn.init.uniform_(self.siren.weight, -1e-3, 1e-3)


def from_factory(module: nn.Module, factory: Any, skip: Any = (), **options: Any) -> nn.Module:
    parameters = named_parameters(module, options.get("prefix", ""))
    wanted = {name: named for name, named in parameters.items() if not matches(name, skip)}
    initialize_from(module, factory, wanted, Key(3), **options)
    return module


# ---- from a factory ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Block, lambda: nn.Sequential(Block(), nn.Dropout(), Block())])
def test_the_values_are_those_of_a_new_module(make: Callable[[], nn.Module]) -> None:
    module = make()
    before = dict(module.named_parameters())
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(9)
    from_factory(module, make)
    assert_same(values(module), values(fastinit.materialize(make, key=3)))
    assert all(before[name] is p for name, p in module.named_parameters())
    assert all(not buffer.any() for name, buffer in module.named_buffers() if "mean" in name)


def test_a_buffer_that_is_expanded() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("places", torch.arange(3.0).view(1, 3, 1).expand(4, 3, 2))

    module = Positions()
    module.places[0, :, 0].zero_()
    from_factory(module, Positions)
    assert_same(values(module), values(fastinit.materialize(Positions, key=3)))
    assert module.places.untyped_storage().nbytes() == 12


def test_wrappers_types_ties_prefixes_and_what_is_skipped() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
            self.head.weight = self.embed.weight

    module = Tied().bfloat16()
    bias = module.head.bias.detach().clone()
    from_factory(nn.DataParallel(module), Tied, skip="big.head.bias", prefix="big")
    expected = fastinit.materialize(Tied, key=3, prefix="big")
    assert module.head.weight is module.embed.weight
    assert same_bits(module.embed.weight.data, expected.embed.weight.data.bfloat16())
    assert same_bits(module.head.bias.data, bias)
    rules = [("*bias", nn.init.ones_), ("default", None)]
    from_factory(module, Tied, rules=rules)
    assert (module.head.bias == 1).all()


def test_report_knows_what_the_new_module_was_given() -> None:
    module = from_factory(Block(), Block)
    rows = {row.name: row for row in fastinit.report(module).parameters}
    assert rows["siren.weight"].rule == "uniform_"
    assert rows["siren.weight"].expected.std == pytest.approx(1e-3 / 3**0.5)
    with torch.no_grad():
        module.get_parameter("siren.weight").mul_(2)
    assert "changed since" in fastinit.report(module).flags["siren.weight"]


@pytest.mark.parametrize(
    ("factory", "error", "text"),
    [
        (lambda: Block(32), ValueError, r"siren\.weight \(\(64, 3\), .*made: \(32, 3\)"),
        (lambda: nn.Sequential(Block()), ValueError, r"has no norm\.weight.*has 0\.norm\.weight"),
        (lambda: Block().to(torch.complex64), ValueError, "complex64"),
        (lambda: 3, TypeError, "must return a torch.nn.Module"),
        (Block(), TypeError, "got Block"),
        (3, TypeError, "got int"),
    ],
)
def test_factories_that_make_something_else(factory: Any, error: type, text: str) -> None:
    module = Block()
    before = values(module)
    with pytest.raises(error, match=text):
        from_factory(module, factory)
    assert_same(values(module), before)


def test_a_factory_that_gives_the_module_itself() -> None:
    module = Block()
    with pytest.raises(ValueError, match="must make a new module"):
        from_factory(module, lambda: module)


def test_a_buffer_that_all_modules_share() -> None:
    table = torch.arange(4.0)

    class Tabled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.register_buffer("table", table)

    made = from_factory(Tabled(), Tabled)
    assert made.table is table
    assert same_bits(made.table, torch.arange(4.0))
    only = nn.Module()
    only.register_buffer("table", table)
    with pytest.raises(ValueError, match="must make a new module"):
        from_factory(only, lambda: only)


# ---- without one ---------------------------------------------------------------------------------


def helper(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02)


class ByFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        helper(self)


class ByApply(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.apply(functools.partial(helper))


class ByMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self._setup()

    def _setup(self) -> None:
        self.layer.weight.data.normal_(0, 0.1)


class Inherits(ByMethod):
    pass


class NeedsArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.init_weights(0.5)

    def init_weights(self, std: float) -> None:
        nn.init.normal_(self.layer.weight, std=std)


class Adapter(nn.Module):
    """Whoever adds it calls its method."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(3, 2), nn.Linear(2, 3)

    def reset_adapter_parameters(self, scale: float) -> None:
        nn.init.zeros_(self.up.weight)


class OfItsParent(nn.Module):
    """Its parent's initialiser calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = Adapter()

    def reset_parameters(self) -> None:
        self.adapter.reset_adapter_parameters(1.0)


class Runs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.1) -> None:
        nn.init.normal_(self.layer.weight, std=std)


class RunsApplied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        helper(module)


class AsksInputs(nn.Module):
    """A layer that may be lazy, of its own making; what makes its weights runs what is run."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, size))
        self.register_forward_pre_hook(self.initialize_parameters)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def initialize_parameters(self, module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if self.weight.shape[1] == 0:
            self.weight.data = torch.empty(3, args[0].shape[-1])
            self.reset_parameters()


class Copies(nn.Module):
    """As models that enlarge images do, and heads that begin with small numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 3)
        self.up.weight.data.copy_(torch.eye(3))
        self.heads = nn.ModuleList([nn.Linear(3, 3)])
        with torch.no_grad():
            for head in self.heads:
                head.bias.mul_(0.001)


class Sets(nn.Module):
    """As models with tables of sines do, and gates that begin open."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.positions = nn.Embedding(size, size)
        self.positions.weight.data = torch.eye(size)
        self.gate = nn.Linear(size, size)
        with torch.no_grad():
            self.gate.bias[size // 2 :] = 1


class SetsOthers(nn.Module):
    """What ties weights, and writes what is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(3)
        self.words, self.head = nn.Embedding(3, 3), nn.Linear(3, 3)
        self.head.weight.data = self.words.weight.data
        self.table[0] = self.head.weight.shape[0]
        self.table.data = self.table + self.head.weight.shape[1]
        self.register_buffer("bias", torch.zeros(3, 3))
        self.bias[:, 0] = 1


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("table", torch.zeros(3).copy_(torch.arange(3)).mul_(2))
        self.table.copy_(torch.ones(3)).mul_(self.layer.weight.shape[0])


class Momentum(nn.Module):
    """An encoder and what follows it slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(3, 3), nn.Linear(3, 3)
        for ours, theirs in zip(self.query.parameters(), self.key.parameters(), strict=True):
            theirs.data.copy_(ours.data)
            theirs.requires_grad = False


class Target(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = nn.Linear(3, 3), nn.Linear(3, 3)
        self.target.load_state_dict(self.online.state_dict())


_utils = types.ModuleType("utils")
exec("from torch import nn\ndef weight_init(m):\n nn.init.orthogonal_(m.weight)\n", vars(_utils))


class ByModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Linear(3, 3)
        self.policy.apply(_utils.weight_init)


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.layer.weight = nn.Parameter(torch.randn(3, 3) * 30)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3)])

    def init_bias(self) -> None:
        nn.init.constant_(self.layers[0].bias, -4.6)


class OfAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        self.head.init_bias()


class OfChildren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head() for _ in range(2))
        for head in self.heads:
            head.init_bias()


class ByDefault(nn.Module):
    def __init__(self, init: Any = nn.init.ones_) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        init(self.layer.weight)


class ForAPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 3)
        self._init_weights(self.head)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=9.0)


class ForAll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 3)
        for module in self.modules():
            self._init_weights(module)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=9.0)


class Masks(nn.Module):
    """What is changed is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.mask = self.build_mask()
        self.register_buffer("queue", torch.zeros(3))
        self.queue.fill_(1.0)
        self.queue.data.normal_()
        self.fill_ = self.queue

    def build_mask(self) -> torch.Tensor:
        mask = torch.empty(4, 4)
        mask.fill_(float("-inf"))
        return mask.triu_(1)


class _Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.more()

    def more(self) -> None: ...


class Optional(nn.Module):
    def __init__(self, saved: str | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        if saved:
            self.load_state_dict(torch.load(saved))


class Converts(_Base):
    def more(self) -> None:
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.float64)


class Average(_Base):
    def more(self) -> None:
        settings: dict[str, float] = {}
        settings.update(decay=0.9)

    def update(self, other: nn.Module) -> None:
        for ours, theirs in zip(self.parameters(), other.parameters(), strict=True):
            ours.data.mul_(0.9).add_(theirs.data, alpha=0.1)


class Clips(_Base):
    def more(self) -> None:
        def clip(module: nn.Module, args: Any) -> None:
            for parameter in module.parameters():
                parameter.data.clamp_(-1, 1)

        self.layer.register_forward_pre_hook(clip)


class Counts(_Base):
    def more(self) -> None:
        self.weight = 1
        self.weight += 2


class OfItsBase(ByMethod):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Linear(3, 3)
        super()._setup()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (OfItsBase, r"OfItsBase\(\) calls weight\.normal_"),
        (Momentum, r"Momentum\(\) calls parameters\.copy_"),
        (Target, r"Target\(\) calls load_state_dict"),
        (ByModule, r"ByModule\(\) calls orthogonal_"),
        (Features, r"Features\(\) sets weight"),
        (OfAChild, r"OfAChild\(\) calls constant_"),
        (OfChildren, r"OfChildren\(\) calls constant_"),
        (ByDefault, r"ByDefault\(\) calls ones_"),
        (ForAPart, r"ForAPart\(\) calls _init_weights for parts alone"),
        (Block, r"Block\(\) calls uniform_, zeros_"),
        (ByFunction, r"ByFunction\(\) calls trunc_normal_"),
        (ByApply, r"ByApply\(\) calls trunc_normal_"),
        (ByMethod, r"ByMethod\(\) calls weight\.normal_"),
        (Inherits, r"Inherits\(\) calls weight\.normal_"),
        (NeedsArguments, r"NeedsArguments\(\) calls normal_"),
        (Adapter, r"Adapter\.reset_adapter_parameters needs arguments"),
        (Copies, r"Copies\(\) calls bias.mul_, weight.copy_"),
        (Sets, r"Sets\(\) sets bias\[\.\.\.\], weight.data\. Values"),
        (lambda: nn.Sequential(nn.Linear(2, 2), Block()), r"Block\(\) calls uniform_, zeros_"),
    ],
)
def test_constructors_that_initialise_are_named(make: Any, text: str) -> None:
    with pytest.warns(UserWarning, match=text) as found:
        fastinit.initialize_(make(), key=3)
    assert len(found) == 1
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    "make",
    [
        Runs,
        RunsApplied,
        OfItsParent,
        Tables,
        SetsOthers,
        Masks,
        Optional,
        Converts,
        Average,
        Clips,
        Counts,
        Head,
        ForAll,
        AsksInputs,
        lambda: nn.Transformer(8, 2, 1, 1, 8),
        lambda: nn.LSTM(3, 3),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
    ],
)
def test_what_is_run_again_is_not(make: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make()
    assert lost(Tree(module)) == []


def test_each_class_once_and_not_too_many() -> None:
    kinds = [type(f"Block{k}", (Block,), {}) for k in range(8)]
    module = nn.Sequential(*(kind() for kind in kinds for _ in range(2)))
    with pytest.warns(UserWarning, match=r"Block4\(\).*and 3 more") as found:
        fastinit.initialize_(module, key=3)
    assert str(found[0].message).count("Block") == 5
