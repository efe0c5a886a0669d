"""One parameter's row of a report: what it is, and what is remarkable about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._fills.fill import CONSTANT
from fastinit._models.history import ParameterHistory, history_of
from fastinit._models.names import Named
from fastinit._models.tree import entry_in
from fastinit._report.gather import Whole, local_of
from fastinit._report.moments import Expected, Moments, expected, summarise
from fastinit._report.rows import ParameterRow
from fastinit._tensors import is_put_together, version_of

_FAN_SCALED = ("xavier", "kaiming", "lecun", "variance_scaling")
_DECLARED = {  # what a module calls the sizes that its weight should have
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}
_WEIGHTED = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
# What gives the same whatever the key.
_CONSTANT = frozenset({CONSTANT, "eye_", "dirac_"})
_ALIKE = 8  # elements, of which two draws are never the same by chance
_CHANCE = 6.0  # standard errors: one in a billion by chance


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps if dtype.is_floating_point or dtype.is_complex else 0.0


def _off_by_more_than_chance(known: Expected, got: Moments, n: int, eps: float) -> list[str]:
    found, want = [], known.moments
    if abs(got.std - want.std) > _CHANCE * known.std_error(n) + eps * want.std and n > 1:
        by = f"{got.std / want.std - 1:+.1%}" if want.std > 0 else f"{got.std:.3g} instead of 0"
        found.append(f"std off by more than chance ({by})")
    if abs(got.mean - want.mean) > want.std * _CHANCE / math.sqrt(n) + eps * abs(want.mean):
        found.append("mean off by more than chance")
    return found


def _is_shard(named: Named) -> bool:
    """Whether a weight is smaller than its module says; DTensors have their full size."""
    for kind, names in _DECLARED.items():
        if isinstance(named.owner, kind) and named.attribute == "weight":
            return tuple(getattr(named.owner, n) for n in names) != tuple(named.tensor.shape)
    if isinstance(named.owner, nn.modules.conv._ConvNd) and named.attribute == "weight":
        sizes = [named.owner.out_channels, named.owner.in_channels // named.owner.groups]
        if named.owner.transposed:
            sizes = [named.owner.in_channels, named.owner.out_channels // named.owner.groups]
        return sizes != list(named.tensor.shape[:2])
    return False


def _flags_of_history(
    history: ParameterHistory,
    named: Named,
    want: Expected | None,
    got: Moments | None,
    count: int,
) -> list[str]:
    """Compare with what is known; `got` are the moments of `count` elements.

    Of a part nothing is expected but where all was drawn alike.
    """
    found = []
    if count < named.tensor.numel() and not all(write.whole for write in history.writes):
        want = None
    if not history.written:
        found.append("never written")
    if history.times > 1:
        found.append("written twice" if history.times == 2 else f"written {history.times} times")
    for place, attribute in history.places:
        owner = place()
        if owner is not None and entry_in(owner._parameters, attribute) is not named.tensor:
            found.append("tie broken")
            break
    for write in history.writes:
        if write.fill == "trunc_normal_":
            mean, std, low, high = write.arguments
            if std > 0 and min(mean - low, high - mean) > 10 * std:
                found.append("truncation inactive (bounds beyond 10 std)")
                break
    labels = (history.rule, *(write.label for write in history.writes))
    if any(name in label for name in _FAN_SCALED for label in labels) and _is_shard(named):
        found.append("fan computed from a shard")
    if version_of(named.tensor) != history.version:
        found.append("changed since")
    elif want is not None and got is not None:
        if want.moments.std > 0 and got.std == 0 and count > 1:
            found.append("constant where random was expected")
        else:
            found += _off_by_more_than_chance(want, got, count, _eps(named.tensor.dtype))
    return found


def _drawn(named: Named) -> bool:
    """Whether a parameter may have been drawn, for all that is known."""
    history = history_of(named.owner, named.attribute)
    writes = [] if history is None else history.writes
    known = {write.fill or write.label.partition("(")[0] for write in writes}
    return not known or not known <= _CONSTANT


def _padding_is_set(named: Named) -> bool:
    rows = named.padding_rows
    return bool(rows) and bool(named.tensor[rows].any())


def flag_copies(rows: Sequence[ParameterRow], parameters: Sequence[Named]) -> list[ParameterRow]:
    """Flag parameters that have the values of another, as those of copied layers have."""
    firsts: dict[Any, list[Named]] = {}
    flagged = []
    for row, named in zip(rows, parameters, strict=True):
        got, tensor = row.measured, named.tensor
        flags = row.flags
        whole = not (hasattr(tensor, "to_local") or is_put_together(tensor))
        if whole and got is not None and got.std > 0 and tensor.numel() >= _ALIKE and _drawn(named):
            alike = firsts.setdefault((row.shape, row.dtype, tensor.device, got), [])
            same = next((other for other in alike if torch.equal(other.tensor, tensor)), None)
            if same is None:
                alike.append(named)
            elif same.tensor.data_ptr() != tensor.data_ptr():
                flags = (*flags, f"same values as {same.name}")
        flagged.append(replace(row, flags=flags))
    return flagged


def row_of(
    named: Named, declared_ties: Mapping[str, Tensor], whole: Whole | None = None
) -> ParameterRow:
    """Report on one parameter.

    Args:
        named: the parameter.
        declared_ties: which parameters its model says are one.
        whole: what all ranks together have of it; without that, what is here counts.
    """
    tensor = named.tensor
    local = local_of(tensor)
    summary = summarise(local) if whole is None else whole.summary
    got = summary.moments
    count = summary.n // (2 if tensor.is_complex() else 1)
    history = history_of(named.owner, named.attribute)
    want = None if history is None else expected(history.writes, tensor)
    flags: list[str] = []
    if tensor.is_meta:
        flags.append("never written")
    if history is not None:
        flags += [
            flag
            for flag in _flags_of_history(history, named, want, got, count)
            if flag not in flags
        ]
    elif (
        got is not None
        and got.std == 0
        and tensor.dim() > 1
        and count > 1
        and isinstance(named.owner, _WEIGHTED)
    ):
        flags.append("constant where random was expected")
    if whole is not None:
        padding = whole.padding
    else:
        padding = got is not None and local is tensor and _padding_is_set(named)
    if padding:
        flags.append("padding row not zero")
    if whole is not None and not whole.alike:
        flags.append("replicas differ")
    if got is not None and not math.isfinite(got.mean + got.std):
        flags.append("not finite")
    if named.name in declared_ties and declared_ties[named.name] is not tensor:
        flags.append("tie broken")
    return ParameterRow(
        named.name,
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        "" if history is None else history.rule,
        None if want is None else want.moments,
        got,
        tuple(dict.fromkeys(flags)),
    )
