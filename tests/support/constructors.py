"""Constructors that initialise, by functions, methods, copies and tables, and some that do not."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import nn


class Block(nn.Module):
    """A residual block that starts as nothing, and a layer of small weights."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        nn.init.zeros_(self.norm.weight)
        self.siren = nn.Linear(3, width)
        nn.init.uniform_(self.siren.weight, -1e-3, 1e-3)


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
