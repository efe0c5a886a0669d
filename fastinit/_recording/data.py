"""Sequences and numbers of somebody's own classes, as what `torch.tensor` makes tensors of.

torch asks such objects for what they hold inside its own function, where no mode sees what they do:
what they draw would have no key. So they are asked before, as long as a recording is looking.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

import torch
from torch import Tensor

# Functions that ask them.
ASKING: frozenset[Any] = frozenset(
    {torch.as_tensor, torch.asarray, torch.tensor, Tensor.new, Tensor.new_tensor}
    | {
        torch.sparse_bsc_tensor,
        torch.sparse_bsr_tensor,
        torch.sparse_compressed_tensor,
        torch.sparse_coo_tensor,
        torch.sparse_csc_tensor,
        torch.sparse_csr_tensor,
    }
)
_NUMBERS = frozenset({bool, int, float, complex})
_IN_C = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType)
_DEEPEST = 128  # dimensions that torch takes; a sequence that has itself for an item has more
_Numbers = Callable[[Any], Any]


class _NoTensorError(Exception):
    """It has no shape."""


def asked(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], seeing: AbstractContextManager[Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Give the arguments of one of these functions with what such objects hold in their place.

    Args:
        func: the function.
        args: its arguments.
        kwargs: likewise.
        seeing: what sees what they do.
    """
    if all(map(_is_known, (*args, *kwargs.values()))):
        return args, kwargs
    dtype = kwargs.get("dtype")
    if dtype is None and func in (Tensor.new, Tensor.new_tensor):
        dtype = args[0].dtype
    number = _number(dtype)
    with seeing:
        new = {name: _data(value, number) for name, value in kwargs.items()}
        return [_data(value, number) for value in args], new


def _is_known(value: Any) -> bool:
    """Whether it is known at a glance that there is no such object in an argument."""
    kind = type(value)
    if kind is list or kind is tuple:
        return {*map(type, value)} <= _NUMBERS
    return kind in _NUMBERS or value is None or isinstance(value, (Tensor, torch.dtype))


def _has_own(kind: type, names: Iterable[str]) -> bool:
    """Whether a class has one of these methods written in Python."""
    methods = (getattr(kind, name, None) for name in names)
    return any(method is not None and not isinstance(method, _IN_C) for method in methods)


def _is_sequence(kind: type) -> bool:
    """Whether torch takes what is of a class for a sequence, and runs code of somebody's for it."""
    if issubclass(kind, (dict, str, bytes)) or hasattr(kind, "__array_finalize__"):  # NumPy's
        return False
    has_all = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    return has_all and _has_own(kind, ("__getitem__", "__iter__", "__len__"))


def _number(dtype: torch.dtype | None) -> _Numbers:
    """Give what makes the number of an object that torch would make for a dtype."""
    if dtype is None:  # torch cannot tell which
        return lambda value: value
    make: _Numbers = operator.index
    names = ["__index__"]
    if dtype.is_complex:
        make, names = complex, ["__complex__", "__float__", "__index__"]
    elif dtype.is_floating_point:
        make, names = float, ["__float__", "__index__"]

    def number(value: Any) -> Any:
        kind = type(value)
        has_it = any(hasattr(kind, name) for name in names)
        return make(value) if has_it and _has_own(kind, names) else value

    return number


def _data(value: Any, number: _Numbers) -> Any:
    if _is_known(value) or not _is_data(value):
        return value
    try:
        return _plain(value, number)
    except _NoTensorError:  # torch will say so
        return value


def _is_data(value: Any) -> bool:
    """Whether torch looks into an object itself, and does not take memory of its."""
    if isinstance(value, (torch.device, torch.layout, torch.memory_format, str)):
        return False
    return not (hasattr(value, "__cuda_array_interface__") or hasattr(value, "__dlpack__"))


def _plain(value: Any, number: _Numbers, depth: int = 0) -> Any:
    """Give the numbers and tensors that an object holds, as torch would ask for them.

    Raises:
        _NoTensorError: if torch makes no tensor of it.
    """
    kind, items = type(value), value
    if kind in _NUMBERS or isinstance(value, Tensor):
        return value
    if _is_sequence(kind):
        count = len(value)
        items = [*itertools.islice(value, count + 1)]  # it may have no end
        if len(items) != count:
            raise _NoTensorError
    elif not isinstance(value, (list, tuple)):
        return value if isinstance(value, (int, float, complex)) else number(value)
    if {*map(type, items)} <= _NUMBERS:
        return items
    if depth == _DEEPEST:
        raise _NoTensorError
    found = [_plain(item, number, depth + 1) for item in items]
    if len({isinstance(item, (list, tuple)) for item in found}) > 1:
        raise _NoTensorError
    same = items is value and all(map(operator.is_, found, items))
    return value if same else found


def shown_to_modes() -> AbstractContextManager[Any]:
    """Have modes see operators that code of such an object runs inside torch's function, after all.

    Of `torch.Tensor(...)` and its like no mode is told, so there nobody has asked before.
    """
    key = torch._C.DispatchKey.Python
    if not torch._C._dispatch_tls_is_dispatch_key_excluded(key):
        return nullcontext()
    guard: AbstractContextManager[Any] = torch._C._SetExcludeDispatchKeyGuard(key, False)
    return guard
