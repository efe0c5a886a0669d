"""The initialisers that scale weights by their fans: Xavier (Glorot) and Kaiming (He)."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

from torch import Generator, Tensor

from fastinit._compiled import normal_op, uniform_op
from fastinit._fallback import handled, otherwise
from fastinit._tensors import DTYPES
from fastinit.initializers.arguments import as_double
from fastinit.key import NOTHING, Key, source

FanMode = Literal["fan_in", "fan_out"]
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


def _calculate_fan_in_and_fan_out(tensor: Tensor, batch_dims: int = 0) -> tuple[int, int]:
    """Count the inputs and outputs that one weight of shape (*batch, out, in, *kernel) connects."""
    if batch_dims < 0:
        raise ValueError(f"argument 'batch_dims' must not be negative, got {batch_dims}")
    shape = tensor.shape[batch_dims:]
    if len(shape) < 2:
        besides = " besides those of the batch" if batch_dims else ""
        raise ValueError(
            f"Fan in and fan out need at least 2 dimensions{besides}; argument 'tensor' has shape "
            f"{tuple(tensor.shape)}"
        )
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _calculate_correct_fan(tensor: Tensor, mode: FanMode, batch_dims: int = 0) -> int:
    """Give fan_in or fan_out, as `mode` (in either case) says."""
    wanted = mode.lower()
    if wanted not in ("fan_in", "fan_out"):
        raise ValueError(f"argument 'mode' must be 'fan_in' or 'fan_out', got {mode!r}")
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor, batch_dims)
    return fan_in if wanted == "fan_in" else fan_out


def _beyond(batch_dims: int) -> dict[str, Any]:
    """The argument that torch's functions do not have, where it is given."""
    return {"batch_dims": batch_dims} if batch_dims != 0 else {}


def _xavier_std(tensor: Tensor, gain: float, batch_dims: int) -> float:
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor, batch_dims)
    if fan_in + fan_out == 0:  # then there is no element to fill
        return 0.0
    return as_double(gain, "gain") * math.sqrt(2.0 / float(fan_in + fan_out))


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
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); dtypes as for `uniform_`.
        gain: see `calculate_gain`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        batch_dims: how many leading dimensions count weights: `(experts, out, in)` with 1.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch. The rest is
            said at the top of `fastinit.init`.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "xavier_uniform_")
    if not handled(tensor, DTYPES):
        return otherwise(
            xavier_uniform_, tensor, {"gain": gain}, given, DTYPES, _beyond(batch_dims)
        )
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain, batch_dims)
    uniform_op(tensor, -bound, bound, **given)
    return tensor


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
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); dtypes as for `normal_`.
        gain: see `calculate_gain`.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        batch_dims: how many leading dimensions count weights: `(experts, out, in)` with 1.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch. The rest is
            said at the top of `fastinit.init`.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "xavier_normal_")
    if not handled(tensor, DTYPES):
        return otherwise(xavier_normal_, tensor, {"gain": gain}, given, DTYPES, _beyond(batch_dims))
    normal_op(tensor, 0.0, _xavier_std(tensor, gain, batch_dims), **given)
    return tensor


def _kaiming_std(
    tensor: Tensor, a: float, mode: FanMode, nonlinearity: Nonlinearity, batch_dims: int
) -> float:
    fan = _calculate_correct_fan(tensor, mode, batch_dims)
    # Tensors and NumPy scalars may stand for a number; a bool may not, of whatever library.
    dtype = getattr(a, "dtype", None)
    if dtype is not None and not str(dtype).endswith("bool"):
        a = as_double(a, "a")
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


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
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); dtypes as for `uniform_`.
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
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch, or `mode`,
            `nonlinearity` or `a` is not one of those allowed. The rest is said at the top of
            `fastinit.init`.

    Warns:
        UserWarning: if `tensor` has no elements; nothing else is checked then.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "kaiming_uniform_")
    if not handled(tensor, DTYPES):
        arguments: dict[str, Any] = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
        return otherwise(kaiming_uniform_, tensor, arguments, given, DTYPES, _beyond(batch_dims))
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity, batch_dims)
    uniform_op(tensor, -bound, bound, **given)
    return tensor


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
        tensor: at least 2 dimensions, (*batch, out, in, *kernel); dtypes as for `normal_`.
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
        ValueError: if `tensor` has fewer than 2 dimensions besides those of the batch, or `mode`,
            `nonlinearity` or `a` is not one of those allowed. The rest is said at the top of
            `fastinit.init`.

    Warns:
        UserWarning: if `tensor` has no elements; nothing else is checked then.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "kaiming_normal_")
    if not handled(tensor, DTYPES):
        arguments: dict[str, Any] = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
        return otherwise(kaiming_normal_, tensor, arguments, given, DTYPES, _beyond(batch_dims))
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    std = _kaiming_std(tensor, a, mode, nonlinearity, batch_dims)
    normal_op(tensor, 0.0, std, **given)
    return tensor
