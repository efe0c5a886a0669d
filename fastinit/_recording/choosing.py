"""Operators that write to some elements, copy some, or ignore some: schemas do not say which.

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
        "index_reduce_",
        "masked_fill_",
        "masked_scatter_",
        "put_",
        "scatter_",
        "scatter_reduce_",
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
        "index_reduce",
        "index_select",
        "masked_scatter",
        "masked_select",
        "permute_copy",
        "roll",
        "scatter",
        "scatter_reduce",
        "select_scatter",
        "slice_scatter",
        "take",
        "transpose_copy",
        "where",
    }
)
# Operators that do not look at their first argument if `beta` is zero.
SCALING = frozenset(
    name + end for name in ("addbmm", "addmm", "addmv", "addr", "baddbmm") for end in ("", "_")
)

_COPIED = ("self", "fill_value", "other", "source", "src", "value", "values")  # not `index`, say
_AROUND = "diag_embed"  # also puts zeros around what it copies
_REDUCING = ("index_reduce", "scatter_reduce")

Given = Mapping[str, Any]


def given_to(func: Any, args: Sequence[Any], kwargs: Given) -> dict[str, Any]:
    """Give what an operator is given, by the names of its arguments."""
    return {**dict(zip(_names_of(func), args, strict=False)), **kwargs}


@functools.cache
def _names_of(func: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


def ignored(given: Given) -> Any:
    """Give the argument that one of `SCALING` does not look at; None if it looks at all."""
    return given["self"] if given.get("beta", 1) == 0 else None


def copied(name: str, given: Given) -> dict[str, Tensor]:
    """Give the tensors of which an operator copies elements, or writes to some.

    None, if what it writes to these depends on what was there.
    """
    if name.removesuffix("_") in _REDUCING:
        return {} if given.get("include_self", True) else {"self": given["self"]}
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
    if name.removesuffix("_") in _REDUCING:
        return _reduced(name, given, marks_of(given["self"]))
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


def _reduced(name: str, given: Given, marks: Tensor) -> Tensor:
    """Mark what is made of values of others alone."""
    if not name.endswith("_"):
        marks = marks.clone()
    dim, index = given["dim"], _on_cpu(given["index"])
    if name.startswith("index"):
        return marks.index_fill_(dim, index, True)
    return marks.scatter_(dim, index, True)


def _on_cpu(value: Any) -> Any:
    """Give indices, or a list of some, where marks are."""
    if isinstance(value, Tensor):
        return value if value.is_cpu else value.cpu()
    return [*map(_on_cpu, value)] if isinstance(value, (list, tuple)) else value
