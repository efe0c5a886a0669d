"""Recording what initialisers do, without doing it.

While a recording is on, memory that is allocated lies on the meta device, where there is nothing to
misread, and operators on it are written down. Memory that existed before can be tracked, too: its
tensors stay what they are, and what is done to them is written down instead of done. Everything
else (tables of constants, index arithmetic) runs as ever. Whoever asks for a value that has not
been computed gets it: the operators that it depends on are run early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._compiled import reserve_key_op
from fastinit._fallback import handled
from fastinit._fills.fill import Fill, distribution_of, parse_fill
from fastinit._fills.operators import (
    ALLOCATING,
    METADATA_ONLY,
    OVERWRITING,
    WHOLE,
    WHOLE_MANY,
    accepts_generator,
    written_arguments,
)
from fastinit._fills.region import Region
from fastinit._recording.graph import Captured, Op, Ref, Storage
from fastinit._recording.memory import META, Memory
from fastinit._recording.replay import Runner
from fastinit._tensors import is_closed, is_plain
from fastinit.initializers.draw import INITIALIZERS
from fastinit.key import NOTHING, Key, reserve_word, source

_PLAIN = (Tensor, torch.nn.Parameter)


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"


class Recorder(Memory):
    """One recording: what it does with each operator. Arguments as those of `Memory`."""

    def __init__(self, key: Key, device: torch.device | None = None, *, undo: bool = False) -> None:
        super().__init__(key, device, undo=undo)
        self._captured: dict[int, list[Captured]] = {}
        self._label = ""
        self._accepted: set[Any] = set()

    # ---- operators -------------------------------------------------------------------------------

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run or record one operator."""
        if func._schema.is_mutable and not torch.is_inference_mode_enabled():
            self._check_open(func, args, kwargs)
        fill = parse_fill(func, args, kwargs)
        if fill is not None and type(args[0]) in _PLAIN:
            if self.storage_of(args[0]) is None and not fill.draws:
                self._copy_captured(func, args, kwargs)
                return func(*args, **kwargs)
            if self._fill(func, args[0], fill):
                return args[0] if func.namespace == "aten" else None
        flat, spec = pytree.tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        storages = [storage for storage in map(self.storage_of, tensors) if storage is not None]
        draws = torch.Tag.nondeterministic_seeded in func.tags
        if func is reserve_key_op:
            return self._key_now(args)
        if func in WHOLE and is_plain(type(args[0])):
            return self._whole(func, args, kwargs)
        if func in WHOLE_MANY:
            single, tensors, numbers = WHOLE_MANY[func], args[0], args[1]
            keys = kwargs.get("keys") or [None] * len(tensors)
            for tensor, number, key in zip(tensors, numbers, keys, strict=True):
                rest = {"key": key, "generator": kwargs.get("generator")}
                self.dispatch(single, (tensor, number, *args[2:]), rest)
            return None
        if any(not is_plain(type(tensor)) for tensor in tensors):
            return self._directly(func, flat, spec)
        if func in ALLOCATING:
            return self._allocate(func, args, kwargs)
        if not storages and not draws:
            if _is_meta(kwargs.get("device")):
                return self._operator(func, flat, spec, False)
            self._copy_captured(func, args, kwargs)
            return func(*args, **kwargs)
        if func.is_view and func.namespace == "aten":
            return func(*args, **kwargs)
        if any(storage.escaped for storage in storages):
            return self._directly(func, flat, spec)
        return self._operator(func, flat, spec, draws)

    def _check_open(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse to write where torch would, which says so after it has written."""
        for tensor in written_arguments(func, args, kwargs):
            if tensor.is_inference():
                name = None if self.storage_of(tensor) is None else self.names.of(self.ref(tensor))
                name = name or f"a tensor of shape {tuple(tensor.shape)}"
                raise RuntimeError(
                    f"fastinit: {func} would write to {name}, an inference tensor, which can be "
                    "written inside torch.inference_mode() only; call fastinit there, or clone it"
                )

    def _key_now(self, args: tuple[Any, ...]) -> int:
        """Give code that wants a key as a number, before it is known what for, one of ours."""
        word = int(self.keys.next(Runner.UNNAMED))
        return word - (1 << 64) if word >> 63 else word

    def _allocate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give memory on the meta device instead."""
        asked = kwargs.get("device")
        if asked is None and args and isinstance(args[0], Tensor):
            storage = self.storage_of(args[0])
            asked = args[0].device if storage is None else storage.device or META
        asked = asked or torch.device("cpu")
        plain = {name: v for name, v in kwargs.items() if name not in ("device", "pin_memory")}
        if kwargs.get("layout") not in (None, torch.strided):
            return func(*args, **kwargs)
        result = func(*args, **plain, device=META)
        if result.numel() == 0:  # nothing to fill; lazy parameters look at its device
            return func(*args, **kwargs)
        untyped = result.untyped_storage()
        device = None if _is_meta(asked) else asked
        self.register(untyped, Storage(untyped.nbytes(), device))
        return result

    def _fill(self, func: Any, tensor: Tensor, fill: Fill) -> bool:
        """Record a fill, unless it has to run now; say whether it could wait."""
        region, storage = Region.of(tensor), self.storage_of(tensor)
        if region.overlaps_itself or (storage is not None and storage.escaped):
            return False
        if fill.draws:  # what it would complain about must be said here; nothing is drawn on meta
            call = (func, fill.args, tensor.dtype)
            if call not in self._accepted or fill.generator is not None:
                with _disable_current_modes():
                    example = torch.empty(0, dtype=tensor.dtype, device=META)
                    func(example, *fill.args, key=fill.key, generator=fill.generator)
                self._accepted.add(call)
        if func.namespace != "aten":
            torch.autograd.graph.increment_version(tensor)
        if tensor.numel() > 0:
            ref = Ref(self.track(tensor), region)
            if fill.generator is not None:
                with _disable_current_modes():
                    fill = fill.keyed(fill.generator.device)
            self.ops.append(
                Op(
                    func,
                    writes=(ref,),
                    overwrites=True,
                    fill=fill,
                    draws="key" if fill.draws else "",
                    label=self._label,
                )
            )
        return True

    def _whole(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a draw that looks at its whole tensor at once."""
        tensor, key, generator = args[0], kwargs.get("key"), kwargs.get("generator")
        storage = self.storage_of(tensor)
        region = Region.of(tensor)
        if region.numel == 0 or region.overlaps_itself or (storage is not None and storage.escaped):
            flat, spec = pytree.tree_flatten((args, kwargs))
            self._directly(func, flat, spec)
            return
        func(torch.empty(tensor.shape, dtype=tensor.dtype, device=META), *args[1:], **kwargs)
        torch.autograd.graph.increment_version(tensor)
        if generator is not None:
            key = reserve_word(generator.device, generator)
        ref = Ref(self.track(tensor), region)
        self.ops.append(
            Op(
                func,
                (ref, *args[1:]),
                {} if key is None else {"key": key},
                writes=(ref,),
                overwrites=True,
                draws="key" if key is None else "",
                label=self._label,
            )
        )

    def _operator(self, func: Any, flat: list[Any], spec: Any, draws: bool) -> Any:
        """Record an operator, its results on meta; run it now if it does not work there."""
        args, kwargs = pytree.tree_unflatten(flat, spec)
        generator = kwargs.get("generator") if draws else None
        if generator is not None:
            return self._directly(func, flat, spec)
        copies = [self.meta_copy(v) if isinstance(v, Tensor) else v for v in flat]
        meta_args, meta_kwargs = pytree.tree_unflatten(copies, spec)
        if "device" in meta_kwargs or (draws and not any(isinstance(v, Tensor) for v in flat)):
            meta_kwargs["device"] = META
        meta_kwargs.pop("pin_memory", None)
        try:
            result = func(*meta_args, **meta_kwargs)
        except Exception:  # it needs values, or torch has an objection that it shall word itself
            return self._directly(func, flat, spec)
        outputs, out_spec = pytree.tree_flatten(result)
        found = [output for output in outputs if output is not None]
        if not found or not all(isinstance(output, Tensor) for output in found):
            return self._directly(func, flat, spec)
        written = written_arguments(func, args, kwargs)
        for tensor in written:
            self.track(tensor)
        made: list[tuple[int, Ref]] = []
        for place, output in enumerate(outputs):
            if output is None:
                continue
            same = next((v for v, t in zip(flat, copies, strict=True) if t is output), None)
            if same is not None:
                outputs[place] = same
            elif self.storage_of(output) is None:
                untyped = output.untyped_storage()
                asked = kwargs.get("device")
                if asked is None:
                    asked = next(
                        (c.device for c in map(self.storage_of, flat) if c is not None), None
                    )
                device = None if asked is None or _is_meta(asked) else torch.device(asked)
                self.register(untyped, Storage(untyped.nbytes(), device))
                made.append((place, self.ref(output)))
        overwrites = func in OVERWRITING
        writes = tuple(self.ref(tensor) for tensor in written)
        sources = [v for v in flat if isinstance(v, Tensor)]
        reads = {c for c in map(self.storage_of, sources) if c is not None}
        if overwrites:
            own = {ref.storage for ref in writes}
            others = [v for v in sources if all(v is not w for w in written)]
            # A copy within one storage does read it.
            reads -= own - {c for c in map(self.storage_of, others) if c is not None}
        if func in METADATA_ONLY:  # the meta copy will do, and the result must say where it belongs
            reads = set()
            kwargs["device"] = made[0][1].storage.device or META
            flat, spec = pytree.tree_flatten((args, kwargs))
            kept = [self.meta_copy(v) if isinstance(v, Tensor) else v for v in flat]
        else:
            kept = [self._kept(value) for value in flat]
        op_args, op_kwargs = pytree.tree_unflatten(kept, spec)
        self.ops.append(
            Op(
                func,
                op_args,
                op_kwargs,
                tuple(reads),
                writes,
                tuple(made),
                overwrites,
                draws="seed" if draws and accepts_generator(func) else "",
                label=self._label,
            )
        )
        return pytree.tree_unflatten(outputs, out_spec)

    def _kept(self, value: Any) -> Any:
        """Make an argument one of an operator."""
        if not isinstance(value, Tensor):
            return value
        if self.storage_of(value) is not None:
            return self.ref(value)
        captured = Captured(value)
        self._captured.setdefault(value.untyped_storage()._cdata, []).append(captured)
        return captured

    def _copy_captured(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy what operators will need before an operator that runs now writes to it."""
        if self._captured and func._schema.is_mutable:
            for tensor in written_arguments(func, args, kwargs):
                try:
                    address = tensor.untyped_storage()._cdata
                except (NotImplementedError, RuntimeError):
                    continue
                for captured in self._captured.pop(address, ()):
                    captured.tensor = captured.tensor.clone()

    def _directly(self, func: Any, flat: list[Any], spec: Any) -> Any:
        """Run an operator now, on values."""
        values = [self.real(v) if self.storage_of(v) is not None else v for v in flat]
        args, kwargs = pytree.tree_unflatten(values, spec)
        self._copy_captured(func, args, kwargs)
        for tensor in written_arguments(func, args, kwargs):
            storage = self.storage_of(tensor)
            if storage is not None:
                self.remember(storage)
        result = func(*args, **kwargs)
        if func in OVERWRITING:
            for tensor in written_arguments(func, args, kwargs):
                if self.storage_of(tensor) is not None:
                    self.coverage.mark(self.ref(tensor))
        results, out_spec = pytree.tree_flatten(result)
        for place, value in enumerate(results):
            for before, now in zip(flat, values, strict=True):
                if value is now and isinstance(now, Tensor):
                    results[place] = before
        return pytree.tree_unflatten(results, out_spec)

    # ---- draws of a patch ------------------------------------------------------------------------

    def take(
        self,
        function: Callable[..., Any],
        tensor: Tensor,
        arguments: tuple[Any, ...],
        generator: Generator | None,
    ) -> Any:
        """Record a draw that a patch has redirected to one of fastinit's functions."""
        self._label, before = function.__name__, self._label
        try:
            if not self._take_fill(function, tensor, arguments, generator):
                function(tensor, *arguments, generator=generator)
            return tensor
        finally:
            self._label = before

    def _take_fill(
        self,
        function: Callable[..., Any],
        tensor: Tensor,
        arguments: tuple[Any, ...],
        generator: Generator | None,
    ) -> bool:
        """Record what a function would fill with, without a call of its operator in between."""
        how = INITIALIZERS.get(function)
        name = None if how is None else distribution_of(how.op)
        if how is None or name is None or type(tensor) not in _PLAIN:
            return False
        if not handled(tensor, how.dtypes) or is_closed(tensor):
            return False
        given = source(None, generator, function.__name__)
        values = how.values(tensor, arguments, NOTHING)
        return values is None or self._fill(how.op, tensor, Fill(name, tuple(values), **given))

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Call what is recorded inside by this label."""
        self._label, before = label, self._label
        try:
            yield
        finally:
            self._label = before
