"""More of what the processes of tests/distributed/test_processes.py do: pipelines of shards."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit
from support.common import same_bits
from support.decoders import Spread, stages
from support.rank_cases import CASES


def pipeline(count: int, tensor_parallel: int = 1) -> None:
    """Draw the stages of a pipeline, each spread over the ranks that have it."""
    want = Spread()
    with fastinit.patch(key=2, module=want), torch.no_grad():
        want.init_weights()
    weights = dict(want.named_parameters())
    sizes = (count, distributed.get_world_size() // count // tensor_parallel, tensor_parallel)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("pp", "dp", "tp"))
    with torch.device("meta"):
        part = stages(Spread(), count)[mesh.get_local_rank("pp")]
    plan: dict[str, Any] = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    for layer in part.layers.values():
        if tensor_parallel > 1:
            parallelize_module(layer, mesh["tp"], plan)
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(part, mesh=mesh["dp"])
    part.to_empty(device="cpu")
    with CommDebugMode() as collectives, fastinit.patch(key=2, module=part), torch.no_grad():
        part.init_weights()
    assert collectives.get_total_counts() == 0
    for name, parameter in part.named_parameters():
        spread: Any = parameter
        with torch.no_grad():
            assert same_bits(spread.full_tensor(), weights[name].detach()), name


for count in (1, 2, 4):
    CASES[f"a_pipeline_of_{count}_by_patch"] = lambda count=count: pipeline(count)
CASES["a_pipeline_of_2_over_tensor_parallelism_by_patch"] = lambda: pipeline(2, 2)
