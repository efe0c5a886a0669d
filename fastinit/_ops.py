"""The compiled module as the rest of the package sees it.

It also knows which tensors the ops take (`handled`) and what happens to all others (`otherwise`).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function

from fastinit._compiled import extension as _C

_F = TypeVar("_F", bound=Callable[..., Any])

STREAM_VERSION: int = _C.STREAM_VERSION

# Bound once: looking an overload up costs as much as filling a small tensor.
uniform_op = torch.ops.fastinit.uniform_.default
normal_op = torch.ops.fastinit.normal_.default
trunc_normal_op = torch.ops.fastinit.trunc_normal_.default
random_words_op = torch.ops.fastinit.random_words_.default
fill_many_op = torch.ops.fastinit.fill_many_.default
orthogonal_op = torch.ops.fastinit.orthogonal_.default
orthogonal_many_op = torch.ops.fastinit.orthogonal_many_.default
sparse_op = torch.ops.fastinit.sparse_.default
reserve_key_op = torch.ops.fastinit.reserve_key.default

# torch's own functions, for what the ops do not take. Looked up at each call.
ORIGINALS: dict[str, Callable[..., Any]] = {
    name: getattr(torch.nn.init, name) for name in torch.nn.init.__all__
}
# The functions that offer a call to `__torch_function__` before they run, in torch as here.
OVERRIDABLE = frozenset({"uniform_", "normal_", "constant_", "kaiming_uniform_"})

HAS_CUDA = _C.build_info()["cuda"] != "no"
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

_PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})
_DISABLED_FUNCTION = torch._C._disabled_torch_function_impl
_DISABLED_DISPATCH = torch._C._disabled_torch_dispatch_impl
_TENSOR_FUNCTION = torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
_functorch_stack_top = torch._C._functorch.peek_interpreter_stack


def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """See `fastinit.philox4x32`, which checks its arguments."""
    return _C.philox4x32(counter, key)


def fold(key: int, data: int, purpose: Literal["int", "str", "split"]) -> int:
    """Derive a key word from another; all are in [0, 2**64)."""
    return _C.fold(key, data, purpose)


def untraced(function: _F, reason: str) -> _F:
    """Keep torch.compile out of a function, as torch.compiler.disable does, at no cost before.

    That loads the compiler, one to two seconds of work; nothing is traced until it is loaded.
    """
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            # The name is there from the start of its loading, which may run operators.
            if not hasattr(sys.modules.get("torch._dynamo"), "disable"):
                return function(*args, **kwargs)
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return disabled(*args, **kwargs)

    # As torch.compiler.disable marks functions: the graph breaks at the call, not somewhere inside.
    # Private, and only the message of fullgraph=True depends on it.
    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    run._torchdynamo_disable_msg = reason  # type: ignore[attr-defined]
    return cast(_F, run)


def _reserve_key(device: torch.device, generator: torch.Generator | None) -> int:
    """Hash one draw of the generator (default: the device's) to a key, a signed 64-bit int.

    Not in a graph of torch.compile: tracing the op would draw, and its result is no constant.
    """
    if HAS_CUDA and device.type == "cuda":
        # Seeds that were set before CUDA started wait in Python until it does.
        torch.cuda.init()  # type: ignore[no-untyped-call]
    word: int = reserve_key_op(device, generator)
    return word


reserve_key = untraced(_reserve_key, "a key is drawn from a generator; pass key= instead")


def capability() -> str:
    """Name the instruction set in use."""
    return _C.capability()


def capabilities() -> list[str]:
    """Name the instruction sets this processor has."""
    return list(_C.capabilities())


def last_fill_threads() -> int:
    """Count the distinct threads that wrote in the last fill."""
    return _C.last_fill_threads()


_HUGE = 4 << 20  # bytes, from which huge pages are worth asking for


def advise_huge_pages(storage: torch.UntypedStorage) -> None:
    """Ask for huge pages behind a large storage on the CPU that nothing has touched yet."""
    wanted = os.environ.get("FASTINIT_HUGE_PAGES", "1") != "0"
    if wanted and storage.nbytes() >= _HUGE and storage.device.type == "cpu":
        _C.advise_huge_pages(storage.data_ptr(), storage.nbytes())


def can_guard_storage() -> bool:
    """Whether this torch lets `guard_storage` take its guards off again."""
    return _C.can_guard_storage()


def guard_storage(storage: int, closed: bool) -> None:
    """Make access to the memory of the storage at address `_cdata` an error, or allow it again."""
    _C.guard_storage(storage, closed)


def build_info() -> dict[str, str]:
    """Report what the binary was built with."""
    return dict(_C.build_info())


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


def _overrides_function(kind: type) -> bool:
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


def _overrides_dispatch(kind: type) -> bool:
    if getattr(kind, "__torch_dispatch__", None) is _DISABLED_DISPATCH:
        return False
    return not _is_fake_type(kind)  # which stands for an ordinary tensor


def is_plain(kind: type) -> bool:
    """Whether tensors of this class are ordinary: it overrides no function and no dispatch."""
    return kind in _PLAIN_TYPES or (
        issubclass(kind, Tensor) and not _overrides_function(kind) and not _overrides_dispatch(kind)
    )


def on_handled_device(tensor: Tensor) -> bool:
    """Whether the tensor's device is one of `DEVICES` (asking for its name takes far longer)."""
    return tensor.is_cpu or tensor.is_meta or (HAS_CUDA and tensor.is_cuda)


def version_of(tensor: Tensor) -> int | None:
    """Give torch's count of writes to a tensor; None for an inference tensor, which has none."""
    return None if tensor.is_inference() else tensor._version


def overlaps_itself(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two elements of a tensor of this size and these strides may share memory."""
    return bool(_C.overlaps_itself(size, stride))


def is_closed(tensor: Tensor) -> bool:
    """Whether this is an inference tensor outside of inference mode, which torch lets nobody write.

    Torch says so after it has written.
    """
    return not is_compiling() and not torch.is_inference_mode_enabled() and tensor.is_inference()


def check_open(name: str, tensor: Tensor) -> None:
    """Raise RuntimeError for an ordinary tensor that is closed to writes, before one happens."""
    if is_plain(type(tensor)) and is_closed(tensor):
        raise RuntimeError(
            f"fastinit.{name}: argument 'tensor' is an inference tensor, which can be written "
            "inside torch.inference_mode() only; clone it to get one that can be written anywhere"
        )


def is_captured(tensor: Any) -> bool:
    """Whether filling this tensor would go into a CUDA graph under capture."""
    return (
        HAS_CUDA
        and getattr(tensor, "is_cuda", False) is True
        and not is_fake(tensor)
        and torch.cuda.is_current_stream_capturing()
    )


def in_transform() -> bool:
    """Whether this is inside a transform of torch.func."""
    return _functorch_stack_top() is not None


def _transformed(tensor: Tensor) -> bool:
    """Whether torch.func, forward-mode AD or a nested layout reinterprets the call."""
    return _functorch_stack_top() is not None or forward_ad._current_level >= 0 or tensor.is_nested


def handled(tensor: Tensor, dtypes: frozenset[torch.dtype]) -> bool:
    """Whether the ops take this tensor, their dtypes being `dtypes`. Every call asks this."""
    return (
        (type(tensor) in _PLAIN_TYPES or is_plain(type(tensor)))
        and tensor.dtype in dtypes
        and on_handled_device(tensor)
        and tensor.layout is torch.strided
        # What torch.compile traces is none of these, and it cannot trace the question.
        and (is_compiling() or not _transformed(tensor))
    )


def _wrong_dtype(name: str, tensor: Tensor, dtypes: frozenset[torch.dtype]) -> str:
    names = ", ".join(sorted(str(dtype) for dtype in dtypes))
    return f"fastinit.{name}: argument 'tensor' has dtype {tensor.dtype}; it can be {names}"


def _refusal(name: str, tensor: Tensor, dtypes: frozenset[torch.dtype]) -> str | None:
    """Why a key cannot be honoured for this tensor, or None if it can."""
    kind = type(tensor)
    if torch.nn.parameter.is_lazy(tensor):
        what = "an uninitialized parameter"
    elif _overrides_dispatch(kind) or (
        _overrides_function(kind) and torch._C._is_torch_function_enabled()
    ):
        what = f"the tensor subclass {kind.__module__}.{kind.__qualname__}"
    elif _transformed(tensor):
        what = (
            "nested tensors, or tensors inside torch.func transforms (but vmap) and forward-mode AD"
        )
    elif tensor.layout is not torch.strided:
        what = f"layout {tensor.layout}"
    elif tensor.dtype not in dtypes:
        return _wrong_dtype(name, tensor, dtypes)
    else:
        return None
    return (
        f"fastinit.{name}: key= is not supported for {what}; argument 'tensor' can be a plain "
        "strided tensor on any device"
    )


def otherwise(
    function: Callable[..., Tensor],
    tensor: Tensor,
    arguments: dict[str, Any],
    given: dict[str, Any],
    dtypes: frozenset[torch.dtype],
    beyond: dict[str, Any] | None = None,
) -> Tensor:
    """Run `function` on a tensor that is not `handled`: without a key, by torch.

    Args:
        function: the public function of fastinit; torch's has the same name.
        tensor: what to fill.
        arguments: everything between the tensor and the generator.
        given: the key or the generator, as keyword argument of an op, or nothing.
        dtypes: those that `function` supports.
        beyond: further arguments, which torch's function does not have.

    Raises:
        NotImplementedError: if a key or one of `beyond` is given and cannot be honoured.
        TypeError: if a key is given and `tensor` is not a tensor.
    """
    name = function.__name__
    kind = type(tensor)
    if _functorch_stack_top() is not None and is_plain(kind) and not tensor.is_nested:
        from fastinit import _vmap  # which imports this module

        ours = "key" in given or (tensor.dtype in dtypes and on_handled_device(tensor))
        if ours and _vmap.only_vmap() and forward_ad._current_level < 0:
            _vmap.fill(function, tensor, {**arguments, **(beyond or {})}, given)
            return tensor
    if beyond:
        if "key" not in given:
            raise NotImplementedError(
                f"fastinit.{name}: torch's function has no argument '{next(iter(beyond))}', and "
                "this tensor would go to it; pass a plain strided tensor, or key="
            )
        arguments = {**arguments, **beyond}
    if "key" not in given:
        # torch refuses these, too, but not always as what they are, and after it has written.
        if (
            is_plain(kind)
            and on_handled_device(tensor)
            and not tensor.is_meta
            and not (
                tensor.is_floating_point() or (tensor.is_complex() and torch.complex64 in dtypes)
            )
        ):
            raise NotImplementedError(_wrong_dtype(name, tensor, dtypes))
        if issubclass(kind, Tensor):
            check_open(name, tensor)
        result: Tensor = ORIGINALS[name](tensor, **arguments, **given)
        return result
    if not issubclass(kind, Tensor):
        raise TypeError(f"fastinit.{name}: argument 'tensor' must be a Tensor, got {kind.__name__}")
    if (
        name in OVERRIDABLE
        and _overrides_function(kind)
        and torch._C._is_torch_function_enabled()
        and not torch.nn.parameter.is_lazy(tensor)
    ):
        result = handle_torch_function(
            function, (tensor,), tensor=tensor, **arguments, generator=None, **given
        )
        return result
    refusal = _refusal(name, tensor, dtypes)
    if refusal is not None:
        raise NotImplementedError(refusal)
    with torch.no_grad():
        if on_handled_device(tensor):
            # An overriding subclass that has passed the call on: it holds an ordinary tensor.
            function(tensor.as_subclass(Tensor), **arguments, **given)
        else:
            filled = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            tensor.copy_(function(filled, **arguments, **given))
    return tensor
