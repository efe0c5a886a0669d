"""Which tensors the operators take (`handled`), and what happens to all others (`fallback`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function

from fastinit import _vmap
from fastinit._compiled import extension
from fastinit._tensors import (
    PLAIN_TYPES,
    check_open,
    fill_elsewhere,
    functorch_stack_top,
    is_plain,
    on_handled_device,
    overrides_dispatch,
    overrides_function,
)

# torch's own functions, for what the ops do not take. Looked up at each call.
ORIGINALS: dict[str, Callable[..., Any]] = {
    name: getattr(torch.nn.init, name) for name in torch.nn.init.__all__
}
# The functions that offer a call to `__torch_function__` before they run, in torch as here.
OVERRIDABLE = frozenset({"uniform_", "normal_", "constant_", "kaiming_uniform_"})


def _transformed(tensor: Tensor) -> bool:
    """Whether torch.func, forward-mode AD or a nested layout reinterprets the call."""
    return functorch_stack_top() is not None or forward_ad._current_level >= 0 or tensor.is_nested


def handled(tensor: Tensor, dtypes: frozenset[torch.dtype]) -> bool:
    """Whether the ops take this tensor, their dtypes being `dtypes`. Every call asks this."""
    kind = type(tensor)
    if not (kind in PLAIN_TYPES or is_plain(kind)):
        return False
    if is_dynamo_compiling():  # what it traces is not `_transformed`; the extension it cannot trace
        return (
            tensor.dtype in dtypes and on_handled_device(tensor) and tensor.layout is torch.strided
        )
    return (
        extension.handled_dtype(tensor) in dtypes
        and functorch_stack_top() is None
        and forward_ad._current_level < 0
    )


def refuse_dtype(
    function: Callable[..., Tensor],
    tensor: Tensor,
    arguments: dict[str, Any],
    dtypes: frozenset[torch.dtype],
    where: str,
) -> NoReturn:
    """Refuse a tensor for its dtype; what else is wrong comes first, as in torch: dimensions."""
    if functorch_stack_top() is None:  # where they are those of a member
        function(torch.empty(tensor.shape, device="meta"), **arguments, key=0)
    names = ", ".join(sorted(str(dtype) for dtype in dtypes))
    raise NotImplementedError(
        f"fastinit.{where}: argument 'tensor' has dtype {tensor.dtype}; it can be {names}"
    )


def _refusal(name: str, tensor: Tensor) -> str | None:
    """Why a key cannot be honoured for this tensor, whatever its dtype; None if it can."""
    kind = type(tensor)
    if torch.nn.parameter.is_lazy(tensor):
        what = "an uninitialized parameter"
    elif overrides_dispatch(kind) or (
        overrides_function(kind) and torch._C._is_torch_function_enabled()
    ):
        what = f"the tensor subclass {kind.__module__}.{kind.__qualname__}"
    elif _transformed(tensor):
        what = (
            "nested tensors, or tensors inside torch.func transforms (but vmap) and forward-mode AD"
        )
    elif tensor.layout is not torch.strided:
        what = f"layout {tensor.layout}"
    else:
        return None
    return (
        f"fastinit.{name}: key= is not supported for {what}; argument 'tensor' can be a plain "
        "strided tensor on any device"
    )


def _filled_by_vmap(tensor: Tensor, given: dict[str, Any], dtypes: frozenset[torch.dtype]) -> bool:
    """Whether a tensor is one of a batch of vmap's that fastinit fills."""
    if functorch_stack_top() is None or not is_plain(type(tensor)) or tensor.is_nested:
        return False
    ours = "key" in given or (tensor.dtype in dtypes and on_handled_device(tensor))
    return ours and _vmap.only_vmap() and forward_ad._current_level < 0


def shown_to_modes() -> bool:
    """Whether a function mode other than fastinit's own, which change draws alone, is on."""
    return any(
        not getattr(torch._C._get_function_stack_at(k), "is_fastinits", False)
        for k in range(torch._C._len_torch_function_stack())
    )


