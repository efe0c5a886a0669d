"""What `initialize_` and `materialize` share: running initialisers until their draws have names."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import Tensor, nn

from fastinit._distributed.fill import OBSERVERS, is_sharded, tell_observers
from fastinit._fills.region import Region
from fastinit._models import module_methods
from fastinit._models import rules as _rules
from fastinit._models.again import agreed
from fastinit._models.checks import check_stored
from fastinit._models.constructors import warn_of_lost
from fastinit._models.history import History
from fastinit._models.names import (
    Named,
    NamedTensors,
    named_tensors,
)
from fastinit._models.notes import note
from fastinit._models.placing import refresh
from fastinit._models.recording import recording
from fastinit._models.request import Request, Result
from fastinit._models.results import bare_of, check_written, named_memory, unwritten_of
from fastinit._patch.fork import Fork
from fastinit._recording.graph import Op, Ref, Storage
from fastinit._recording.recorder import Recorder
from fastinit._recording.settle import Settled, nbytes_of
from fastinit._warnings import outside
from fastinit.key import NOTHING, Key, key_argument, reserve_key

# An initialiser may choose what it does by what it reads, so a run more may find other names.
_MOST_RUNS = 5
# Bytes that are computed after an error for whoever may hold some: a fraction of a second.
_MOST_LEFT = 1 << 28


class Run(NamedTuple):
    """A run of the initialisers.

    Attributes:
        recorder: what recorded it.
        result: what has come out.
        refs: the memory of its parameters and buffers, by name.
        settled: what it amounts to.
        unwritten: which of its parameters and buffers nobody has written.
    """

    recorder: Recorder
    result: Result
    refs: Mapping[str, Ref]
    settled: Settled
    unwritten: frozenset[str] = frozenset()


# Names of parameters and buffers, and what has been drawn for them.
Drawn = Sequence[tuple[str, Op]]


def settle(request: Request, run: Callable[[Recorder], Result], undo: Callable[[], object]) -> Run:
    """Run initialisers until the draws whose values they read have the keys of their names.

    Args:
        request: what was asked for.
        run: records what they do, and says what has come out.
        undo: puts back what `run` changes, but for values in memory.
    """
    table: Mapping[Any, int] = {}
    found: Run | None = None
    recorder: Recorder | None = None
    waits = True
    for _ in range(_MOST_RUNS):
        if found is not None:
            table, recorder = found.settled.keys, found.recorder
            recorder.restore()
            found = None  # its memory goes before there is more
            undo()
        if recorder is not None:
            recorder.leave(table)
        recorder = Recorder(request.key, table, waits=waits)
        try:
            found = _run_once(request, run, undo, recorder)
        except RuntimeError as error:
            pending = waits and _PENDING in str(error)
            if not (pending and agreed(recorder, True, request.where)):
                raise
            waits = False  # something reaches memory past the dispatcher, and must not wait
            continue
        recorder = None  # with its memory, which `found` has
        if not agreed(found.recorder, not found.settled.right, request.where):
            break
    if found is None:
        found = _run_once(request, run, undo, Recorder(request.key, table, waits=waits))
    try:
        if not found.settled.right:  # who has warnings raised gets the module as it was, too
            kind = type(found.result.module).__name__
            why = "what they have drawn before, in a way that names do not settle"
            if found.recorder.spoken.any:
                why = (
                    "what they have read of it, or sent to other processes, which have not agreed "
                    "to run theirs again"
                )
            warnings.warn(
                f"fastinit.{request.where}: what initialisers of {kind} draw depends on {why}; "
                "their values depend on the order of modules",
                UserWarning,
                stacklevel=outside(),
            )
        warn_of_lost(found.result.lost)
        if request.constructs:  # of those that were given it is known
            _check_stored(found.result, request.where)
        missing = unwritten_of(found.refs, found.result)
        check_written(missing, request, found.result)
    except BaseException:
        _give_up(found, undo)
        raise
    return found._replace(unwritten=frozenset(missing))


def _run_once(
    request: Request,
    run: Callable[[Recorder], Result],
    undo: Callable[[], object],
    recorder: Recorder,
) -> Run:
    try:
        with Fork.of_python(int(request.key.fold_in(_PYTHON))):
            result = run(recorder)
        recorder.see_written()
        refs, names = named_memory(recorder, request, result)
        return Run(recorder, result, refs, Settled(recorder, names))
    except BaseException as error:
        _restore(recorder, undo, most=_most_left())
        if recorder.runs_again and isinstance(error, Exception):
            note(
                error,
                f"in a further run of the initialisers, which fastinit.{request.where} needs as "
                "they have read what they drew before it was known what it is for",
            )
        raise


def _check_stored(result: Result, where: str) -> None:
    stay = {one.name for one in result.untouched}
    named = {**result.parameters, **result.buffers}
    check_stored({name: one for name, one in named.items() if name not in stay}, where)


def _give_up(run: Run, undo: Callable[[], object]) -> None:
    _restore(run.recorder, undo, run.settled.keys, _most_left())


def _restore(
    recorder: Recorder,
    undo: Callable[[], object],
    keys: Mapping[Any, int] = NOTHING,
    most: int | None = None,
) -> None:
    """Put back all that there was; what fails leaves the rest to be put back."""
    with ExitStack() as stack:
        stack.callback(recorder.leave, keys, most)
        stack.callback(undo)
        recorder.restore()


def _most_left() -> int:
    """Say how many bytes may be computed after the error that is being handled."""
    return _MOST_LEFT if isinstance(sys.exc_info()[1], Exception) else _MOST_LEFT >> 8


_PENDING = "fill pending"  # what memory that waits says to whom nobody has told
_PYTHON = "fastinit: Python's and NumPy's own generators"


def complete(
    request: Request,
    run: Callable[[Recorder], Result],
    undo: Callable[[], object],
    moves: Callable[[Run, Sequence[Op], Drawn], Sequence[Op]],
) -> Run:
    """Run initialisers, and compute what waits; whatever is raised leaves all as it was.

    Args:
        request: what was asked for.
        run: as for `settle`.
        undo: likewise.
        moves: as for `finish`; is given the run that counts, too.
    """
    found = settle(request, run, undo)
    try:
        finish(found, request, lambda ops, drawn: moves(found, ops, drawn))
    except BaseException:
        _give_up(found, undo)
        raise
    return found


def finish(
    run: Run,
    request: Request,
    moves: Callable[[Sequence[Op], Drawn], Sequence[Op]],
) -> None:
    """Compute what waits, and keep what is known of it for reports.

    Args:
        run: the run that counts.
        request: what was asked for.
        moves: does what is left to do with the tensors before they get values; is told what is to
            be computed, and says what is then; and what has been drawn for them, if somebody wants
            to know.
    """
    recorder, result, refs, settled, missing = run
    spared = _regions(recorder, result.untouched)
    ops = settled.waiting()
    if spared:
        ops = [op for op in ops if not _is_spared(op.writes[0], spared)]
    done = [
        (op, ref)
        for op in settled.ops
        for ref in op.writes
        if not (spared and _is_spared(ref, spared))
    ]
    of_parameters = {n: refs[n] for n in result.parameters if n in refs}
    missing = missing.union(bare_of(refs, result, settled.ops))
    history = History(of_parameters, result.applied, done, recorder.log, missing)
    drawn = [*_drawn(done, settled, request, result)] if OBSERVERS else []
    for op in ops if spared else ():
        if op.writes[0].storage in spared:  # a part of it
            recorder.remember(op.writes[0].storage)
    ops = list(moves(ops, drawn))
    for name, op in drawn:
        tensor = (result.parameters.get(name) or result.buffers[name]).tensor
        if not is_sharded(tensor):  # of those into shards `Twins` tells
            tell_of(tensor, op)
    with _bar(nbytes_of(ops), request.progress) as written:
        settled.finish(ops, written)
    _put_back(recorder, spared)
    left = {one.name for one in result.untouched if one.name not in missing}
    history.note({n: one for n, one in result.parameters.items() if n not in left})
    recorder.let_go()


def _drawn(
    done: Iterable[tuple[Op, Ref]], settled: Settled, request: Request, result: Result
) -> Iterator[tuple[str, Op]]:
    """List draws, and the names of the parameters and buffers that they are for."""
    rename, named = request.rename, {**result.parameters, **result.buffers}
    parts = {name: one.part_of for name, one in named.items() if one.part_of is not None}
    here = {rename.of_computed(whole.name): name for name, whole in parts.items()}
    here |= {rename(name): name for name in named}
    stay = {one.name for one in result.untouched}
    told: set[Any] = set()
    for op, ref in done:
        if op.key is None:
            continue
        names = [name for _, name in settled.names.there.within(ref)]
        if not settled.names.holds(ref.storage) and op.draw not in told:
            names = [*filter(None, [settled.goals.get(op.draw)])]  # what its values flow into
        told.add(op.draw)
        for name in names:
            if name in here and here[name] not in stay:
                yield here[name], op


def tell_of(tensor: Tensor, op: Op) -> None:
    """Tell who wants to know of a draw into a tensor."""
    assert op.key is not None
    numbers = op.numbers if op.fill is None else op.fill.args
    tell_observers(tensor, op.function, tuple(numbers), op.key)


def _is_spared(ref: Ref, spared: Mapping[Storage, Sequence[Region]]) -> bool:
    return any(region.covers(ref.region) for region in spared.get(ref.storage, ()))


def _regions(recorder: Recorder, named: Iterable[Named]) -> dict[Storage, list[Region]]:
    found: dict[Storage, list[Region]] = {}
    for one in named:
        storage = recorder.storage_of(one.tensor)
        if storage is not None:
            found.setdefault(storage, []).append(Region.of(one.tensor))
    return found


def _put_back(recorder: Recorder, spared: dict[Storage, list[Region]]) -> None:
    """Give what is to stay untouched the values it had, where they were written over."""
    with torch.no_grad():
        for storage, regions in spared.items():
            before, untyped = recorder.before(storage), storage.alive()
            if before is None or untyped is None:
                continue
            for region in regions:
                region.on(untyped).copy_(region.on(before.untyped_storage()))


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[int], object] | None]:
    if not progress:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("argument 'progress': the progress bar needs tqdm; install it") from None
    with tqdm(total=total, unit="B", unit_scale=True, desc="fastinit") as bar:
        yield bar.update


def key_or_drawn(key: Key | SupportsIndex | None, where: str) -> Key:
    """Give the key, or one drawn from torch's default generator, so `torch.manual_seed` decides."""
    word = key_argument(key, None, where)
    return reserve_key("cpu") if word is None else Key(word)


