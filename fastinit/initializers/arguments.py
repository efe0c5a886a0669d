"""Arguments that every initialiser has."""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
