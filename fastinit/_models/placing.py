"""Where parameters and buffers lie: memory for those on the meta device, and other devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinit._fills.region import Region
from fastinit._models.names import Named
from fastinit._models.request import Result
from fastinit._models.tree import entry_in, method_of
from fastinit._recording.graph import Ref, Storage
from fastinit._recording.recorder import Recorder
from fastinit._tensors import is_plain, swap


def wants_dtype(named: Named, dtype: torch.dtype | None) -> bool:
    """Whether `dtype` is meant for this: parameters, and buffers beside parameters."""
    if dtype is None or not named.tensor.is_floating_point() or named.tensor.dtype is dtype:
        return False
    beside = (p for p in named.owner._parameters.values() if p is not None)
    return isinstance(named.tensor, nn.Parameter) or any(p.is_floating_point() for p in beside)


class Given(NamedTuple):
    """A tensor that was on the meta device, and what gives it back what it was."""

    named: Named
    before: Tensor
    swapped: bool

    def undo(self) -> None:
        """Give it back."""
        tensor = self.named.tensor
        if self.swapped:
            swap(tensor, self.before)
            _put(self.named, self.before, tensor)
        else:
            _put(self.named, self.before, tensor)
            refresh(self.named)


def give_memory(
    recorder: Recorder, tensors: Iterable[Named], others: Iterable[Named] = ()
) -> list[Given]:
    """Give tensors that are on the meta device memory on the CPU, in which nothing is yet.

    Those that share a storage there do so afterwards. They stay the objects they are.

    Args:
        recorder: what guards the memory.
        tensors: the tensors.
        others: tensors that get memory only if they share it with those.
    """
    made: dict[int, Tensor] = {}
    given = []
    for named in tensors:
        untyped = named.tensor.untyped_storage() if named.tensor.is_meta else None
        if untyped is not None and untyped._cdata not in made:
            made[untyped._cdata] = torch.empty(untyped.nbytes(), dtype=torch.uint8, device="cpu")
    for named in (*tensors, *others):
        old = named.tensor
        memory = made.get(old.untyped_storage()._cdata) if old.is_meta else None
        if memory is not None:
            given.append(exchange(named, _like(old, Region.of(old).on(memory.untyped_storage()))))
    with recorder.lock:
        for memory in made.values():
            recorder.close(memory, stands_in=True)
    return given


def _like(old: Tensor, tensor: Tensor) -> Tensor:
    """Make of a tensor what another is, a parameter or none."""
    new = tensor
    if isinstance(old, nn.Parameter):
        new = torch.Tensor._make_subclass(type(old), tensor, old.requires_grad)
    elif old.requires_grad and old.is_leaf:
        new = tensor.requires_grad_()
    return new


def exchange(named: Named, new: Tensor) -> Given:
    """Put a tensor in the place of a parameter or buffer: the same object, wherever it is held."""
    old = named.tensor
    try:
        swap(old, new)
    except RuntimeError:  # a graph holds it
        vars(new).update(vars(old))
        _put(named, old, new)
        refresh(named)
        return Given(named, new, False)
    # Scripted modules hold no objects, but what these are: theirs is the other one's now.
    _put(named, new, old)
    return Given(named, new, True)


def _put(named: Named, old: Tensor, new: Tensor) -> None:
    for owner, attribute in named.places:
        tables: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers, vars(owner))
        for table in tables:
            if entry_in(table, attribute) is old:
                table[attribute] = new


def refresh(named: Named) -> None:
    """Have modules see what is in their tables now, that hold it otherwise, too."""
    for owner, _ in named.places:
        held_by_lstm = method_of(owner, "_init_flat_weights")
        if held_by_lstm is not None:
            held_by_lstm()


def take_memory_back(given: Iterable[Given]) -> None:
    """Put on the meta device again what was there."""
    for one in given:
        one.undo()


def move(
    recorder: Recorder, result: Result, device: torch.device | None, dtype: torch.dtype | None
) -> None:
    """Put parameters and buffers on a device; what waits is computed there, not before.

    Those that share memory do so afterwards, and all stay the objects that they are.
    """
    moved: dict[tuple[int, torch.dtype], torch.UntypedStorage] = {}
    for named in (*result.parameters.values(), *result.buffers.values()):
        tensor = named.tensor
        if tensor.is_meta or tensor.layout is not torch.strided or not is_plain(type(tensor)):
            continue
        kind = dtype if dtype is not None and wants_dtype(named, dtype) else tensor.dtype
        place = tensor.device if device is None else _indexed(device)
        if place == tensor.device and kind is tensor.dtype:
            continue
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            address = tensor.untyped_storage()._cdata, kind
            if address not in moved:
                moved[address] = _moved(recorder, tensor, place, kind)
            region = Region.of(tensor)
            tensor.data = Region(region.size, region.stride, region.offset, kind).on(moved[address])


def _moved(
    recorder: Recorder, tensor: Tensor, place: torch.device, kind: torch.dtype
) -> torch.UntypedStorage:
    """Give a storage that holds what that of a tensor does, or will."""
    untyped = tensor.untyped_storage()
    count = untyped.nbytes() // tensor.itemsize
    memory = torch.empty(count, dtype=kind, device=place)
    storage = recorder.storage_of(tensor)
    ops = [] if storage is None else storage.pending
    if storage is not None and ops and _can_run_there(storage, tensor.dtype, kind):
        recorder.huge_pages.ask(memory.untyped_storage())
        there = recorder.register(memory, known=False)
        for op in ops:
            op.writes = [Ref(there, ref.region.with_dtype(kind)) for ref in op.writes]
            op.reads = [Ref(there, ref.region.with_dtype(kind)) for ref in op.reads]
        there.pending, storage.pending = ops, []
    else:
        if storage is not None:
            recorder.compute(storage)
        memory.copy_(Region((count,), (1,), 0, tensor.dtype).on(untyped))
    return memory.untyped_storage()


def _can_run_there(storage: Storage, before: torch.dtype, after: torch.dtype) -> bool:
    """Whether what waits for a storage gives the same on another device, as another type."""
    if not all(
        op.fill is not None and op.writes[0].region.dtype is before for op in storage.pending
    ):
        return before is after
    return True


def _indexed(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
