"""What FSDP2 keeps of the parameters of a module, and memory for shards."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Container
from typing import Any, NamedTuple

import torch
from torch import nn

from fastinit._models.tree import modules_of


def _parameter_groups(module: nn.Module) -> list[Any]:
    """Give what `fully_shard` keeps of the parameters of a module; private in torch."""
    state: Any = module._get_fsdp_state()  # type: ignore[operator]
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # torch < 2.11
        groups = [state._fsdp_param_group]
    return [parameter for group in groups if group is not None for parameter in group.fsdp_params]


def fully_sharded(module: nn.Module) -> list[nn.Module]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind: Any = getattr(fsdp, "FSDPModule", None)
    return [] if kind is None else [m for m in modules_of(module) if isinstance(m, kind)]


def reshard(module: nn.Module) -> None:
    """Have FSDP2 put its shards in the place of full parameters, which it would throw away."""
    for owner in fully_sharded(module):
        owner.reshard()  # type: ignore[operator]


def offloaded(module: nn.Module) -> set[int]:
    """Give the ids of the shards that FSDP2 keeps on the CPU."""
    return {
        id(parameter.sharded_param)
        for owner in fully_sharded(module)
        for parameter in _parameter_groups(owner)
        if parameter.offload_to_cpu
    }


def refer_to_shards(module: nn.Module, changed: Container[int]) -> None:
    """Have FSDP2 look at shards again that have got memory, given the ids of what they were."""
    for owner in fully_sharded(module):
        for parameter in _parameter_groups(owner):
            if id(parameter.sharded_param) in changed:
                parameter.reset_sharded_param()


class Unhooked(NamedTuple):
    """Hooks that have been taken out of a table of a module.

    Attributes:
        table: the table.
        before: all that it held.
        out: what of that has been taken out.
    """

    table: dict[int, Any]
    before: dict[int, Any]
    out: dict[int, Any]

    def put_back(self) -> None:
        """Put them back in their places among those that are there now."""
        now = self.table.copy()
        self.table.clear()
        there = self.out.keys() | now.keys()
        self.table.update({k: hook for k, hook in self.before.items() if k in there})
        self.table.update(now)


_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def without_hooks(module: nn.Module) -> list[Unhooked]:
    """Take out the hooks by which torch's parallelism looks after parameters and activations."""
    found = []
    for owner in modules_of(module):
        for table in filter(None, map(vars(owner).get, _HOOKS)):
            out = {k: hook for k, hook in table.items() if _is_of_torchs_parallelism(hook)}
            if out:
                found.append(Unhooked(table, {**table}, out))
                for key in out:
                    del table[key]
    return found


def _is_of_torchs_parallelism(hook: Any) -> bool:
    hook = getattr(hook, "hook", hook)  # of state dicts they are wrapped
    module = str(getattr(hook, "__module__", ""))
    return module.startswith(("torch.distributed.fsdp.", "torch.distributed.tensor."))


def with_memory(sharded: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Make what a DTensor on the meta device is, with memory for its shard."""
    old = sharded._local_tensor
    local = torch.empty_strided(old.shape, old.stride(), dtype=dtype, device=device)
    spec = sharded._spec
    if dtype is not sharded.dtype:
        spec = dataclasses.replace(spec, tensor_meta=spec.tensor_meta._replace(dtype=dtype))
    new = type(sharded)(local, spec, requires_grad=sharded.requires_grad)
    if isinstance(sharded, nn.Parameter):
        new = nn.Parameter(new, sharded.requires_grad)
    vars(new).update(vars(sharded))
    return new
