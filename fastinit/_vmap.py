"""Fills inside `torch.vmap`: every member of the batch by itself, under a key of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastinit._compiled import extension
from fastinit._tensors import check_open
from fastinit.key import Key, reserve_word

_functorch: Any = torch._C._functorch


@contextmanager
def _popped() -> Iterator[None]:
    """Leave the innermost transform for a while."""
    layer = _functorch.pop_dynamic_layer_stack()
    try:
        yield
    finally:
        _functorch.push_dynamic_layer_stack(layer)


@contextmanager
def _outside() -> Iterator[None]:
    """Leave all transforms for a while."""
    if _functorch.peek_interpreter_stack() is None:
        yield
        return
    with _popped(), _outside():
        yield


def only_vmap() -> bool:
    """Whether this is inside `torch.vmap`, nested perhaps, and in no other transform."""
    stack = _functorch.get_interpreter_stack()
    return bool(stack) and all(layer.key() == _functorch.TransformType.Vmap for layer in stack)


def _targets(
    name: str, tensor: Tensor, path: tuple[int, ...] = ()
) -> list[tuple[Tensor, tuple[int, ...]]]:
    """Take a tensor apart: what its members are, and their numbers, those of outer batches first.

    Raises:
        RuntimeError: where torch's random operations do.
    """
    top = _functorch.peek_interpreter_stack()
    if top is None:
        return [(tensor, path)]
    vmap = _functorch.CVmapInterpreterPtr(top)
    if vmap.randomness() == _functorch.RandomnessType.Error:
        raise RuntimeError(
            f"vmap: fastinit.{name} was called in randomness error mode; please use the 'same' or "
            "'different' randomness flags on vmap, or call it outside"
        )
    different = vmap.randomness() == _functorch.RandomnessType.Different
    batched = (
        _functorch.is_batchedtensor(tensor) and _functorch.maybe_get_level(tensor) == vmap.level()
    )
    if not batched:
        if different:
            raise RuntimeError(
                f"vmap: fastinit.{name} cannot fill argument 'tensor' differently for each member "
                "of the batch, as they share it; make it from a batched one, as torch.empty_like "
                "does, or use randomness='same'"
            )
        with _popped():
            return _targets(name, tensor, path)
    whole, dim = _functorch.get_unwrapped(tensor), _functorch.maybe_get_bdim(tensor)
    with _popped():
        # Of what outer batches hide, only they see all.
        whole_is_seen = not _functorch.is_batchedtensor(whole)
        if whole_is_seen and extension.overlaps_itself(tuple(whole.shape), whole.stride()):
            raise RuntimeError(
                f"fastinit.{name}: more than one element of the batch in argument 'tensor', of "
                f"size {tuple(whole.shape)} and strides {whole.stride()}, may refer to a single "
                "memory location; clone() it first"
            )
        return [
            target
            for i in range(whole.size(dim))
            for target in _targets(name, whole.select(dim, i), (i, *path) if different else path)
        ]


def _drawn(device: torch.device, generator: torch.Generator | None) -> int:
    """Draw a key, where there is one to draw.

    Meta tensors have no generator, and get nothing written; but those of a recording of a model
    stand for others, and the recording answers.
    """
    try:
        return reserve_word(device, generator)
    except NotImplementedError:
        if device.type != "meta":
            raise
        return 0


def fill(
    function: Callable[..., Tensor],
    tensor: Tensor,
    arguments: dict[str, Any],
    given: dict[str, Any],
    where: str = "",
) -> None:
    """Run `function` on a tensor inside vmap; messages call it `where`, if anything.

    Under randomness="different" member i of the batch gets what `key.fold_in(i)` gives outside,
    under "same" all get what `key` gives. Of a generator one key is drawn.

    Raises:
        RuntimeError: where torch's random operations do, and what `function` raises; nothing is
            written or drawn then.
    """
    where = where or function.__name__
    shape = tuple(tensor.shape)  # of one member
    with torch.no_grad():
        targets = _targets(where, tensor)
        with _outside():
            word = given.get("key")
            if word is None:
                # What it would complain about must be said before a key is drawn.
                example = torch.empty(shape, dtype=tensor.dtype, device="meta")
                function(example, **arguments, key=0)
                draws = [t for t, _ in targets if t.numel() > 0]
                for member in draws:
                    check_open(where, member)
                word = _drawn(tensor.device, given.get("generator")) if draws else 0
            for member, path in targets:
                key = Key(word)
                for i in path:
                    key = key.fold_in(i)
                function(member, **arguments, key=key)
