"""What a tensor is: ordinary or not, where it lies, whether it may be written."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fastinit._compiled import HAS_CUDA, extension

DEVICES = ("cpu", "meta", "cuda") if HAS_CUDA else ("cpu", "meta")
REAL_DTYPES = frozenset(
    {
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    }
)
DTYPES = REAL_DTYPES | {torch.complex64, torch.complex128}
PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})
_DISABLED_FUNCTION = torch._C._disabled_torch_function_impl
_DISABLED_DISPATCH = torch._C._disabled_torch_dispatch_impl
_TENSOR_FUNCTION = torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
_PROXY = torch._C._TorchDispatchModeKey.PROXY
functorch_stack_top = torch._C._functorch.peek_interpreter_stack


def overrides_function(kind: type) -> bool:
    method: Any = getattr(kind, "__torch_function__", None)
    return not (
        method is _DISABLED_FUNCTION or getattr(method, "__func__", None) is _TENSOR_FUNCTION
    )


def _is_fake_type(kind: type) -> bool:
    # Not imported before somebody uses it: that takes a while.
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is not None and kind is module.FakeTensor


def is_fake(tensor: Tensor) -> bool:
    """Whether this is a FakeTensor, which has a device but no memory."""
    return _is_fake_type(type(tensor))


def overrides_dispatch(kind: type) -> bool:
    if getattr(kind, "__torch_dispatch__", None) is _DISABLED_DISPATCH:
        return False
    return not _is_fake_type(kind)  # which stands for an ordinary tensor


def is_plain(kind: type) -> bool:
    """Whether tensors of this class are ordinary: it overrides no function and no dispatch."""
    return kind in PLAIN_TYPES or (
        issubclass(kind, Tensor) and not overrides_function(kind) and not overrides_dispatch(kind)
    )


def on_handled_device(tensor: Tensor) -> bool:
    """Whether the tensor's device is one of `DEVICES` (asking for its name takes far longer)."""
    return tensor.is_cpu or tensor.is_meta or (HAS_CUDA and tensor.is_cuda)


def version_of(tensor: Tensor) -> int | None:
    """Give torch's count of writes to a tensor; None for an inference tensor, which has none."""
    return None if tensor.is_inference() else tensor._version


def is_closed(tensor: Tensor) -> bool:
    """Whether this is an inference tensor outside of inference mode, which torch lets nobody write.

    Torch says so after it has written.
    """
    return not is_compiling() and not torch.is_inference_mode_enabled() and tensor.is_inference()


def check_open(name: str, tensor: Tensor) -> None:
    """Raise RuntimeError for an ordinary tensor that cannot be written, before a write happens.

    It may be closed to writes, or its storage freed, or too short for its elements: what torch's
    own kernels do not look for.
    """
    if not is_plain(type(tensor)) or is_compiling():
        return
    if is_closed(tensor):
        raise RuntimeError(
            f"fastinit.{name}: argument 'tensor' is an inference tensor, which can be written "
            "inside torch.inference_mode() only; clone it to get one that can be written anywhere"
        )
    fault = extension.storage_fault(tensor)
    if fault is not None:
        raise RuntimeError(f"fastinit.{name}: argument 'tensor' {fault}; nothing was written")


def check_apart(name: str, tensor: Tensor) -> None:
    """Raise RuntimeError for an ordinary tensor several of whose elements share memory."""
    if not is_plain(type(tensor)) or is_compiling() or is_fake(tensor) or is_put_together(tensor):
        return
    if not tensor.is_meta and extension.overlaps_itself(tuple(tensor.shape), tensor.stride()):
        raise RuntimeError(
            f"fastinit.{name}: more than one element of argument 'tensor', of size "
            f"{tuple(tensor.shape)} and strides {tensor.stride()}, may refer to a single memory "
            "location; clone() it before filling"
        )


def is_captured(tensor: Any) -> bool:
    """Whether filling this tensor would go into a CUDA graph under capture."""
    return (
        HAS_CUDA
        and getattr(tensor, "is_cuda", False) is True
        and not is_fake(tensor)
        and torch.cuda.is_current_stream_capturing()
    )


def fill_elsewhere(tensor: Tensor, fill: Callable[[Tensor], object]) -> None:
    """Fill a tensor on a device that is not handled: another on the CPU, which is copied.

    A fake one may be of a device that this torch has not, to which nothing can be copied. It gets
    what a meta tensor does, `fill`'s complaints and a new version, unless a tracer wants the copy.
    """
    alone = not is_compiling() and is_fake(tensor) and torch._C._get_dispatch_mode(_PROXY) is None
    device = "meta" if alone else "cpu"
    filled = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    fill(filled)
    if not alone:
        tensor.copy_(filled)
    elif not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def in_transform() -> bool:
    """Whether this is inside a transform of torch.func."""
    return functorch_stack_top() is not None


def swap(a: Tensor, b: Tensor) -> None:
    """Exchange what two tensors are, but not the objects, nor the hooks that hang on them.

    As `torch.utils.swap_tensors`, which refuses tensors that somebody holds weakly, as RNNs do.

    Raises:
        RuntimeError: if a subclass that is more than its memory meets another class.
    """
    hooks = a._backward_hooks, a._post_accumulate_grad_hooks
    if not is_plain(type(a)):
        if type(a) is not type(b):
            raise RuntimeError(f"{type(a).__name__} cannot become {type(b).__name__}")
        for name in copyreg._slotnames(type(a)):  # type: ignore[attr-defined]
            held = [getattr(tensor, name) for tensor in (a, b)]
            for tensor, value in zip((b, a), held, strict=True):
                setattr(tensor, name, value)
    torch._C._swap_tensor_impl(a, b)
    a._backward_hooks, a._post_accumulate_grad_hooks = hooks


def is_put_together(tensor: Tensor) -> bool:
    """Whether a tensor's values lie in tensors that it is made of: sparse and nested ones."""
    return tensor.layout is not torch.strided or tensor.is_nested


def check_one_shape(name: str, tensor: Tensor) -> None:
    """Raise NotImplementedError for a nested tensor, where torch has no function to ask."""
    if isinstance(tensor, Tensor) and tensor.is_nested:
        raise NotImplementedError(
            f"fastinit.{name}: argument 'tensor' is a nested tensor, which has no one shape; fill "
            "its parts, tensor.unbind()"
        )


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """Give the strided tensors that one is put together of, its values last; else itself."""
    if not is_put_together(tensor):
        return (tensor,)
    if type(tensor) not in PLAIN_TYPES:
        jagged: Any = tensor
        return (jagged._offsets, jagged._values) if tensor.layout is torch.jagged else (tensor,)
    tensor = tensor.detach()
    if tensor.is_nested:
        bytes_of = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        return (bytes_of.set_(tensor.untyped_storage()),)
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in _COMPRESSED:
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def copy_values(tensor: Tensor, source: Tensor) -> None:
    """Give a tensor the values of another of its shape and layout; sparse ones may have others.

    What an expanded tensor repeats is written once.
    """
    if not tensor.is_nested and tensor.layout in _COMPRESSED:
        tensor.resize_as_sparse_(source)
    elif not is_put_together(tensor):
        for dim, step in enumerate(tensor.stride()):
            if step == 0 and tensor.shape[dim] > 1:
                tensor, source = tensor.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    tensor.copy_(source)


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
