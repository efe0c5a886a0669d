"""The initialisers whose elements have nothing to do with each other."""

from __future__ import annotations

import math

from torch import Generator, Tensor

from fastinit._compiled import operator
from fastinit._distributed.fill import check_placements
from fastinit._fallback import ORIGINALS
from fastinit._forked import on_one_thread, waits
from fastinit._tensors import PLAIN_TYPES, REAL_DTYPES, check_one_shape, check_open
from fastinit._warnings import warn
from fastinit.initializers.draw import as_double, draw, initializer
from fastinit.key import Key

uniform_op = operator("uniform_")
normal_op = operator("normal_")
trunc_normal_op = operator("trunc_normal_")


@initializer(uniform_op, ("a", "b"))
def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with independent draws from the uniform distribution on [a, b).

    Every value is one of the dtype's, at least `a` and below `b` as the dtype has it: `b` itself is
    never returned. If there is none, as for a = b, all are `a`, rounded to the dtype. A complex
    tensor gets such draws as its real and imaginary parts.

    Args:
        tensor: any shape; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
        a: the lower bound, finite.
        b: the upper bound, finite, at least `a`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `a` or `b` is not finite, or `a` > `b`; if an argument does not fit the
            dtype; if elements of `tensor` share memory; if `tensor` is an inference tensor outside
            of inference mode; if a generator would be drawn from while a CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if both `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which).
    """
    return draw(uniform_, tensor, (a, b), generator, key)


@initializer(normal_op, ("mean", "std"))
def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with independent draws from a normal distribution.

    Results are finite and reach 6.7 standard deviations either way; in float64 and complex128, 9.4.
    A complex tensor gets draws of variance `std`**2, half of it in each part.

    Args:
        tensor: any shape; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
        mean: its mean, finite.
        std: its standard deviation, finite, at least 0; 0 gives the constant `mean`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `mean` or `std` is not finite, or `std` is negative; if an argument does
            not fit the dtype; if elements of `tensor` share memory; if `tensor` is an inference
            tensor outside of inference mode; if a generator would be drawn from while a CUDA graph
            is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if both `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which).
    """
    return draw(normal_, tensor, (mean, std), generator, key)


def _truncation(
    tensor: Tensor, mean: float, std: float, a: float, b: float
) -> tuple[float, float, float, float]:
    """Convert the arguments of a truncated normal; warn if they look like relative bounds."""
    if not type(mean) is type(std) is type(a) is type(b) is float:  # faster than to convert them
        mean, std = as_double(mean, "mean"), as_double(std, "std")
        a, b = as_double(a, "a"), as_double(b, "b")
    if (mean < a - 2 * std or mean > b + 2 * std) and not tensor.is_meta:
        warn(
            "mean is more than 2 std from [a, b] in fastinit.trunc_normal_. The values will follow "
            "the truncated distribution all the same; a and b are values, not multiples of std."
        )
    return mean, std, a, b


@initializer(trunc_normal_op, ("mean", "std", "a", "b"), REAL_DTYPES, _truncation)
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with independent draws from the normal distribution, given that they lie in [a, b].

    One pass by the inverse distribution function, accurate however far out or narrow the interval
    is. No result lies outside [a, b], unless no value of the dtype lies inside: then all are `a`,
    rounded. The bounds are values, not multiples of `std`, and may be infinite.

    Args:
        tensor: any shape; float32, float64, float16, bfloat16, float8_e4m3fn or float8_e5m2.
        mean: of the untruncated distribution, finite.
        std: of the untruncated distribution, finite, at least 0; 0 gives the constant min(max(mean,
            a), b).
        a: the lower bound.
        b: the upper bound, at least `a`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `mean` or `std` is not finite, `std` is negative, a bound is NaN, or `a` >
            `b`; if all of [a, b] is beyond what the dtype can hold; if elements of `tensor` share
            memory; if `tensor` is an inference tensor outside of inference mode; if a generator
            would be drawn from while a CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if both `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which).

    Warns:
        UserWarning: if `mean` is more than 2 `std` outside the interval, which often means that the
            bounds were taken for relative ones.
    """
    return draw(trunc_normal_, tensor, (mean, std, a, b), generator, key)


@initializer(trunc_normal_op, ("mean", "std", "a", "b"), REAL_DTYPES)
def trunc_normal_within(
    tensor: Tensor,
    mean: float,
    std: float,
    a: float,
    b: float,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    where: str = "trunc_normal_",
) -> Tensor:
    """Fill as `trunc_normal_` does, for functions that mean their bounds: none are warned of."""
    return draw(trunc_normal_within, tensor, (mean, std, a, b), generator, key, where=where)


trunc_normal_within.__name__ = "trunc_normal_"  # as torch calls what it does


def trunc_normal_tf_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with a standard normal truncated to [a, b], times `std`, plus `mean`.

    As timm (and TensorFlow and JAX) have it: `trunc_normal_` with bounds in standard deviations
    from the mean.

    Args:
        tensor: any shape; float32, float64, float16, bfloat16, float8_e4m3fn or float8_e5m2.
        mean: of the untruncated distribution, finite.
        std: of the untruncated distribution, finite, at least 0; 0 gives the constant `mean`.
        a: the lower bound, in standard deviations from the mean.
        b: the upper bound, likewise, at least `a`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `mean` or `std` is not finite, `std` is negative, a bound is NaN, or `a` >
            `b`; if all between the bounds is beyond what the dtype can hold; if elements of
            `tensor` share memory; if `tensor` is an inference tensor outside of inference mode; if
            a generator would be drawn from while a CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if both `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to `torch.nn.init.trunc_normal_`
            (`fastinit.show_config` says which).
    """
    check_one_shape("trunc_normal_tf_", tensor)
    mean, std = as_double(mean, "mean"), as_double(std, "std")
    a, b = as_double(a, "a"), as_double(b, "b")
    if std == 0 and a <= b:  # an infinite bound times nothing is no bound
        low, high = -math.inf, math.inf
    elif a <= b:
        low, high = mean + std * a, mean + std * b
    else:  # refused, as they were given
        low, high = a, b
    return trunc_normal_within(
        tensor, mean, std, low, high, generator, key=key, where="trunc_normal_tf_"
    )


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with the value `val`. Whatever `Tensor.fill_` takes is accepted.

    Args:
        tensor: any shape, any dtype.
        val: what to fill it with.

    Returns:
        `tensor`.
    """
    if waits():
        with on_one_thread():
            return constant_(tensor, val)
    check_open("constant_", tensor)
    if type(tensor) not in PLAIN_TYPES:
        check_placements("constant_", tensor)
    result: Tensor = ORIGINALS["constant_"](tensor, val)
    return result


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1.

    Args:
        tensor: any shape, any dtype.

    Returns:
        `tensor`.
    """
    if waits():
        with on_one_thread():
            return ones_(tensor)
    check_open("ones_", tensor)
    if type(tensor) not in PLAIN_TYPES:
        check_placements("ones_", tensor)
    result: Tensor = ORIGINALS["ones_"](tensor)
    return result


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0.

    Args:
        tensor: any shape, any dtype.

    Returns:
        `tensor`.
    """
    if waits():
        with on_one_thread():
            return zeros_(tensor)
    check_open("zeros_", tensor)
    if type(tensor) not in PLAIN_TYPES:
        check_placements("zeros_", tensor)
    result: Tensor = ORIGINALS["zeros_"](tensor)
    return result
