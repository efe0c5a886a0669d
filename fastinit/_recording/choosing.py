"""Operators that write to some elements, or copy some: schemas do not say which.

They are asked by having them do the same to marks of the elements that have values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Operators that write to some elements of their first argument.
PARTIAL = frozenset(
    {
        "_index_put_impl_",
        "fill_diagonal_",
        "index_copy_",
        "index_fill_",
        "index_put_",
        "masked_fill_",
        "masked_scatter_",
        "put_",
        "scatter_",
    }
)
# Operators that copy some elements of what they are given.
COPYING = frozenset(
    {
        "clone",
        "diag_embed",
        "diagonal_scatter",
        "expand_copy",
        "flip",
        "gather",
        "index",
        "index_copy",
        "index_fill",
        "index_put",
        "index_select",
        "masked_scatter",
        "masked_select",
        "permute_copy",
        "roll",
        "scatter",
        "select_scatter",
        "slice_scatter",
        "take",
        "transpose_copy",
        "where",
    }
)

_COPIED = ("self", "fill_value", "other", "source", "src", "value", "values")  # not `index`, say
_AROUND = "diag_embed"  # also puts zeros around what it copies

Given = Mapping[str, Any]


def given_to(func: Any, args: Sequence[Any], kwargs: Given) -> dict[str, Any]:
    """Give what an operator is given, by the names of its arguments."""
    return {**dict(zip(_names_of(func), args, strict=False)), **kwargs}


@functools.cache
def _names_of(func: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


def copied(given: Given) -> dict[str, Tensor]:
    """Give the tensors of which an operator copies elements, or writes to some.

    None, if what it writes to these depends on what was there.
    """
    if given.get("accumulate") or given.get("reduce"):
        return {}
    return {key: given[key] for key in _COPIED if isinstance(given.get(key), Tensor)}


def on_marks(func: Any, name: str, given: Given, marks_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Have an operator do to marks of elements with values what it does to these.

    Args:
        func: the operator, of `PARTIAL` or `COPYING`.
        name: its name.
        given: its arguments.
        marks_of: gives the marks of what it copies elements of; of what it writes to, those that
            are to change.
    """
    instead: dict[str, Any] = {}
    for key, value in given.items():
        if key == "out":
            instead[key] = torch.empty(0, dtype=torch.bool)
        elif key not in _COPIED:
            instead[key] = _on_cpu(value)
        elif isinstance(value, Tensor):
            instead[key] = marks_of(value).logical_not() if name == _AROUND else marks_of(value)
        else:
            instead[key] = True
    result: Tensor = func(**instead)
    return result.logical_not() if name == _AROUND else result


def _on_cpu(value: Any) -> Any:
    """Give indices, or a list of some, where marks are."""
    if isinstance(value, Tensor):
        return value if value.is_cpu else value.cpu()
    return [*map(_on_cpu, value)] if isinstance(value, (list, tuple)) else value
