"""Xavier (Glorot) initialisation: a variance of gain**2 over the mean of the fans."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Generator, Tensor

from fastinit.initializers.draw import as_double, draw, initializer
from fastinit.initializers.elementwise import normal_op, uniform_op
from fastinit.initializers.fans import fans_of_shape
from fastinit.initializers.variance_scaling import Distribution, centred
from fastinit.key import NOTHING, Key


def _numbers(distribution: Distribution) -> Callable[..., tuple[float, ...]]:
    """Give the function that turns arguments into those of a distribution; see `Initializer`."""

    def numbers(tensor: Tensor, gain: float, batch_dims: int = 0) -> tuple[float, ...]:
        fan_in, fan_out = fans_of_shape(tensor.shape, batch_dims)
        total = fan_in + fan_out
        if total == 0:  # then there is no element to fill
            return centred(distribution, 0.0)
        return centred(distribution, as_double(gain, "gain") * math.sqrt(2.0 / total))

    return numbers


@initializer(uniform_op, ("gain",), numbers=_numbers("uniform"))
def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    batch_dims: int = 0,
) -> Tensor:
    """Fill uniformly from [-c, c), c = gain * sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks"
    (AISTATS 2010).

    A complex tensor gets such draws as both its parts, as in torch: twice the mean |z|**2 that
    `xavier_normal_` gives it. `variance_scaling_` with scale gain**2, "fan_avg" and "uniform"
    counts both parts.

    Args:
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); float32, float64, float16,
            bfloat16, float8_e4m3fn, float8_e5m2, complex64 or complex128.
        gain: see `calculate_gain`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        batch_dims: how many leading dimensions count weights: `(experts, out, in)` with 1.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `gain` is negative or not finite; if the bounds do not fit the dtype; if
            elements of `tensor` share memory; if `tensor` is an inference tensor outside of
            inference mode; if a generator would be drawn from while a CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch; if both
            `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which), which has no `batch_dims`.
    """
    beyond = {"batch_dims": batch_dims} if batch_dims != 0 else NOTHING
    return draw(xavier_uniform_, tensor, (gain,), generator, key, beyond)


@initializer(normal_op, ("gain",), numbers=_numbers("normal"))
def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    batch_dims: int = 0,
) -> Tensor:
    """Fill normally, mean 0 and std = gain * sqrt(2 / (fan_in + fan_out)).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks"
    (AISTATS 2010).

    Args:
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); float32, float64, float16,
            bfloat16, float8_e4m3fn, float8_e5m2, complex64 or complex128.
        gain: see `calculate_gain`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        batch_dims: how many leading dimensions count weights: `(experts, out, in)` with 1.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `gain` is negative or not finite; if the standard deviation does not fit
            the dtype; if elements of `tensor` share memory; if `tensor` is an inference tensor
            outside of inference mode; if a generator would be drawn from while a CUDA graph is
            captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch; if both
            `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which), which has no `batch_dims`.
    """
    beyond = {"batch_dims": batch_dims} if batch_dims != 0 else NOTHING
    return draw(xavier_normal_, tensor, (gain,), generator, key, beyond)
