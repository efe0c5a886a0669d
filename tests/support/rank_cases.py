"""What the cases of several processes share: their names, and meshes of these processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh

from support.common import same_bits

CASES: dict[str, Callable[[], None]] = {}
# One of each world size, and a square.
MESHES = {"1": [0], "2": [0, 1], "3": [0, 1, 2], "4": [0, 1, 2, 3], "2x2": [[0, 1], [2, 3]]}


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


def rank() -> int:
    return int(distributed.get_rank())


_meshes: dict[str, DeviceMesh] = {}


def mesh_of(name: str) -> DeviceMesh:
    """Made on all ranks, those outside of it included; once, for groups are dear."""
    if name not in _meshes:
        _meshes[name] = DeviceMesh("cpu", MESHES[name])
    return _meshes[name]


def check_full_tensors(model: nn.Module, want: nn.Module) -> None:
    whole = {**dict(want.named_parameters()), **dict(want.named_buffers())}
    mine = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert mine.keys() == whole.keys()
    with torch.no_grad():
        for name, tensor in mine.items():
            full: Any = tensor
            full = full.full_tensor() if hasattr(full, "full_tensor") else full
            assert same_bits(full.detach(), whole[name].detach()), name
