"""How many inputs and outputs a weight connects, by its shape or by what its module does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, SupportsIndex

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


class Fans(NamedTuple):
    """The fans of one weight.

    Attributes:
        fan_in: how many inputs each output is a sum over.
        fan_out: how many outputs each input reaches.
    """

    fan_in: int
    fan_out: int


# ---- by shape ------------------------------------------------------------------------------------

FanMode = Literal["fan_in", "fan_out"]
Mode = Literal["fan_in", "fan_out", "fan_avg"]
Dims = SupportsIndex | Sequence[SupportsIndex]


def _number(value: SupportsIndex, name: str, where: str) -> int:
    try:
        return value.__index__()
    except (AttributeError, TypeError):
        raise TypeError(
            f"{where}argument '{name}' must be an integer or a sequence of them, got "
            f"{type(value).__name__}"
        ) from None


def _listed(value: Dims, name: str, ndim: int, where: str) -> list[int]:
    """Give dimensions, counted from either end, as a list of numbers in [0, ndim)."""
    dims = []
    for dim in value if isinstance(value, Sequence) else [value]:
        number = _number(dim, name, where)
        if not -ndim <= number < ndim:
            raise IndexError(
                f"{where}argument '{name}' names dimension {number} of a tensor with {ndim}"
            )
        dims.append(number % ndim)
    return dims


def fans_of_shape(
    shape: Sequence[int],
    batch_dims: Dims = 0,
    in_dims: Dims | None = None,
    out_dims: Dims | None = None,
    *,
    where: str = "",
) -> tuple[int, int]:
    """Count inputs and outputs: the sizes of those dimensions, times all that is neither.

    Args:
        shape: (*batch, out, in, *kernel), unless `in_dims` and `out_dims` say otherwise.
        batch_dims: the dimensions that count weights, or how many of the leading ones.
        in_dims: those of the inputs (default: the second besides the batch).
        out_dims: those of the outputs (default: the first besides the batch).
        where: what messages begin with.

    Raises:
        TypeError: if a dimension is no integer.
        ValueError: if there are too few dimensions, or one is named twice.
        IndexError: if a dimension is named that there is not.
    """
    if in_dims is None and out_dims is None and type(batch_dims) is int and batch_dims >= 0:
        # What nearly all calls ask for, without the general case's lists.
        one = shape[batch_dims:] if batch_dims else shape
        ndim = len(one)
        if ndim >= 2:
            field = math.prod(one[2:]) if ndim > 2 else 1
            return one[1] * field, one[0] * field
    ndim = len(shape)
    if isinstance(batch_dims, Sequence):
        batch = _listed(batch_dims, "batch_dims", ndim, where)
    else:
        count = _number(batch_dims, "batch_dims", where)
        if count < 0:
            raise ValueError(f"{where}argument 'batch_dims' must not be negative, got {count}")
        batch = list(range(min(count, ndim)))
    rest = [dim for dim in range(ndim) if dim not in batch]
    if (in_dims is None or out_dims is None) and len(rest) < 2:
        besides = " besides those of the batch" if batch_dims else ""
        raise ValueError(
            f"{where}argument 'tensor' must have at least 2 dimensions{besides}, got shape "
            f"{tuple(shape)}"
        )
    outs = rest[:1] if out_dims is None else _listed(out_dims, "out_dims", ndim, where)
    ins = rest[1:2] if in_dims is None else _listed(in_dims, "in_dims", ndim, where)
    named = [*batch, *outs, *ins]
    if len(set(named)) != len(named):
        raise ValueError(
            f"{where}arguments 'in_dims', 'out_dims' and 'batch_dims' must name each dimension "
            f"once at most, got {ins}, {outs} and {batch}"
        )
    # Lists: torch.compile traces `prod` over no generator.
    field = math.prod([shape[dim] for dim in rest if dim not in named])
    fan_in = field * math.prod([shape[dim] for dim in ins])
    return fan_in, field * math.prod([shape[dim] for dim in outs])


def fan_of(fans: tuple[int, int], mode: Mode) -> float:
    """Give the fan that `mode` names; "fan_avg" is the mean of the two."""
    fan_in, fan_out = fans
    if mode == "fan_avg":
        return (fan_in + fan_out) / 2
    return fan_in if mode == "fan_in" else fan_out


def _calculate_fan_in_and_fan_out(tensor: Tensor, batch_dims: int = 0) -> tuple[int, int]:
    """Count the inputs and outputs that one weight of shape (*batch, out, in, *kernel) connects."""
    return fans_of_shape(tensor.shape, batch_dims)


def correct_fan(shape: Sequence[int], mode: FanMode, batch_dims: int = 0) -> int:
    """Give fan_in or fan_out, as `mode` (in either case) says."""
    wanted = mode.lower() if isinstance(mode, str) else None
    if wanted not in ("fan_in", "fan_out"):
        raise ValueError(f"argument 'mode' must be 'fan_in' or 'fan_out', got {mode!r}")
    fan_in, fan_out = fans_of_shape(shape, batch_dims)
    return fan_in if wanted == "fan_in" else fan_out


def _calculate_correct_fan(tensor: Tensor, mode: FanMode, batch_dims: int = 0) -> int:
    """Give fan_in or fan_out, as `mode` (in either case) says."""
    return correct_fan(tensor.shape, mode, batch_dims)


# ---- by module -----------------------------------------------------------------------------------


def _of_convolution(module: _ConvNd) -> Iterator[tuple[str, Fans]]:
    field = math.prod(module.kernel_size)
    ins, outs = module.in_channels // module.groups, module.out_channels // module.groups
    yield "weight", Fans(ins * field, outs * field)


def _of_attention(module: nn.MultiheadAttention) -> Iterator[tuple[str, Fans]]:
    # Three projections to embed_dim each, packed one above the other where their inputs allow.
    size = module.embed_dim
    if module.in_proj_weight is not None:
        yield "in_proj_weight", Fans(size, size)
    else:
        yield "q_proj_weight", Fans(size, size)
        yield "k_proj_weight", Fans(module.kdim, size)
        yield "v_proj_weight", Fans(module.vdim, size)


def _of_recurrence(module: nn.RNNBase | nn.RNNCellBase) -> Iterator[tuple[str, Fans]]:
    # The gates' weights are stacked: each gate has hidden_size outputs of its own.
    hidden = module.hidden_size

    def inputs(name: str, otherwise: int) -> int:
        weight = module._parameters.get(name)  # none where it is computed
        return otherwise if weight is None else weight.shape[1]

    if isinstance(module, nn.RNNCellBase):
        yield "weight_ih", Fans(inputs("weight_ih", module.input_size), hidden)
        yield "weight_hh", Fans(inputs("weight_hh", hidden), hidden)
        return
    given = module.proj_size or hidden
    above = given * (2 if module.bidirectional else 1)
    for names in module._all_weights:
        for name in names:
            if name.startswith("weight_ih"):
                first = name.removesuffix("_reverse") == "weight_ih_l0"
                yield name, Fans(inputs(name, module.input_size if first else above), hidden)
            elif name.startswith("weight_hh"):
                yield name, Fans(inputs(name, given), hidden)
            elif name.startswith("weight_hr"):  # the projection of an LSTM's output
                yield name, Fans(inputs(name, hidden), given)


def _own(module: nn.Module) -> Iterator[tuple[str, Fans]]:
    if isinstance(module, nn.Linear):
        yield "weight", Fans(module.in_features, module.out_features)
    elif isinstance(module, nn.Bilinear):
        # Every output is a sum over pairs of inputs.
        yield "weight", Fans(module.in1_features * module.in2_features, module.out_features)
    elif isinstance(module, _ConvNd):
        yield from _of_convolution(module)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        # A row is looked up, which is a product with a vector that has a single 1.
        yield "weight", Fans(1, module.embedding_dim)
    elif isinstance(module, nn.MultiheadAttention):
        yield from _of_attention(module)
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        yield from _of_recurrence(module)


def fans(module: nn.Module) -> dict[str, Fans]:
    """Count what each weight of a module connects: how many inputs and outputs.

    The shape alone does not say it, and torch's initialisers take every weight for (out, in,
    *kernel). Here:

    - Linear: in_features and out_features.
    - Conv1d to Conv3d: channels per group times the kernel's size. The weight of a transposed one
      is (in, out, *kernel). Strides, dilation and what padding cuts off are not counted.
    - Embedding, EmbeddingBag: 1 and embedding_dim, since one row at a time is read.
    - MultiheadAttention: each of the three projections for itself, also where they are packed in
      `in_proj_weight`.
    - RNN, LSTM, GRU and their cells: each gate of the stack for itself.
    - Bilinear: in1_features * in2_features and out_features.

    Args:
        module: one of these, a subclass, or any module that contains some.

    Returns:
        The fans of every such weight by its qualified name, as in `module.named_parameters()`; of
        one that is computed (by weight norm, say), by the name that it has without that. Biases
        and the weights of other modules are left out.

    Examples:
        >>> fastinit.fans(torch.nn.Linear(3, 5))
        {'weight': Fans(fan_in=3, fan_out=5)}
    """
    found: dict[str, Fans] = {}
    for prefix, part in module.named_modules():
        for name, value in _own(part):
            found[f"{prefix}.{name}" if prefix else name] = value
    return found
