"""`fastinit.report()`: what the parameters of a module are, beside what they should be."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit._forked import on_one_thread, waits
from fastinit._models.checks import check_module
from fastinit._models.fully_sharded import reshard
from fastinit._models.lazy import kept_state
from fastinit._models.names import named_modules, named_parameters
from fastinit._report import render
from fastinit._report.flags import flag_copies, row_of
from fastinit._report.gather import gather
from fastinit._report.moments import measure
from fastinit._report.rows import LayerRow, ParameterRow
from fastinit._untraced import compiling_nothing


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
        return render.text(self.parameters, self.layers)

    __repr__ = __str__

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the standard deviations, and those of the layers' outputs, into a picture file.

        Args:
            path: the file; its ending decides the format.

        Raises:
            ImportError: if matplotlib is missing.
        """
        render.plot(self.parameters, self.layers, path)


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
        takes_hooks = not isinstance(layer, torch.jit.ScriptModule)
        if takes_hooks and next(layer.children(), None) is None:
            handles.append(layer.register_forward_hook(note(name)))
    try:
        with kept_state(module), compiling_nothing():  # hooks would be compiled, too
            if isinstance(inputs, Mapping):
                module(**inputs)
            elif isinstance(inputs, (tuple, list)):
                module(*inputs)
            else:
                module(inputs)
    finally:
        for handle in handles:
            handle.remove()
        reshard(module)
    return rows


def _group_of(distributed: Any) -> Any:
    """Give the process group that the argument `distributed` means; None for none.

    Raises:
        TypeError: if it is neither a bool nor a process group.
        ValueError: if there is none, or this rank is not in it.
    """
    if distributed is False:
        return None
    there = torch.distributed.is_available()
    if there and distributed is torch.distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            "fastinit.report: argument 'distributed': this rank is not in the process group"
        )
    if distributed is not True:
        if not (there and isinstance(distributed, torch.distributed.ProcessGroup)):
            raise TypeError(
                "fastinit.report: argument 'distributed' must be a bool or a process group, got "
                f"{type(distributed).__name__}"
            )
        return distributed
    if not (there and torch.distributed.is_initialized()):
        raise ValueError(
            "fastinit.report: argument 'distributed': there is no process group; call "
            "torch.distributed.init_process_group first"
        )
    return torch.distributed.group.WORLD


def report(
    module: nn.Module,
    inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    distributed: bool | torch.distributed.ProcessGroup = False,
) -> Report:
    """Report what every parameter is, beside what its initialiser should have made of it.

    The flags: never written; written twice (the first was dropped, and cost nothing under
    fastinit); tie broken; constant where random was expected; truncation inactive (both bounds
    beyond 10 standard deviations, as when torch's default bounds of ±2 meet a small std); fan
    computed from a shard; std or mean off by more than chance (six standard errors); changed since
    it was initialised (torch does not count writes to inference tensors, nor those of optimizers
    with `fused=True`, or with `foreach=True` to DTensors: not seen there); padding row not zero
    (that of an embedding's `padding_idx`); not finite; same values as another parameter (so
    are the layers of `torch.nn.TransformerEncoder`, which are copies of one, unless `initialize_`
    has drawn them apart). What was expected is known for modules that `initialize_` or
    `materialize` has initialised.

    Of a DTensor the shard that is here is measured, and nothing is communicated; if its parts were
    drawn in several ways, only all of it can be compared with what was expected. With `distributed`
    all of it is measured: every rank of the group calls this, and gets the same rows for DTensors.
    Of replicas one counts, and a flag says if the others differ. That takes one `all_gather` of
    seven numbers for each.

    Args:
        module: the module.
        inputs: arguments for one forward pass (a tensor, a sequence, or a mapping of keyword
            arguments), made without gradients; buffers and torch's generators are put back. The
            report then has the mean and standard deviation of each layer's output, but for
            those of scripted and traced modules.
        distributed: whether to measure DTensors as a whole, by the default process group; or the
            group of the ranks that share this module, if these are not all.

    Returns:
        The report: print it, or use its rows, `flags`, `to_dict()` and `plot(path)`.

    Raises:
        TypeError: if `module` is no module, or `distributed` neither a bool nor a process group.
        ValueError: if parameters of lazy modules have no shape yet; if `distributed` is asked for
            without a process group, or ranks of it have other DTensors, or together not all of one.
        NotImplementedError: if a DTensor of which the whole is asked for holds partial sums.
        RuntimeError: if a rank does not call this within a minute after others.

    Examples:
        >>> print(fastinit.report(model, torch.randn(8, 3, 224, 224)))
    """
    if waits():
        with on_one_thread():
            return report(module, inputs, distributed=distributed)
    check_module(module, "report")
    reshard(module)  # what FSDP2 has gathered is thrown away, and not what was initialised
    group = _group_of(distributed)
    ties = _declared_ties(module)
    # Under all their names: a tie that is broken has two.
    parameters = list(named_parameters(module).values())
    lazy = [named.name for named in parameters if is_lazy(named.tensor)]
    if lazy:
        raise ValueError(
            f"fastinit.report: {', '.join(lazy)} of lazy modules have no shape yet; call the "
            "module once before"
        )
    wholes = {} if group is None else gather(parameters, group)
    rows = [row_of(named, ties, wholes.get(named.name)) for named in parameters]
    rows = flag_copies(rows, parameters)
    return Report(rows, [] if inputs is None else _pass(module, inputs))
