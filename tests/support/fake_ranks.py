"""Any rank of any mesh in this process: torch's fake process group, which communicates nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, debug
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.testing._internal.distributed.fake_pg import FakeStore


def _forget_other_ranks() -> None:
    """Empty DTensor's caches: meshes compare equal, whatever the rank that they are seen from."""
    debug._clear_python_sharding_prop_cache()
    debug._clear_fast_path_sharding_prop_cache()


@contextmanager
def as_rank(rank: int, world: int) -> Iterator[None]:
    distributed.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    _forget_other_ranks()
    try:
        yield
    finally:
        distributed.destroy_process_group()
        _forget_other_ranks()


@contextmanager
def as_rank_of(shape: Sequence[int], rank: int) -> Iterator[DeviceMesh]:
    """Be a rank of a mesh of this shape."""
    world = 1
    for size in shape:
        world *= size
    with as_rank(rank, world):
        yield init_device_mesh("cpu", tuple(shape))


def dtensor(
    local: Tensor, size: Sequence[int], mesh: DeviceMesh, placements: Sequence[Any], **spec: Any
) -> DTensor:
    """Make a DTensor of a shard, without asking whether the two belong together."""
    full = torch.empty(tuple(size), device="meta", dtype=local.dtype)
    meta = TensorMeta(full.shape, full.stride(), full.dtype)
    made: Any = DTensorSpec(mesh, tuple(placements), tensor_meta=meta, **spec)
    kind: Any = DTensor
    result: DTensor = kind(local, made, requires_grad=False)
    return result
