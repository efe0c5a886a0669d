"""From a recording to values: what has to be written, is it, and then do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from torch import nn

from fastinit._fills.region import Region
from fastinit._models import module_methods
from fastinit._models import rules as _rules
from fastinit._models.history import History
from fastinit._models.names import Named, Pattern, matches
from fastinit._models.recording import recording
from fastinit._recording.graph import Op, Ref, Storage, eliminate_dead
from fastinit._recording.recorder import Recorder
from fastinit._recording.replay import Runner
from fastinit._tensors import in_transform, is_plain
from fastinit.key import Key, key_argument, reserve_key


@dataclass
class Session:
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
    untouched: set[Storage] = field(default_factory=set)


def live_storages(recorder: Recorder, session: Session) -> set[Storage]:
    """Find the memory whose values matter in the end: all that is named or was there before."""
    live = {ref.storage for ref in session.refs.values()}
    for op in recorder.ops:
        live.update(ref.storage for ref in op.writes if ref.storage.known)
    return live


def _check_written(recorder: Recorder, session: Session, ops: list[Op]) -> list[str]:
    """Raise for what nobody writes; give the names of what is allowed to be so."""
    for op in ops:
        recorder.coverage.add(op)
    unwritten = [
        name
        for name, ref in session.refs.items()
        if not recorder.coverage.has(ref, before=not session.must_write)
    ]
    wrong = [name for name in unwritten if not matches(name, session.allow)]
    if wrong:
        listed = ", ".join(
            f"{name} ({'buffer' if name in session.buffers else 'parameter'})" for name in wrong
        )
        advice = (
            'give it a rule (rules={"...": ..., "default": None} leaves the others to the module), '
            "or skip it"
            if session.must_write
            else "give it a rule, or list it in allow_uninitialized if it is to be loaded"
        )
        raise ValueError(
            f"fastinit.{session.where}: nothing that {type(session.module).__name__} defines "
            f"writes {listed}; {advice}"
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
    session: Session,
    progress: bool = False,
    before_running: Callable[[list[Op]], Any] | None = None,
) -> tuple[Runner, History]:
    """Compute what was recorded: what matters of it, in one go.

    Returns:
        What ran it, and what it noted, to be closed when everything has its place.

    Raises:
        ValueError: if a parameter or buffer of the session gets no values.
    """
    for name, named in (*session.parameters.items(), *session.buffers.items()):
        storage = recorder.storage_of(named.tensor)
        if storage is not None and named.tensor.numel() > 0:
            session.refs[name] = Ref(storage, Region.of(named.tensor))
            recorder.names.add(session.refs[name], name)
    ops = [e for e in recorder.ops if not e.changes_only(session.untouched)]
    ops = eliminate_dead(ops, live_storages(recorder, session) - session.untouched)
    unwritten = _check_written(recorder, session, ops)
    if before_running is not None:
        before_running(ops)
    history = History(
        session.parameters, session.applied, session.refs, recorder.names, recorder.ops
    )
    history.unwritten = unwritten
    total = sum(
        ref.region.numel * ref.region.dtype.itemsize for e in ops if e.fill for ref in e.writes
    )
    with _bar(total, progress) as written:
        runner = Runner(recorder.keys, recorder.device, recorder.names, written, history.ran)
        runner.run(ops)
    return runner, history


def key_or_drawn(key: Key | SupportsIndex | None, where: str) -> Key:
    """Give the key, or one drawn from torch's default generator, so `torch.manual_seed` decides."""
    word = key_argument(key, None, where)
    return reserve_key("cpu") if word is None else Key(word)


def check_module(module: Any, where: str) -> None:
    """Raise TypeError unless this is a module."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"fastinit.{where}: argument 'module' must be a torch.nn.Module, got "
            f"{type(module).__name__}"
        )


def check_untransformed(where: str) -> None:
    """Raise NotImplementedError inside torch.func transforms, which tensors do not tell about."""
    if in_transform():
        raise NotImplementedError(
            f"fastinit.{where}: not inside torch.func transforms (vmap, grad, jvp, functionalize); "
            "initialise the module outside and pass its parameters in, for instance by "
            "torch.func.functional_call"
        )


def check_plain(parameters: dict[str, Named], where: str) -> None:
    """Raise NotImplementedError for parameters that hold their memory in a way of their own."""
    kinds = {
        name: type(named.tensor).__name__
        for name, named in parameters.items()
        if not (is_plain(type(named.tensor)) and named.tensor.layout is torch.strided)
    }
    if kinds:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise NotImplementedError(
            f"fastinit.{where}: parameters can be plain strided tensors, got {listed}; initialise "
            "before they are wrapped or sharded"
        )


def record(
    recorder: Recorder,
    module: nn.Module,
    parameters: dict[str, Named],
    rules: list[_rules.Rule] | None,
    own_as_well: bool = False,
) -> dict[str, str]:
    """Record the initialisers of the given parameters; say which rule each has."""
    chosen = {} if rules is None else _rules.choose(rules, parameters)
    applied = {
        name: _rules.describe(initialiser)
        for name, (_, initialiser) in chosen.items()
        if initialiser is not None
    }
    with recording(recorder), torch.no_grad():
        if own_as_well or rules is None or len(applied) < len(chosen):
            module_methods.run(module)
        for name, label in applied.items():
            with recorder.labelled(label):
                _rules.apply(chosen[name], parameters[name])
    return applied
