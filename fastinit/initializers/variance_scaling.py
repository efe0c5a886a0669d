"""Initialisers that torch has not, in terms of those it has: variance scaling, LeCun, timm's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, SupportsIndex

import torch
from torch import Generator, Tensor
from torch.compiler import is_compiling

from fastinit._tensors import DTYPES
from fastinit.initializers.arguments import as_double
from fastinit.initializers.elementwise import normal_, trunc_normal_, uniform_
from fastinit.key import Key

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["uniform", "normal", "truncated_normal"]
Dims = SupportsIndex | Sequence[SupportsIndex]

# Standard deviation of a standard normal given that it lies in [-2, 2]:
# sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
_TRUNCATED_STD = 0.8796256610342398


def _listed(value: Dims, name: str, ndim: int) -> list[int]:
    """Give dimensions, counted from either end, as a list of numbers in [0, ndim)."""
    dims = []
    for dim in value if isinstance(value, Sequence) else [value]:
        number = dim.__index__()
        if not -ndim <= number < ndim:
            raise IndexError(
                f"fastinit.variance_scaling_: argument '{name}' names dimension {number} of a "
                f"tensor with {ndim}"
            )
        dims.append(number % ndim)
    return dims


def _fans(
    tensor: Tensor, in_dims: Dims | None, out_dims: Dims | None, batch_dims: Dims
) -> tuple[int, int]:
    """Count inputs and outputs: the sizes of those dimensions, times all that is neither."""
    ndim = tensor.dim()
    if isinstance(batch_dims, Sequence):
        batch = _listed(batch_dims, "batch_dims", ndim)
    else:
        count = batch_dims.__index__()
        if count < 0:
            raise ValueError(
                f"fastinit.variance_scaling_: argument 'batch_dims' must not be negative, got "
                f"{count}"
            )
        batch = list(range(min(count, ndim)))
    rest = [dim for dim in range(ndim) if dim not in batch]
    if (in_dims is None or out_dims is None) and len(rest) < 2:
        raise ValueError(
            "fastinit.variance_scaling_: argument 'tensor' must have at least 2 dimensions besides "
            f"those of the batch, got shape {tuple(tensor.shape)}"
        )
    outs = rest[:1] if out_dims is None else _listed(out_dims, "out_dims", ndim)
    ins = rest[1:2] if in_dims is None else _listed(in_dims, "in_dims", ndim)
    named = [*batch, *outs, *ins]
    if len(set(named)) != len(named):
        raise ValueError(
            "fastinit.variance_scaling_: arguments 'in_dims', 'out_dims' and 'batch_dims' must "
            f"name each dimension once at most, got {ins}, {outs} and {batch}"
        )
    # Lists: torch.compile traces `prod` over no generator.
    field = math.prod([tensor.shape[dim] for dim in rest if dim not in named])
    fan_in = field * math.prod([tensor.shape[dim] for dim in ins])
    return fan_in, field * math.prod([tensor.shape[dim] for dim in outs])


def _complex_trunc_normal(
    tensor: Tensor, std: float, generator: Generator | None, key: Key | int | None
) -> None:
    """Fill both parts with normals of variance `std`**2 / 2, truncated at two of their std."""
    std /= math.sqrt(2.0)
    with torch.no_grad():
        if is_compiling():  # which cannot ask whether a conjugation is pending
            parts = torch.empty((*tensor.shape, 2), dtype=tensor.real.dtype, device=tensor.device)
            trunc_normal_(parts, 0.0, std, -2 * std, 2 * std, generator, key=key)
            tensor.copy_(torch.view_as_complex(parts))
            return
        # Then memory holds the negative of the imaginary part.
        pending = tensor.is_conj()
        parts = torch.view_as_real(tensor.conj() if pending else tensor)
        trunc_normal_(parts, 0.0, std, -2 * std, 2 * std, generator, key=key)
        if pending:
            parts.select(-1, 1).neg_()


def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "truncated_normal",
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    in_dims: Dims | None = None,
    out_dims: Dims | None = None,
    batch_dims: Dims = 0,
) -> Tensor:
    """Fill with draws of mean 0 and variance `scale` / fan.

    What most initialisers are: Glorot's is scale 1 and "fan_avg", He's scale 2 and "fan_in",
    LeCun's scale 1 and "fan_in". The arguments are those of JAX's `variance_scaling`. "uniform"
    draws from [-c, c) with c = sqrt(3 scale / fan); "truncated_normal" draws within two standard
    deviations of a normal that is wider by so much that the variance comes out right.

    Of a complex tensor, `scale` / fan is the mean of |z|**2: real and imaginary part are drawn
    independently, each from the real distribution of half the variance. So "uniform" fills a square
    and "truncated_normal" cuts each part at two of its standard deviations, which leaves |z| below
    two standard deviations of the untruncated z; JAX, with the same variance, draws from discs.

    Args:
        tensor: at least 2 dimensions, (*batch, out, in, *kernel) unless `in_dims` and `out_dims`
            say otherwise; dtypes as for `normal_`.
        scale: the factor, finite, positive.
        mode: "fan_in", "fan_out", or "fan_avg", which is the mean of the two.
        distribution: "uniform", "normal" or "truncated_normal".
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        in_dims: the dimension, or dimensions, of the inputs (default: the second besides the
            batch).
        out_dims: the dimension, or dimensions, of the outputs (default: the first besides the
            batch).
        batch_dims: dimensions that count weights and belong to neither fan: a sequence of them, or
            how many of the leading ones. All that remain are the kernel, and belong to both fans.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `scale` is not positive, `mode` or `distribution` is not one of those above,
            there are too few dimensions, or one is named twice.
        IndexError: if a dimension is named that `tensor` does not have. The rest is said at the top
            of `fastinit.init`.
    """
    factor = as_double(scale, "scale")
    if not 0 < factor < math.inf:
        raise ValueError(
            f"fastinit.variance_scaling_: argument 'scale' must be positive and finite, got {scale}"
        )
    if mode not in ("fan_in", "fan_out", "fan_avg"):
        raise ValueError(
            "fastinit.variance_scaling_: argument 'mode' must be 'fan_in', 'fan_out' or 'fan_avg', "
            f"got {mode!r}"
        )
    if distribution not in ("uniform", "normal", "truncated_normal"):
        raise ValueError(
            "fastinit.variance_scaling_: argument 'distribution' must be 'uniform', 'normal' or "
            f"'truncated_normal', got {distribution!r}"
        )
    fan_in, fan_out = _fans(tensor, in_dims, out_dims, batch_dims)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    std = math.sqrt(factor / fan) if fan > 0 else 0.0  # without fans there are no elements
    if distribution == "uniform":
        # Real and imaginary part have half the variance each.
        bound = math.sqrt(1.5 if tensor.is_complex() else 3.0) * std
        return uniform_(tensor, -bound, bound, generator, key=key)
    if distribution == "normal":
        return normal_(tensor, 0.0, std, generator, key=key)
    std /= _TRUNCATED_STD
    if tensor.is_complex() and tensor.dtype in DTYPES:
        _complex_trunc_normal(tensor, std, generator, key)
        return tensor
    return trunc_normal_(tensor, 0.0, std, -2 * std, 2 * std, generator, key=key)


def lecun_uniform_(
    tensor: Tensor,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    in_dims: Dims | None = None,
    out_dims: Dims | None = None,
    batch_dims: Dims = 0,
) -> Tensor:
    """Fill uniformly from [-c, c), c = sqrt(3 / fan_in), sqrt(1.5 / fan_in) for complex parts.

    LeCun, Bottou, Orr and Müller, "Efficient BackProp" (1998). `variance_scaling_` with scale 1 and
    "fan_in"; arguments and errors are described there.
    """
    return variance_scaling_(
        tensor,
        1.0,
        "fan_in",
        "uniform",
        generator,
        key=key,
        in_dims=in_dims,
        out_dims=out_dims,
        batch_dims=batch_dims,
    )


def lecun_normal_(
    tensor: Tensor,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    in_dims: Dims | None = None,
    out_dims: Dims | None = None,
    batch_dims: Dims = 0,
) -> Tensor:
    """Fill with a normal of variance 1 / fan_in, truncated at about 2.27 standard deviations.

    Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural networks" (NeurIPS 2017)
    want such weights; that they are truncated is JAX's way. `variance_scaling_` with scale 1 and
    "fan_in"; arguments and errors are described there.
    """
    return variance_scaling_(
        tensor,
        1.0,
        "fan_in",
        "truncated_normal",
        generator,
        key=key,
        in_dims=in_dims,
        out_dims=out_dims,
        batch_dims=batch_dims,
    )
