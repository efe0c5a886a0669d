"""Initialisers whose variance is a factor over a fan: the general form, LeCun's, and gains.

Each is a standard deviation and a distribution of mean 0 (`centred`), as those of xavier.py and
kaiming.py are; fans are counted in fans.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.compiler import is_compiling

from fastinit._distributed.fill import is_sharded
from fastinit._distributed.structured import trunc_normal_of_parts
from fastinit._fallback import refuse_dtype
from fastinit._forked import on_one_thread, waits
from fastinit._tensors import DTYPES, check_one_shape, is_plain, on_handled_device
from fastinit.initializers.draw import as_double, draw
from fastinit.initializers.elementwise import (
    normal_,
    trunc_normal_,
    trunc_normal_within,
    uniform_,
)
from fastinit.initializers.fans import (
    Dims,
    Mode,
    fan_of,
    fans_of_shape,
)
from fastinit.key import Key, source

Nonlinearity = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
]
Distribution = Literal["uniform", "normal", "truncated_normal"]

_FIXED_GAINS: dict[str, float] = {
    "linear": 1,
    "conv1d": 1,
    "conv2d": 1,
    "conv3d": 1,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
    "sigmoid": 1,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}
# Standard deviation of a standard normal given that it lies in [-2, 2]:
# sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
_TRUNCATED_STD = 0.8796256610342398


def calculate_gain(nonlinearity: Nonlinearity, param: float | None = None) -> float:
    """Give the factor by which a nonlinearity wants its weights' standard deviation scaled.

    1 for linear and convolutional layers and for sigmoid, 5/3 for tanh, sqrt(2) for relu, 3/4 for
    selu, and sqrt(2 / (1 + slope**2)) for leaky_relu. Self-normalising networks want "linear", not
    "selu" (a variance of 1/fan_in).

    Args:
        nonlinearity: its name in `torch.nn.functional`.
        param: the negative slope of leaky_relu (default: 0.01); ignored for the others.

    Raises:
        ValueError: if the name is unknown, or the slope is no number (a bool is none).
    """
    if nonlinearity == "leaky_relu":
        if param is None:
            param = 0.01
        if isinstance(param, bool) or not isinstance(param, (int, float)):
            raise ValueError(
                f"argument 'param' must be a number, the slope of leaky_relu, got {param!r}"
            )
        return math.sqrt(2.0 / (1 + param**2))
    gain = _FIXED_GAINS.get(nonlinearity) if isinstance(nonlinearity, str) else None
    if gain is None:
        raise ValueError(
            f"argument 'nonlinearity' must be leaky_relu or one of {', '.join(_FIXED_GAINS)}; "
            f"got {nonlinearity!r}"
        )
    return gain


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform_,
    "normal": normal_,
    "truncated_normal": trunc_normal_within,
}


def centred(distribution: Distribution, std: float, factor: float = 3.0) -> tuple[float, ...]:
    """Give the arguments of a distribution of mean 0 and this standard deviation.

    `factor`: (bound / std)**2 of the uniform one.
    """
    if distribution == "uniform":
        bound = math.sqrt(factor) * std
        return -bound, bound
    if distribution == "normal":
        return 0.0, std
    std /= _TRUNCATED_STD
    return 0.0, std, -2 * std, 2 * std


def _complex_trunc_normal(
    tensor: Tensor, std: float, generator: Generator | None, key: Key | int | None, where: str
) -> None:
    """Fill both parts with normals of variance `std`**2 / 2, truncated at two of their std."""
    if waits():
        with on_one_thread():
            _complex_trunc_normal(tensor, std, generator, key, where)
        return
    std /= math.sqrt(2.0)
    numbers = 0.0, std, -2 * std, 2 * std
    if is_sharded(tensor):
        given = source(key, generator, where)
        trunc_normal_of_parts(tensor, numbers, **given)
        return
    with torch.no_grad():
        if is_compiling():  # which cannot ask whether a conjugation is pending
            parts = torch.empty((*tensor.shape, 2), dtype=tensor.real.dtype, device=tensor.device)
            trunc_normal_within(parts, *numbers, generator, key=key, where=where)
            tensor.copy_(torch.view_as_complex(parts))
            return
        # Then memory holds the negative of the imaginary part.
        pending = tensor.is_conj()
        parts = torch.view_as_real(tensor.conj() if pending else tensor)
        trunc_normal_within(parts, *numbers, generator, key=key, where=where)
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
            say otherwise; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
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
        RuntimeError: if the standard deviation or bound does not fit the dtype; if elements of
            `tensor` share memory; if `tensor` is an inference tensor outside of inference mode; if
            a generator would be drawn from while a CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if `scale` is not positive, `mode` or `distribution` is not one of those above,
            there are too few dimensions, or one is named twice; if both `key` and `generator` are
            given, or `key` is outside [-2**63, 2**64).
        IndexError: if a dimension is named that `tensor` does not have.
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function of that distribution
            (`fastinit.show_config` says which).
    """
    dims = in_dims, out_dims, batch_dims
    return _scaled(tensor, scale, mode, distribution, generator, key, dims, "variance_scaling_")


