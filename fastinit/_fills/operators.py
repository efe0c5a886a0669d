"""What batches and recordings have to know about torch's operators and functions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _pop_mode,
    _push_mode,
)

from fastinit._compiled import (
    orthogonal_many_op,
    orthogonal_op,
    sparse_op,
)
from fastinit._distributed.orthogonal import orthogonal_together_op
from fastinit._fills import mode_flags
from fastinit._fills.fill import DRAWING
from fastinit._tensors import in_transform
from fastinit._untraced import untraced
from fastinit._users import Use

_aten = torch.ops.aten


def leave_function_mode(mode: Any) -> None:
    """Take a function mode off its stack, from wherever in it; those entered later stay."""
    above = []
    while torch._C._len_torch_function_stack():
        top = torch._C._pop_torch_function_stack()
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        torch._C._push_on_torch_function_stack(other)


class DispatchMode(TorchDispatchMode):
    """A mode of torch's, without what its first operator costs there.

    torch keeps its compiler out of what modes do, and loads it for that: more than a second.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._uses: list[Use] = []  # it may be entered inside itself

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]
        own: Any = cls
        own.__torch_dispatch__ = untraced(own.__torch_dispatch__, "a mode of fastinit's")

    def __enter__(self) -> Any:
        self._uses.append(mode_flags.entered())
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exception: Any) -> None:
        # Tasks that take turns on a thread leave theirs in any order; those entered later stay.
        above = []
        while _get_current_dispatch_mode() not in (self, None):
            above.append(_pop_mode())
        use = self._uses.pop()
        told = mode_flags.told(use)
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        for mode in reversed(above):
            _push_mode(mode)
        mode_flags.left(use, told)

    def tell_no_more(self) -> None:
        """Have torch's flags not tell of it, though it stays on its thread."""
        for use in [*self._uses]:
            use.leave()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


_TRACING = (
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
    torch._C._TorchDispatchModeKey.FAKE,
)


def is_traced() -> bool:
    """Whether a mode of torch's compiler is below, which takes what is done here for the user's."""
    return torch._C._len_torch_dispatch_stack() > 0 and any(
        torch._C._get_dispatch_mode(key) is not None for key in _TRACING
    )


def is_only_mode() -> bool:
    """Whether a mode of ours that is asked about a function is all that would see its operator."""
    return (
        torch._C._len_torch_function_stack() == 0
        and torch._C._len_torch_dispatch_stack() == 1
        and isinstance(torch._C._get_dispatch_stack_at(0), DispatchMode)
        and not in_transform()
    )


# Operators that give memory nobody has written to.
ALLOCATING = frozenset(
    {
        _aten.empty.memory_format,
        _aten.empty_strided.default,
        _aten.empty_permuted.default,
        _aten.empty_like.default,
        _aten.new_empty.default,
        _aten.new_empty_strided.default,
        _aten._empty_affine_quantized.default,
        _aten._empty_per_channel_affine_quantized.default,
    }
)
# Operators that ask a tensor for its metadata only.
METADATA_ONLY = ALLOCATING | {
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.rand_like.default,
    _aten.randn_like.default,
    _aten.randint_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
}
# Of those on a DTensor, what gives it itself, or one without values.
NATIVE_TO_SHARDS = METADATA_ONLY | {_aten.detach.default, _aten.alias.default}
# Functions that reach the memory past the dispatcher, or hand it to somebody who may.
ESCAPES: frozenset[Any] = frozenset(
    {
        torch.Tensor.__array__,
        torch.Tensor.__dlpack__,
        torch.Tensor.__format__,
        torch.Tensor.__reduce_ex__,
        torch.Tensor.__repr__,
        torch.Tensor.apply_,
        torch.Tensor.data_ptr,
        torch.Tensor.is_shared,
        torch.Tensor.map_,
        torch.Tensor.map2_,
        torch.Tensor.numpy,
        torch.Tensor.share_memory_,
        torch.Tensor.storage,
        torch.Tensor.tolist,
        torch.Tensor.untyped_storage,
    }
)
# Functions that read the memory of tensors past the dispatcher, to make others of what is there.
READERS: frozenset[Any] = frozenset(
    {
        torch.Tensor.new_tensor,
        torch._sobol_engine_draw,
        torch._sobol_engine_ff_,
        torch._sobol_engine_initialize_state_,
        torch._sobol_engine_scramble_,
        torch.as_tensor,
        torch.asarray,
        torch.tensor,
    }
)
# Operators whose results do not depend on what they write over.
OVERWRITING = frozenset(
    {
        _aten.fill_.Scalar,
        _aten.fill_.Tensor,
        _aten.zero_.default,
        _aten.copy_.default,
        _aten.normal_.default,
        _aten.uniform_.default,
        _aten.random_.default,
        _aten.random_.to,
        getattr(_aten.random_, "from"),
        _aten.bernoulli_.Tensor,
        _aten.bernoulli_.float,
        _aten.exponential_.default,
        _aten.log_normal_.default,
        _aten.cauchy_.default,
        _aten.geometric_.default,
        _aten._foreach_copy_.default,
        _aten._foreach_zero_.default,
        _aten.eye.out,
        _aten.eye.m_out,
        *DRAWING,
    }
)
# Draws that look at the whole tensor at once, and those for many tensors by that for one.
WHOLE = frozenset({orthogonal_op, sparse_op})
WHOLE_MANY = {
    orthogonal_many_op: orthogonal_op,
}
# Draws by all ranks that share a tensor, and what draws the same on one rank.
TOGETHER = {
    orthogonal_together_op: orthogonal_op,
}


