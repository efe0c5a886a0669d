"""Norms and the like, for which torch computes singular values or eigenvalues alone.

Where a mode is on it computes the vectors, too, for whoever may differentiate them, and by that
other last bits of the values. Ours are not to change what comes out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fastinit._fills.operators import DispatchMode, made_of_others, taken_apart
from fastinit._recording.memory import tensors_in
from fastinit._tensors import in_transform, is_plain

_aten = torch.ops.aten
_SVDS = frozenset({torch.svd, Tensor.svd})
_NORMS = frozenset({torch.norm, torch.functional.norm, Tensor.norm})
# The functions that ask torch for values without vectors; some of them for some arguments only.
SPECTRAL: frozenset[Any] = (
    _SVDS
    | _NORMS
    | {
        torch.linalg.cond,
        torch.linalg.eigvals,
        torch.linalg.eigvalsh,
        torch.linalg.matrix_norm,
        torch.linalg.matrix_rank,
        torch.linalg.norm,
        torch.linalg.svdvals,
        torch.nuclear_norm,
    }
)
# What these come to under a mode, and what is said of a matrix before whether to compute vectors.
_VECTORS: dict[Any, tuple[Any, ...]] = {
    _aten._linalg_eigh.default: ("L",),
    _aten._linalg_svd.default: (False,),
}


class _WithoutVectors(DispatchMode):
    """Leaves the vectors out."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if made_of_others(func):
            with self:
                return taken_apart(func, args, kwargs)
        if func is _aten.linalg_eig.default:
            values = _aten._linalg_eigvals.default(*args)
            return values, values  # nobody looks at the second
        if func in _VECTORS:
            args = (*args[:2], *_VECTORS[func][len(args) - 1 :], False)
        return func(*args, **kwargs)


def _wants_values(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether torch would compute no vectors if no mode were on."""
    if func in _NORMS:
        order = args[1] if len(args) > 1 else kwargs.get("p")
        if not (isinstance(order, str) and order == "nuc"):
            return False
    if func in _SVDS and (args[2] if len(args) > 2 else kwargs.get("compute_uv", True)):
        return False
    grad = torch.is_grad_enabled()
    return (
        all(
            is_plain(type(tensor)) and not (grad and tensor.requires_grad)
            for tensor in tensors_in((args, kwargs))
        )
        and torch.autograd.forward_ad._current_level < 0
        and all(isinstance(mode, DispatchMode) for mode in _get_current_dispatch_mode_stack())
        and not in_transform()
    )


def call_spectral(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one of `SPECTRAL`, so that it gives what it does without our modes."""
    with torch._C.DisableTorchFunction():
        values = _wants_values(func, args, kwargs)
    if not values:
        return func(*args, **kwargs)
    with _WithoutVectors():
        return func(*args, **kwargs)
