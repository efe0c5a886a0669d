"""What makes of a DTensor another that is sharded as it is, as a whole and waiting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastinit._recording.kinds import Kind, Way, kind_of
from fastinit._recording.memory import tensors_in

_aten = torch.ops.aten
_FILLED: dict[Any, Any] = {
    _aten.empty_like.default: None,
    _aten.full_like.default: None,
    _aten.ones_like.default: 1,
    _aten.zeros_like.default: 0,
}
_CONVERT = _aten._to_copy.default


def fills_alike(func: Any) -> bool:
    """Whether an operator gives a tensor like another, with one number in all of it, or nothing."""
    return func in _FILLED


def number_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give the number; None for nothing."""
    if func is not _aten.full_like.default:
        return _FILLED[func]
    return kwargs["fill_value"] if "fill_value" in kwargs else args[1]


def makes_alike(func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator makes each element of one of the first argument, and can wait."""
    return kind.way is Way.ELEMENTWISE and next(tensors_in((args[1:], kwargs)), None) is None


def changes_nothing(func: Any, tensor: Any, kwargs: dict[str, Any]) -> bool:
    """Whether this asks for a DTensor as it will be: on its mesh's device, and of its type."""
    if func is not _CONVERT or kwargs.get("layout") not in (None, tensor.layout):
        return False
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    here = device is None or torch.device(device).type == tensor.device_mesh.device_type
    kept = kwargs.get("memory_format") in (None, torch.preserve_format)
    return here and kept and dtype in (None, tensor.dtype) and device is not None


def filled(recorder: Any, tensor: Tensor, number: Any) -> None:
    """Fill a tensor of the full size, which waits."""
    fill = _aten.fill_.Scalar
    recorder.dispatch(fill, kind_of(fill), (tensor, number), {})
