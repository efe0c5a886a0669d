"""What has come out of initialisers: its memory, what that is called, and what nobody wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastinit._fills.region import Region
from fastinit._models.held import held_tensors
from fastinit._models.names import Named
from fastinit._models.request import Request, Result
from fastinit._recording.graph import Op, Ref
from fastinit._recording.naming import Names
from fastinit._recording.recorder import Recorder
from fastinit._tensors import is_put_together, parts_of


def named_memory(
    recorder: Recorder, request: Request, result: Result
) -> tuple[dict[str, Ref], Names]:
    """Find the memory of parameters and buffers; of what is put together, that of its values.

    Other tensors that the module holds are added to the result.

    Returns:
        The memory by name, and the names of memory: by what is on it in the end.
    """
    rename, storage_of = request.rename.name_of, recorder.storage_of
    refs, names = {}, Names(lambda: map(rename, (*result.parameters, *result.buffers)))
    there = names.there
    for table in (result.parameters, result.buffers):
        tensors = [named.tensor for named in table.values()]
        for name, tensor, storage in zip(
            table, tensors, recorder.storages_of(tensors), strict=True
        ):
            if is_put_together(tensor):
                *others, tensor = parts_of(tensor)
                storage = storage_of(tensor)
                for part in others:
                    of_part = storage_of(part)
                    if of_part is not None:
                        there.add(Ref(of_part, Region.of(part)), rename(name))
            if storage is None:
                continue
            ref = refs[name] = Ref(storage, Region.of(tensor))
            if ref.region.numel > 0:
                there.add(ref, rename(name))
                names.partly = names.partly or ref.region.nbytes < storage.nbytes
    for ref, name in recorder.declared:
        names.before.add(ref, name)
    if recorder.declared:
        for name, named in (*result.parameters.items(), *result.buffers.items()):
            if named.part_of is not None:
                names.wholes[rename(name)] = request.rename.of_computed(named.part_of.name)
    storages = recorder.storages_of(tensor for tensor, _ in recorder.followed)
    for (tensor, name), storage in zip(recorder.followed, storages, strict=True):
        if storage is None or (storage in names.there and not names.partly):
            continue
        ref = Ref(storage, Region.of(tensor))
        if not names.there.meets(ref):
            names.before.add(ref, name)
    loose = [
        storage
        for storage in recorder.storages()
        if storage not in names.there
        and storage.is_alive
        and (storage.drawn or storage.outside or not storage.is_full)
    ]
    if loose or names.partly:
        for name, owner, tensor in held_tensors(result.module, request.prefix):
            storage = recorder.storage_of(tensor)
            if storage is None or tensor.numel() == 0 or name in result.buffers:
                continue
            ref = Ref(storage, Region.of(tensor))
            if names.there.covers(ref):
                continue
            result.buffers[name] = Named(name, tensor, owner, name.rpartition(".")[2])
            refs[name] = ref
            names.others.add(ref, rename(name))
    return refs, names


def unwritten_of(refs: Mapping[str, Ref], result: Result) -> list[str]:
    """List the names of what nobody has written, but for what is to stay untouched."""
    spared = {named.name for named in result.untouched}
    missing = []
    for name, one in (*result.parameters.items(), *result.buffers.items()):
        if name in spared:
            continue
        ref = refs.get(name)
        if ref is None:
            if one.tensor.is_meta and one.tensor.numel() > 0:
                missing.append(name)
        elif not ref.storage.has_values(ref.region):
            missing.append(name)
    return missing


def bare_of(refs: Mapping[str, Ref], result: Result, ops: Iterable[Op]) -> list[str]:
    """List the names of parameters that are to stay untouched, and are memory without values.

    Args:
        refs: their memory.
        result: what has come out.
        ops: what was done, of which what waits for these is not going to be.
    """
    written = {ref.storage for op in ops if op.ran for ref in op.writes}
    found = []
    for named in result.untouched:
        ref = refs.get(named.name) if named.name in result.parameters else None
        if ref is not None and not (
            ref.storage.known or ref.storage.outside or ref.storage in written
        ):
            found.append(named.name)
    return found


def _sort(result: Result, name: str) -> str:
    if name in result.parameters:
        return "parameter"
    named = result.buffers[name]
    return "buffer" if named.attribute in named.owner._buffers else "attribute"


def check_written(missing: Iterable[str], request: Request, result: Result) -> None:
    """Raise for what nobody writes and is not allowed to be so."""
    wrong = [name for name in missing if not request.allow.match(name)]
    if not wrong:
        return
    partly = [name for name in wrong if name in result.applied]
    if partly:
        given = ", ".join(f"{result.applied[n]} does not write all of {n}" for n in partly)
        raise ValueError(f"fastinit.{request.where}: argument 'rules': {given}")
    listed = ", ".join(f"{name} ({_sort(result, name)})" for name in wrong)
    advice = (
        'give it a rule (rules={"...": ..., "default": None} leaves the others to the module), '
        "or skip it"
        if request.where == "initialize_"
        else "give it a rule, or list it in allow_uninitialized if it is to be loaded"
    )
    if not request.constructs:
        again = (
            "initialize_(module, factory=factory)"
            if request.where == "initialize_"
            else "materialize(factory) in place of the module"
        )
        advice += f"; what a constructor gives values, {again} initialises"
    raise ValueError(
        f"fastinit.{request.where}: nothing that {type(result.module).__name__} defines "
        f"writes {listed}; {advice}"
    )
