"""Modules whose parameters are shards: initialised as if they were not.

For as long as initialisers run, a twin of the full size stands in the place of each DTensor: an
ordinary tensor, whose memory nobody touches, for all that is done to it waits. So code that nobody
wrote for shards does what it does, and draws get the keys of names. In the end what waits for a
twin is done to the shard instead, as far as it lies there. Nothing is communicated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import are_divided_alike, is_outside, part_of, written
from fastinit._fills.region import Region
from fastinit._models.checks import check_not_fake
from fastinit._models.fully_sharded import (
    Unwrapped,
    offloaded,
    refer_to_shards,
    with_memory,
)
from fastinit._models.held import held_tensors
from fastinit._models.marks import Marks
from fastinit._models.names import Named, NamedTensors, named_tensors
from fastinit._models.placing import Given, exchange, wants_dtype
from fastinit._models.session import Drawn, Run, tell_of
from fastinit._models.sharded_ops import copied, divided, zeroed
from fastinit._models.tied_shards import Tied, any_share, check_together, place_of
from fastinit._models.tree import modules_of
from fastinit._models.twin import Twin, check_fixed, misplaced
from fastinit._recording.full_tensors import full_sized
from fastinit._recording.graph import Op, Storage
from fastinit._recording.recorder import Recorder
from fastinit._recording.sharding import Sharding
from fastinit._tensors import is_plain


class Twins:
    """The twins of one module's DTensors.

    Args:
        module: the module.
        named: its parameters and buffers.
        where: the function, for messages.
        sharding: what has taken care of it if they were sharded inside a recording.

    Attributes:
        named: the DTensors among its parameters and buffers, by name.

    Raises:
        NotImplementedError: if what this rank holds of one cannot be told.
    """

    def __init__(
        self,
        module: nn.Module,
        named: NamedTensors,
        where: str,
        sharding: Sharding | None = None,
    ) -> None:
        self._sharding = sharding
        self._module = module
        self._where = where
        self.named = {n: one for n, one in named.both.items() if is_sharded(one.tensor)}
        if self.named:
            check_not_fake(where, "DTensors")
        self._twins: dict[str, Twin] = {}
        self._share = any_share(one.tensor for one in self.named.values())
        self._tied = Tied()
        self._given: list[Given] = []
        self._unwrapped = Unwrapped()
        # Buffers that are sums over ranks: where they are set to zero, each rank's part is.
        self._sums = {n for n in named.buffers if n in self.named and _is_sum(self.named[n].tensor)}
        self._parts = {
            name: part_of(one.tensor, f"{where}: {name}")
            for name, one in self.named.items()
            if name not in self._sums
        }

    # ---- while initialisers run ------------------------------------------------------------------

    def put_in(
        self, recorder: Recorder, fixed: Collection[str], kept: Collection[str] = ()
    ) -> None:
        """Put twins in the places of the DTensors.

        Args:
            recorder: what records what is done to them.
            fixed: the names of those that are to stay as they are.
            kept: the names of those that are to do so unless all of them is overwritten.
        """
        self._twins.clear()
        self._tied = Tied()
        self._unwrapped.unwrap(self._module)
        for name, named in self.named.items():
            tensor, made = self._twin_of(recorder, name, named.tensor)
            marks = Marks(tensor, named.tensor)
            twin = Twin(named, tensor, name in fixed, name in kept, marks, named.tables)
            self._twins[name] = twin
            if self._share:
                self._tied.add(twin)
            twin.put(tensor)
            if made:
                with recorder.lock:
                    storage = recorder.close(tensor, lasts=True, stands_in=True)
                    stays = twin.fixed or twin.kept or is_outside(named.tensor)
                    if storage is not None and stays:
                        storage.known = True

    def tables(self) -> dict[int, dict[Any, Any]]:
        """Copy the tables of modules that hold something else meanwhile, by their ids."""
        tables: list[dict[Any, Any]] = [*self._unwrapped.tables]
        tables += [table for twin in self._twins.values() for table, _ in twin.places]
        return {id(table): table.copy() for table in tables}

    def placed(self, named: Mapping[str, Named]) -> dict[str, Named]:
        """Give what has these names now: twins where there are some."""
        if not self._twins:
            return {**named}
        return {
            name: one if name not in self._twins else one.with_tensor(self._twins[name].tensor)
            for name, one in named.items()
        }

    def _twin_of(self, recorder: Recorder, name: str, sharded: Any) -> tuple[Tensor, bool]:
        """Give a twin, and say whether it has been made now."""
        found = None if self._sharding is None else self._sharding.full(sharded)
        if found is not None:
            # Another may be on the same memory, as what detach() gives.
            mine = isinstance(found, nn.Parameter) is isinstance(sharded, nn.Parameter)
            if not mine or any(found is twin.tensor for twin in self._twins.values()):
                found = found.detach()
        if found is None and self._share and (tied := self._tied.get(sharded)) is not None:
            found = tied.tensor.detach()
        made = found
        if made is None:
            try:
                made = full_sized(sharded, recorder)
            except RuntimeError as error:
                raise RuntimeError(
                    f"fastinit.{self._where}: no address space for {name}, of shape "
                    f"{tuple(sharded.shape)}; it would never be touched, but the system refuses to "
                    "promise so much (see vm.overcommit_memory)"
                ) from error
        if isinstance(sharded, nn.Parameter):
            if found is None or not isinstance(found, nn.Parameter):
                made = torch.Tensor._make_subclass(nn.Parameter, made, sharded.requires_grad)
        elif sharded.requires_grad and found is None:
            made.requires_grad_()
        return made, found is None

    def load(self, recorder: Recorder, name: str, value: Tensor) -> bool:
        """Take what is loaded into a DTensor; say whether there is one of this name."""
        twin = self._twins.get(name)
        if twin is None:
            return False
        if is_sharded(value):
            theirs: Any = value
            ours = twin.sharded
            if not are_divided_alike(theirs, ours):
                raise NotImplementedError(
                    f"fastinit.{self._where}: argument 'state_dict': {name} is a DTensor with "
                    f"placements {theirs.placements} on {theirs.device_mesh}, the module's has "
                    f"{ours.placements} on {ours.device_mesh}; redistribute() it, or pass the full "
                    "tensor"
                )
        twin.value = value
        storage = recorder.storage_of(twin.tensor)
        if storage is not None:
            storage.write(Region.of(twin.tensor))
        return True

    # ---- when they have run ----------------------------------------------------------------------

    def take_out(self) -> None:
        """Put the DTensors back in their places, as they were."""
        for given in reversed(self._given):
            given.undo()
        self._given.clear()
        self._unwrapped.put_back()
        for name, twin in self._twins.items():
            twin.named = self.named[name]
            if twin.current() is not twin.sharded:
                twin.put(twin.sharded)

    def divide(
        self,
        run: Run,
        ops: Sequence[Op],
        drawn: Drawn = (),
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sequence[Op]:
        """Put the DTensors back, and say what has to be done to their shards.

        Args:
            run: what initialisers have done.
            ops: what of it is still to be done.
            drawn: what has been drawn for what, if somebody wants to know.
            device: where DTensors without memory get some; None: where their mesh is.
            dtype: which type floating-point ones among them get; None: their own.

        Returns:
            What is to be done, in place of `ops`.
        """
        if not self._twins:
            self.take_out()
            return ops
        recorder, result, recorded = run.recorder, run.result, run.settled.ops
        sources = {name: self._source(name, twin) for name, twin in self._twins.items()}
        ran = {ref.storage for op in recorded if op.ran for ref in op.writes}
        check_fixed(self._where, self._twins, recorder, recorded, sources)
        if self._share:
            check_together(self._where, self._twins, sources)
        tied = misplaced(modules_of(self._module), self._twins)
        with torch.no_grad():
            self.take_out()
            self._give_memory(device, dtype, {n: one.dtype for n, one in sources.items()})
        for table, attribute, name in tied:
            table[attribute] = self._twins[name].sharded
        for named in (result.parameters, result.buffers):
            named.update({n: twin.named for n, twin in self._twins.items() if n in named})
        storages = {name: recorder.storage_of(tensor) for name, tensor in sources.items()}
        ours = {storage for storage in storages.values() if storage is not None}
        self._tell_observers(drawn)
        changed = {n: t for n, t in self._twins.items() if not t.fixed or t.value is not None}
        for name, twin in changed.items():
            twin.marks.hand_over(twin.sharded, sources[name].requires_grad)
        whole = {s for s in ours if s in ran or s.poison is not None}
        whole |= {s for n, s in storages.items() if n in self._sums and s is not None}
        parts = {n: s for n in changed if (s := storages[n]) is not None and s not in whole}
        regions = {name: Region.of(sources.pop(name)) for name in parts}
        # What a factory has made has values that nothing waits for.
        whole |= {s for n, s in parts.items() if _has_more(s, regions[n])}
        whole |= self._held(recorder, {n: s for n, s in parts.items() if s not in whole})
        waiting: dict[Storage, list[Op]] = {storage: [] for storage in ours}
        others: list[Op] = []
        for op in ops:
            of_twin = waiting.get(op.writes[0].storage)
            (others if of_twin is None else of_twin).append(op)
        for storage in whole:
            recorder.run(waiting[storage])
            recorder.unguard(storage)
            storage.pending.clear()
        made: list[Op] = []
        # What shares memory with one that stays, or has been divided, is as that is.
        stay = self._twins.keys() - changed.keys() if self._share else ()
        done = {place_of(self._twins[name].sharded) for name in stay}
        done.discard(None)
        for name, twin in changed.items():
            sharded, source, memory = twin.sharded, sources.get(name), parts.get(name)
            if self._share and (place := place_of(sharded)) is not None:
                if twin.value is None and place in done:
                    continue
                done.add(place)
            if memory is not None and memory in whole and (held := memory.alive()) is not None:
                source = regions[name].on(held)
            if name in self._sums and twin.value is None and not _any(source):
                made.append(zeroed(recorder, sharded._local_tensor))
                continue
            part = self._parts.get(name)
            if part is None or part.local is not sharded._local_tensor:  # it has got memory
                part = part_of(sharded, f"{self._where}: {name}")
            if twin.value is not None:
                made += copied(recorder, part, twin.value)
            elif source is not None:
                made += copied(recorder, part, source)
            elif memory is not None:
                made += divided(recorder, sharded, part, regions[name], waiting[memory])
        written(*(twin.sharded for twin in changed.values()))
        for storage in ours - whole:
            storage.pending.clear()
        return [*others, *made]

    def _held(self, recorder: Recorder, parts: Mapping[str, Storage]) -> set[Storage]:
        """Find what something in the module shares of the memory of these twins.

        Mostly nobody has it any more once it is let go of here, so there is nothing to look for.
        """
        gone = [self._twins[name].let_go() for name in parts]
        recorder.unfollow(gone)
        gone.clear()
        left = {storage for storage in parts.values() if storage.is_alive}
        if not left:
            return left
        return left.intersection(map(recorder.storage_of, self._others()))

    def _tell_observers(self, drawn: Drawn) -> None:
        """Tell of draws into twins, on every rank, whatever it holds of them."""
        for name, op in drawn:
            twin = self._twins.get(name)
            if twin is not None and not twin.fixed and twin.value is None:
                tell_of(twin.sharded, op)

    def _source(self, name: str, twin: Twin) -> Tensor:
        """Give what is to become the shard's values."""
        now = twin.current()
        if not isinstance(now, Tensor) or not is_plain(type(now)) or now.shape != twin.tensor.shape:
            what = tuple(now.shape) if isinstance(now, Tensor) else type(now).__name__
            raise RuntimeError(
                f"fastinit.{self._where}: an initialiser has put {what} in the place of {name}, "
                f"a DTensor of shape {tuple(twin.sharded.shape)}"
            )
        return now

    def _others(self) -> Iterable[Tensor]:
        """List tensors that the module holds besides its DTensors."""
        for one in named_tensors(self._module).both.values():
            if not is_sharded(one.tensor):
                yield one.tensor
        yield from (tensor for _, _, tensor in held_tensors(self._module))

    # ---- memory for DTensors on the meta device --------------------------------------------------

    @property
    def without_values(self) -> set[str]:
        """The names of those that have no memory yet, and are not to get what a factory did.

        Outside of a mesh, where torch has them empty on the CPU, they may be such elsewhere.
        """
        sharding = self._sharding
        return {
            n
            for n in self.on_meta | self._outside
            if sharding is None or sharding.full(self.named[n].tensor) is None
        }

    def _stays(self, sharded: Any) -> bool:
        """Whether the shard of a DTensor that nothing was done to keeps what it has."""
        local: Tensor = sharded._local_tensor
        has_values = self._sharding is None or self._sharding.has_values(sharded)
        return has_values or (local.numel() == 0 and not local.is_meta)

    def put_in_made(self, recorder: Recorder, fixed: Collection[str]) -> None:
        """Put twins in the places of DTensors that a factory has made.

        Args:
            recorder: what records what is done to them.
            fixed: the names of those that are to stay as they are whatever the factory has done.

        Raises:
            NotImplementedError: if what is in one has been drawn for the shard alone.
        """
        sharding = self._sharding
        assert sharding is not None
        sharding.end()
        drawn = [n for n, one in self.named.items() if sharding.is_drawn(one.tensor)]
        if drawn:
            raise NotImplementedError(
                f"fastinit.{self._where}: the factory has drawn shards, and not full tensors, for "
                f"{', '.join(drawn)}, so that ranks would have the same numbers; draw before "
                "distribute_tensor, or into the DTensor"
            )
        made = {n for n, one in self.named.items() if sharding.full(one.tensor) is not None}
        stay = {n for n, one in self.named.items() if self._stays(one.tensor)} - self._outside
        kept = {n for n in made if sharding.keeps(self.named[n].tensor)}
        self.put_in(recorder, stay.union(fixed) - made, kept)

    @property
    def _outside(self) -> set[str]:
        return {name for name, one in self.named.items() if is_outside(one.tensor)}

    @property
    def on_meta(self) -> set[str]:
        """The names of those that have no memory yet."""
        return {name for name, one in self.named.items() if one.tensor.is_meta}

    @property
    def device(self) -> torch.device | None:
        """Where the meshes are; None: there is none."""
        for one in self.named.values():
            sharded: Any = one.tensor
            return torch.device(sharded.device_mesh.device_type)
        return None

    def _give_memory(
        self,
        device: torch.device | None,
        dtype: torch.dtype | None,
        of_values: Mapping[str, torch.dtype],
    ) -> None:
        """Give memory to those that have none, and to those whose type initialisers have changed.

        Args:
            device: as for `divide`.
            dtype: likewise.
            of_values: the types that they have now, by name.
        """
        on_meta = self.on_meta
        other = {n for n, kind in of_values.items() if kind is not self.named[n].tensor.dtype}
        if not on_meta and not other:
            return
        on_cpu, changed = offloaded(self._module), set()
        memory: dict[Any, Tensor] = {}  # of those that are tied
        for name in on_meta | other:
            named, old = self.named[name], self._twins[name].sharded
            place = device or torch.device(old.device_mesh.device_type)
            if id(old) in on_cpu:
                place = torch.device("cpu")
            if name not in on_meta:
                place = old._local_tensor.device
            kind = of_values[name]
            if dtype is not None and wants_dtype(named, dtype):
                kind = dtype
            where = place_of(old) if self._share else None, place, kind
            new = with_memory(old, place, kind, None if where[0] is None else memory.get(where))
            memory[where] = new._local_tensor
            changed.add(id(old))
            given = exchange(named, new)
            self._given.append(given)
            if not given.swapped:
                self._twins[name].named = named.with_tensor(new)
        refer_to_shards(self._module, changed)


def _any(tensor: Tensor | None) -> bool:
    return tensor is not None and bool(tensor.detach().any())


def _has_more(storage: Storage, region: Region) -> bool:
    """Whether memory has values beside those that wait."""
    return storage.known and not storage.stands_in and not storage.written.covers_region(region)


def _is_sum(sharded: Any) -> bool:
    return any(placement.is_partial() for placement in sharded.placements)
