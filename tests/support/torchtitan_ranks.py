"""torchtitan's own parallelisms, by four processes, where it is installed."""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
from typing import Any

import torch
from torch import distributed, nn

import fastinit
from support.rank_cases import CASES, check_full_tensors

THERE = importlib.util.find_spec("torchtitan") is not None
# Processes for FSDP2, for tensor and for expert parallelism.
SIZES = {"llama3": [(4, 1, 1), (2, 2, 1)], "deepseek_v3": [(2, 2, 1), (4, 1, 4), (2, 2, 2)]}
_dimensions: dict[tuple[int, ...], Any] = {}


def spec_of(family: str, experts: int) -> Any:
    package = importlib.import_module(f"torchtitan.models.{family}")
    sharding = importlib.import_module(f"torchtitan.models.{family}.sharding")
    for module in [*sys.modules.values()]:  # it looks for an accelerator when it is imported
        its = getattr(module, "__name__", "").startswith("torchtitan")
        if its and hasattr(module, "device_type"):
            vars(module)["device_type"] = "cpu"
    spec = package.model_registry("debugmodel")
    how = {} if family == "llama3" else {"enable_ep": experts > 1}
    getattr(sharding, f"set_{family}_sharding_config")(spec.model, enable_sp=True, **how)
    return spec


def whole(family: str) -> Any:
    return spec_of(family, 1).model.build()


def whole_on_meta(family: str) -> Any:
    with torch.device("meta"):
        return whole(family)


def spread(family: str, *sizes: int) -> Any:
    from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
    from torchtitan.distributed import ParallelDims

    spec = spec_of(family, sizes[2])
    names = ("dp_shard", "tp", "ep")
    if sizes not in _dimensions:
        ones: dict[str, Any] = {"dp_replicate": 1, "cp": 1, "pp": 1}
        ones |= {"world_size": distributed.get_world_size(), "spmd_backend": "partial_dtensor"}
        _dimensions[sizes] = ParallelDims(**dict(zip(names, sizes, strict=True)), **ones)
        _dimensions[sizes].build_mesh()
    degrees = ("data_parallel_shard_degree", "tensor_parallel_degree", "expert_parallel_degree")
    degree_of = dict(zip(degrees, sizes, strict=True))
    with torch.device("meta"):
        model = spec.model.build()
    return spec.parallelize_fn(
        model,
        parallel_dims=_dimensions[sizes],
        training=TrainingConfig(),
        parallelism=ParallelismConfig(**degree_of, spmd_backend="partial_dtensor"),
        compile_config=CompileConfig(),
        ac_config=None,
        dump_folder=tempfile.mkdtemp(),
    )


def initialised(model: Any) -> nn.Module:
    """As its trainer does it."""
    with torch.no_grad():
        model.to_empty(device="cpu").init_weights(buffer_device=None)
    return model  # type: ignore[no-any-return]


def patched(model: nn.Module) -> nn.Module:
    with fastinit.patch(key=5):
        return initialised(model)


def parallelisms(family: str, *sizes: int) -> None:
    want = fastinit.materialize(whole_on_meta(family), key=3)
    empty = spread(family, *sizes).to_empty(device="cpu")
    check_full_tensors(fastinit.initialize_(empty, key=3), want)
    check_full_tensors(fastinit.materialize(spread(family, *sizes), key=3), want)
    check_full_tensors(patched(spread(family, *sizes)), patched(whole_on_meta(family)))
    made = fastinit.materialize(lambda: initialised(whole_on_meta(family)), key=3)
    model = fastinit.materialize(lambda: initialised(spread(family, *sizes)), key=3)
    check_full_tensors(model, made)


for one, layouts in SIZES.items():
    for layout in layouts:
        name = f"torchtitan_{one}_by_{'_'.join(map(str, layout))}"
        CASES[name] = functools.partial(parallelisms, one, *layout)
