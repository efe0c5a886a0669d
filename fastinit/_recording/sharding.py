"""Sharding while a recording is on: full tensors stand for shards until the end.

What waits has no values that could be divided, let alone sent. So what is to be sharded is on the
meta device meanwhile, and its full tensor is kept; what is done to the shards afterwards is done to
that. No rank waits for another, and in the end each computes its part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import TensorShard, written
from fastinit._fills.operators import NATIVE_TO_SHARDS, written_arguments
from fastinit._recording.alike import (
    changes_nothing,
    elsewhere,
    filled,
    fills_alike,
    makes_alike,
    number_of,
)
from fastinit._recording.full_tensors import FullTensors, full_sized, refuse
from fastinit._recording.kinds import Kind, Way, kind_of
from fastinit._recording.memory import is_real, tensors_in
from fastinit._tensors import is_plain, swap
from fastinit.initializers.orthogonal import delta_orthogonal_
from fastinit.initializers.structured import dirac_, eye_

_CLONE = torch.ops.aten.clone.default
# Initialisers that are operators for shards alone.
_FOR_SHARDS: dict[str, Callable[..., Any]] = {
    "fastinit_shards::delta_orthogonal_": delta_orthogonal_,
    "fastinit_shards::dirac_": dirac_,
    "fastinit_shards::eye_": eye_,
}


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


def _is_empty(tensor: Any) -> bool:
    """Whether there is nothing of a DTensor here, where it is not on the meta device."""
    return tensor._local_tensor.numel() == 0 and not tensor._local_tensor.is_meta


def _replicated(tensor: Tensor, mesh: Any) -> Any:
    """Make a DTensor of what all ranks have."""
    module: Any = sys.modules["torch.distributed.tensor"]
    placements = [module.Replicate()] * mesh.ndim
    return module.DTensor.from_local(tensor, mesh, placements, run_check=False)


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


class Sharding(FullTensors):
    """What shards, and what is done to shards, while a recording is on."""

    # ---- what shards -----------------------------------------------------------------------------

    def distribute(self, function: Callable[..., Any], tensor: Any, *args: Any, **how: Any) -> Any:
        """Run `distribute_tensor`, which communicates nothing."""
        if not is_real(tensor) or self._is_off():
            return function(tensor, *args, **how)
        # What becomes of a tensor is another thing; but modules let go of their parameters.
        full = tensor.detach()
        if not isinstance(tensor, nn.Parameter) or self._stands_already(tensor):
            full = full.clone()
        with self._recorder.busy():
            with _on_meta([tensor]):
                result = function(tensor, *args, **how)
            self._put(result, full)
        return result

    def _stands_already(self, tensor: Tensor) -> bool:
        """Whether a tensor stands for a shard, which must not have been changed since.

        What has been done to that is not to be seen in the next, which is made of what there was.
        """
        address = extension.storage_address
        place = address(tensor)
        begins = [f.position for f in self._full.values() if address(f.tensor) == place]
        storage = self._recorder.storage_of(tensor)
        later = self._recorder.log[min(begins) :] if begins else []
        if storage is not None and any(ref.storage is storage for op in later for ref in op.writes):
            refuse("distributes a parameter again, after it has changed what that gave,")
        return len(begins) > 0

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

    def check(self, func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse what is done to the memory of a shard itself, and to write what has no values."""
        if not self._full or self._is_off():
            return
        written_to = written_arguments(func, args, kwargs) if kind.mutable else ()
        for tensor in written_to:
            if is_plain(type(tensor)) and extension.storage_address(tensor) in self._full:
                refuse("writes to the shard")
        if any(is_real(tensor) for tensor in written_to):
            _check_no_meta(func, args, kwargs)
        place = kwargs.get("device") if func in NATIVE_TO_SHARDS else None
        if (
            place is not None
            and torch.device(place).type != "meta"
            and any(map(self.is_shard, args))
        ):
            refuse("asks for memory for the shard")  # to load it, say, which nobody would get
        looks = kind.way is Way.PASS or func in NATIVE_TO_SHARDS
        if not looks and any(map(self.is_shard, tensors_in((args, kwargs)))):
            refuse(f"makes others of the values ({func})")

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
        if self._is_off():
            return NotImplemented
        has_full = bool(args) and self._found(args[0]) is not None
        if has_full and fills_alike(func):
            return self._filled_alike(func, args, kwargs)
        if func in NATIVE_TO_SHARDS:
            return NotImplemented
        changes = kind.mutable or func.is_view
        if not changes and all(self._found(t) is None for t in tensors_in((args, kwargs))):
            return NotImplemented
        if kind.mutable and self._are_there(kind, args, kwargs):
            return NotImplemented
        if has_full and changes_nothing(func, args[0], kwargs):  # or makes a copy
            func, kind, args, kwargs = _CLONE, kind_of(_CLONE), args[:1], {}
        of: dict[int, Any] = {}
        others: list[Any] = []
        to = {id(tensor) for tensor in written_arguments(func, args, kwargs)}

        def full(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(full, value))
            if not is_sharded(value) or type(value) is TensorShard:
                return value
            new = id(value) in to or not self.has_values(value)
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
            refuse(f"needs the values ({func})")
        _check_no_meta(func, new, given)
        alike = has_full and makes_alike(func, kind, args, kwargs)
        name = func._schema.name
        if name in _FOR_SHARDS:
            with mode:
                _FOR_SHARDS[name](*new, **given)
            result: Any = None
        elif name.startswith("fastinit_shards"):
            refuse(f"draws the parts ({func})")
        else:
            result = self._recorder.dispatch(func, kind, new, given)
        if alike:
            return self._made_alike(func, args, kwargs, result)
        if not changes:
            if any(tensor.dim() > 0 for tensor in tensors_in((result,))):
                refuse(f"makes others of the values ({func})")  # somebody would have to shard them
            if isinstance(result, Tensor):  # a single number, as all ranks have it
                with self._recorder.busy():
                    return _replicated(result, next(iter(of.values())).device_mesh)
        if kind.mutable:
            for tensor in written_arguments(func, args, kwargs):
                if is_sharded(tensor):
                    written(tensor)
        elif id(result) not in of:
            self._viewed.add_all(tensors_in((result,)))
        return of.get(id(result), result)

    def _are_there(self, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether all DTensors have values here, and only these are changed, by no draw."""
        if kind.draws or kind.way in (Way.WHOLE, Way.TOGETHER, Way.EACH):
            return False
        for tensor in tensors_in((args, kwargs)):
            if type(tensor) is TensorShard or not is_sharded(tensor):
                if tensor.dim() > 0:
                    return False
            elif self._found(tensor) is not None or not (
                _is_empty(tensor) or self.has_values(tensor)
            ):
                return False
        return True

    def _filled_alike(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a DTensor like one that has no values yet, with a number in all of it."""
        recorder, number = self._recorder, number_of(func, args, kwargs)
        with recorder.busy():
            made = func(*args, **elsewhere(args[0], kwargs))
            if not is_sharded(made) or not made._local_tensor.is_meta:
                return made
            full = full_sized(made, recorder)
            recorder.close(full, stands_in=True)
            self._put(made, full)
        if number is not None:
            filled(recorder, full, number)
        return made

    def _made_alike(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], full: Tensor
    ) -> Any:
        """Make the DTensor of which this is the full tensor."""
        with self._recorder.busy():
            made = func(*args, **kwargs)
            if not is_sharded(made) or not made._local_tensor.is_meta:
                refuse(f"makes others of the values ({func})")
            self._put(made, full)
        return made
