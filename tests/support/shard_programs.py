"""Random programs that draw, change, copy and shard, to be run sharded and not.

A program is a list of steps on a pool of tensors. What it gives is to have the same bits whatever
is sharded: in a factory (`factory`), or in the initialiser of a module that is (`Programmed`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

WORLD = 4
SHAPE = (8, 4)


class Held(NamedTuple):
    """A tensor of the pool; `spread`: whether it is a DTensor where things are sharded."""

    tensor: Any
    spread: bool = False


class State:
    """What a program works on.

    Args:
        sharded: whether anything is.
    """

    def __init__(self, sharded: bool) -> None:
        self.sharded = sharded
        self.pool: list[Held] = []
        self.layers: list[nn.Linear] = []
        self.spread: set[int] = set()
        self.kept: list[Tensor] = []

    def distribute(self, tensor: Tensor, chosen: random.Random) -> Any:
        shard = chosen.choice([Shard(0), Shard(0), Shard(1), Replicate()])
        if not self.sharded:
            return tensor.clone()
        return distribute_tensor(tensor, init_device_mesh("cpu", (WORLD,)), [shard])

    def fully_shard(self, layer: nn.Module) -> None:
        if self.sharded:
            fully_shard(layer, mesh=init_device_mesh("cpu", (WORLD,)))


Step = Callable[[State, random.Random], object]


def _pick(state: State, chosen: random.Random) -> Held:
    if not state.pool:
        _new(state, chosen)
    return chosen.choice(state.pool)


def _plain(state: State, chosen: random.Random) -> Held:
    found = [held for held in state.pool if not held.spread]
    if not found:
        _new(state, chosen)
        return state.pool[-1]
    return chosen.choice(found)


def _new(state: State, chosen: random.Random) -> None:
    makers: list[Callable[[], Tensor]] = [
        lambda: torch.empty(SHAPE).fill_(2.0),
        lambda: torch.zeros(SHAPE),
        lambda: torch.randn(SHAPE),
        lambda: nn.init.uniform_(torch.empty(SHAPE)),
        lambda: torch.eye(*SHAPE),
        lambda: torch.arange(32.0).view(SHAPE),
    ]
    state.pool.append(Held(chosen.choice(makers)()))


def _on(*changes: Callable[[Any, int], object]) -> Step:
    """Make a step that does one of these to a tensor, given a number below 7 as well."""

    def step(state: State, chosen: random.Random) -> None:
        held = _pick(state, chosen)
        chosen.choice(changes)(held.tensor, chosen.randrange(7))

    return step


def _made(*makers: Callable[[Any], Any], spread: bool = True) -> Step:
    """Make a step that makes of a tensor another, sharded as it is, if it is."""

    def step(state: State, chosen: random.Random) -> None:
        held = _pick(state, chosen) if spread else _plain(state, chosen)
        state.pool.append(Held(chosen.choice(makers)(held.tensor), held.spread))

    return step


def _rows(tensor: Any, _: int) -> None:
    for number, row in enumerate(tensor):
        row[0] = float(number)


def _chunks(tensor: Any, _: int) -> None:
    for chunk in tensor.chunk(3):
        nn.init.normal_(chunk)


def _copy(state: State, chosen: random.Random) -> None:
    """Copy between tensors of a kind; one that is spread takes full ones."""
    held, other = _pick(state, chosen), _pick(state, chosen)
    if held.spread or not other.spread:
        held.tensor.copy_(other.tensor)


def _of_two(state: State, chosen: random.Random) -> None:
    held, other = _plain(state, chosen), _plain(state, chosen)
    tensor, more = held.tensor, other.tensor
    chosen.choice(
        [
            lambda: torch.add(more, 1, out=tensor),
            lambda: tensor.lerp_(more, 0.25),
            lambda: tensor.add_(more, alpha=0.5),
            lambda: tensor.addmm_(more, torch.randn(4, 4), beta=0.5),
            lambda: tensor.mul_(more.clone()),
            lambda: state.pool.append(Held(torch.where(more > 0, more, tensor))),
            lambda: state.pool.append(Held(torch.cat([more[:4], tensor[4:]]))),
            lambda: state.pool.append(Held(torch.stack([more[0]] * 8))),
            lambda: state.pool.append(Held(more.flip(0))),
        ]
    )()


def _distribute(state: State, chosen: random.Random) -> None:
    held = _plain(state, chosen)
    state.pool.append(Held(state.distribute(held.tensor, chosen), True))


def _layer(state: State, chosen: random.Random) -> None:
    state.layers.append(nn.Linear(4, 8))


def _shard_layer(state: State, chosen: random.Random) -> None:
    waiting = [layer for layer in state.layers if id(layer) not in state.spread]
    if waiting:
        layer = chosen.choice(waiting)
        state.fully_shard(layer)
        state.spread.add(id(layer))
        state.pool.append(Held(layer.weight, True))


def _in_layer(state: State, chosen: random.Random) -> None:
    if state.layers:
        weight = chosen.choice(state.layers).weight
        weight[chosen.randrange(8)].fill_(chosen.random())
        weight.mul_(1.5)


def _keep(state: State, chosen: random.Random) -> None:
    tensor = _pick(state, chosen).tensor
    state.kept.append(tensor if chosen.random() < 0.5 else nn.Parameter(tensor))


def _keep_twice(state: State, chosen: random.Random) -> None:
    if state.kept:
        state.kept.append(state.kept[-1])


def _divide(tensor: Any, number: int) -> None:
    size = (tensor.norm(), tensor.sum(), tensor.abs().max(), tensor.mean())[number % 4]
    tensor.div_(size + 10.0)


def _look(tensor: Any, number: int) -> None:
    if float(tensor.sum()) > 0:
        tensor.mul_(0.5)


DRAWS: tuple[Callable[[Any, int], object], ...] = (
    lambda t, n: nn.init.normal_(t, std=0.5),
    lambda t, n: t.uniform_(-1, 1),
    lambda t, n: nn.init.trunc_normal_(t),
    lambda t, n: nn.init.xavier_uniform_(t),
    lambda t, n: nn.init.orthogonal_(t),
    lambda t, n: t.bernoulli_(0.5),
)
PARTS: tuple[Callable[[Any, int], object], ...] = (
    lambda t, n: t[n : n + 2].fill_(5),
    lambda t, n: t[:, 1].mul_(3),
    lambda t, n: t[n].zero_(),
    lambda t, n: t.t()[2].add_(1),
    lambda t, n: t.view(-1)[n : n + 5].fill_(1),
    lambda t, n: t[n : n + 2].normal_(),
    lambda t, n: nn.init.uniform_(t[:, 1]),
    lambda t, n: nn.init.normal_(t[n]),
    _rows,
    _chunks,
    lambda t, n: t.masked_fill_(torch.eye(*SHAPE, dtype=torch.bool), 2.0),
    lambda t, n: t.__setitem__([1, 3], 7.0),
    lambda t, n: t.__setitem__((n, slice(1, 3)), 4.0),
)
NUMBERS: tuple[Callable[[Any, int], object], ...] = (
    lambda t, n: t.mul_(2),
    lambda t, n: t.add_(1),
    lambda t, n: t.clamp_(-1, 1),
    lambda t, n: t.fill_(3),
    lambda t, n: t.zero_(),
    lambda t, n: t.abs_(),
    lambda t, n: t.data.mul_(2),
    lambda t, n: torch._foreach_mul_([t], 3.0),
    _divide,
    _look,
)
_alike = _made(
    torch.zeros_like,
    torch.ones_like,
    lambda t: torch.full_like(t, 4.0),
    lambda t: torch.empty_like(t).normal_(),
    torch.randn_like,
    lambda t: t.clone(),
    lambda t: t * 2,
    lambda t: t / 3 + 1,
    lambda t: -t,
    lambda t: t.detach(),
)
# What is done to tensors whether they are sharded or not.
_ANY: list[Step] = [
    _new,
    _on(*DRAWS),
    _on(*DRAWS),
    _on(*PARTS),
    _on(*NUMBERS),
    _copy,
    _alike,
    _keep,
]
OF_FACTORIES: list[Step] = [
    *_ANY,
    _of_two,
    _distribute,
    _distribute,
    _layer,
    _shard_layer,
    _in_layer,
    _keep_twice,
]
OF_MODULES: list[Step] = [*_ANY, _of_two, _of_two, _on(*PARTS)]


def run(steps: Sequence[Step], state: State, seed: int, count: int) -> None:
    """Run a program of some of these steps."""
    chosen = random.Random(seed)
    with torch.no_grad():
        for _ in range(chosen.randint(2, count)):
            step = chosen.choice(steps)
            step(state, random.Random(chosen.random()))


def factory(seed: int, sharded: bool) -> nn.Module:
    """Make a module that holds what a program has made."""
    state = State(sharded)
    run(OF_FACTORIES, state, seed, 14)
    model = nn.Module()
    model.layers = nn.ModuleList(state.layers)
    kept = state.kept or [held.tensor.detach() for held in state.pool[-3:]]
    for number, tensor in enumerate(kept):
        if isinstance(tensor, nn.Parameter):
            model.register_parameter(f"kept{number}", tensor)
        else:
            model.register_buffer(f"kept{number}", tensor)
    return model


class Programmed(nn.Module):
    """Initialises its parameters and buffers by a program, as if they were not sharded."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        chosen = random.Random(seed)
        for number in range(chosen.randint(1, 4)):
            self.register_parameter(f"weight{number}", nn.Parameter(torch.zeros(SHAPE)))
        self.register_buffer("table", torch.zeros(SHAPE))
        if chosen.random() < 0.3:
            self.tied = self.weight0

    def reset_parameters(self) -> None:
        state = State(False)
        tensors = [*self.parameters(), self.table]
        for tensor in tensors:
            nn.init.normal_(tensor) if len(state.pool) % 2 else nn.init.ones_(tensor)
            state.pool.append(Held(tensor))
        run(OF_MODULES, state, self.seed, 12)
        with torch.no_grad():
            tensors[-1].add_(state.pool[-1].tensor)
            if self.seed % 3 == 0 and state.kept:
                tensors[0].copy_(state.kept[-1])
