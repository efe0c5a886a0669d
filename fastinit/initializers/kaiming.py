"""Kaiming (He) initialisation: a variance of gain**2 over one of the fans."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Generator, Tensor

from fastinit._warnings import warn
from fastinit.initializers.draw import as_double, draw, initializer
from fastinit.initializers.elementwise import normal_op, uniform_op
from fastinit.initializers.fans import FanMode, correct_fan
from fastinit.initializers.variance_scaling import (
    Distribution,
    Nonlinearity,
    calculate_gain,
    centred,
)
from fastinit.key import NOTHING, Key


def _numbers(distribution: Distribution) -> Callable[..., tuple[float, ...] | None]:
    """Give the function that turns arguments into those of a distribution; see `Initializer`."""

    def numbers(
        tensor: Tensor, a: float, mode: FanMode, nonlinearity: Nonlinearity, batch_dims: int = 0
    ) -> tuple[float, ...] | None:
        shape = tensor.shape
        if 0 in shape:
            warn("Initializing zero-element tensors is a no-op")
            return None
        fan = correct_fan(shape, mode, batch_dims)
        # Tensors and NumPy scalars may stand for a number; a bool may not, of whatever library.
        dtype = getattr(a, "dtype", None)
        if dtype is not None and not str(dtype).endswith("bool"):
            a = as_double(a, "a")
        return centred(distribution, calculate_gain(nonlinearity, a) / math.sqrt(fan))

    return numbers


@initializer(uniform_op, ("a", "mode", "nonlinearity"), numbers=_numbers("uniform"))
def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    batch_dims: int = 0,
) -> Tensor:
    """Fill uniformly from [-c, c), c = gain * sqrt(3 / fan).

    He, Zhang, Ren and Sun, "Delving deep into rectifiers: surpassing human-level performance on
    ImageNet classification" (ICCV 2015). The fans are those of a weight used as `x @ w.T`; pass
    `w.T` for one used as `x @ w`.

    A complex tensor gets such draws as both its parts, as in torch: twice the mean |z|**2 that
    `kaiming_normal_` gives it. `variance_scaling_` with scale gain**2 and "uniform" counts both
    parts.

    Args:
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); float32, float64, float16,
            bfloat16, float8_e4m3fn, float8_e5m2, complex64 or complex128.
        a: the negative slope, if `nonlinearity` is "leaky_relu".
        mode: "fan_in" keeps the variance of activations from layer to layer, "fan_out" that of
            gradients.
        nonlinearity: what follows the layer; decides the gain, see `calculate_gain`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        batch_dims: how many leading dimensions count weights: `(experts, out, in)` with 1.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `a` is NaN; if elements of `tensor` share memory; if `tensor` is an
            inference tensor outside of inference mode; if a generator would be drawn from while a
            CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch, or `mode`,
            `nonlinearity` or `a` is not one of those allowed; if both `key` and `generator` are
            given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which), which has no `batch_dims`.

    Warns:
        UserWarning: if `tensor` has no elements; nothing else is checked then.
    """
    beyond = {"batch_dims": batch_dims} if batch_dims != 0 else NOTHING
    return draw(kaiming_uniform_, tensor, (a, mode, nonlinearity), generator, key, beyond)


@initializer(normal_op, ("a", "mode", "nonlinearity"), numbers=_numbers("normal"))
def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    batch_dims: int = 0,
) -> Tensor:
    """Fill normally, mean 0 and std = gain / sqrt(fan).

    He, Zhang, Ren and Sun, "Delving deep into rectifiers: surpassing human-level performance on
    ImageNet classification" (ICCV 2015). The fans are those of a weight used as `x @ w.T`; pass
    `w.T` for one used as `x @ w`.

    Args:
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); float32, float64, float16,
            bfloat16, float8_e4m3fn, float8_e5m2, complex64 or complex128.
        a: the negative slope, if `nonlinearity` is "leaky_relu".
        mode: "fan_in" keeps the variance of activations from layer to layer, "fan_out" that of
            gradients.
        nonlinearity: what follows the layer; decides the gain, see `calculate_gain`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        batch_dims: how many leading dimensions count weights: `(experts, out, in)` with 1.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `a` is NaN; if elements of `tensor` share memory; if `tensor` is an
            inference tensor outside of inference mode; if a generator would be drawn from while a
            CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch, or `mode`,
            `nonlinearity` or `a` is not one of those allowed; if both `key` and `generator` are
            given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which), which has no `batch_dims`.

    Warns:
        UserWarning: if `tensor` has no elements; nothing else is checked then.
    """
    beyond = {"batch_dims": batch_dims} if batch_dims != 0 else NOTHING
    return draw(kaiming_normal_, tensor, (a, mode, nonlinearity), generator, key, beyond)
