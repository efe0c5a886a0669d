"""The functions of `torch.nn.init`: same names, parameters and defaults, and `key=` if random.

All of them fill in place without recording the write for autograd (its version counter moves on,
though) and return the tensor they were given. What they write depends on the key, the shape and the
arguments only: not on threads, processor, memory layout or device, and on the dtype only by
rounding.

Randomness comes from one of three places:

- nothing given: a key is drawn from the default generator of the tensor's device, so
  `torch.manual_seed` governs it;
- `generator=`: a key is drawn from that generator;
- `key=`: a `Key` or an int in [-2**63, 2**64); no generator is touched. Giving both is a
  ValueError.

Inside `torch.vmap` with randomness="different" member i of the batch gets what `key.fold_in(i)`
gives outside (with chunk_size=, i counts within the chunk); with "same" all get what `key` gives.
Of a generator one key is drawn. Other transforms of torch.func do not take a `key=`, and
torch.compile(fullgraph=True) does not take fills inside vmap.

Meta tensors and tensors without elements draw nothing. Without `key=`, tensors that fastinit does
not handle (see `show_config`) go to `torch.nn.init`. With it, an unsupported device is filled from
the CPU, and an unsupported dtype, layout or subclass is a NotImplementedError. Random fills also
raise, before anything is written or drawn:

- RuntimeError: a scalar that is NaN, or infinite where that means nothing; a lower bound above the
  upper one; a negative standard deviation; a range the dtype cannot hold; a tensor several of whose
  elements share memory; an inference tensor outside of inference mode; a draw from a generator
  while a CUDA graph is captured (with `key=` a fill can be captured, and every replay writes the
  same).
- TypeError: a scalar, key or generator of the wrong type.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Generator, Tensor

from fastinit._ops import (
    DTYPES,
    ORIGINALS,
    REAL_DTYPES,
    as_double,
    check_open,
    handled,
    normal_op,
    otherwise,
    trunc_normal_op,
    uniform_op,
)
from fastinit.haar import orthogonal_
from fastinit.key import NOTHING, Key, source
from fastinit.structural import dirac_, eye_, sparse_
from fastinit.variance import (
    _calculate_correct_fan,  # noqa: F401 (code imports it from torch.nn.init, too)
    _calculate_fan_in_and_fan_out,  # noqa: F401
    calculate_gain,
    kaiming_normal_,
    kaiming_uniform_,
    xavier_normal_,
    xavier_uniform_,
)

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with independent draws from the uniform distribution on [a, b).

    `b` itself is never returned unless a = b, which gives the constant `a`. A complex tensor gets
    such draws as its real and imaginary parts.

    Args:
        tensor: any shape; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
        a: the lower bound, finite.
        b: the upper bound, finite, at least `a`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`. What is raised is said at the top of `fastinit.init`.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "uniform_")
    if not handled(tensor, DTYPES):
        return otherwise(uniform_, tensor, {"a": a, "b": b}, given, DTYPES)
    uniform_op(tensor, as_double(a, "a"), as_double(b, "b"), **given)
    return tensor


def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with independent draws from a normal distribution.

    Results are finite and reach 6.7 standard deviations either way. A complex tensor gets draws of
    variance `std`**2, half of it in each part.

    Args:
        tensor: any shape; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
        mean: its mean, finite.
        std: its standard deviation, finite, at least 0; 0 gives the constant `mean`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`. What is raised is said at the top of `fastinit.init`.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "normal_")
    if not handled(tensor, DTYPES):
        return otherwise(normal_, tensor, {"mean": mean, "std": std}, given, DTYPES)
    normal_op(tensor, as_double(mean, "mean"), as_double(std, "std"), **given)
    return tensor


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
    is. No result lies outside [a, b]. The bounds are values, not multiples of `std`, and may be
    infinite.

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
        `tensor`. What is raised is said at the top of `fastinit.init`.

    Warns:
        UserWarning: if `mean` is more than 2 `std` outside the interval, which often means that the
            bounds were taken for relative ones.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "trunc_normal_")
    if not handled(tensor, REAL_DTYPES):
        arguments = {"mean": mean, "std": std, "a": a, "b": b}
        return otherwise(trunc_normal_, tensor, arguments, given, REAL_DTYPES)
    mean, std = as_double(mean, "mean"), as_double(std, "std")
    a, b = as_double(a, "a"), as_double(b, "b")
    if (mean < a - 2 * std or mean > b + 2 * std) and not tensor.is_meta:
        warnings.warn(
            "mean is more than 2 std from [a, b] in fastinit.trunc_normal_. The values will follow "
            "the truncated distribution all the same; a and b are values, not multiples of std.",
            stacklevel=2,
        )
    trunc_normal_op(tensor, mean, std, a, b, **given)
    return tensor


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with the value `val`. Whatever `Tensor.fill_` takes is accepted.

    Args:
        tensor: any shape, any dtype.
        val: what to fill it with.

    Returns:
        `tensor`.
    """
    check_open("constant_", tensor)
    result: Tensor = ORIGINALS["constant_"](tensor, val)
    return result


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1.

    Args:
        tensor: any shape, any dtype.

    Returns:
        `tensor`.
    """
    check_open("ones_", tensor)
    result: Tensor = ORIGINALS["ones_"](tensor)
    return result


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0.

    Args:
        tensor: any shape, any dtype.

    Returns:
        `tensor`.
    """
    check_open("zeros_", tensor)
    result: Tensor = ORIGINALS["zeros_"](tensor)
    return result


def _deprecated_alias(function: Callable[_P, _R]) -> Callable[_P, _R]:
    new = function.__name__
    old = new.removesuffix("_")

    @functools.wraps(function)
    def alias(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        warnings.warn(
            f"`fastinit.{old}` is deprecated in favor of `fastinit.{new}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old
    alias.__doc__ = f"Deprecated name of `{new}`, which see."
    return alias


uniform = _deprecated_alias(uniform_)
normal = _deprecated_alias(normal_)
constant = _deprecated_alias(constant_)
eye = _deprecated_alias(eye_)
dirac = _deprecated_alias(dirac_)
xavier_uniform = _deprecated_alias(xavier_uniform_)
xavier_normal = _deprecated_alias(xavier_normal_)
kaiming_uniform = _deprecated_alias(kaiming_uniform_)
kaiming_normal = _deprecated_alias(kaiming_normal_)
orthogonal = _deprecated_alias(orthogonal_)
sparse = _deprecated_alias(sparse_)