def run_initialisers(
    recorder: Recorder,
    request: Request,
    module: nn.Module,
    tensors: NamedTensors,
    untouched: Mapping[str, Named],
    *,
    anew: Container[str] = (),
    own_as_well: bool = False,
    made: bool = False,
    others: Iterable[Tensor] = (),
    arrays: Iterable[Any] = (),
    is_as_before: Callable[[], bool] = lambda: False,
) -> Result:
    """Run the initialisers of a module that is there: what its parameters are, they may change.

    Args:
        recorder: what they are recorded by.
        request: what was asked for.
        module: the module.
        tensors: its parameters and buffers.
        untouched: those of its parameters and buffers that are to stay as they are.
        anew: the names of parameters and buffers whose values do not count.
        own_as_well: whether to run what the module itself defines even if rules decide on all.
        made: whether its constructor has run just now, and what that has given values stays.
        others: further tensors that the module holds.
        arrays: NumPy's that it holds.
        is_as_before: whether it is known that the module still holds what it did.
    """
    (before, buffers), rename = tensors, request.rename.name_of
    with recorder.lock:
        for name, named in (*before.items(), *buffers.items()):
            recorder.follow(named.tensor, rename(name), anew=name in anew)
        recorder.watch(others)
        recorder.share(arrays)
    recorder.spared.add_all(one.tensor for one in untouched.values())
    wanted = {name: named for name, named in before.items() if name not in untouched}
    rules = request.rules
    chosen = {} if rules is None else _rules.choose(rules, wanted)
    leave = _rules.left_alone(chosen, wanted, before)
    of_buffers = _rules.choose_for_buffers(rules or [], buffers, before)
    applied = {
        name: _rules.describe(initialiser)
        for name, (_, initialiser) in chosen.items()
        if initialiser is not None
    }

    def declare(name: str, tensor: Tensor) -> None:
        recorder.declare(request.rename.of_computed(name), tensor)

    def as_it_is() -> NamedTensors:
        return tensors if is_as_before() else named_tensors(module, request.prefix)

    with recording(recorder), torch.no_grad():
        now, left_out = tensors, list[str]()
        if own_as_well or rules is None or len(applied) < len(chosen):
            left_out = module_methods.run(
                module, leave=leave, declare=declare, prefix=request.prefix, made=made
            )
            if applied or of_buffers:  # which are of what there is now
                now = as_it_is()
        for name, label in applied.items():
            with recorder.labelled(label):
                _rules.apply(chosen[name], now.parameters.get(name) or wanted[name], declare)
        for name, rule in of_buffers.items():
            if name not in untouched:
                _rules.apply(rule, now.buffers.get(name) or buffers[name])
    now = as_it_is()
    if _put_in_place(untouched.values(), now):
        now = named_tensors(module, request.prefix)
    stay = list(untouched.values())
    return Result(module, {**now.parameters}, {**now.buffers}, applied, stay, left_out)


def _put_in_place(untouched: Iterable[Named], now: NamedTensors) -> bool:
    """Put what is to stay where it was, and where something has its name now.

    Returns:
        Whether something else was there.
    """
    changed = False
    for named in untouched:
        there = [named, *(of_sort[named.name] for of_sort in now if named.name in of_sort)]
        for one in there:
            for owner, attribute in one.places:
                tables: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers)
                for table in tables:
                    if attribute in table and table[attribute] is not named.tensor:
                        table[attribute] = named.tensor
                        refresh(one)
                        changed = True
    return changed
