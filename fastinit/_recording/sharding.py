"""Sharding while a recording is on: full tensors stand for shards until the end.

What waits has no values that could be divided, let alone sent. So what is to be sharded is on the
meta device meanwhile, and its full tensor is kept; what is done to the shards afterwards is done to
that. No rank waits for another, and in the end each computes its part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import TensorShard, written
from fastinit._fills.operators import NATIVE_TO_SHARDS, written_arguments
from fastinit._fills.region import Region
from fastinit._recording.graph import Op, Ref, Storage
from fastinit._recording.kinds import Kind, Way
from fastinit._recording.memory import is_real, tensors_in
from fastinit._tensors import is_plain, swap
from fastinit.initializers.orthogonal import delta_orthogonal_
from fastinit.initializers.structured import dirac_, eye_

if TYPE_CHECKING:
    from fastinit._recording.recorder import Recorder

# Initialisers that are operators for shards alone.
_FOR_SHARDS: dict[str, Callable[..., Any]] = {
    "fastinit_shards::delta_orthogonal_": delta_orthogonal_,
    "fastinit_shards::dirac_": dirac_,
    "fastinit_shards::eye_": eye_,
}


class _Full(NamedTuple):
    """The full tensor of a shard.

    Attributes:
        local: the shard, held so that its address is its own.
        tensor: the full tensor.
        kept: whether the shard has values, which stay unless all are overwritten.
        barrier: what waits for the shard meanwhile, to stop who reads it.
    """

    local: Tensor
    tensor: Tensor
    kept: bool = False
    barrier: tuple[Storage, Op] | None = None


def full_sized(sharded: Any, device: torch.device | str = "cpu") -> Tensor:
    """Give memory of the full size, which costs address space until it is touched, on the CPU.

    Raises:
        RuntimeError: if there is none for it.
    """
    dtype, size = sharded.dtype, sharded.shape
    stride = _compact(size, sharded.stride())
    if device == "cpu":
        return extension.reserve(size, stride, dtype)
    return torch.empty_strided(size, stride, dtype=dtype, device=device)


@functools.lru_cache(maxsize=1 << 12)
def _compact(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """Give the strides of a full tensor, without the gaps between its elements if it has some."""
    whole = Region(size, stride, 0, torch.uint8)
    return torch.empty(size, device="meta").stride() if whole.span[1] > whole.numel else stride


def _meta_like(tensor: Any) -> Any:
    """Make what a tensor is, on the meta device."""
    old = tensor._local_tensor if is_sharded(tensor) else tensor
    made: Any = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="meta")
    if is_sharded(tensor):
        made = type(tensor)(made, tensor._spec, requires_grad=tensor.requires_grad)
        return nn.Parameter(made, made.requires_grad) if isinstance(tensor, nn.Parameter) else made
    if isinstance(tensor, nn.Parameter):
        return torch.Tensor._make_subclass(type(tensor), made, tensor.requires_grad)
    return made.requires_grad_(tensor.requires_grad)


@contextmanager
def _on_meta(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Have these tensors be on the meta device inside; they stay the objects that they are."""
    made: list[tuple[Tensor, Tensor]] = []
    try:
        for tensor in tensors:
            meta = _meta_like(tensor)
            swap(tensor, meta)
            made.append((tensor, meta))
        yield
    finally:
        for tensor, meta in reversed(made):
            swap(tensor, meta)


def _stop(tensor: Tensor, key: int | None) -> NoReturn:
    _refuse("reads the values")


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(
        f"fastinit.materialize: the factory {what} of a DTensor, whose values are computed when it "
        "has returned; initialise before sharding, or shard on the meta device and materialize the "
        "module"
    )


