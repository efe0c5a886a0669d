"""What ranks have of DTensors, as statistics of the whole: one collective for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import part_of
from fastinit._distributed.store import Store, digest, ranks_as_text
from fastinit._models.names import Named
from fastinit._report.moments import Summary, summarise

_TIMEOUT = 60.0  # seconds, for ranks that do not come


class Whole(NamedTuple):
    """What ranks together have of a tensor.

    Attributes:
        summary: of all elements, in one of its copies.
        padding: whether an element of a padding row is not zero.
        alike: whether all copies are so, for all that the statistics tell.
    """

    summary: Summary
    padding: bool
    alike: bool


def local_of(tensor: Any) -> Tensor:
    """Give what is here of a tensor."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _copy_of(tensor: Any) -> int:
    """Tell which copy of a DTensor this rank has a part of, by its first rank; -1 for none.

    Those that differ where it is replicated have copies of their own, and so have meshes of other
    ranks (tensor parallelism beside the mesh of FSDP2, say).
    """
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return -1
    pairs = zip(coordinate, tensor.placements, strict=True)
    first = tuple(place if placement.is_replicate() else 0 for place, placement in pairs)
    return int(tensor.device_mesh.mesh[first])


def _padding_here(named: Named, name: str) -> bool:
    """Whether an element that is here of a padding row is not zero."""
    rows = named.padding_rows
    for view, offset in part_of(named.tensor, name).views() if rows else ():
        mine = [row - offset[0] for row in rows if 0 <= row - offset[0] < view.shape[0]]
        if mine and bool(view.detach()[mine].any()):
            return True
    return False


def row_here(name: str, named: Named) -> list[float]:
    """Measure what is here of one DTensor, as numbers for `whole_of`.

    Raises:
        NotImplementedError: if it is partial sums, or of a kind that is not known.
    """
    label = f"report: {name}"
    part_of(named.tensor, label)
    padding = float(_padding_here(named, label))
    return [*summarise(local_of(named.tensor)), padding, _copy_of(named.tensor)]


def _close(one: Summary, other: Summary) -> bool:
    """Whether two are the same but for the order of sums."""
    pairs = zip(one, other, strict=True)
    return all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) or (a != a and b != b) for a, b in pairs
    )


def whole_of(rows: Sequence[Sequence[float]]) -> Whole:
    """Put together what ranks have measured of one DTensor, in their order."""
    copies: dict[float, Summary] = {}
    for n, mean, squares, low, high, _, copy in rows:
        if copy >= 0:
            part = Summary(int(n), mean, squares, low, high)
            copies[copy] = copies.get(copy, Summary()) | part
    first, *others = copies.values() or [Summary()]
    alike = all(_close(first, other) for other in others)
    return Whole(first, any(row[5] for row in rows), alike)


def _all_ranks(values: list[list[float]], group: Any) -> list[list[list[float]]]:
    """Gather as many numbers from every rank."""
    kinds = [str(kind.type) for kind in group._device_types]
    device = "cpu" if "cpu" in kinds else kinds[0]
    mine = torch.tensor(values, dtype=torch.float64, device=device)
    world = torch.distributed.get_world_size(group)
    found = torch.empty((world, *mine.shape), dtype=torch.float64, device=device)
    torch.distributed.all_gather_into_tensor(found.view(-1), mine.view(-1), group=group)
    lists: list[list[list[float]]] = found.tolist()
    return lists


def _check_alike(sharded: Mapping[str, Named], group: Any) -> None:
    """Check that all ranks have these DTensors, before they wait for each other.

    Raises:
        ValueError: if one has others.
        RuntimeError: if one does not come.
    """
    ranks = torch.distributed.get_process_group_ranks(group)
    store = Store("report", _TIMEOUT, ranks)
    listed = [[n, tuple(one.tensor.shape), str(one.tensor.dtype)] for n, one in sharded.items()]
    try:
        store.publish("parameters", digest(listed))
        of_ranks = store.collect("parameters", ranks)
    except RuntimeError:  # those who come later do not meet this call
        store.withdraw()
        raise
    different = [r for r, text in zip(ranks, of_ranks, strict=True) if text != digest(listed)]
    if different:
        raise ValueError(
            f"fastinit.report: argument 'distributed': {ranks_as_text(different)} of the process "
            f"group have other DTensors than rank {store.rank}; pass the group of the ranks that "
            "share this module, a pipeline stage's, say"
        )


def gather(parameters: Sequence[Named], group: Any) -> dict[str, Whole]:
    """Give the statistics of the DTensors among parameters, by name: on every rank the same.

    Args:
        parameters: the parameters, the same on all ranks of the group.
        group: the process group; each rank of it has to call this.

    Raises:
        NotImplementedError: as `row_here` does.
        ValueError: if ranks have other DTensors, or together not all of one.
        RuntimeError: if a rank does not come.
    """
    sharded = {one.name: one for one in parameters if is_sharded(one.tensor)}
    rows = [row_here(name, named) for name, named in sharded.items()]
    _check_alike(sharded, group)
    if not sharded:
        return {}
    found = _all_ranks(rows, group)
    wholes: dict[str, Whole] = {}
    for k, (name, named) in enumerate(sharded.items()):
        whole = wholes[name] = whole_of([of_rank[k] for of_rank in found])
        numel = named.tensor.numel() * (2 if named.tensor.is_complex() else 1)
        if whole.summary.n != numel and not named.tensor.is_meta:
            raise ValueError(
                f"fastinit.report: argument 'distributed': the ranks of the process group hold "
                f"{whole.summary.n} of the {numel} numbers of {name}; pass the group of the "
                "ranks that share this module"
            )
    return wholes
