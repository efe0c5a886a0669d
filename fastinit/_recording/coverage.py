"""Which parts of memory a recording gives values to."""

from __future__ import annotations

import torch

from fastinit._fills.region import Region
from fastinit._recording.graph import Op, Ref, Storage


class Coverage:
    """Which parts of storages hold values, while operators pass by."""

    def __init__(self) -> None:
        self._regions: dict[Storage, list[Region]] = {}

    def add(self, op: Op) -> None:
        """Count what an operator writes, if what it reads has been written."""
        if any(not self._whole(storage) for storage in op.reads):
            return
        for ref in op.outputs:
            if op.overwrites or all(ref is not w for w in op.writes):
                self.mark(ref)

    def mark(self, ref: Ref) -> None:
        """Count a region as written."""
        self._regions.setdefault(ref.storage, []).append(ref.region)

    def _whole(self, storage: Storage) -> bool:
        every = Region((storage.nbytes,), (1,), 0, torch.uint8)
        return self.has(Ref(storage, every))

    def has(self, ref: Ref, before: bool = True) -> bool:
        """Whether all of a region holds values: also those from `before` the first operator?"""
        if (before and ref.storage.known) or ref.region.numel == 0:
            return True
        regions = self._regions.get(ref.storage, [])
        if any(region.covers(ref.region) for region in regions):
            return True
        end, (begin, stop) = -1, ref.region.span
        for low, high in sorted(r.span for r in regions if r.dense):
            if low > max(end, begin):
                break
            end = max(end, high)
        if end >= stop:
            return True
        return bool(regions) and self._counted(ref, regions)

    @staticmethod
    def _counted(ref: Ref, regions: list[Region]) -> bool:
        """Answer element by element, for writes that leave gaps."""
        marks = torch.zeros(ref.storage.nbytes, dtype=torch.bool)
        for region in (*regions, None):
            item = (region or ref.region).dtype.itemsize
            size, stride, offset = (region or ref.region).layout
            bytes_of = marks.as_strided(
                (*size, item), (*(s * item for s in stride), 1), offset * item
            )
            if region is None:
                return bool(bytes_of.all())
            bytes_of.fill_(True)
        raise AssertionError