def _passes_on(name: str, tensor: Tensor) -> bool:
    """Whether a call with a key is for the tensor's own class to make."""
    return (
        name in OVERRIDABLE
        and overrides_function(type(tensor))
        and torch._C._is_torch_function_enabled()
        and not torch.nn.parameter.is_lazy(tensor)
    )


def refuse(
    function: Callable[..., Tensor],
    tensor: Tensor,
    arguments: dict[str, Any],
    given: dict[str, Any],
    dtypes: frozenset[torch.dtype],
    beyond: dict[str, Any] | None,
    where: str = "",
) -> None:
    """Raise what `fallback` does where it cannot fill a tensor, for arguments like these."""
    kind, name = type(tensor), function.__name__
    where = where or name
    known = {**arguments, **(beyond or {})}
    if issubclass(kind, Tensor) and _filled_by_vmap(tensor, given, dtypes):
        return
    if "key" in given:
        if not issubclass(kind, Tensor):
            raise TypeError(
                f"fastinit.{where}: argument 'tensor' must be a Tensor, got {kind.__name__}"
            )
        if _passes_on(name, tensor):
            return
        refusal = _refusal(where, tensor)
        if refusal is not None:
            raise NotImplementedError(refusal)
        if tensor.dtype not in dtypes:
            refuse_dtype(function, tensor, known, dtypes, where)
        return
    if beyond:
        raise NotImplementedError(
            f"fastinit.{where}: torch's function has no argument '{next(iter(beyond))}', and this "
            "tensor would go to it; pass a plain strided tensor, or key="
        )
    # torch refuses these, too, but not always as what they are, and after it has written.
    if (
        is_plain(kind)
        and on_handled_device(tensor)
        and not tensor.is_meta
        and not (tensor.is_floating_point() or (tensor.is_complex() and torch.complex64 in dtypes))
    ):
        refuse_dtype(function, tensor, known, dtypes, where)
    if issubclass(kind, Tensor):
        check_open(where, tensor)


def fallback(
    function: Callable[..., Tensor],
    tensor: Tensor,
    arguments: dict[str, Any],
    given: dict[str, Any],
    dtypes: frozenset[torch.dtype],
    beyond: dict[str, Any] | None = None,
    where: str = "",
) -> Tensor:
    """Run `function` on a tensor that is not `handled`: without a key, by torch.

    Args:
        function: the public function of fastinit; torch's has the same name.
        tensor: what to fill.
        arguments: everything between the tensor and the generator.
        given: the key or the generator, as keyword argument of an op, or nothing.
        dtypes: those that `function` supports.
        beyond: further arguments, which torch's function does not have.
        where: the function that was called, for messages, if it is another.

    Raises:
        NotImplementedError: if a key or one of `beyond` is given and cannot be honoured.
        TypeError: if a key is given and `tensor` is not a tensor.
    """
    name = function.__name__
    refuse(function, tensor, arguments, given, dtypes, beyond, where)
    arguments = {**arguments, **(beyond or {})}
    if isinstance(tensor, Tensor) and _filled_by_vmap(tensor, given, dtypes):
        _vmap.fill(function, tensor, arguments, given, where)
        return tensor
    if "key" not in given:
        result: Tensor = ORIGINALS[name](tensor, **arguments, **given)
        return result
    if _passes_on(name, tensor):
        result = handle_torch_function(
            function, (tensor,), tensor=tensor, **arguments, generator=None, **given
        )
        return result
    with torch.no_grad():
        if on_handled_device(tensor):
            # An overriding subclass that has passed the call on: it holds an ordinary tensor.
            function(tensor.as_subclass(Tensor), **arguments, **given)
        else:
            fill_elsewhere(tensor, lambda filled: function(filled, **arguments, **given))
    return tensor
