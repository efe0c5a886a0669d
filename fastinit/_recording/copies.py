"""Copies of what waits, which wait as well: a clone, a tensor times a number, a copy elsewhere.

What waits for the memory of the one is written down for that of the other, draws with the same
number, so that both get the same values in the end.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastinit._fills.region import Region
from fastinit._fills.spans import Spans
from fastinit._recording.graph import Op, Ref, Storage, needed_of

_MOST = 16  # things that wait, from which on a value is computed rather than all of them copied


@functools.cache
def in_place(func: Any) -> Any:
    """Find the operator that does in place what an elementwise one does; None if there is none.

    `clone` does nothing to each element, so it is itself.
    """
    name, overload = func._schema.name.partition("::")[2], func._schema.overload_name or "default"
    if func.namespace != "aten" or torch.Tag.pointwise not in func.tags:
        return None
    packet = getattr(torch.ops.aten, name + "_", None)
    if packet is None or overload not in packet.overloads():
        return None
    return getattr(packet, overload)


def waiting_in(storage: Storage, region: Region) -> Sequence[Op] | None:
    """List what waits for a region, if that is all that its values depend on."""
    runs = region.runs
    if not 0 < len(storage.pending) <= _MOST:  # a copy of a copy would be longer each time
        return None
    if runs is None or len(runs) != 1 or region.overlaps_itself:
        return None
    written = Spans()
    for op in storage.pending:
        inside = region.covers(op.writes[0].region)
        if not inside or op.writes[0].region.dtype is not region.dtype:
            return None
        if op.overwrites:
            written.add_region(op.writes[0].region)
        elif not written.covers_region(op.writes[0].region):
            return None
    return needed_of(storage) if written.covers(*runs[0]) else None


def copied(ops: Sequence[Op], of: Region, to: Ref) -> list[Op]:
    """Give what has to be done to `to` for it to hold what `of` will, laid out alike."""
    shift = to.region.offset - of.offset

    def there(ref: Ref) -> Ref:
        old = ref.region
        return Ref(to.storage, Region(old.size, old.stride, old.offset + shift, old.dtype))

    made = []
    for op in ops:
        copy = Op(
            op.label,
            [there(ref) for ref in op.reads],
            [there(ref) for ref in op.writes],
            numbers=op.numbers,
            overwrites=op.overwrites,
            fill=op.fill,
            run=op.run,
            shards=op.shards,
            together=op.together,
            operator=op.operator,
            draw=op.draw,
            key=op.key,
            ran=False,
        )
        copy.original, copy.elementwise = op, op.elementwise
        made.append(copy)
    return made


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lay the same elements out in the same way."""
    return a.dtype is b.dtype and a.shape == b.shape and a.stride() == b.stride()
