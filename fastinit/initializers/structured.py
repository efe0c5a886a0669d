"""The initialisers that decide where the zeros are: sparse, identity, Dirac."""

from __future__ import annotations

import operator

import torch
from torch import Generator, Tensor

from fastinit._compiled import sparse_op
from fastinit._distributed.fill import is_sharded
from fastinit._distributed.structured import dirac as dirac_of_shard
from fastinit._distributed.structured import eye as eye_of_shard
from fastinit._fallback import ORIGINALS
from fastinit._forked import on_one_thread, waits
from fastinit._tensors import check_open, is_plain, is_put_together
from fastinit.initializers.draw import draw, initializer
from fastinit.key import Key


@initializer(sparse_op, ("sparsity", "std"))
def sparse_(
    tensor: Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with normal draws of mean 0, but ceil(sparsity * rows) zeros in each column.

    Martens, "Deep learning via Hessian-free optimization" (ICML 2010). Which elements are zero
    depends on the key, the shape and `sparsity`; the others are what `normal_` writes there under
    the same key.

    Args:
        tensor: 2 dimensions; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2,
            complex64 or complex128.
        sparsity: the fraction of each column to set to zero, in [0, 1].
        std: of the rest, finite, at least 0.
        generator: where to draw the key from (default: the device's generator); one draw serves
            values and zeros.
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `std` is negative or not finite, or does not fit the dtype; if elements of
            `tensor` share memory; if `tensor` is an inference tensor outside of inference mode; if
            a generator would be drawn from while a CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if `tensor` does not have 2 dimensions, or `sparsity` is outside [0, 1]; if both
            `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which).
    """
    return draw(sparse_, tensor, (sparsity, std), generator, key)


def eye_(tensor: Tensor) -> Tensor:
    """Fill with the identity matrix: 1 on the main diagonal, 0 elsewhere.

    Args:
        tensor: 2 dimensions, not necessarily equal; any dtype.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `tensor` does not have 2 dimensions.
    """
    if waits():
        with on_one_thread():
            return eye_(tensor)
    sharded = is_sharded(tensor)
    if not (sharded or (is_plain(type(tensor)) and not is_put_together(tensor))):
        result: Tensor = ORIGINALS["eye_"](tensor)
        return result
    if tensor.dim() != 2:
        raise ValueError(
            f"fastinit.eye_: argument 'tensor' must have 2 dimensions, got shape "
            f"{tuple(tensor.shape)}"
        )
    if sharded:
        eye_of_shard(tensor)
        return tensor
    check_open("eye_", tensor)
    with torch.no_grad():
        tensor.zero_().diagonal().fill_(1)
    return tensor


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that, in each group, output d is input d.

    Of the channels beyond the smaller of (outputs per group, inputs) nothing passes. The 1 of each
    kernel sits at index size // 2 of every dimension.

    Args:
        tensor: 3, 4 or 5 dimensions, (out, in, *kernel); any dtype.
        groups: the number of groups of outputs that each repeat the pattern.

    Returns:
        `tensor`.

    Raises:
        TypeError: if `groups` is no integer.
        ValueError: if `tensor` has another number of dimensions, or `groups` is not a positive
            divisor of its first size.
    """
    if waits():
        with on_one_thread():
            return dirac_(tensor, groups)
    sharded = is_sharded(tensor)
    if not (sharded or (is_plain(type(tensor)) and not is_put_together(tensor))):
        result: Tensor = ORIGINALS["dirac_"](tensor, groups)
        return result
    if tensor.dim() not in (3, 4, 5):
        raise ValueError(
            "fastinit.dirac_: argument 'tensor' must have 3, 4 or 5 dimensions, got shape "
            f"{tuple(tensor.shape)}"
        )
    outputs, groups = tensor.shape[0], operator.index(groups)
    if groups < 1 or outputs % groups != 0:
        raise ValueError(
            f"fastinit.dirac_: argument 'groups' must be a positive divisor of {outputs}, the size "
            f"of dimension 0; got {groups}"
        )
    if sharded:
        dirac_of_shard(tensor, groups)
        return tensor
    check_open("dirac_", tensor)
    if tensor.numel() == 0:
        return tensor
    with torch.no_grad():
        tensor.zero_()
        centre = tensor
        for size in reversed(tensor.shape[2:]):
            centre = centre.select(-1, size // 2)
        # Splitting a dimension is always a view.
        grouped = centre.view(groups, outputs // groups, tensor.shape[1])
        grouped.diagonal(dim1=1, dim2=2).fill_(1)
    return tensor
