"""The initialisers that look at the whole tensor at once: orthogonal, sparse, identity, Dirac."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from fastinit._ops import (
    DTYPES,
    ORIGINALS,
    as_double,
    fill_many_op,
    handled,
    is_fake,
    is_plain,
    normal_op,
    otherwise,
    reserve_key,
)
from fastinit.key import NOTHING, Key, source

# Those that LAPACK factorises; the shorter ones are computed in float32.
_FACTORISED = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})
# How many elements of a sparse tensor are ranked at a time (at about 30 bytes each).
_RANKED_AT_ONCE = 1 << 20
_WORDS_KIND = 4  # in the plan of fill_many_


def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill with a random matrix whose rows or columns, the fewer, are orthogonal, of length `gain`.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks" (2013). The matrix is Haar distributed: Q of the QR factorisation of a
    Gaussian one, its columns' signs (phases) fixed by R's diagonal (Mezzadri, 2007). The Gaussian
    at row r, column c is what `normal_` writes there. It goes through LAPACK, so two machines, or
    two numbers of threads, agree to rounding only.

    Args:
        tensor: at least 2 dimensions, those after the first taken as one; dtypes as for `normal_`,
            those of 16 and 8 bits computed in float32. Autocast makes no difference.
        gain: the factor.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `tensor` has fewer than 2 dimensions. The rest is said at the top of
            `fastinit.init`.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "orthogonal_")
    if not handled(tensor, DTYPES):
        return otherwise(orthogonal_, tensor, {"gain": gain}, given, DTYPES)
    if tensor.dim() < 2:
        raise ValueError(
            "fastinit.orthogonal_: argument 'tensor' must have at least 2 dimensions, got shape "
            f"{tuple(tensor.shape)}"
        )
    factor = as_double(gain, "gain")
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    rows = tensor.shape[0]
    columns = tensor.numel() // rows
    dtype = tensor.dtype if tensor.dtype in _FACTORISED else torch.float32
    with torch.no_grad():
        gaussian = tensor.new_empty((rows, columns), dtype=dtype)
        normal_op(gaussian, 0.0, 1.0, **given)
        wide = rows < columns
        q, r = torch.linalg.qr(gaussian.t() if wide else gaussian)
        phases = r.diagonal().sgn()
        phases.masked_fill_(phases == 0, 1)
        q.mul_(phases.mul_(factor))
        if dtype is not tensor.dtype:
            limit = torch.finfo(tensor.dtype).max
            if abs(factor) > limit:  # saturate as every other fill does
                q.clamp_(-limit, limit)
        if wide:
            q = q.t()
        tensor.copy_(q if tensor.dim() == 2 else q.reshape(tensor.shape))
    return tensor


def _zero_smallest(tensor: Tensor, count: int, word: int) -> None:
    """Zero, in each column, the `count` elements with the smallest MASK words under a key."""
    rows, columns = tensor.shape
    if count == 0:
        return
    if count == rows:
        tensor.zero_()
        return
    if tensor.dtype.itemsize == 1:
        tensor = tensor.view(torch.uint8)  # torch masks no float8
    row = tensor.new_ones(rows, dtype=torch.int64).cumsum(0)
    at_once = max(1, _RANKED_AT_ONCE // rows)
    for start in range(0, columns, at_once):
        width = min(at_once, columns - start)
        # Stored column by column, which is how they are ranked.
        words = tensor.new_empty((width, rows), dtype=torch.int32)
        plan = [_WORDS_KIND, 2, rows, columns, 0, start]
        fill_many_op([words.t()], plan, [0.0, 0.0, 0.0, 0.0], [word])
        # With the sign bit flipped, signed comparison is unsigned; the row settles ties.
        ranks = words.bitwise_xor_(-(1 << 31)).to(torch.int64).mul_(1 << 32).add_(row)
        last = ranks.kthvalue(count, dim=1, keepdim=True).values
        tensor.narrow(1, start, width).masked_fill_((ranks <= last).t(), 0)


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
        tensor: 2 dimensions; dtypes as for `normal_`.
        sparsity: the fraction of each column to set to zero, in [0, 1].
        std: of the rest, finite, at least 0.
        generator: where to draw the key from (default: the device's generator); one draw serves
            values and zeros.
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `tensor` does not have 2 dimensions or `sparsity` is outside [0, 1]. The rest
            is said at the top of `fastinit.init`.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, "sparse_")
    if not handled(tensor, DTYPES):
        arguments = {"sparsity": sparsity, "std": std}
        return otherwise(sparse_, tensor, arguments, given, DTYPES)
    if tensor.dim() != 2:
        raise ValueError(
            f"fastinit.sparse_: argument 'tensor' must have 2 dimensions, got shape "
            f"{tuple(tensor.shape)}"
        )
    fraction = as_double(sparsity, "sparsity")
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fastinit.sparse_: argument 'sparsity' must be in [0, 1], got {fraction}")
    deviation = as_double(std, "std")
    with torch.no_grad():
        word = given.get("key")
        if tensor.numel() == 0 or tensor.is_meta or (word is None and is_fake(tensor)):
            normal_op(tensor, 0.0, deviation, **given)
            return tensor
        if word is None:
            # An empty fill checks `std` without drawing.
            normal_op(tensor.narrow(0, 0, 0), 0.0, deviation)
            word = reserve_key(tensor.device, generator)
        normal_op(tensor, 0.0, deviation, key=word)
        _zero_smallest(tensor, math.ceil(fraction * tensor.shape[0]), word)
    return tensor


def eye_(tensor: Tensor) -> Tensor:
    """Fill with the identity matrix: 1 on the main diagonal, 0 elsewhere.

    Args:
        tensor: 2 dimensions, not necessarily equal; any dtype.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `tensor` does not have 2 dimensions.
    """
    if not (is_plain(type(tensor)) and tensor.layout is torch.strided):
        result: Tensor = ORIGINALS["eye_"](tensor)
        return result
    if tensor.dim() != 2:
        raise ValueError(
            f"fastinit.eye_: argument 'tensor' must have 2 dimensions, got shape "
            f"{tuple(tensor.shape)}"
        )
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
        ValueError: if `tensor` has another number of dimensions, or `groups` is not a positive
            divisor of its first size.
    """
    if not (is_plain(type(tensor)) and tensor.layout is torch.strided):
        result: Tensor = ORIGINALS["dirac_"](tensor, groups)
        return result
    if tensor.dim() not in (3, 4, 5):
        raise ValueError(
            "fastinit.dirac_: argument 'tensor' must have 3, 4 or 5 dimensions, got shape "
            f"{tuple(tensor.shape)}"
        )
    outputs = tensor.shape[0]
    if groups < 1 or outputs % groups != 0:
        raise ValueError(
            f"fastinit.dirac_: argument 'groups' must be a positive divisor of {outputs}, the size "
            f"of dimension 0; got {groups}"
        )
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
