"""Cases of several processes: initialisers and factories that communicate by torch.distributed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint

import fastinit
from support.common import same_bits
from support.rank_cases import CASES, case, rank


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


@case
def what_one_rank_draws_for_all() -> None:
    """The one that draws would like to know what for, and run again; the others would not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        module = fastinit.materialize(lambda: Received(lambda: _broadcast(True)), key=3)
    told = [str(one.message) for one in said if "run but once" in str(one.message)]
    assert len(told) == (rank() == 0), told
    assert same_bits(module.weight.data, _broadcast_of(module.weight.data))
    assert module.weight.data.unique().numel() == 3


@case
def a_rank_that_looks_at_what_it_draws_communicates_no_more_often() -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(nn.init.normal_(torch.empty(4)))
            if rank() == 1:
                self.seen = self.weight.sum().item()
            self.register_buffer("sum", _summed())

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always", UserWarning)
        module = fastinit.materialize(Looked, key=3)
    assert same_bits(module.get_buffer("sum"), torch.full((3,), float(_world())))


def _broadcast_of(tensor: Tensor) -> Tensor:
    other = tensor.clone()
    distributed.broadcast(other, 0)
    return other


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
