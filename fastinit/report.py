"""`fastinit.report()`: what the parameters of a module are, beside what they should be."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastinit import _fills, _ops
from fastinit._moments import Moments, expected, measure
from fastinit._provenance import Record, record_of
from fastinit.deferred import kept_state
from fastinit.initialize import check_module
from fastinit.names import Named, named_modules, named_parameters

_FAN_SCALED = ("xavier", "kaiming", "lecun", "variance_scaling")
_DECLARED = {  # what a module calls the sizes that its weight should have
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}
_WEIGHTED = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
_CHANCE = 6.0  # standard errors: one in a billion by chance


@dataclass(frozen=True)
class ParameterRow:
    """One parameter.

    Attributes:
        name: as in `initialize_`.
        shape: its shape.
        dtype: its dtype, without "torch.".
        rule: the rule it was given, or what was done to it; empty if fastinit has not initialised
            it.
        expected: the mean, standard deviation and bounds of that, if they are known.
        measured: those of its values; None on the meta device and without elements.
        flags: what is remarkable.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rule: str
    expected: Moments | None
    measured: Moments | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class LayerRow:
    """The output of one layer in the forward pass.

    Attributes:
        name: the module's name.
        kind: its class.
        shape: the output's shape.
        mean: the output's mean.
        std: its standard deviation.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    std: float


@dataclass(frozen=True)
class Report:
    """What `fastinit.report` found; it prints as a table.

    Attributes:
        parameters: a row for each parameter.
        layers: a row for each output of a layer without children, in the order of the pass.
    """

    parameters: list[ParameterRow]
    layers: list[LayerRow] = field(default_factory=list)

    @property
    def flags(self) -> dict[str, tuple[str, ...]]:
        """What is remarkable, by the parameter's name."""
        return {row.name: row.flags for row in self.parameters if row.flags}

    def to_dict(self) -> dict[str, Any]:
        """Give everything as dicts, lists, strings and numbers."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        from fastinit._report_text import text

        return text(self)

    __repr__ = __str__

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the standard deviations, and those of the layers' outputs, into a picture file.

        Args:
            path: the file; its ending decides the format.

        Raises:
            ImportError: if matplotlib is missing.
        """
        from fastinit._report_text import plot

        plot(self, path)


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps if dtype.is_floating_point or dtype.is_complex else 0.0


def _off_by_more_than_chance(want: Moments, got: Moments, tensor: Tensor) -> list[str]:
    n, eps = tensor.numel(), _eps(tensor.dtype)
    found = []
    # The standard error of a normal's std is std / sqrt(2 n); flatter distributions have less.
    if abs(got.std - want.std) > want.std * (_CHANCE / math.sqrt(2 * n) + eps) and n > 1:
        by = f"{got.std / want.std - 1:+.1%}" if want.std > 0 else f"{got.std:.3g} instead of 0"
        found.append(f"std off by more than chance ({by})")
    if abs(got.mean - want.mean) > want.std * _CHANCE / math.sqrt(n) + eps * abs(want.mean):
        found.append("mean off by more than chance")
    return found


