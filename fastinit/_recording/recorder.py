"""Recording what initialisers do, without doing it.

While a recording is on, memory that is allocated lies on the meta device, where there is nothing to
misread, and operators on it are written down. Memory that existed before can be tracked, too: its
tensors stay what they are, and what is done to them is written down instead of done. Everything
else (tables of constants, index arithmetic) runs as ever. Whoever asks for a value that has not
been computed gets it: the entries that it depends on are run early.
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
from fastinit._fills.fill import Fill, parse_fill
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
from fastinit._recording.coverage import Coverage
from fastinit._recording.graph import Cell, Entry, Held, Ref, entangled, needed
from fastinit._recording.replay import Keys, Names, Runner
from fastinit._tensors import is_plain
from fastinit.key import Key, reserve_word

_META = torch.device("meta")
_PLAIN = (Tensor, torch.nn.Parameter)


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"


def meta_storage(nbytes: int) -> torch.UntypedStorage:
    """Make a storage without memory."""
    return torch.UntypedStorage(nbytes, device="meta")  # type: ignore[no-untyped-call]


class Recorder:
    """One recording.

    Args:
        key: the key that draws derive theirs from.
        device: where everything goes in the end, or None for where it was asked for.
    """

    def __init__(self, key: Key, device: torch.device | None = None, *, undo: bool = False) -> None:
        self.entries: list[Entry] = []
        self.keys = Keys(key)
        self.device = device
        self.names = Names()
        self.coverage = Coverage()
        self.ran: Callable[[Entry, str], object] | None = None
        self._cells: dict[int, Cell] = {}  # by address of the storage
        self._held: dict[int, list[Held]] = {}
        self._undo = undo  # whether `restore` may be asked for
        self._before: dict[Cell, Tensor] = {}
        self._label = ""
        self._accepted: set[Any] = set()

    # ---- memory ----------------------------------------------------------------------------------

    def cell_of(self, tensor: Any) -> Cell | None:
        """Find the cell of a tensor; None if it is not tracked."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return None
        try:
            return self._cells.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # a wrapper without memory of its own
            return None

    def ref(self, tensor: Tensor) -> Ref:
        """Describe a tracked tensor."""
        cell = self.cell_of(tensor)
        assert cell is not None
        return Ref(cell, Region.of(tensor))

    def register(self, storage: torch.UntypedStorage, cell: Cell) -> Cell:
        """Make a storage one of a cell's."""
        self._cells[storage._cdata] = cell
        cell.keep = (cell.keep, storage)
        return cell

    def track(self, tensor: Tensor) -> Cell:
        """Record what happens to this tensor's memory from now on. A meta tensor has no values."""
        cell = self.cell_of(tensor)
        if cell is None:
            storage = tensor.untyped_storage()
            device = None if tensor.device.type == "meta" else tensor.device
            cell = self.register(storage, Cell(storage.nbytes(), device))
            if device is not None:
                cell.real, cell.known = storage, True
        return cell

    def _twin(self, tensor: Tensor) -> Tensor:
        """Give a meta tensor laid out like this one."""
        if tensor.device.type == "meta":
            return tensor
        with torch._C.DisableTorchFunction():
            twin = torch.empty(0, dtype=tensor.dtype, device=_META)
            extent = Region.of(tensor).span[1]
            storage = meta_storage(extent)
            return twin.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())

    def real(self, tensor: Tensor) -> Tensor:
        """Give a tracked tensor's values, now: run the entries they depend on."""
        ref = self.ref(tensor)
        run = entangled(self.entries, {ref.cell})
        runner = self.runner()
        if run:
            chosen = set(run)
            self.entries = [entry for entry in self.entries if entry not in chosen]
            for entry in run:
                self.coverage.add(entry)
                for written in entry.writes:
                    self.remember(written.cell)
            touched = {cell for entry in run for cell in entry.cells}
            with _disable_current_modes():
                runner.run(needed(run, touched), keep=True)
        with _disable_current_modes():
            real = runner.tensor(ref)
        self.register(real.untyped_storage(), ref.cell)
        return real

    def remember(self, cell: Cell) -> None:
        """Keep what memory of before the recording holds, which is about to be written early."""
        if self._undo and cell.known and cell.real is not None and cell not in self._before:
            every = Region((cell.nbytes,), (1,), 0, torch.uint8)
            with _disable_current_modes():
                self._before[cell] = every.on(cell.real).clone()

    def restore(self) -> None:
        """Undo what was written early."""
        for cell, held in self._before.items():
            assert cell.real is not None
            every = Region((cell.nbytes,), (1,), 0, torch.uint8)
            every.on(cell.real).copy_(held)

    def runner(self) -> Runner:
        """Make what runs entries before the recording has ended."""
        return Runner(self.keys, self.device, self.names, ran=self.ran)

    # ---- operators -------------------------------------------------------------------------------

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run or record one operator."""
        if func._schema.is_mutable and not torch.is_inference_mode_enabled():
            self._check_open(func, args, kwargs)
        fill = parse_fill(func, args, kwargs)
        if fill is not None and type(args[0]) in _PLAIN:
            cell = self.cell_of(args[0])
            if cell is None and not fill.draws:
                self._release_held(func, args, kwargs)
                return func(*args, **kwargs)
            region = Region.of(args[0])
            if not (region.overlaps_itself or (cell is not None and cell.open)):
                return self._fill(func, args[0], fill, region)
        flat, spec = pytree.tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        cells = [cell for cell in map(self.cell_of, tensors) if cell is not None]
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
        if not cells and not draws:
            if _is_meta(kwargs.get("device")):
                return self._operator(func, flat, spec, False)
            self._release_held(func, args, kwargs)
            return func(*args, **kwargs)
        if func.is_view and func.namespace == "aten":
            return func(*args, **kwargs)
        if any(cell.open for cell in cells):
            return self._directly(func, flat, spec)
        return self._operator(func, flat, spec, draws)

    def _check_open(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse to write where torch would, which says so after it has written."""
        for tensor in written_arguments(func, args, kwargs):
            if tensor.is_inference():
                name = None if self.cell_of(tensor) is None else self.names.of(self.ref(tensor))
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
            cell = self.cell_of(args[0])
            asked = args[0].device if cell is None else cell.device or _META
        asked = asked or torch.device("cpu")
        plain = {name: v for name, v in kwargs.items() if name not in ("device", "pin_memory")}
        if kwargs.get("layout") not in (None, torch.strided):
            return func(*args, **kwargs)
        result = func(*args, **plain, device=_META)
        if result.numel() == 0:  # nothing to fill; lazy parameters look at its device
            return func(*args, **kwargs)
        storage = result.untyped_storage()
        device = None if _is_meta(asked) else asked
        self.register(storage, Cell(storage.nbytes(), device))
        return result

    def _fill(self, func: Any, tensor: Tensor, fill: Fill, region: Region) -> Any:
        if fill.draws:  # what it would complain about must be said here; nothing is drawn on meta
            call = (func, fill.args, tensor.dtype)
            if call not in self._accepted or fill.generator is not None:
                example = torch.empty(0, dtype=tensor.dtype, device=_META)
                func(example, *fill.args, key=fill.key, generator=fill.generator)
                self._accepted.add(call)
        if func.namespace != "aten":
            torch.autograd.graph.increment_version(tensor)
        if tensor.numel() > 0:
            ref = Ref(self.track(tensor), region)
            if fill.generator is not None:
                fill = fill.keyed(fill.generator.device)
            self.entries.append(
                Entry(
                    func,
                    writes=(ref,),
                    pure=True,
                    fill=fill,
                    draws="key" if fill.draws else "",
                    label=self._label,
                )
            )
        return tensor if func.namespace == "aten" else None

    def _whole(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a draw that looks at its whole tensor at once."""
        tensor, key, generator = args[0], kwargs.get("key"), kwargs.get("generator")
        cell = self.cell_of(tensor)
        region = Region.of(tensor)
        if region.numel == 0 or region.overlaps_itself or (cell is not None and cell.open):
            flat, spec = pytree.tree_flatten((args, kwargs))
            self._directly(func, flat, spec)
            return
        func(torch.empty(tensor.shape, dtype=tensor.dtype, device=_META), *args[1:], **kwargs)
        torch.autograd.graph.increment_version(tensor)
        if generator is not None:
            key = reserve_word(generator.device, generator)
        ref = Ref(self.track(tensor), region)
        self.entries.append(
            Entry(
                func,
                (ref, *args[1:]),
                {} if key is None else {"key": key},
                writes=(ref,),
                pure=True,
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
        twins = [self._twin(v) if isinstance(v, Tensor) else v for v in flat]
        meta_args, meta_kwargs = pytree.tree_unflatten(twins, spec)
        if "device" in meta_kwargs or (draws and not any(isinstance(v, Tensor) for v in flat)):
            meta_kwargs["device"] = _META
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
            same = next((v for v, t in zip(flat, twins, strict=True) if t is output), None)
            if same is not None:
                outputs[place] = same
            elif self.cell_of(output) is None:
                storage = output.untyped_storage()
                asked = kwargs.get("device")
                if asked is None:
                    asked = next((c.device for c in map(self.cell_of, flat) if c is not None), None)
                device = None if asked is None or _is_meta(asked) else torch.device(asked)
                self.register(storage, Cell(storage.nbytes(), device))
                made.append((place, self.ref(output)))
        pure = func in OVERWRITING
        writes = tuple(self.ref(tensor) for tensor in written)
        sources = [v for v in flat if isinstance(v, Tensor)]
        reads = {c for c in map(self.cell_of, sources) if c is not None}
        if pure:
            own = {ref.cell for ref in writes}
            others = [v for v in sources if all(v is not w for w in written)]
            # A copy within one cell does read it.
            reads -= own - {c for c in map(self.cell_of, others) if c is not None}
        if func in METADATA_ONLY:  # the twin will do, and the result must say where it belongs
            reads = set()
            kwargs["device"] = made[0][1].cell.device or _META
            flat, spec = pytree.tree_flatten((args, kwargs))
            kept = [self._twin(v) if isinstance(v, Tensor) else v for v in flat]
        else:
            kept = [self._kept(value) for value in flat]
        entry_args, entry_kwargs = pytree.tree_unflatten(kept, spec)
        self.entries.append(
            Entry(
                func,
                entry_args,
                entry_kwargs,
                tuple(reads),
                writes,
                tuple(made),
                pure,
                draws="seed" if draws and accepts_generator(func) else "",
                label=self._label,
            )
        )
        return pytree.tree_unflatten(outputs, out_spec)

    def _kept(self, value: Any) -> Any:
        """Make an argument one of an entry."""
        if not isinstance(value, Tensor):
            return value
        if self.cell_of(value) is not None:
            return self.ref(value)
        held = Held(value)
        self._held.setdefault(value.untyped_storage()._cdata, []).append(held)
        return held

    def _release_held(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy what entries will need before an operator that runs now writes to it."""
        if self._held and func._schema.is_mutable:
            for tensor in written_arguments(func, args, kwargs):
                try:
                    address = tensor.untyped_storage()._cdata
                except (NotImplementedError, RuntimeError):
                    continue
                for held in self._held.pop(address, ()):
                    held.tensor = held.tensor.clone()

    def _directly(self, func: Any, flat: list[Any], spec: Any) -> Any:
        """Run an operator now, on values."""
        values = [self.real(v) if self.cell_of(v) is not None else v for v in flat]
        args, kwargs = pytree.tree_unflatten(values, spec)
        self._release_held(func, args, kwargs)
        for tensor in written_arguments(func, args, kwargs):
            cell = self.cell_of(tensor)
            if cell is not None:
                self.remember(cell)
        result = func(*args, **kwargs)
        if func in OVERWRITING:
            for tensor in written_arguments(func, args, kwargs):
                if self.cell_of(tensor) is not None:
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
            return function(tensor, *arguments, generator=generator)
        finally:
            self._label = before

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Call what is recorded inside by this label."""
        self._label, before = label, self._label
        try:
            yield
        finally:
            self._label = before
