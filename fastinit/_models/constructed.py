"""Values that a constructor gives, for a module that has been constructed already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import are_divided_alike, part_of, written
from fastinit._models import rules as _rules
from fastinit._models.checks import check_stored
from fastinit._models.history import take_over
from fastinit._models.materialize import materialize
from fastinit._models.names import Named, named_tensors
from fastinit._models.renaming import Rename
from fastinit._models.sharded_ops import keep
from fastinit._tensors import copy_values
from fastinit.key import Key

_WHERE = "fastinit.initialize_: argument 'factory'"


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    """Give a shape; of a nested tensor, which has none, those of its parts."""
    if tensor.is_nested:
        return tuple(tuple(part.shape) for part in tensor.unbind())
    return tuple(tensor.shape)


def _kind(named: Named) -> str:
    tensor = named.tensor
    layout = "" if tensor.layout is torch.strided else f", {tensor.layout}"
    return f"{_shape(tensor)}, {tensor.dtype}{layout}"


def _is_like(tensor: Tensor, other: Tensor) -> bool:
    """Whether one can have the values of the other: all but how large its numbers are."""
    if tensor.layout is not other.layout or _shape(tensor) != _shape(other):
        return False
    floats = tensor.is_floating_point() == other.is_floating_point()
    return floats and tensor.is_complex() == other.is_complex()


def _check(ours: Mapping[str, Named], made: Mapping[str, Named], kind: str) -> None:
    """Raise ValueError unless the names, the shapes and what types are about are the same."""
    missing = [name for name in ours if name not in made]
    more = [name for name in made if name not in ours]
    if missing or more:
        parts = [f"has no {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(more)}, which the module has not"] if more else []
        raise ValueError(f"{_WHERE}: as to names of parameters, what it makes {'; '.join(parts)}")
    wrong = [
        f"{name} ({_kind(named)}, made: {_kind(made[name])})"
        for name, named in ours.items()
        if not _is_like(named.tensor, made[name].tensor)
    ]
    if wrong:
        raise ValueError(f"{_WHERE}: the {kind} that it makes are others: {', '.join(wrong)}")


def _layout(tensor: Any) -> str:
    if not is_sharded(tensor):
        return "no DTensor"
    return f"{tuple(tensor.placements)} on {tensor.device_mesh}"


def _check_division(ours: Mapping[str, Named], made: Mapping[str, Named]) -> None:
    """Raise NotImplementedError for shards of which each rank holds something else in the module.

    Full tensors serve shards of any kind; shards serve only those that are divided as they are.
    """
    wrong = [
        f"{name} ({_layout(named.tensor)}, made: {_layout(made[name].tensor)})"
        for name, named in ours.items()
        if is_sharded(made[name].tensor)
        and not (is_sharded(named.tensor) and are_divided_alike(named.tensor, made[name].tensor))
    ]
    if wrong:
        raise NotImplementedError(
            f"{_WHERE}: what it makes is sharded otherwise than the module: {', '.join(wrong)}; "
            "have it make the unsharded module"
        )


def initialize_from(
    module: nn.Module,
    factory: Callable[[], nn.Module],
    wanted: Mapping[str, Named],
    key: Key,
    *,
    rules: list[_rules.Rule] | None = None,
    prefix: str = "",
    progress: bool = False,
    rename: Rename | None = None,
) -> None:
    """Give a module the values of a new one, which `materialize(factory)` makes beside it.

    Parameters keep their type and device; buffers that both have get values, too. Everything is
    checked before anything is written.

    Args:
        module: the module.
        factory: makes one that has the same parameters.
        wanted: the parameters that are to be written.
        key: as for `materialize`, like all that follows.
        rules: as for `materialize`.
        prefix: the name of the module inside a larger one.
        progress: whether to show a progress bar.
        rename: as for `materialize`.

    Raises:
        TypeError: if `factory` is no callable, or a module.
        ValueError: if what it makes has parameters of other names or shapes, or is the module.
        NotImplementedError: if it makes DTensors that are sharded otherwise than the module's, or
            what is here of one of the module's cannot be told.
    """
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError(
            f"{_WHERE} must be a callable that makes a module like the one that is given, got "
            f"{type(factory).__name__}"
        )
    new = materialize(
        factory, rules=rules, key=key, prefix=prefix, progress=progress, rename=rename
    )
    here, there = named_tensors(module, prefix), named_tensors(new, prefix)
    (ours, buffers), (made, made_buffers) = here, there
    # Buffers may be one for all modules: a table that is made once.
    mine = {id(n.tensor) for n in here.parameters.values()}
    if new is module or any(id(n.tensor) in mine for n in there.parameters.values()):
        raise ValueError(f"{_WHERE} must make a new module; it gives one that is the module's own")
    _check(ours, made, "parameters")
    both = {name: named for name, named in buffers.items() if name in made_buffers}
    _check(both, {name: made_buffers[name] for name in both}, "buffers")
    written_to = {**wanted, **both}
    _check_division(written_to, {**made_buffers, **made})
    parts = {
        name: part_of(named.tensor, f"initialize_: {name}")
        for name, named in written_to.items()
        if is_sharded(named.tensor)
    }
    check_stored(written_to, "initialize_")
    with torch.no_grad():
        for name, named in written_to.items():
            source: Any = made.get(name) or made_buffers.get(name)
            if name in parts:
                keep(parts[name], source.tensor)
                written(named.tensor)
            else:
                copy_values(named.tensor, source.tensor)
    for name, named in wanted.items():
        take_over(made[name], named)
