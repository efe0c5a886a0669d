"""How a random initialiser runs: the steps before its operator, once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from fastinit._fallback import fallback, handled
from fastinit._tensors import DTYPES
from fastinit.key import NOTHING, Key, source


def as_double(value: Any, name: str) -> float:
    """Convert a scalar argument: a number, a NumPy scalar or a one-element tensor.

    Raises:
        TypeError: if `value` is none of these.
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise TypeError(
                f"argument '{name}' must be a real number or a one-element real tensor, got "
                f"a {value.dtype} tensor of shape {tuple(value.shape)}"
            )
        return float(value.item())
    if isinstance(value, (str, bytes)):
        raise TypeError(f"argument '{name}' must be a real number, got {type(value).__name__}")
    try:
        return float(value)
    except TypeError:
        raise TypeError(
            f"argument '{name}' must be a real number, got {type(value).__name__}"
        ) from None


def draw(
    function: Callable[..., Tensor],
    op: Callable[..., Any],
    tensor: Tensor,
    names: tuple[str, ...],
    arguments: tuple[Any, ...],
    generator: Generator | None,
    key: Key | int | None,
    dtypes: frozenset[torch.dtype] = DTYPES,
    numbers: Callable[..., Sequence[Any] | None] | None = None,
    beyond: dict[str, Any] | None = None,
) -> Tensor:
    """Fill `tensor` by `op`, or by whatever else `function` means for a tensor of its kind.

    Every call of a random function comes through here, so it is short.

    Args:
        function: the public function, of torch's name if torch has it.
        op: the operator that fills.
        tensor: what to fill.
        names: the parameters of `function` between the tensor and the generator.
        arguments: what was given for them.
        generator: as it was given.
        key: as it was given.
        dtypes: those that `function` supports.
        numbers: `numbers(tensor, *arguments, **beyond)` gives what `op` takes besides the tensor,
            or None where nothing is to be filled; without it, `arguments` as doubles. Not called
            for tensors that are left to torch.
        beyond: further arguments that were given, which torch's function does not have.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, function.__name__)
    if not handled(tensor, dtypes):
        arguments_by_name = dict(zip(names, arguments, strict=True))
        return fallback(function, tensor, arguments_by_name, given, dtypes, beyond)
    values: Sequence[Any] = arguments
    if numbers is not None:
        found = numbers(tensor, *arguments, **(beyond or NOTHING))
        if found is None:
            return tensor
        values = found
    else:
        for value in arguments:
            if type(value) is not float:
                values = [as_double(v, name) for v, name in zip(arguments, names, strict=True)]
                break
    op(tensor, *values, **given)
    return tensor
