"""What ranks do in tests/distributed/test_worlds.py: a model of each shape, sharded in each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor.debug import CommDebugMode

import fastinit
from support.common import same_bits
from support.shaped_models import FITTING, MODELS, WAYS
from support.worlds import Cases

CASES: Cases = {}
# In which the module runs as it is: other ways would need inputs that are sharded by hand.
_RUNNING = ("fsdp", "fsdp_with_offloading", "hsdp")


def held(model: nn.Module) -> dict[str, Any]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check(model: nn.Module, want: nn.Module, when: str) -> None:
    """See on all ranks whether any has another tensor: they go on together, or not at all."""
    mine, whole = held(model), held(want)
    assert mine.keys() == whole.keys()
    wrong = []
    with torch.no_grad():
        for name, tensor in mine.items():
            full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            if not same_bits(full.detach(), whole[name].detach()):
                wrong.append(name)
    of_ranks: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_ranks, wrong)
    assert not any(of_ranks), (when, of_ranks)


def train(model: nn.Module, runs: bool) -> None:
    """A step that changes every parameter."""
    if runs:
        model().square().sum().backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad.add_(1)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for name, parameter in model.named_parameters():
        local, was = parameter.detach().to_local(), before[name].to_local()  # type: ignore[attr-defined]
        assert local.numel() == 0 or not torch.equal(local, was), name


def initialise(model: nn.Module, want: nn.Module, when: str) -> None:
    """Call initialize_: no collectives, the values of the whole, and every write is counted."""
    versions = {name: p._version for name, p in model.named_parameters()}
    with CommDebugMode() as collectives:
        fastinit.initialize_(model, key=3)
    assert collectives.get_total_counts() == 0, when
    for name, parameter in model.named_parameters():
        assert parameter._version > versions[name], (when, name)
    check(model, want, when)


def run(shape: str, way: str, world: int) -> None:
    want = fastinit.initialize_(MODELS[shape](), key=3)
    with torch.device("meta"):
        model = MODELS[shape]()
    model = WAYS[way](model, world)
    with CommDebugMode() as collectives:
        fastinit.materialize(model, key=3)
    assert collectives.get_total_counts() == 0
    check(model, want, "materialised")
    train(model, way in _RUNNING)
    initialise(model, want, "after a step")
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if sharded:
        # What is written while the parameters are whole would be lost.
        for module in sharded:
            module.unshard()
        fastinit.initialize_(model, key=4)
        check(model, fastinit.initialize_(MODELS[shape](), key=4), "while whole")
        for module in sharded:
            module.unshard()
        for module in sharded:
            module.reshard()
        check(model, fastinit.initialize_(MODELS[shape](), key=4), "resharded")


for shape, way in FITTING:
    CASES[f"{shape}-{way}"] = lambda world, shape=shape, way=way: run(shape, way, world)
