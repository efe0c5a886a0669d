"""What FSDP2 keeps of the parameters of a module and has put on it, and memory for shards."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Container
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import nn

from fastinit._models.tree import modules_of, unwrapped


def _parameter_groups(module: nn.Module) -> list[Any]:
    """Give what `fully_shard` keeps of the parameters of a module; private in torch."""
    state: Any = module._get_fsdp_state()  # type: ignore[operator]
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # torch < 2.11
        groups = [state._fsdp_param_group]
    return [parameter for group in groups if group is not None for parameter in group.fsdp_params]


def _fsdp_module() -> Any:
    """Give the class that FSDP2 puts before those of modules, if it is loaded at all."""
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)


def fully_sharded(module: nn.Module) -> list[nn.Module]:
    kind = _fsdp_module()
    return [] if kind is None else [m for m in modules_of(module) if isinstance(m, kind)]


def reshard(module: nn.Module) -> None:
    """Have FSDP2 put its shards in the place of full parameters, which it would throw away.

    Also those that belong to what is around the module.
    """
    for owner in (*fully_sharded(module), *_around(module)):
        owner.reshard()  # type: ignore[operator]


def _around(module: nn.Module) -> list[nn.Module]:
    """List modules outside of one that `fully_shard` has given parameters which are inside."""
    kind = _fsdp_module()
    states = getattr(sys.modules.get("torch.distributed._composable_state"), _STATES, None)
    if kind is None or not states:
        return []
    inside = set(modules_of(module))
    outside = [owner for owner in states if isinstance(owner, kind) and owner not in inside]
    return [
        owner
        for owner in outside
        if any(
            not inside.isdisjoint((one.module, *one.shared_modules))
            for one in (parameter._module_info for parameter in _parameter_groups(owner))
        )
    ]


_STATES = "_module_state_mapping"  # by module; private in torch


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


_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class _Unhooked(NamedTuple):
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
        if not now and len(self.out) == len(self.before):
            self.table.update(self.before)
            return
        self.table.clear()
        there = self.out.keys() | now.keys()
        self.table.update({k: hook for k, hook in self.before.items() if k in there})
        self.table.update(now)


def _is_forward_method(method: MethodType) -> bool:
    """Whether this is what `register_fsdp_forward_method` has put in the place of a method."""
    function = method.__func__
    where = getattr(function, "__globals__", {}).get("__name__", "")
    return where.startswith("torch.distributed.fsdp.") and hasattr(function, "__wrapped__")


class Unwrapped:
    """Modules without what torch's parallelism has put on them, for as long as initialisers run.

    These ask for the classes that modules had before, as transformers does, and call modules, whose
    hooks would meet full tensors where they look for shards.
    """

    def __init__(self) -> None:
        self._classes: list[tuple[nn.Module, type[nn.Module]]] = []
        self._hooks: list[_Unhooked] = []
        # Methods around which FSDP2 runs its hooks: whose, which, and what it has put there.
        self._methods: list[tuple[dict[str, Any], str, Any]] = []

    def unwrap(self, module: nn.Module) -> None:
        """Take it off a module and all below it."""
        for owner in fully_sharded(module):
            self._classes.append((owner, type(owner)))
            # What is built on FSDP2 (torch's replicate) has put more than one class before them.
            kinds: Any = type(owner).__mro__
            inner = kinds[kinds.index(_fsdp_module()) + 1]
            object.__setattr__(owner, "__class__", inner)  # the class's own may refuse
            held = vars(owner)
            methods: list[tuple[str, Any]] = [
                (n, m) for n, m in held.items() if type(m) is MethodType
            ]
            for name, method in methods:
                if not _is_forward_method(method):
                    continue
                self._methods.append((held, name, method))
                held[name] = method.__wrapped__
        for owner in modules_of(module):
            for table in filter(None, map(vars(owner).get, _HOOKS)):
                out = {k: hook for k, hook in table.items() if _is_of_torchs_parallelism(hook)}
                if out:
                    self._hooks.append(_Unhooked(table, {**table}, out))
                    for key in out:
                        del table[key]

    def put_back(self) -> None:
        """Put it on again."""
        for owner, kind in self._classes:
            object.__setattr__(owner, "__class__", kind)
        self._classes.clear()
        for held, name, method in self._methods:
            if held.get(name) is method.__wrapped__:
                held[name] = method
        self._methods.clear()
        for hooks in self._hooks:
            hooks.put_back()
        self._hooks.clear()

    @property
    def tables(self) -> list[dict[Any, Any]]:
        """The tables that hold something else meanwhile."""
        return [*(hooks.table for hooks in self._hooks), *(held for held, _, _ in self._methods)]


def _is_of_torchs_parallelism(hook: Any) -> bool:
    module = str(getattr(unwrapped(hook), "__module__", ""))
    return module.startswith(("torch.distributed.fsdp.", "torch.distributed.tensor."))


def with_memory(
    sharded: Any, device: torch.device, dtype: torch.dtype, memory: torch.Tensor | None = None
) -> Any:
    """Make what a DTensor on the meta device is, with memory for its shard: this, or its own."""
    old = sharded._local_tensor
    if memory is None:
        local = torch.empty_strided(old.shape, old.stride(), dtype=dtype, device=device)
    else:
        local = memory.detach()
    spec = sharded._spec
    if dtype is not sharded.dtype:
        spec = dataclasses.replace(spec, tensor_meta=spec.tensor_meta._replace(dtype=dtype))
    new = type(sharded)(local, spec, requires_grad=sharded.requires_grad)
    if isinstance(sharded, nn.Parameter):
        new = nn.Parameter(new, sharded.requires_grad)
    vars(new).update(vars(sharded))
    return new
