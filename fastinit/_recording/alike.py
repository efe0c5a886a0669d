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
    _aten.new_empty.default: None,
    _aten.new_full.default: None,
    _aten.new_ones.default: 1,
    _aten.new_zeros.default: 0,
    _aten.ones_like.default: 1,
    _aten.zeros_like.default: 0,
}
# Where these take the number.
_GIVEN = {_aten.full_like.default: 1, _aten.new_full.default: 2}
_CONVERT = _aten._to_copy.default


def fills_alike(func: Any) -> bool:
    """Whether an operator gives a tensor like another, with one number in all of it, or nothing."""
    return func in _FILLED


def number_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give the number; None for nothing."""
    if func not in _GIVEN:
        return _FILLED[func]
    return kwargs["fill_value"] if "fill_value" in kwargs else args[_GIVEN[func]]


def elsewhere(tensor: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give these arguments without a device, if that is where a DTensor's mesh is."""
    device = kwargs.get("device")
    if device is None or torch.device(device).type != tensor.device_mesh.device_type:
        return kwargs
    return {name: value for name, value in kwargs.items() if name != "device"}


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
