"""What torch refuses is refused here with the same exception, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastinit

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "eye_": (),
    "dirac_": (),
    "sparse_": (0.5,),
    "orthogonal_": (),
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (),
}
DRAWN = [name for name in ARGUMENTS if name not in ("eye_", "dirac_")]
OUR_OWN = [
    "delta_orthogonal_",
    "lecun_uniform_",
    "lecun_normal_",
    "variance_scaling_",
    "trunc_normal_tf_",
]
LAYOUTS = [torch.strided, torch.jagged]


def nested(layout: torch.layout, dims: int) -> torch.Tensor:
    shapes = [(size, *(2,) * (dims - 1)) for size in (3, 4)]
    return torch.nested.nested_tensor([torch.full(s, 7.0) for s in shapes], layout=layout)


def is_untouched(tensor: torch.Tensor) -> bool:
    return all(bool((part == 7).all()) for part in tensor.unbind())


def raised_by(call: Callable[[], Any]) -> type[BaseException] | None:
    try:
        call()
    except Exception as error:
        return type(error)
    return None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_nested_tensors(name, dims, layout):
    ours, torchs = nested(layout, dims), nested(layout, dims)
    theirs = raised_by(lambda: getattr(nn.init, name)(torchs, *ARGUMENTS[name]))
    assert raised_by(lambda: getattr(fastinit, name)(ours, *ARGUMENTS[name])) is theirs
    assert is_untouched(ours) == (theirs is not None) == is_untouched(torchs)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", OUR_OWN)
def test_nested_tensors_where_torch_has_no_function(name, dims, layout):
    for keywords in ({}, {"key": 1}):
        tensor = nested(layout, dims)
        with pytest.raises(NotImplementedError, match=rf"fastinit\.{name}: .* is a nested tensor"):
            getattr(fastinit, name)(tensor, **keywords)
        assert is_untouched(tensor)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (3, 3), (2, 2, 2)])
@pytest.mark.parametrize("name", DRAWN)
def test_dimensions_come_before_dtypes(name, shape, dtype):
    theirs = raised_by(
        lambda: getattr(nn.init, name)(torch.ones(shape, dtype=dtype), *ARGUMENTS[name])
    )
    assert theirs is (
        ValueError
        if len(shape) < 2 or (name == "sparse_" and len(shape) != 2)
        else NotImplementedError
    )
    for keywords in ({}, {"key": 1}):
        tensor = torch.ones(shape, dtype=dtype)
        ours = raised_by(
            lambda t=tensor, k=keywords: getattr(fastinit, name)(t, *ARGUMENTS[name], **k)
        )
        assert ours is theirs
        assert tensor.all()


def test_dimensions_come_before_dtypes_in_lists():
    tensors = [torch.ones(3, 3), torch.ones(3, dtype=torch.int64)]
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        fastinit.orthogonal_many_(tensors)
    assert all(tensor.all() for tensor in tensors)
