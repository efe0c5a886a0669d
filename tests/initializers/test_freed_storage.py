"""Tensors whose storage was freed or is too short: refused before anything is written or drawn.

torch's own kernels write there all the same, and crash; without the refusal so does this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import no_randomness
from torch import nn

import fastinit

FUNCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "uniform_": fastinit.uniform_,
    "normal_": fastinit.normal_,
    "trunc_normal_": fastinit.trunc_normal_,
    "trunc_normal_tf_": fastinit.trunc_normal_tf_,
    "constant_": lambda t: fastinit.constant_(t, 3.0),
    "ones_": fastinit.ones_,
    "zeros_": fastinit.zeros_,
    "eye_": fastinit.eye_,
    "dirac_": fastinit.dirac_,
    "sparse_": lambda t: fastinit.sparse_(t, 0.5),
    "xavier_normal_": fastinit.xavier_normal_,
    "kaiming_uniform_": fastinit.kaiming_uniform_,
    "lecun_normal_": fastinit.lecun_normal_,
    "orthogonal_": fastinit.orthogonal_,
    "orthogonal_many_": lambda t: fastinit.orthogonal_many_([torch.empty(3, 3), t]),
    "delta_orthogonal_": fastinit.delta_orthogonal_,
    "with a key": lambda t: fastinit.normal_(t, key=1),
    "of a shard": lambda t: fastinit.normal_(fastinit.shard(t, (20, 4), (0, 0)), key=1),
    "of ones in a shard": lambda t: fastinit.ones_(fastinit.shard(t, (20, 4), (0, 0))),
    "fill_many_": lambda t: torch.ops.fastinit.fill_many_([t], [0, 0], [0.0, 1.0, 0.0, 0.0], [1]),
}


def shortened(nbytes: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    tensor = torch.zeros(*shape, dtype=dtype)
    tensor.untyped_storage().resize_(nbytes)
    return tensor


def is_zero(tensor: torch.Tensor) -> bool:
    return not any(tensor.untyped_storage().tolist())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("nbytes", [0, 156])
def test_refused_by_every_function(name, nbytes):
    tensor = shortened(nbytes, 10, 4, *((1,) if name in ("dirac_", "delta_orthogonal_") else ()))
    said = rf"argument 'tensor' has {nbytes} bytes of storage and needs 160, .*nothing was written"
    with no_randomness(), pytest.raises(RuntimeError, match=said):
        FUNCTIONS[name](tensor)
    assert is_zero(tensor)


def test_of_other_types_and_layouts():
    with pytest.raises(RuntimeError, match=r"ones_: .*has 0 bytes of storage and needs 128"):
        fastinit.ones_(shortened(0, 4, 4, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"has 0 bytes of storage and needs 128"):
        fastinit.normal_(shortened(0, 4, 4, dtype=torch.complex64))
    tensor = torch.zeros(10, 4)
    column = tensor[2:, 1].unsqueeze(1)
    tensor.untyped_storage().resize_(148)  # where its last element begins
    with pytest.raises(RuntimeError, match=r"has 148 bytes of storage and needs 152.*offset 9"):
        fastinit.uniform_(column)
    assert is_zero(tensor)


def test_what_has_its_memory_is_filled():
    tensor = torch.zeros(10, 4)
    tensor.untyped_storage().resize_(156)
    fastinit.normal_(tensor[:9])
    assert tensor[:9].all()
    fastinit.normal_(shortened(0, 0, 4))
    fastinit.ones_(shortened(0, 4, 0))


def test_of_lists_nothing_is_written():
    others = [torch.zeros(3, 3), torch.zeros(5)]
    with pytest.raises(RuntimeError, match="has 0 bytes of storage"):
        fastinit.orthogonal_many_([others[0], shortened(0, 3, 3)])
    with pytest.raises(RuntimeError, match="has 0 bytes of storage"):
        torch.ops.fastinit.fill_many_(
            [*others, shortened(0, 3)], [0, 0] * 3, [0.0, 1.0, 0.0, 0.0] * 3, [1, 2, 3]
        )
    assert not any(tensor.any() for tensor in others)


def test_inside_batches_and_patches():
    with pytest.raises(RuntimeError, match="has 0 bytes of storage"), fastinit.batch():
        fastinit.normal_(shortened(0, 10, 4))
    with pytest.raises(RuntimeError, match="has 0 bytes of storage"), fastinit.patch(1):
        shortened(0, 10, 4).normal_()
    module = nn.Linear(8, 8)
    module.weight.untyped_storage().resize_(0)
    with (
        pytest.raises(RuntimeError, match="has 0 bytes of storage and needs 256"),
        fastinit.patch(0, module=module),
    ):
        module.reset_parameters()
