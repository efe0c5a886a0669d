"""The full tensors of what is sharded while a recording is on, and which shards they stand for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import TensorShard, written
from fastinit._fills.region import Region
from fastinit._recording.graph import Op, Ref, Storage
from fastinit._recording.memory import is_real
from fastinit._recording.storage_set import StorageSet
from fastinit._tensors import is_plain

if TYPE_CHECKING:
    from fastinit._recording.recorder import Recorder


class _Full(NamedTuple):
    """The full tensor of a shard.

    Attributes:
        local: the shard, held so that its address is its own.
        tensor: the full tensor.
        kept: whether the shard has values, which stay unless all are overwritten.
        barrier: what waits for the shard meanwhile, to stop who reads it.
        outside: whether the shard was there before the recording.
        position: how much had been recorded when it began to stand for the shard.
    """

    local: Tensor
    tensor: Tensor
    kept: bool = False
    barrier: tuple[Storage, Op] | None = None
    outside: bool = False
    position: int = 0


def full_sized(
    sharded: Any, recorder: Recorder | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Give memory of the full size, which costs address space until it is touched, on the CPU.

    Args:
        sharded: the DTensor.
        recorder: whose address space it is, if there is a recording.
        device: where to have it.

    Raises:
        RuntimeError: if there is none for it.
    """
    dtype, size = sharded.dtype, sharded.shape
    stride = _compact(size, sharded.stride())
    if device == "cpu":
        if recorder is None:
            return extension.reserve(size, stride, dtype)
        return extension.reserve(size, stride, dtype, recorder.space)
    return torch.empty_strided(size, stride, dtype=dtype, device=device)


@functools.lru_cache(maxsize=1 << 12)
def _compact(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """Give the strides of a full tensor, without the gaps between its elements if it has some."""
    whole = Region(size, stride, 0, torch.uint8)
    return torch.empty(size, device="meta").stride() if whole.span[1] > whole.numel else stride


def _stop(tensor: Tensor, key: int | None) -> NoReturn:
    refuse("reads the values")


def refuse(what: str) -> NoReturn:
    raise NotImplementedError(
        f"fastinit.materialize: the factory {what} of a DTensor, whose values are computed when it "
        "has returned; initialise before sharding, or shard on the meta device and materialize the "
        "module; what is loaded is given as argument 'state_dict'"
    )


class FullTensors:
    """The full tensors of what is sharded while a recording is on.

    Args:
        recorder: the recording.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._full: dict[int, _Full] = {}  # by the address of the shard's storage
        self._viewed = StorageSet()  # those of full tensors of which somebody has a view

    def _is_off(self) -> bool:
        return self._recorder.ended or self._recorder.thread.busy > 0

    # ---- which tensor stands for a shard ---------------------------------------------------------

    def _found(self, tensor: Any) -> _Full | None:
        if type(tensor) is TensorShard or not is_sharded(tensor) or not self._full:
            return None
        found = self._full.get(extension.storage_address(tensor._local_tensor))
        return found if found is not None and found.tensor.shape == tensor.shape else None

    def full(self, tensor: Any) -> Tensor | None:
        """Give the full tensor of a DTensor; None if there is none."""
        found = self._found(tensor)
        if found is not None:
            return found.tensor
        if type(tensor) is TensorShard or not is_sharded(tensor):
            return None
        local: Tensor = tensor._local_tensor
        whole = is_real(local) and all(p.is_replicate() for p in tensor.placements)
        return local if whole and local.shape == tensor.shape else None

    def keeps(self, tensor: Any) -> bool:
        """Whether a DTensor had values of its own before something was done to it."""
        found = self._found(tensor)
        return found is not None and found.kept

    def is_drawn(self, tensor: Any) -> bool:
        """Whether the shard of a DTensor depends on draws that were made for it alone."""
        storage = self._recorder.storage_of(tensor._local_tensor)
        return self.full(tensor) is None and storage is not None and storage.drawn

    def is_changed(self, tensor: Any) -> bool:
        """Whether something has been done to a DTensor here, or to its shard alone."""
        if type(tensor) is TensorShard:
            return False
        return self._found(tensor) is not None or self.is_drawn(tensor)

    def has_values(self, tensor: Any) -> bool:
        """Whether a DTensor's shard has values; of an empty one that is not known of the others."""
        local: Tensor = tensor._local_tensor
        if local.is_meta or local.numel() == 0:
            return False
        storage = self._recorder.storage_of(local)
        return storage is None or self._recorder.has_values(Ref(storage, Region.of(local)))

    def _full_or_new(self, tensor: Any) -> Tensor | None:
        """Give the full tensor of a DTensor that something is about to be done to."""
        full = self.full(tensor)
        local: Tensor = tensor._local_tensor
        if full is not None or not is_real(local):
            return full
        if any(p.is_partial() for p in tensor.placements):
            return None
        recorder, kept = self._recorder, self.has_values(tensor)
        made = full_sized(tensor, recorder)
        storage = recorder.close(made, stands_in=True)
        if storage is not None:
            storage.known = kept
        self._put(tensor, made, kept)
        return made

    def to_write(self, tensor: Any) -> Any:
        """Give what is to be written in the place of a tensor: the full one of a DTensor."""
        if type(tensor) is TensorShard or not is_sharded(tensor):
            return tensor
        with self._recorder.busy():
            full = self._full_or_new(tensor)
        if full is None:
            return tensor
        written(tensor)
        return full

    def _put(self, tensor: Any, full: Tensor, kept: bool = False) -> None:
        local: Tensor = tensor._local_tensor
        barrier, outside = None, False
        if is_real(local) and local.numel() > 0:
            recorder = self._recorder
            storage = recorder.storage_of(local)
            outside = not recorder.is_inside(local) if storage is None else storage.outside
            storage = storage or recorder.register(local, known=True)
            op = Op("a shard", (), (Ref(storage, Region.of(local)),), run=_stop, ran=False)
            storage.pending.append(op)
            if not storage.escaped:
                recorder.guard(storage)
            barrier = storage, op
        self._full[extension.storage_address(local)] = _Full(
            local, full, kept, barrier, outside, len(self._recorder.log)
        )

    def end(self) -> None:
        """Let everybody at the shards again."""
        for found in self._full.values():
            if found.barrier is not None:
                storage, op = found.barrier
                storage.pending = [other for other in storage.pending if other is not op]

    @property
    def has_shards(self) -> bool:
        """Whether there are some that full tensors stand for."""
        return len(self._full) > 0

    def is_shard(self, tensor: Any) -> bool:
        """Whether this is the shard of a DTensor by itself, which is without values meanwhile."""
        plain = is_plain(type(tensor)) and tensor.is_meta
        return plain and extension.storage_address(tensor) in self._full

    # ---- when the factory has returned -----------------------------------------------------------

    def views(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Name the ordinary tensors that are views of DTensors, and would be no DTensors."""
        return [
            name
            for name, tensor in tensors.items()
            if not is_sharded(tensor) and tensor in self._viewed
        ]

    def changed_outside(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """List the shards of before that have been changed, and are none of these DTensors."""
        address = extension.storage_address
        held = {address(one._local_tensor) for one in tensors if is_sharded(one)}  # type: ignore[attr-defined]
        found = [f for place, f in self._full.items() if f.outside and place not in held]
        if not found:
            return []
        written_to = {ref.storage for op in self._recorder.log for ref in op.writes}
        return [f.local for f in found if self._recorder.storage_of(f.tensor) in written_to]