def _scaled(
    tensor: Tensor,
    scale: float,
    mode: Mode,
    distribution: Distribution,
    generator: Generator | None,
    key: Key | int | None,
    dims: tuple[Dims | None, Dims | None, Dims],
    where: str,
) -> Tensor:
    """Do what `variance_scaling_` says, for a function of this name."""
    in_dims, out_dims, batch_dims = dims
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
    if not isinstance(distribution, str) or distribution not in _FUNCTIONS:
        raise ValueError(
            "fastinit.variance_scaling_: argument 'distribution' must be 'uniform', 'normal' or "
            f"'truncated_normal', got {distribution!r}"
        )
    check_one_shape(where, tensor)
    shape_fans = fans_of_shape(
        tensor.shape, batch_dims, in_dims, out_dims, where=f"fastinit.{where}: "
    )
    fan = fan_of(shape_fans, mode)
    std = math.sqrt(factor / fan) if fan > 0 else 0.0  # without fans there are no elements
    # Real and imaginary part have half the variance each.
    numbers = centred(distribution, std, 1.5 if tensor.is_complex() else 3.0)
    if distribution == "truncated_normal" and not tensor.is_floating_point():
        if tensor.dtype in DTYPES:
            _complex_trunc_normal(tensor, numbers[1], generator, key, where)
            return tensor
        if is_plain(type(tensor)) and on_handled_device(tensor) and not tensor.is_meta:
            # `trunc_normal_` would name its own dtypes.
            refuse_dtype(trunc_normal_, tensor, {}, DTYPES, where)
    return draw(_FUNCTIONS[distribution], tensor, numbers, generator, key, where=where)


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
    "fan_in".

    Args:
        tensor: at least 2 dimensions, (*batch, out, in, *kernel) unless `in_dims` and `out_dims`
            say otherwise; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
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
        RuntimeError: if elements of `tensor` share memory; if `tensor` is an inference tensor
            outside of inference mode; if a generator would be drawn from while a CUDA graph is
            captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if there are too few dimensions, or one is named twice; if both `key` and
            `generator` are given, or `key` is outside [-2**63, 2**64).
        IndexError: if a dimension is named that `tensor` does not have.
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function of that distribution
            (`fastinit.show_config` says which).
    """
    dims = in_dims, out_dims, batch_dims
    return _scaled(tensor, 1.0, "fan_in", "uniform", generator, key, dims, "lecun_uniform_")


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
    "fan_in".

    Args:
        tensor: at least 2 dimensions, (*batch, out, in, *kernel) unless `in_dims` and `out_dims`
            say otherwise; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
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
        RuntimeError: if elements of `tensor` share memory; if `tensor` is an inference tensor
            outside of inference mode; if a generator would be drawn from while a CUDA graph is
            captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if there are too few dimensions, or one is named twice; if both `key` and
            `generator` are given, or `key` is outside [-2**63, 2**64).
        IndexError: if a dimension is named that `tensor` does not have.
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function of that distribution
            (`fastinit.show_config` says which).
    """
    dims = in_dims, out_dims, batch_dims
    return _scaled(tensor, 1.0, "fan_in", "truncated_normal", generator, key, dims, "lecun_normal_")
