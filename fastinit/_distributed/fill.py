"""The operators of fastinit on tensors of which a process holds a part.

An operator on a whole tensor comes here when it meets a DTensor or what `fastinit.shard` returns,
and goes on to the operator for shards, with the memory that is here. Nothing communicates.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fastinit._compiled import (
    extension,
    fill_shard_op,
    operator,
    orthogonal_op,
    orthogonal_shard_op,
    sparse_op,
    sparse_shard_op,
)
from fastinit._distributed.part import RULES, Part, TensorShard, part_of, written
from fastinit._tensors import fill_elsewhere, on_handled_device
from fastinit.key import reserve_word

# Those of the table of distributions that are operators; words are for tests alone.
_ELEMENTWISE = tuple(
    operator(row["name"])
    for row in extension.distributions()
    if row["random"] and hasattr(torch.ops.fastinit, row["name"])
)

# Told of every call that is drawn, with its key: (tensor, name, numbers, key).
OBSERVERS: list[Callable[[Any, str, tuple[Any, ...], int], None]] = []


@functools.cache
def _defaults(func: Any) -> tuple[Any, ...]:
    """Give the defaults of an operator's positional arguments, None for those that have none."""
    return tuple(
        argument.default_value for argument in func._schema.arguments if not argument.kwarg_only
    )


def drawn_on_all(part: Part, given: dict[str, Any]) -> dict[str, Any]:
    """Draw the key now, if none was given: every rank does, whatever it holds."""
    if given.get("key") is not None or 0 in part.size:
        return given
    return {"key": reserve_word(part.local.device, given.get("generator"))}


def _call(name: str, part: Part, numbers: tuple[Any, ...], given: dict[str, Any]) -> None:
    """Call the operator of a shard that is boxes."""
    size, boxes = list(part.size), part.numbers()
    if name == "sparse_":
        sparse_shard_op(part.local, *numbers, size, boxes, **given)
    elif name == "orthogonal_":
        gain, batch_dims, method = numbers
        orthogonal_shard_op(part.local, gain, size, boxes, batch_dims, method, **given)
    else:
        fill_shard_op(part.local, name, list(numbers), size, boxes, **given)


def refuse_early(
    name: str, part: Part, numbers: tuple[Any, ...], size: tuple[int, ...] | None = None
) -> None:
    """Say what the operator would complain about, before a key is drawn."""
    full = part.size if size is None else size
    nothing = torch.empty((0,) if full else (), dtype=part.local.dtype, device="meta")
    _call(name, Part(nothing, full, ()), numbers, {"key": 0})


def observed(
    tensor: Any, name: str, part: Part, numbers: tuple[Any, ...], given: dict[str, Any]
) -> dict[str, Any]:
    """Tell who wants to know of this call; give the key or generator to use."""
    if not OBSERVERS or is_compiling():
        return given
    given = drawn_on_all(part, given)
    tell_observers(tensor, name, numbers, given.get("key") or 0)
    return given


def tell_observers(tensor: Any, name: str, numbers: tuple[Any, ...], key: int) -> None:
    """Tell who wants to know of a draw."""
    for observer in OBSERVERS:
        observer(tensor, name, numbers, key)


def run(name: str, part: Part, numbers: tuple[Any, ...], given: dict[str, Any]) -> None:
    """Fill a part as operator `name` fills the whole tensor.

    Raises:
        NotImplementedError: if there is no key, and no generator of fastinit's for the device.
    """
    local = part.local
    if not on_handled_device(local):
        given = drawn_on_all(part, given)
        with torch.no_grad():
            fill_elsewhere(
                local, lambda filled: run(name, part._replace(local=filled), numbers, given)
            )
    elif name not in ("sparse_", "orthogonal_"):
        _call(name, part.as_vector(), numbers, given)
    elif part.start is None:
        _call(name, part, numbers, given)
    else:
        refuse_early(name, part, numbers)
        given = drawn_on_all(part, given)
        for piece in part.as_boxes():
            _call(name, piece, numbers, given)


def _handle(
    func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> None:
    tensor, given = args[0], dict(kwargs or {})
    numbers = (*args[1:], *_defaults(func)[len(args) :])
    name = func._schema.name.rpartition("::")[2]
    part = part_of(tensor, name)
    if OBSERVERS:
        refuse_early(name, part, numbers)
    run(name, part, numbers, observed(tensor, name, part, numbers, given))
    written(tensor)


RULES.update(dict.fromkeys((*_ELEMENTWISE, sparse_op, orthogonal_op), _handle))
_registered: set[type] = set()


def _of_class(rule: Callable[..., None]) -> Callable[..., None]:
    """Take the class, too, which torch passes first to the rules it is told of."""
    return lambda kind, *call: rule(*call)


def _dtensor_class() -> type | None:
    """Give torch's DTensor, with our operators known to it, if its module is loaded at all."""
    kind: Any = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if isinstance(kind, type) and kind not in _registered:
        _registered.add(kind)
        for func, rule in RULES.items():
            # RuntimeError: it has one from before this module was loaded again.
            with suppress(RuntimeError):
                torch.library.register_torch_dispatch(func._schema.name, kind, _of_class(rule))
        return kind
    return kind if isinstance(kind, type) else None


# torch.compile calls it while it traces. Private; assume_constant_result would load the compiler.
_dtensor_class._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_sharded(tensor: Any) -> bool:
    """Whether this is a DTensor or what `fastinit.shard` returns."""
    kind = type(tensor)
    if kind is Tensor or kind is torch.nn.Parameter:
        return False
    if kind is TensorShard or kind in _registered:
        return True
    dtensor = _dtensor_class()
    return dtensor is not None and issubclass(kind, dtensor)


def check_placements(name: str, tensor: Any) -> None:
    """Refuse a DTensor of which no rank knows what it holds.

    Raises:
        NotImplementedError: as `part_of` does.
    """
    if is_sharded(tensor) and not is_compiling():
        part_of(tensor, name)
