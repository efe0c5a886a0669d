"""From what waits for a tensor of the full size to what is to be done to the shard that is here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinit._distributed.fill import is_sharded
from fastinit._distributed.layout import Box
from fastinit._distributed.orthogonal import fill_together
from fastinit._distributed.part import Part, TensorShard, part_of
from fastinit._fills.fill import Fill, run_fills
from fastinit._fills.region import Region
from fastinit._fills.views import View, view_of, with_ones
from fastinit._recording.graph import Op, Ref, Storage
from fastinit._recording.recorder import Recorder


def keep(part: Part, source: Tensor) -> None:
    """Copy what is here of a tensor of the full size, or of one that is sharded alike."""
    if is_sharded(source):
        part.local.copy_(part_of(source, "materialize").local)
        return
    for view, offset in part.views():
        held = source.detach()
        for dim, (first, length) in enumerate(zip(offset, view.shape, strict=True)):
            held = held.narrow(dim, first, length)
        view.copy_(held)


def _is_empty(part: Part) -> bool:
    return not part.boxes or part.local.numel() == 0


def copied(recorder: Recorder, part: Part, source: Tensor) -> list[Op]:
    """Copy what is here of a tensor of the full size, or of one that is sharded alike."""
    if _is_empty(part):
        return []

    def run(local: Tensor, key: int | None) -> None:
        keep(part._replace(local=local), source)

    return [_on_shard(recorder, part, "copy_", run)]


def zeroed(recorder: Recorder, local: Tensor) -> Op:
    """Write zeros to all of a shard."""
    part = Part(local, tuple(local.shape), ())
    return _on_shard(recorder, part, "zero_", lambda tensor, key: tensor.zero_())


def _on_shard(
    recorder: Recorder,
    part: Part,
    label: str,
    run: Callable[[Tensor, int | None], Any],
    key: int | None = None,
) -> Op:
    ref = Ref(_storage(recorder, part), Region.of(part.local))
    return Op(label, (), (ref,), overwrites=True, run=run, key=key, ran=False)


def _storage(recorder: Recorder, part: Part) -> Storage:
    found = recorder.storage_of(part.local)
    return recorder.register(part.local, known=True, lasts=True) if found is None else found


def divided(
    recorder: Recorder, sharded: Any, part: Part, full: Region, ops: Sequence[Op]
) -> list[Op]:
    """Do to the shard of a DTensor what waits for a tensor of the full size."""
    views = [_view_of(full, op, part.local.dtype) for op in ops]
    if None in views:
        if _is_empty(part):
            return []
        label = ops[views.index(None)].label
        return [_on_shard(recorder, part, label, _whole(part, full, ops))]
    made: list[Op] = []
    # All ranks do it or none: whether they do follows from what is the same on all.
    if ops and ops[0].together and ops[0].writes[0].region == full:
        made.append(_together(recorder, sharded, part, ops[0]))
        ops, views = ops[1:], views[1:]
    if not _is_empty(part):
        for op, view in zip(ops, views, strict=True):
            assert view is not None
            made += _of_one(recorder, part, view, op)
    return made


def _together(recorder: Recorder, sharded: Any, part: Part, op: Op) -> Op:
    """Have all ranks that share a DTensor draw into it, those that hold nothing included."""
    given: tuple[Any, ...] = (*op.numbers, *(1.0, 0)[len(op.numbers) :])
    gain, batch_dims = given

    def run(local: Tensor, key: int | None) -> None:
        assert key is not None
        fill_together(sharded, part._replace(local=local), gain, batch_dims, key)

    return _on_shard(recorder, part, op.label, run, op.key)


def _view_of(full: Region, op: Op, dtype: torch.dtype) -> View | None:
    """See what an operator writes to as a view of the full tensor.

    None: what it does is not known of a part alone, whichever that is.
    """
    region = op.writes[0].region
    view = view_of(full, region)
    if view is None or op.fill is not None:
        return view
    if dtype is not region.dtype:
        return None
    if op.reads:  # arithmetic on each element
        return view
    return view if op.shards and with_ones(view.size, (), region.size) is not None else None


def _of_one(recorder: Recorder, part: Part, view: View, op: Op) -> list[Op]:
    """Do it, as far as it lies in the shard."""
    region, pieces = op.writes[0].region, _pieces(view, part.boxes, Region.of(part.local))
    storage = _storage(recorder, part)
    fill = op.fill
    if fill is not None:
        name, numbers, key, generator, _ = fill
        return [
            _like(op, Ref(storage, to), fill=Fill(name, numbers, key, generator, (size, offset)))
            for to, size, offset in pieces
        ]
    if op.reads:
        return [_like(op, Ref(storage, to), run=op.run) for to, _, _ in pieces]
    boxes = [Box((0,) * len(to.size), to.size, offset) for to, _, offset in pieces]
    spread = with_ones(view.size, boxes, region.size)
    assert spread is not None
    return _drawn(op, storage, region, spread, [to for to, _, _ in pieces])


@functools.lru_cache(maxsize=1 << 12)
def _pieces(
    view: View, boxes: tuple[Box, ...], local: Region
) -> list[tuple[Region, tuple[int, ...], tuple[int, ...]]]:
    """List what of a view lies in boxes: where in the shard, the view's size, its offset there."""
    found = [view.parts(box, local) for box in boxes]
    return [(piece[0], view.size, piece[1]) for piece in found if piece is not None]


def _drawn(
    op: Op,
    storage: Storage,
    region: Region,
    boxes: Sequence[Box],
    regions: Sequence[Region],
) -> list[Op]:
    """Have an operator for shards draw what lies in each of these boxes."""
    assert op.run is not None
    draw = op.run

    def of(box: Box) -> Callable[[Tensor, int | None], Any]:
        def run(tensor: Tensor, key: int | None) -> None:
            part = Part(tensor.view(box.size), region.size, (box,))
            draw(TensorShard(part), key)

        return run

    return [
        _like(op, Ref(storage, to), run=of(box)) for box, to in zip(boxes, regions, strict=True)
    ]


def _like(op: Op, ref: Ref, **how: Any) -> Op:
    return Op(
        op.label,
        (ref,) if op.reads else (),
        (ref,),
        numbers=op.numbers,
        overwrites=op.overwrites,
        key=op.key,
        ran=False,
        **how,
    )


def _whole(part: Part, full: Region, ops: Sequence[Op]) -> Callable[[Tensor, int | None], None]:
    """Compute the full tensor in memory of its own, and keep what is here of it."""
    size = max(region.span[1] for region in (full, *(op.writes[0].region for op in ops)))

    def run(local: Tensor, key: int | None) -> None:
        memory = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
        for op in ops:
            view = op.writes[0].region.on(memory)
            if op.fill is not None:
                run_fills([(view, op.fill if op.key is None else op.fill._replace(key=op.key))])
            elif op.run is not None:
                op.run(view, op.key)
        keep(part._replace(local=local), full.on(memory))

    return run
