"""From a recording to values: what has to be written, is it, and then do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fastinit import _provenance
from fastinit._fills import Region
from fastinit._record import Recorder
from fastinit._tape import Cell, Entry, Ref, Runner, needed
from fastinit.names import Named, Pattern, matches


@dataclass
class Plan:
    """What a recording was made for.

    Attributes:
        module: the module.
        parameters: those that are to be initialised, by name.
        buffers: those whose values are not there yet, by name.
        applied: the rule of each parameter that has one.
        must_write: whether values that a parameter had before do not count.
        allow: names that may stay without values.
        where: the function, for messages.
        refs: where the parameters and buffers lie, by name.
        untouched: memory that is to stay as it is.
    """

    module: nn.Module
    parameters: dict[str, Named]
    buffers: dict[str, Named]
    applied: dict[str, str]
    must_write: bool
    where: str
    allow: Sequence[Pattern] | Pattern = ()
    refs: dict[str, Ref] = field(default_factory=dict)
    untouched: set[Cell] = field(default_factory=set)


def live_cells(recorder: Recorder, plan: Plan) -> set[Cell]:
    """Find the memory whose values matter in the end: all that is named or was there before."""
    live = {ref.cell for ref in plan.refs.values()}
    for entry in recorder.entries:
        live.update(ref.cell for ref in entry.writes if ref.cell.known)
    return live


def _check_written(recorder: Recorder, plan: Plan, entries: list[Entry]) -> list[str]:
    """Raise for what nobody writes; give the names of what is allowed to be so."""
    for entry in entries:
        recorder.coverage.add(entry)
    unwritten = [
        name
        for name, ref in plan.refs.items()
        if not recorder.coverage.has(ref, before=not plan.must_write)
    ]
    wrong = [name for name in unwritten if not matches(name, plan.allow)]
    if wrong:
        listed = ", ".join(
            f"{name} ({'buffer' if name in plan.buffers else 'parameter'})" for name in wrong
        )
        advice = (
            'give it a rule (rules={"...": ..., "default": None} leaves the others to the module), '
            "or skip it"
            if plan.must_write
            else "give it a rule, or list it in allow_uninitialized if it is to be loaded"
        )
        raise ValueError(
            f"fastinit.{plan.where}: nothing that {type(plan.module).__name__} defines writes "
            f"{listed}; {advice}"
        )
    return unwritten


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


def finish(
    recorder: Recorder,
    plan: Plan,
    progress: bool = False,
    before_running: Callable[[list[Entry]], Any] | None = None,
) -> tuple[Runner, _provenance.History]:
    """Compute what was recorded: what matters of it, in one go.

    Returns:
        What ran it, and what it noted, to be closed when everything has its place.

    Raises:
        ValueError: if a parameter or buffer of the plan gets no values.
    """
    for name, named in (*plan.parameters.items(), *plan.buffers.items()):
        cell = recorder.cell_of(named.tensor)
        if cell is not None and named.tensor.numel() > 0:
            plan.refs[name] = Ref(cell, Region.of(named.tensor))
            recorder.names.add(plan.refs[name], name)
    entries = [e for e in recorder.entries if not e.changes_only(plan.untouched)]
    entries = needed(entries, live_cells(recorder, plan) - plan.untouched)
    unwritten = _check_written(recorder, plan, entries)
    if before_running is not None:
        before_running(entries)
    history = _provenance.History(plan, recorder.names, recorder.entries)
    history.unwritten = unwritten
    total = sum(
        ref.region.numel * ref.region.dtype.itemsize for e in entries if e.fill for ref in e.writes
    )
    with _bar(total, progress) as written:
        runner = Runner(recorder.keys, recorder.device, recorder.names, written, history.ran)
        runner.run(entries)
    return runner, history