@functools.cache
def receives(func: Any) -> bool:
    """Whether an operator gives its first argument values of other processes.

    Those of `torch.distributed` do, and their schemas do not say that they write.
    """
    name: str = func._schema.name.partition("::")[2]
    return bool(func.namespace == "c10d" and name.endswith("_") and name != "monitored_barrier_")


@functools.cache
def written_places(func: Any) -> tuple[tuple[int, str], ...]:
    """Say which arguments an operator writes to: where they stand, and their names."""
    if receives(func):
        return ((0, func._schema.arguments[0].name),)
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def written_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """List the tensors that an operator writes to."""
    return _given(written_places(func), args, kwargs)


def refuse_lists_early(
    func: Any, tensors: Sequence[Tensor], rest: tuple[Any, ...], given: dict[str, Any]
) -> None:
    """Have an operator on a list say what it objects to, before any of it is written or drawn."""
    examples = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in tensors]
    with torch.no_grad():
        func(examples, *rest, **given)


def saved_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """List the tensors that an operator overwrites beside what it works on, `noise`, say."""
    return _given(_saved(func), args, kwargs)


@functools.cache
def _saved(func: Any) -> tuple[tuple[int, str], ...]:
    written = written_places(func)
    if receives(func):
        return written
    if func.namespace != "aten":  # whose first may be what it saves to, or adds to
        return written[1:]
    # Running statistics are read, too.
    return tuple((k, name) for k, name in written if k > 0 and not name.startswith("running_"))


def _given(
    places: tuple[tuple[int, str], ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Tensor]:
    found: list[Tensor] = []
    for place, name in places:
        value = args[place] if place < len(args) else kwargs.get(name)
        for given in value if isinstance(value, (list, tuple)) else [value]:
            parts = given if isinstance(given, (list, tuple)) else [given]  # as all_gather has
            found += [part for part in parts if isinstance(part, Tensor)]
    return found


@functools.cache
def made_of_others(func: Any) -> bool:
    """Whether torch takes an operator apart before a mode sees it: not so in inference mode.

    Such an operator says too little of what it does. `reshape`, for one, is a view or a copy. What
    torch's compiler has to take an operator apart, once it is loaded, is something else.
    """
    try:
        composite: bool = torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), torch._C.DispatchKey.CompositeImplicitAutograd
        )
    except RuntimeError:  # prim::device, say, which the dispatcher does not know
        return False
    return composite


def taken_apart(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run what torch makes an operator of.

    `func.decompose` prefers what torch's compiler makes of it, which may give other bits.
    """
    with seeing_lazy():
        return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


_LAZY = (
    torch._C.DispatchKey.Conjugate,
    torch._C.DispatchKey.Negative,
    torch._C.DispatchKey.ZeroTensor,
)


def seeing_lazy() -> Any:
    """Have torch see to conjugations that wait, which it does not inside a mode.

    It has done so before the mode sees an operator. But those that an operator makes in its kernel,
    and hands to others there, would be forgotten: `pinv` of a complex matrix is wrong then.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in _LAZY:
        excluded = excluded.remove(key)
    included = torch._C._dispatch_tls_local_include_set()
    return torch._C._ForceDispatchKeyGuard(included, excluded)


def is_complex(args: tuple[Any, ...]) -> bool:
    """Whether an operator's first argument is a tensor that may be conjugated inside."""
    return len(args) > 0 and isinstance(args[0], Tensor) and args[0].is_complex()
