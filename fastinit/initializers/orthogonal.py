"""Orthogonal matrices: alone, in batches, in lists, and in the middle of a convolution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from fastinit._compiled import orthogonal_many_op, orthogonal_op
from fastinit._distributed.fill import check_placements, is_sharded
from fastinit._distributed.orthogonal import together
from fastinit._distributed.structured import delta_orthogonal
from fastinit._fallback import handled, refuse
from fastinit._forked import on_one_thread, waits
from fastinit._tensors import DTYPES, check_apart, check_one_shape, check_open
from fastinit.initializers.draw import as_double, draw, initializer
from fastinit.key import Key, source

Method = Literal["householder", "qr"]


def _orthogonal_arguments(
    tensor: Tensor, gain: float, batch_dims: int = 0, method: Method = "householder"
) -> tuple[float, int, Method]:
    return as_double(gain, "gain"), batch_dims, method


@initializer(orthogonal_op, ("gain",), numbers=_orthogonal_arguments)
def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
    batch_dims: int = 0,
    method: Method = "householder",
    distributed: bool = False,
) -> Tensor:
    """Fill with a random matrix whose rows or columns, the fewer, are orthogonal, of length `gain`.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks" (2013). The matrix is Haar distributed (uniform on the Stiefel manifold
    if it is not square; unitary if complex): a product of Householder reflections drawn one by one
    (Stewart, "The efficient generation of random orthogonal matrices", 1980), in place of the
    factorisation of a Gaussian matrix that has the same distribution; docs/orthogonal.md. It goes
    through matrix products, so two machines, two numbers of threads, or (of complex and of large
    matrices) two sizes of a batch, agree to rounding only.

    Args:
        tensor: at least 2 dimensions besides those of the batch, those after the first taken as
            one; float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2, complex64 or
            complex128, those of 16 and 8 bits computed in float32. Autocast and the precision
            allowed for float32 products (TF32) make no difference.
        gain: the factor, finite.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.
        batch_dims: how many leading dimensions count matrices, each independent of the others:
            `(experts, out, in)` with 1.
        method: "householder", or "qr" for the slower reference: Q of the QR factorisation of a
            Gaussian matrix, its phases fixed by R's diagonal (Mezzadri, 2007). Other values, of the
            same distribution.
        distributed: whether the ranks that hold parts of a matrix of a DTensor make it together,
            by collectives: all of them have to make the call. Without it each works alone, and of
            a large matrix on more than its part. The values are the same, to rounding.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `gain` is not finite; if elements of `tensor` share memory; if `tensor` is
            an inference tensor outside of inference mode; if a generator would be drawn from while
            a CUDA graph is captured; with `distributed`, if the ranks differ in what they ask for.
        TypeError: if a number, `method`, `key` or `generator` has the wrong type; if `distributed`
            is given for what is no DTensor.
        ValueError: if `tensor` has too few dimensions, `batch_dims` is negative, or `method` is
            neither of the two, or not "householder" with `distributed`; if both `key` and
            `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which), which has neither `batch_dims` nor `method`.
    """
    if distributed:
        if method != "householder":
            raise ValueError(
                "fastinit.orthogonal_: argument 'method' must be 'householder' with "
                f"distributed=True, got {method!r}"
            )
        given = source(key, generator, "orthogonal_")
        together(tensor, as_double(gain, "gain"), batch_dims, given)
        return tensor
    beyond = _beyond(batch_dims, method, "orthogonal_")
    return draw(orthogonal_, tensor, (gain,), generator, key, beyond)


def _beyond(batch_dims: int, method: Method, where: str) -> dict[str, Any]:
    """Give what torch's function does not have, if it is asked for.

    Raises:
        TypeError: if `batch_dims` is no integer or `method` no str.
    """
    if batch_dims == 0 and method == "householder":
        return {}
    if isinstance(batch_dims, Sequence) or not hasattr(batch_dims, "__index__"):
        raise TypeError(
            f"fastinit.{where}: argument 'batch_dims' must be an integer, got "
            f"{type(batch_dims).__name__}"
        )
    if not isinstance(method, str):
        raise TypeError(
            f"fastinit.{where}: argument 'method' must be a str, got {type(method).__name__}"
        )
    return {"batch_dims": batch_dims, "method": method}


def orthogonal_many_(
    tensors: Iterable[Tensor],
    gain: float | Sequence[float] = 1,
    generator: Generator | None = None,
    *,
    keys: Iterable[Key | int] | None = None,
    batch_dims: int = 0,
    method: Method = "householder",
    distributed: bool = False,
) -> list[Tensor]:
    """Fill each tensor as `orthogonal_` does, those of one shape together.

    The values are, to rounding, those of one call after the other; the time of many small matrices
    is a fraction.

    Args:
        tensors: what to fill; each as for `orthogonal_`.
        gain: the factor, finite, or one for every tensor.
        generator: where to draw the keys from, in the order of the tensors (default: the
            generator of each one's device).
        keys: one for every tensor, instead of a generator.
        batch_dims: how many leading dimensions of each tensor count matrices.
        method: see `orthogonal_`.
        distributed: whether ranks make the matrices together that they share, one tensor after the
            other; see `orthogonal_`.

    Returns:
        The tensors, in a list.

    Raises:
        RuntimeError: if `gain` is not finite; if elements of `tensor` share memory; if `tensor` is
            an inference tensor outside of inference mode; if a generator would be drawn from while
            a CUDA graph is captured; with `distributed`, if the ranks differ in what they ask for.
        TypeError: if a tensor, a number, `method`, a key or `generator` has the wrong type; if
            `distributed` is given and a tensor is no DTensor.
        ValueError: if the number of `keys` or of gains is not that of the tensors; if a tensor has
            too few dimensions, `batch_dims` is negative, or `method` is neither of the two, or not
            "householder" with `distributed`; if both `key` and `generator` are given, or `key` is
            outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which), which has neither `batch_dims` nor `method`. This is checked before any
            tensor is filled, all else device by device; those that go to torch come last, one by
            one.
    """
    listed = list(tensors)
    for tensor in listed:
        if not isinstance(tensor, Tensor):
            raise TypeError(
                "fastinit.orthogonal_many_: argument 'tensors' must be tensors, got "
                f"{type(tensor).__name__}"
            )
    gains = list(gain) if isinstance(gain, Sequence) else [gain] * len(listed)
    words = [None] * len(listed) if keys is None else list(keys)
    for name, values in (("gain", gains), ("keys", words)):
        if len(values) != len(listed):
            raise ValueError(
                f"fastinit.orthogonal_many_: argument '{name}' has {len(values)} values for "
                f"{len(listed)} tensors"
            )
    without = [k for k, word in enumerate(words) if word is None]
    if keys is not None and without:
        raise TypeError(
            "fastinit.orthogonal_many_: argument 'keys' must have a key for every tensor, got None "
            f"for number {without[0]}"
        )
    given = [source(word, generator, "orthogonal_many_") for word in words]
    factors = [as_double(value, "gain") for value in gains]
    beyond = _beyond(batch_dims, method, "orthogonal_many_")
    at_once: dict[torch.device, list[int]] = {}

    def fill_together() -> None:
        for numbers in at_once.values():
            orthogonal_many_op(
                [listed[k] for k in numbers],
                [factors[k] for k in numbers],
                batch_dims,
                method,
                keys=None if keys is None else [given[k]["key"] for k in numbers],
                generator=generator,
            )
        at_once.clear()

    def fill_alone(k: int) -> None:
        orthogonal_(
            listed[k],
            gains[k],
            generator,
            key=words[k],
            batch_dims=batch_dims,
            method=method,
            distributed=distributed,
        )

    if not distributed:
        for k, tensor in enumerate(listed):
            if not (handled(tensor, DTYPES) or is_sharded(tensor)):
                numbers = {"gain": factors[k]}
                where = "orthogonal_many_"
                refuse(orthogonal_, tensor, numbers, given[k], DTYPES, beyond, where)
    sharded = any(map(is_sharded, listed)) and not distributed
    if sharded:
        for tensor, factor in zip(listed, factors, strict=True):
            _check(tensor, factor, batch_dims, method)
    last = []
    for k, tensor in enumerate(listed):
        if handled(tensor, DTYPES) and not distributed:
            at_once.setdefault(tensor.device, []).append(k)
        elif sharded and is_sharded(tensor):
            if keys is None:  # those before it draw theirs first, as on one process
                fill_together()
            fill_alone(k)
        else:
            last.append(k)
    fill_together()
    for k in last:
        fill_alone(k)
    return listed


def _check(tensor: Tensor, gain: float, batch_dims: int, method: Method) -> None:
    """Refuse what the operator would refuse of this size, before others are filled."""
    if is_sharded(tensor):
        check_placements("orthogonal_", tensor)
    elif not handled(tensor, DTYPES):
        return
    example = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    orthogonal_op(example, gain, batch_dims, method, key=0)


def delta_orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fill a convolution's weight with an orthogonal matrix in the middle and zeros around it.

    Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington, "Dynamical isometry and a mean field
    theory of CNNs: how to train 10,000-layer vanilla convolutional neural networks" (ICML 2018).
    The matrix is what `orthogonal_` writes into an (out, in) tensor. The middle of an even size is
    the lower of the two, as in JAX.

    Args:
        tensor: 3, 4 or 5 dimensions, (out, in, *kernel), out at least in; float32, float64,
            float16, bfloat16, float8_e4m3fn, float8_e5m2, complex64 or complex128.
        gain: the factor, finite.
        generator: where to draw the key from (default: the device's generator).
        key: the key itself, instead of a generator.

    Returns:
        `tensor`.

    Raises:
        RuntimeError: if `gain` is not finite; if elements of `tensor` share memory; if `tensor` is
            an inference tensor outside of inference mode; if a generator would be drawn from while
            a CUDA graph is captured.
        TypeError: if a number, `key` or `generator` has the wrong type.
        ValueError: if `tensor` has another number of dimensions, or fewer outputs than inputs; if
            both `key` and `generator` are given, or `key` is outside [-2**63, 2**64).
        NotImplementedError: if `key` is given and the dtype, layout or class of `tensor` cannot
            take one; without a key such a tensor goes to torch's function (`fastinit.show_config`
            says which).
    """
    if waits():
        with on_one_thread():
            return delta_orthogonal_(tensor, gain, generator, key=key)
    given = source(key, generator, "delta_orthogonal_")
    check_one_shape("delta_orthogonal_", tensor)
    shape = tuple(tensor.shape)
    if len(shape) not in (3, 4, 5):
        raise ValueError(
            "fastinit.delta_orthogonal_: argument 'tensor' must have 3, 4 or 5 dimensions, got "
            f"shape {shape}"
        )
    if shape[0] < shape[1]:
        raise ValueError(
            "fastinit.delta_orthogonal_: argument 'tensor' must have at least as many outputs as "
            f"inputs, got shape {shape}"
        )
    if is_sharded(tensor):
        delta_orthogonal(tensor, as_double(gain, "gain"), **given)
        return tensor
    check_open("delta_orthogonal_", tensor)
    check_apart("delta_orthogonal_", tensor)
    empty = math.prod(shape) == 0  # and draws nothing, but its arguments are looked at
    with torch.no_grad():
        matrix = draw(
            orthogonal_,
            tensor.new_empty((0, 0) if empty else shape[:2]),
            (gain,),
            generator,
            key,
            where="delta_orthogonal_",
        )
        if not empty:
            tensor.zero_()
            middle = tensor
            for size in reversed(shape[2:]):
                middle = middle.select(-1, (size - 1) // 2)
            middle.copy_(matrix)
    return tensor
