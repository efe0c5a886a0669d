"""Cases of several processes: initialisers and factories that communicate by torch.distributed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh

import fastinit
from support.common import same_bits
from support.rank_cases import CASES, case, mesh_of, rank


def _world() -> int:
    return int(distributed.get_world_size())


def _broadcast(drawn: bool) -> Tensor:
    memory = torch.empty(3)
    if rank() == 0:
        _ = nn.init.normal_(memory) if drawn else memory.fill_(6.0)
    distributed.broadcast(memory, 0)
    return memory


def _broadcast_meanwhile() -> Tensor:
    memory = torch.empty(3)
    if rank() == 0:
        memory.fill_(6.0)
    distributed.broadcast(memory, 0, async_op=True).wait()
    return memory


def _gathered() -> Tensor:
    parts = [torch.empty(3) for _ in range(_world())]
    distributed.all_gather(parts, torch.full((3,), rank() + 1.0))
    return torch.cat(parts)


def _gathered_into() -> Tensor:
    memory = torch.empty(3 * _world())
    distributed.all_gather_into_tensor(memory, torch.full((3,), rank() + 1.0))
    return memory


def _scattered() -> Tensor:
    memory = torch.empty(3)
    parts = [torch.full((3,), k + 1.0) for k in range(_world())] if rank() == 0 else None
    distributed.scatter(memory, parts)
    return memory


def _exchanged() -> Tensor:
    memory = torch.empty(_world())
    distributed.all_to_all_single(memory, torch.arange(float(_world())) + rank())
    return memory


def _sent() -> Tensor:
    memory = torch.empty(3)
    if rank() == 0:
        memory.fill_(2.0)
        for to in range(1, _world()):
            distributed.send(memory, to)
    else:
        distributed.recv(memory, 0)
    return memory


def _summed() -> Tensor:
    memory = torch.ones(3)
    distributed.all_reduce(memory)
    return memory


def _objects() -> Tensor:
    box = [{"value": 6.0} if rank() == 0 else None]
    distributed.broadcast_object_list(box, 0)
    found: list[int] = [-1] * _world()
    distributed.all_gather_object(found, rank())
    held = box[0]
    assert held is not None
    return torch.tensor([held["value"], *found])


WAYS: dict[str, Callable[[], Tensor]] = {
    "broadcast": lambda: _broadcast(False),
    "broadcast_meanwhile": _broadcast_meanwhile,
    "all_gather": _gathered,
    "all_gather_into_tensor": _gathered_into,
    "scatter": _scattered,
    "all_to_all": _exchanged,
    "send": _sent,
    "all_reduce": _summed,
    "objects": _objects,
}


class Received(nn.Module):
    """What it holds has come from others, as it is and by way of NumPy."""

    def __init__(self, receive: Callable[[], Tensor]) -> None:
        super().__init__()
        self.receive = receive
        size = receive().numel()
        self.weight = nn.Parameter(torch.empty(size))
        self.also = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.data = self.receive()
        self.also.copy_(torch.from_numpy(self.receive().numpy()))


def received(way: str) -> None:
    want = Received(WAYS[way])
    found = {
        "materialize": fastinit.materialize(lambda: Received(WAYS[way]), key=3),
        "initialize_": fastinit.initialize_(Received(WAYS[way]), key=3),
    }
    for door, module in found.items():
        for name, parameter in want.named_parameters():
            assert same_bits(module.get_parameter(name).data, parameter.data), (door, name)


for name in WAYS:
    CASES[f"what_{name}_gives_counts"] = lambda name=name: received(name)


def _weight(n: int = 0) -> Tensor:
    key = fastinit.Key(3).fold_in("weight").fold_in(n)
    return fastinit.normal_(torch.empty(3), key=key)


@case
def what_one_rank_draws_for_all() -> None:
    """The one that draws would like to know what for, and run again; so the others do, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        module = fastinit.materialize(lambda: Received(lambda: _broadcast(True)), key=3)
    sent = module.weight.data.clone()
    distributed.broadcast(sent, 0)
    assert same_bits(module.weight.data, sent)
    assert same_bits(sent, _weight())


class _Looked(nn.Module):
    """One rank looks at what all draw, and all communicate."""

    def __init__(self, communicate: Callable[[], object]) -> None:
        super().__init__()
        drawn = nn.init.normal_(torch.empty(3))
        if rank() == 1:
            self.seen = drawn.sum().item()
        communicate()
        self.weight = nn.Parameter(drawn)


WAYS_TO_MEET: dict[str, Callable[[], object]] = {
    "a_sum": _summed,
    "a_barrier": distributed.barrier,
    "a_new_group": lambda: distributed.new_group([0, 1]),
    "a_mesh": lambda: init_device_mesh("cpu", (_world(),)),
    "a_sum_in_a_part": lambda: (
        distributed.all_reduce(torch.ones(1), group=_pair()) if rank() < 2 else None
    ),
}


def _pair() -> Any:
    return mesh_of("2").get_group()


def looked(way: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        module = fastinit.materialize(lambda: _Looked(WAYS_TO_MEET[way]), key=3)
    assert same_bits(module.weight.data, _weight())
    assert same_bits(_summed(), torch.full((3,), float(_world())))


for name in WAYS_TO_MEET:
    CASES[f"a_rank_that_looks_and_{name}"] = lambda name=name: looked(name)


@case
def data_parallelism_in_a_factory() -> None:
    """Its constructor reads weights by code that nobody can tell to wait, and sends them."""
    want = fastinit.materialize(lambda: nn.Linear(3, 3), key=3)
    for before in (0, 2):

        def make(before: int = before) -> nn.Module:
            layers = [nn.Linear(2, 2) for _ in range(before)]
            model = nn.parallel.DistributedDataParallel(nn.ModuleList([*layers, nn.Linear(3, 3)]))
            inner: nn.Module = model.module
            return inner[-1]  # type: ignore[index,no-any-return]

        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            module = fastinit.materialize(make, key=3)
        for name, value in want.named_parameters():
            assert same_bits(module.get_parameter(name).data, value.data), (before, name)


@case
def a_checkpoint_that_a_factory_loads() -> None:
    box = [mkdtemp() if rank() == 0 else None]
    distributed.broadcast_object_list(box, 0)
    folder = Path(str(box[0]))
    saved = fastinit.initialize_(nn.Linear(3, 2), key=8).state_dict()
    checkpoint.save(saved, checkpoint_id=folder)

    def make() -> nn.Module:
        layer = nn.Linear(3, 2)
        state = layer.state_dict()
        checkpoint.load(state, checkpoint_id=folder)
        layer.load_state_dict(state)
        return layer

    found = fastinit.materialize(make, key=3).state_dict()
    for name, value in saved.items():
        assert same_bits(found[name], value), name
