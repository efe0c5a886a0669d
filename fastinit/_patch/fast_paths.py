"""The inference fast paths of torch's attention, which a patch must not turn off.

They are not taken where `torch.overrides.has_torch_function` is true, and that it is under any
function mode, a patch's, too. While a patch is in force, the code of these modules asks
`has_torch_function` of this file instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType, FunctionType
from typing import Any

import torch

from fastinit._fallback import shown_to_modes

# Those functions, as torch made them, and the modules they are in.
FORWARDS: tuple[tuple[Any, str], ...] = (
    (torch.nn.MultiheadAttention.forward, "torch.nn.modules.activation"),
    (torch.nn.TransformerEncoder.forward, "torch.nn.modules.transformer"),
    (torch.nn.TransformerEncoderLayer.forward, "torch.nn.modules.transformer"),
)
_QUESTION = torch.overrides.has_torch_function
# What torch calls its own, and where the exchanged code finds the one here: beside torch's.
_NAME, _OURS = "has_torch_function", "_fastinit_has_torch_function"


def has_torch_function(relevant_args: Sequence[Any]) -> bool:
    """Answer as torch does, but for patches, which change no call but draws."""
    if torch.compiler.is_compiling():
        return torch.overrides.has_torch_function(relevant_args)
    modes = [
        torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())
    ]
    if shown_to_modes():
        return True
    for _ in modes:
        torch._C._pop_torch_function_stack()
    try:
        return _QUESTION(relevant_args)
    finally:
        for mode in modes:
            torch._C._push_on_torch_function_stack(mode)


def asking_us(function: FunctionType) -> CodeType:
    """Make the code of a function that asks `has_torch_function` here, and is else the same."""
    # It stays when a patch ends, for threads that are still inside.
    setattr(torch.overrides, _OURS, has_torch_function)
    names = (_OURS if name == _NAME else name for name in function.__code__.co_names)
    return function.__code__.replace(co_names=tuple(names))