def _check_no_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what has no values, which torch takes beside what has some, and does nothing."""
    for tensor in tensors_in((args, kwargs)):
        if tensor.is_meta and tensor.numel() > 0:
            raise NotImplementedError(
                f"fastinit.materialize: the factory writes a tensor of shape {tuple(tensor.shape)} "
                f"on the meta device into a DTensor ({func}); that device, which DTensors are on "
                "until the factory has returned, keeps no values: make it on the CPU"
            )


def _listed(index: Any) -> Any:
    """Make an index that is a list of numbers a tensor; others are what they are."""
    if isinstance(index, list) and index and all(isinstance(n, int) for n in index):
        return torch.tensor(index, device="cpu")
    return index


class Sharding:
    """The full tensors of what is sharded while a recording is on.

    Args:
        recorder: the recording.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._full: dict[int, _Full] = {}  # by the address of the shard's storage

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
        made = full_sized(tensor)
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
        barrier = None
        if is_real(local) and local.numel() > 0:
            recorder = self._recorder
            storage = recorder.storage_of(local) or recorder.register(local, known=True)
            op = Op("a shard", (), (Ref(storage, Region.of(local)),), run=_stop, ran=False)
            storage.pending.append(op)
            if not storage.escaped:
                recorder.guard(storage)
            barrier = storage, op
        self._full[extension.storage_address(local)] = _Full(local, full, kept, barrier)

    def end(self) -> None:
        """Let everybody at the shards again."""
        for found in self._full.values():
            if found.barrier is not None:
                storage, op = found.barrier
                storage.pending = [other for other in storage.pending if other is not op]

    # ---- what shards -----------------------------------------------------------------------------

    def distribute(self, function: Callable[..., Any], tensor: Any, *args: Any, **how: Any) -> Any:
        """Run `distribute_tensor`, which communicates nothing."""
        if not is_real(tensor) or self._is_off():
            return function(tensor, *args, **how)
        with self._recorder.busy():
            with _on_meta([tensor]):
                result = function(tensor, *args, **how)
            self._put(result, tensor)
        return result

    def fully_shard(self, function: Callable[..., Any], module: Any, **how: Any) -> Any:
        """Run `fully_shard`, which copies nothing."""
        if self._is_off():
            return function(module, **how)
        modules: Sequence[nn.Module] = [module] if isinstance(module, nn.Module) else [*module]
        places = [
            (owner, name, parameter)
            for one in modules
            for owner in one.modules()
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]
        with self._recorder.busy():
            full: dict[int, Tensor] = {}
            for _, _, parameter in places:
                found = parameter if is_real(parameter) else self.full(parameter)
                if found is not None:
                    full[id(parameter)] = found
            here = {id(p): p for _, _, p in places if not p.is_meta and id(p) in full}
            with _on_meta(here.values()):
                result = function(module, **how)
            for owner, name, parameter in places:
                now = owner._parameters.get(name)
                if now is not parameter and is_sharded(now) and id(parameter) in full:
                    self._put(now, full[id(parameter)])
        return result

    # ---- what is done to shards ------------------------------------------------------------------

    @property
    def has_shards(self) -> bool:
        """Whether there are some that full tensors stand for."""
        return len(self._full) > 0

    def is_shard(self, tensor: Any) -> bool:
        """Whether this is the shard of a DTensor by itself, which is without values meanwhile."""
        plain = is_plain(type(tensor)) and tensor.is_meta
        return plain and extension.storage_address(tensor) in self._full

    def check(self, func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse what is done to the memory of a shard itself, and to write what has no values."""
        if not self._full or self._is_off():
            return
        written_to = written_arguments(func, args, kwargs) if kind.mutable else ()
        for tensor in written_to:
            if is_plain(type(tensor)) and extension.storage_address(tensor) in self._full:
                _refuse("writes to the shard")
        if any(is_real(tensor) for tensor in written_to):
            _check_no_meta(func, args, kwargs)
        looks = kind.way is Way.PASS or func in NATIVE_TO_SHARDS
        if not looks and any(map(self.is_shard, tensors_in((args, kwargs)))):
            _refuse(f"makes others of the values ({func})")

    def assigned(self, tensor: Any, index: Any, value: Any) -> tuple[Any, Any, Any]:
        """Give what is to be called in the place of `tensor[index] = value`.

        Numbers become tensors on the device of what they are assigned to, or are to index, before
        anybody sees them. On the meta device, where shards are, they would be lost.
        """
        if not is_sharded(tensor) or self._is_off() or self._found(tensor) is None:
            return tensor, index, value
        with self._recorder.busy(), torch._C.DisableTorchFunction():
            if not isinstance(value, Tensor):
                with suppress(TypeError, RuntimeError):  # torch says it of what is asked for
                    value = torch.full((), value, dtype=tensor.dtype, device="cpu")
            if isinstance(index, tuple):
                return tensor, tuple(map(_listed, index)), value
            return tensor, _listed(index), value

    def dispatch(
        self, mode: Any, func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do to full tensors what is done to DTensors.

        Returns:
            The result, in which DTensors stand for what they stood for; NotImplemented where
            DTensors are to do it themselves.
        """
        if func in NATIVE_TO_SHARDS or self._is_off():
            return NotImplemented
        changes = kind.mutable or func.is_view
        if not changes and all(self._found(t) is None for t in tensors_in((args, kwargs))):
            return NotImplemented
        of: dict[int, Any] = {}
        others: list[Any] = []

        def full(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(full, value))
            if not is_sharded(value) or type(value) is TensorShard:
                return value
            new = kind.mutable or not self.has_values(value)
            found = self._full_or_new(value) if new else self.full(value)
            if found is None:
                others.append(value)
                return value
            of[id(found)] = value
            return found

        with self._recorder.busy():
            new = full(args)
            given = {name: full(value) for name, value in kwargs.items()}
        if not of:
            return NotImplemented
        if others:
            _refuse(f"needs the values ({func})")
        _check_no_meta(func, new, given)
        name = func._schema.name
        if name in _FOR_SHARDS:
            with mode:
                _FOR_SHARDS[name](*new, **given)
            result = None
        elif name.startswith("fastinit_shards"):
            _refuse(f"draws the parts ({func})")
        else:
            result = self._recorder.dispatch(func, kind, new, given)
        if not changes and any(tensor.dim() > 0 for tensor in tensors_in((result,))):
            _refuse(f"makes others of the values ({func})")  # which somebody would have to shard
        if kind.mutable:
            for tensor in written_arguments(func, args, kwargs):
                if is_sharded(tensor):
                    written(tensor)
        return of.get(id(result), result)
