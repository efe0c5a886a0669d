"""What a module has to be, for `initialize_` and `materialize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._models.names import Named, without_wrappers
from fastinit._models.tree import modules_of
from fastinit._tensors import PLAIN_TYPES, in_transform, is_plain


def check_module(module: Any, where: str) -> None:
    """Raise TypeError unless this is a module."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"fastinit.{where}: argument 'module' must be a torch.nn.Module, got "
            f"{type(module).__name__}"
        )


def checked_parts(module: Any, where: str) -> list[nn.Module]:
    """List the modules that the argument `module` means, if it may be several.

    Raises:
        TypeError: if it is neither a module nor a sequence of them.
    """
    parts: list[Any] = [module]
    if not isinstance(module, nn.Module):
        parts = list(module) if isinstance(module, Sequence) else [None]
    for part in parts:
        if not isinstance(part, nn.Module):
            given = type(module).__name__
            if part is not None:
                given = f"a {given} with a {type(part).__name__}"
            raise TypeError(
                f"fastinit.{where}: argument 'module' must be a torch.nn.Module or a sequence of "
                f"them, got {given}"
            )
    return parts


def check_prefix(prefix: Any, where: str) -> str:
    """Give the beginning of names, without segments of wrappers.

    Raises:
        TypeError: if it is no string.
    """
    if not isinstance(prefix, str):
        raise TypeError(
            f"fastinit.{where}: argument 'prefix' must be a str, got {type(prefix).__name__}"
        )
    return without_wrappers(prefix)


def check_untransformed(where: str) -> None:
    """Raise NotImplementedError inside torch.func transforms, which tensors do not tell about."""
    if in_transform():
        raise NotImplementedError(
            f"fastinit.{where}: not inside torch.func transforms (vmap, grad, jvp, functionalize); "
            "initialise the module outside and pass its parameters in, for instance by "
            "torch.func.functional_call"
        )


def check_not_lazy(named: Mapping[str, Named], where: str) -> None:
    """Raise ValueError for parameters and buffers that have no shape yet."""
    lazy = [name for name, one in named.items() if is_lazy(one.tensor)]
    if lazy:
        raise ValueError(
            f"fastinit.{where}: parameters without a shape yet: {', '.join(lazy)}; call "
            "fastinit.initialize_, which waits for the first call of the module"
        )


def check_not_fake(where: str, what: str) -> None:
    """Raise NotImplementedError inside FakeTensorMode, for what needs memory there is none of."""
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
        raise NotImplementedError(
            f"fastinit.{where}: not inside FakeTensorMode for {what}, which would need memory "
            "meanwhile; call it outside"
        )


def check_unsharded(module: nn.Module, parameters: dict[str, Named], where: str) -> None:
    """Raise NotImplementedError for parameters of which there are only parts here."""
    for kind in set(map(type, modules_of(module))):
        if any(base.__name__ == "FullyShardedDataParallel" for base in kind.__mro__):
            raise NotImplementedError(
                f"fastinit.{where}: {kind.__name__} (FSDP1) holds parts of parameters that do not "
                "say where in them they lie; initialise the module before it is wrapped"
            )
    parts = [name for name, named in parameters.items() if "ds_id" in vars(named.tensor)]
    if parts:
        raise NotImplementedError(
            f"fastinit.{where}: parameters partitioned by DeepSpeed (ZeRO-3): {', '.join(parts)}; "
            "initialise the module before it is partitioned"
        )


def check_stored(named: Mapping[str, Named], where: str) -> None:
    """Raise RuntimeError for tensors that have no memory to be written to, or not for all of it."""
    tensors: list[Any] = [one.tensor for one in named.values()]
    if not PLAIN_TYPES.issuperset(map(type, tensors)):
        tensors = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors]
    found = [*map(extension.storage_fault, tensors)]
    if any(found):
        faults = {name: fault for name, fault in zip(named, found, strict=True) if fault}
        listed = "; ".join(f"{name} {fault}" for name, fault in faults.items())
        raise RuntimeError(
            f"fastinit.{where}: storage that was freed, or is too short: {listed}; nothing was "
            "written"
        )


def check_plain(module: nn.Module, parameters: dict[str, Named], where: str) -> None:
    """Raise NotImplementedError for parameters that hold their memory in a way of their own.

    DTensors say what of them is where.
    """
    check_unsharded(module, parameters, where)
    tensors = [named.tensor for named in parameters.values()]
    if set(map(type, tensors)) <= PLAIN_TYPES and {t.layout for t in tensors} <= {torch.strided}:
        return
    kinds = {
        name: type(named.tensor).__name__
        for name, named in parameters.items()
        if not (is_plain(type(named.tensor)) and named.tensor.layout is torch.strided)
        and not is_sharded(named.tensor)
    }
    if kinds:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise NotImplementedError(
            f"fastinit.{where}: parameters can be plain strided tensors and DTensors, got "
            f"{listed}; initialise before they are wrapped or sharded"
        )