def _is_shard(named: Named) -> bool:
    """Whether a weight is smaller than its module says, or a piece of a distributed tensor."""
    if any(type(p).__name__ == "Shard" for p in getattr(named.tensor, "placements", ())):
        return True
    for kind, names in _DECLARED.items():
        if isinstance(named.owner, kind) and named.attribute == "weight":
            return tuple(getattr(named.owner, n) for n in names) != tuple(named.tensor.shape)
    if isinstance(named.owner, nn.modules.conv._ConvNd) and named.attribute == "weight":
        sizes = [named.owner.out_channels, named.owner.in_channels // named.owner.groups]
        if named.owner.transposed:
            sizes = [named.owner.in_channels, named.owner.out_channels // named.owner.groups]
        return sizes != list(named.tensor.shape[:2])
    return False


def _flags_of_record(
    record: Record, named: Named, want: Moments | None, got: Moments | None
) -> list[str]:
    found = []
    if not record.written:
        found.append("never written")
    if record.times > 1:
        found.append("written twice" if record.times == 2 else f"written {record.times} times")
    for place, attribute in record.places:
        owner = place()
        if owner is not None and owner._parameters.get(attribute) is not named.tensor:
            found.append("tie broken")
            break
    for write in record.writes:
        if write.fill == _fills.TRUNC_NORMAL:
            mean, std, low, high = write.arguments
            if std > 0 and min(mean - low, high - mean) > 10 * std:
                found.append("truncation inactive (bounds beyond 10 std)")
                break
    labels = (record.rule, *(write.label for write in record.writes))
    if any(name in label for name in _FAN_SCALED for label in labels) and _is_shard(named):
        found.append("fan computed from a shard")
    if _ops.version_of(named.tensor) != record.version:
        found.append("changed since")
    elif want is not None and got is not None:
        if want.std > 0 and got.std == 0 and named.tensor.numel() > 1:
            found.append("constant where random was expected")
        else:
            found += _off_by_more_than_chance(want, got, named.tensor)
    return found


def _row(named: Named, declared_ties: Mapping[str, Tensor]) -> ParameterRow:
    tensor = named.tensor
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    got = measure(local)
    record = record_of(named.owner, named.attribute)
    want = None if record is None else expected(record.writes, tensor)
    flags: list[str] = []
    if tensor.is_meta:
        flags.append("never written")
    if record is not None:
        flags += [flag for flag in _flags_of_record(record, named, want, got) if flag not in flags]
    elif (
        got is not None
        and got.std == 0
        and tensor.dim() > 1
        and tensor.numel() > 1
        and isinstance(named.owner, _WEIGHTED)
    ):
        flags.append("constant where random was expected")
    if got is not None and not math.isfinite(got.mean + got.std):
        flags.append("not finite")
    if named.name in declared_ties and declared_ties[named.name] is not tensor:
        flags.append("tie broken")
    return ParameterRow(
        named.name,
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        "" if record is None else record.rule,
        want,
        got,
        tuple(dict.fromkeys(flags)),
    )


def _declared_ties(module: nn.Module) -> dict[str, Tensor]:
    """Collect which parameters a model of transformers says are one."""
    ties = getattr(module, "all_tied_weights_keys", None)
    found: dict[str, Tensor] = {}
    if isinstance(ties, Mapping):
        for target, source in ties.items():
            try:
                found[target] = module.get_parameter(source)
            except AttributeError:
                continue
    return found


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return None
    return next((t for t in map(_first_tensor, values) if t is not None), None)


def _pass(module: nn.Module, inputs: Any) -> list[LayerRow]:
    """Call the module once and note the outputs of all that has no children."""
    rows: list[LayerRow] = []
    handles = []

    def note(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            if tensor is not None and (tensor.is_floating_point() or tensor.is_complex()):
                moments = measure(tensor)
                if moments is not None:
                    kind, shape = type(layer).__name__, tuple(tensor.shape)
                    rows.append(LayerRow(name, kind, shape, moments.mean, moments.std))

        return hook

    for name, layer in named_modules(module):
        if next(layer.children(), None) is None:
            handles.append(layer.register_forward_hook(note(name)))
    try:
        with kept_state(module):
            if isinstance(inputs, Mapping):
                module(**inputs)
            elif isinstance(inputs, (tuple, list)):
                module(*inputs)
            else:
                module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def report(
    module: nn.Module, inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None
) -> Report:
    """Report what every parameter is, beside what its initialiser should have made of it.

    The flags: never written; written twice (the first was dropped, and cost nothing under
    fastinit); tie broken; constant where random was expected; truncation inactive (both bounds
    beyond 10 standard deviations, as when torch's default bounds of ±2 meet a small std); fan
    computed from a shard; std or mean off by more than chance (six standard errors); changed since
    it was initialised (torch does not count writes to inference tensors: not seen there); not
    finite. What was expected is known for modules that `initialize_` or `materialize` has
    initialised.

    Args:
        module: the module.
        inputs: arguments for one forward pass (a tensor, a sequence, or a mapping of keyword
            arguments), made without gradients; buffers and torch's generators are put back. The
            report then has the mean and standard deviation of each layer's output.

    Returns:
        The report: print it, or use its rows, `flags`, `to_dict()` and `plot(path)`.

    Raises:
        TypeError: if `module` is no module.

    Examples:
        >>> print(fastinit.report(model, torch.randn(8, 3, 224, 224)))
    """
    check_module(module, "report")
    ties = _declared_ties(module)
    # Under all their names: a tie that is broken has two.
    rows = [_row(named, ties) for named in named_parameters(module).values()]
    return Report(rows, [] if inputs is None else _pass(module, inputs))
