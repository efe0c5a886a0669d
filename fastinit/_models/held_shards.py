"""DTensors that a module holds otherwise than as parameters and buffers.

No twin stands in their places, which may be anywhere: what initialisers would do to them, each rank
would do to its part alone, under a key without a name. So it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._models.held import held_tensors
from fastinit._models.names import NamedTensors
from fastinit._recording.sharding import Sharding

_ADVICE = "otherwise than as a parameter or buffer; register it as a buffer"


def held_shards(
    module: nn.Module, prefix: str, named: NamedTensors, found: Iterable[Tensor] | None = None
) -> dict[str, Tensor]:
    """List them by the names of the ways there.

    Args:
        module: the module.
        prefix: its name in a larger one.
        named: its parameters and buffers.
        found: DTensors that it holds, of whatever kind, if they are known.
    """
    own = set(map(id, named.tensors))
    if found is not None and all(id(tensor) in own for tensor in found):
        return {}
    return {
        name: tensor
        for name, _, tensor in held_tensors(module, prefix)
        if is_sharded(tensor) and id(tensor) not in own
    }


def by_memory(held: dict[str, Tensor]) -> dict[int, str]:
    """Give their names by the addresses of their shards' storages."""
    shards = {name: getattr(tensor, "_local_tensor", None) for name, tensor in held.items()}
    return {extension.storage_address(t): name for name, t in shards.items() if t is not None}


def check_have_values(
    held: dict[str, Tensor], where: str, sharding: Sharding | None = None
) -> None:
    """Refuse those that get no values: on the meta device, or written by a factory.

    Raises:
        NotImplementedError: if there are some; it names them.
    """
    wrong = [
        name
        for name, tensor in held.items()
        if (tensor.is_meta and tensor.numel() > 0)
        or (sharding is not None and sharding.is_changed(tensor))
    ]
    if wrong:
        advice = "; set gradients when it has values"
        if not all(name.endswith(".grad") for name in wrong):
            advice = f", {_ADVICE}"
        raise NotImplementedError(
            f"fastinit.{where}: the module holds DTensors that would get no values, "
            f"{', '.join(wrong)}{advice}"
        )


def check_not_alone(
    module: nn.Module, prefix: str, named: NamedTensors, where: str, sharding: Sharding
) -> None:
    """Refuse what a factory has done to DTensors that nobody would do to their shards.

    To hold the shard of one by itself, which has no values until all have some, or a view of one,
    which would be of the full size, and to change one that the module does not hold.

    Raises:
        NotImplementedError: if there is something of the sort; it names that.
    """
    if not sharding.has_shards:
        return
    held = {name: one.tensor for name, one in named.both.items()}
    changed = sharding.changed_outside(held.values())
    if changed:
        raise NotImplementedError(
            f"fastinit.{where}: the factory changes DTensors that the module does not hold, with "
            f"shards of shape {', '.join(str(tuple(local.shape)) for local in changed)}; change "
            "them when it has returned"
        )
    held |= {name: tensor for name, _, tensor in held_tensors(module, prefix)}
    views = sharding.views(held)
    if views:
        raise NotImplementedError(
            f"fastinit.{where}: the module holds views of DTensors, {', '.join(views)}, which have "
            "no values before the factory has returned; take them of the module that is returned"
        )
    alone = [name for name, tensor in held.items() if sharding.is_shard(tensor)]
    if alone:
        raise NotImplementedError(
            f"fastinit.{where}: the module holds what the factory has taken of a DTensor "
            f"(to_local), {', '.join(alone)}, which has no values before the factory has returned; "
            "take it of the module that is returned"
        )
