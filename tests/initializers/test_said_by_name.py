"""Functions that are built on others: what is said of a call names the function that was called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastinit

BUILT_ON_OTHERS = [
    "trunc_normal_tf_",
    "lecun_uniform_",
    "lecun_normal_",
    "variance_scaling_",
    "delta_orthogonal_",
]


def wrong_arguments() -> dict[str, tuple[torch.Tensor, dict[str, Any]]]:
    tensor, generator = torch.zeros(4, 4, 4), torch.Generator()
    return {
        "an integer tensor": (tensor.int(), {}),
        "an integer tensor and a key": (tensor.int(), {"key": 1}),
        "a sparse tensor and a key": (tensor.to_sparse(), {"key": 1}),
        "two sources": (tensor, {"key": 1, "generator": generator}),
        "a key that is none": (tensor, {"key": "a"}),
        "a generator that is none": (tensor, {"generator": 3}),
    }


@pytest.mark.parametrize("what", wrong_arguments())
@pytest.mark.parametrize("name", BUILT_ON_OTHERS)
def test_errors(name, what):
    tensor, keywords = wrong_arguments()[what]
    with pytest.raises(
        (TypeError, ValueError, NotImplementedError), match=rf"^fastinit\.{name}: arg|{name}: key="
    ):
        getattr(fastinit, name)(tensor, **keywords)


@pytest.mark.parametrize("name", ["lecun_uniform_", "lecun_normal_", "variance_scaling_"])
def test_errors_of_fans(name):
    with pytest.raises(ValueError, match=rf"^fastinit\.{name}: argument 'tensor' must have"):
        getattr(fastinit, name)(torch.zeros(4))
    with pytest.raises(TypeError, match=rf"^fastinit\.{name}: argument 'key'"):
        getattr(fastinit, name)(torch.zeros(4, 4, dtype=torch.complex64), key="a")


def test_errors_of_lists():
    for keys in (None, [1]):
        with pytest.raises(NotImplementedError, match=r"^fastinit\.orthogonal_many_: argument"):
            fastinit.orthogonal_many_([torch.zeros(4, 4, dtype=torch.int64)], keys=keys)


@pytest.mark.parametrize("name", BUILT_ON_OTHERS)
def test_errors_inside_vmap(name):
    def fill(tensor: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(fastinit, name)(tensor)
        return result

    with pytest.raises(RuntimeError, match=rf"fastinit\.{name} was called"):
        torch.vmap(fill)(torch.zeros(2, 4, 4, 4))


# ---- warnings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bounds_that_are_multiples_of_std_are_not_warned_of(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = fastinit.trunc_normal_tf_(torch.zeros(9, dtype=dtype), 0, 1, 3, 5, key=1)
        part = torch.zeros(9, dtype=dtype)
        fastinit.trunc_normal_tf_(fastinit.shard(part, (9,), (0,)), 0, 1, 3, 5, key=1)
    assert ((tensor >= 3) & (tensor <= 5)).all()
    assert torch.equal(tensor, part)


def under_a_patch(tensor: torch.Tensor) -> None:
    with fastinit.patch(1):
        nn.init.trunc_normal_(tensor, 0, 1, 3, 5)


def under_a_patch_of_a_module(tensor: torch.Tensor) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(tensor)
    with fastinit.patch(1, module=module):
        nn.init.trunc_normal_(module.weight, 0, 1, 3, 5)


WARNED_OF: dict[str, Callable[[torch.Tensor], Any]] = {
    "a call": lambda t: fastinit.trunc_normal_(t, 0, 1, 3, 5),
    "no floats": lambda t: fastinit.trunc_normal_(t, torch.tensor(0), 1, 3, 5),
    "a member of a batch": lambda t: torch.vmap(
        lambda row: fastinit.trunc_normal_(row, 0.0, 1.0, 3.0, 5.0), randomness="different"
    )(t),
    "a rule": lambda t: fastinit.initialize_(
        nn.Linear(3, 3), {"default": lambda w: fastinit.trunc_normal_(w, 0, 1, 3, 5)}, key=0
    ),
    "a patch": under_a_patch,
    "a patch of a module": under_a_patch_of_a_module,
    "nothing to fill": lambda t: fastinit.kaiming_uniform_(t[:0]),
    "nothing to fill, in a batch": lambda t: torch.vmap(
        lambda row: fastinit.kaiming_normal_(row[:, None][:0]), randomness="different"
    )(t),
}


@pytest.mark.parametrize("what", WARNED_OF)
def test_warnings_point_to_the_caller(what):
    with pytest.warns(UserWarning) as found:
        WARNED_OF[what](torch.zeros(4, 4))
    assert {warning.filename for warning in found} == {__file__}
