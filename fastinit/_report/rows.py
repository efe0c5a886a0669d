"""The rows of a report."""

from __future__ import annotations

from dataclasses import dataclass

from fastinit._report.moments import Moments


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
        measured: those of its values, a sparse tensor's zeros included; None on the meta device,
            without elements, and for a dtype that torch cannot convert.
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
