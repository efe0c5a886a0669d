"""What the programs of `model_programs` must give: eager torch, run under fastinit's keys.

Three doors are judged. `batch()`: the program under `fastinit.patch(key)` with and without it.
`materialize` of the class, and `initialize_` of a module whose constructor has declared, whose
parameters are NaN and whose `reset_parameters` is the program: both beside eager runs, in which
each draw gets the key that its name says. What is compared:

- Structure: every tensor and array that can be reached from the module (through attributes, lists,
  dicts, objects, closures, optimizers, weak references): class, type, shape, strides, device,
  hooks, marks, `.grad`; which of them are one object, and which share memory and how; for
  `initialize_`, which are the objects that they were before.
- Values, to the byte: of these and of all that the program read. Memory is poisoned with NaN, so
  what nobody has written is seen, and what comparisons make of it is followed
  (`model_unwritten.py`): a named tensor (for `initialize_`, a parameter) with NaN in eager torch
  must be an error, and NaN where eager torch has none is garbage.
- Keys: the n-th draw that is computed for a name has `key.fold_in(name).fold_in(n)`. A draw belongs
  to the first name of the memory that it writes or else that its values reach first. It is computed
  if some of its values are used before all are overwritten. First are counted those that what has
  the name has values of in the end, then those of other names, then those that are only held
  otherwise, and then those that somebody has only looked at. A draw that reaches
  no name (a tensor in a list, say) has a key that is not said: what depends on it is not compared,
  and the program runs a second time with constants for draws, where everything is.
- Exceptions: an exception of the program is the same one, and leaves a given module as it was.
- Outside: default dtype, torch's and NumPy's generators are afterwards what they were, or what
  eager torch leaves; so are skipped parameters.

A program that reads what nobody has written, or has such values elsewhere than under a name, means
nothing and is not judged. `batch()` may say "fill pending" where a step reaches memory in a way
that its modes do not see.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastinit
from support import model_programs, model_steps
from support.model_oracle import (
    KEY,
    Cells,
    Functions,
    Log,
    Operators,
    Tainted,
    cells,
    default_generator,
    keys_by_name,
    tainted,
)
from support.model_programs import Program, model_class
from support.model_snapshot import Entry, Failure, differences, snapshot
from support.model_steps import HIDDEN


@dataclass
class Outcome:
    """What a run left."""

    entries: list[Entry]
    error: BaseException | None
    outside: dict[str, Any]


def _outside() -> dict[str, Any]:
    device = torch.get_default_device()
    return {
        "default dtype": torch.get_default_dtype(),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "the device's generator": default_generator(device).get_state().numpy().tobytes(),
        "NumPy's generator": np.random.get_state(legacy=True)[1].tobytes(),  # noqa: NPY002
        "gradients": torch.is_grad_enabled(),
    }


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill fresh memory with NaN, and start from the same state outside."""
    before = torch.are_deterministic_algorithms_enabled()
    dtype = torch.get_default_dtype()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # torch.manual_seed keeps a traceback for each device.
    torch.default_generator.manual_seed(11)
    default_generator(torch.get_default_device()).manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_default_dtype(dtype)


def _declared(program: Program, constant: bool) -> nn.Module:
    """Give the module that `initialize_` is called for."""
    made = model_class(program, constant)
    made.build = False
    model: nn.Module = made()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    return model


def _reset(module: nn.Module) -> None:
    """Do what `initialize_` says it does: what modules define, children first."""
    for child in module.children():
        _reset(child)
    for name in ("reset_parameters", "_reset_parameters"):
        if hasattr(module, name):
            getattr(module, name)()
            return


def _tensors(entries: list[Entry]) -> list[Tensor]:
    return [entry.tensor for entry in entries if entry.tensor is not None]


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _run(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


@dataclass
class _Expected:
    """An eager run under keys by name."""

    outcome: Outcome
    kept: list[str]
    unwritten: list[str]
    aliased: (
        bool  # whether what is unwritten is NumPy's, too, which may have written what was there
    )
    keys: list[int | None]
    log: Log
    sure: bool  # whether running again under these keys gives these keys


def _cells(tensors: Iterable[Tensor]) -> Cells:
    return frozenset().union(*map(cells, tensors))


def _kept(before: list[tuple[str, Tensor]], model: nn.Module) -> list[str]:
    now = dict(_named(model))
    return [name for name, tensor in before if now.get(name) is not tensor]


def _eager(program: Program, door: str, constant: bool) -> _Expected:
    keys: list[int | None] = []
    for _ in range(5):
        log = Log(keys)
        model: Any = None
        before: list[tuple[str, Tensor]] = []
        with poisoned():
            made = model_class(program, constant)
            if door == "initialize_":
                model = _declared(program, constant)
                before = _named(model)
            with _followed(log):
                if door == "initialize_":

                    def work(model: Any = model) -> Any:
                        with torch.no_grad():
                            _reset(model)
                        return model
                else:
                    work = made
                result, error = _run(work)
            outside = _outside()
        if error is not None:
            return _Expected(Outcome([], error, outside), [], [], False, keys, log, True)
        entries = snapshot(result)
        there = _named(result)
        following = keys_by_name(log, [*there, *before], there, _cells(_tensors(entries)))
        sure = following == keys or not log.draws
        if sure:
            break
        keys = following
    missing = [
        (name, tensor)
        for name, tensor in (result.named_parameters() if door == "initialize_" else _named(result))
        if tensor.isnan().any()
    ]
    unwritten = [name for name, _ in missing]
    aliased = bool(log.escaped)
    return _Expected(
        Outcome(entries, None, outside), _kept(before, result), unwritten, aliased, keys, log, sure
    )


@contextlib.contextmanager
def _followed(log: Log) -> Iterator[None]:
    def enter() -> Any:
        stack = contextlib.ExitStack()
        stack.enter_context(fastinit.patch(KEY))
        stack.enter_context(Operators(log))
        stack.enter_context(Functions(log))
        return stack

    with _carried(enter):
        yield


@contextlib.contextmanager
def _carried(enter: Callable[[], Any]) -> Iterator[None]:
    """Enter something here, and in the threads of a program."""
    model_steps.carried.append(enter)
    try:
        with enter():
            yield
    finally:
        model_steps.carried.remove(enter)


def _is_pending(error: BaseException | None) -> bool:
    return "fill pending" in str(error)


def _failure_of(error: BaseException) -> Failure:
    text = f"{type(error).__name__}: {error}"
    ours = "fastinit" in text or _is_pending(error)
    return Failure("false error" if ours else "other exception", text)


def _batch(program: Program) -> list[Failure]:
    made = model_class(program)
    outcomes = []
    for scope in (contextlib.nullcontext(), fastinit.batch()):
        with poisoned():
            with fastinit.patch(KEY), scope:
                model, error = _run(made)
            outside = _outside()
        entries = [] if error is not None else snapshot(model)
        outcomes.append(Outcome(entries, error, outside))
    return _compare(program, "batch", *outcomes, set(), True)


def _compare(
    program: Program,
    door: str,
    expected: Outcome,
    found: Outcome,
    taint: set[tuple[int, int]],
    seen: bool,
) -> list[Failure]:
    hidden = door == "batch" and any(step.name in HIDDEN for step in program.steps)
    if found.error is not None:
        if hidden and _is_pending(found.error):
            return []
        if expected.error is None:
            return [_failure_of(found.error)]
        if type(found.error) is not type(expected.error):
            return [Failure("other exception", f"{found.error!r} for {expected.error!r}")]
    elif expected.error is not None:
        return [Failure("missing exception", repr(expected.error))]
    failures = [
        Failure("touched from outside", name)
        for name, value in expected.outside.items()
        if found.outside[name] != value
    ]
    return failures + list(differences(expected.entries, found.entries, taint, seen))


def _ours(program: Program, door: str, constant: bool) -> tuple[Outcome, list[str], list[Failure]]:
    """Run the program at a door; also say which objects were replaced, and what an error left."""
    failures: list[Failure] = []
    kept: list[str] = []
    with poisoned():
        if door == "materialize":
            made = model_class(program, constant)
            start = _outside()
            model, error = _run(lambda: fastinit.materialize(made, key=KEY))
        else:
            given = _declared(program, constant)
            before = _named(given)
            first = [tensor.detach().clone() for _, tensor in before]
            start = _outside()
            model, error = _run(lambda: fastinit.initialize_(given, key=KEY))
            if error is None:
                kept = _kept(before, model)
            else:
                changed = _kept(before, given) + [
                    name
                    for (name, tensor), old in zip(before, first, strict=True)
                    if not _is_as_before(tensor, old)
                ]
                if changed:
                    failures = [Failure("not as before an error", ", ".join(changed))]
        end = _outside()
    entries = [] if error is not None else snapshot(model)
    failures += [Failure("touched from outside", name) for name in end if end[name] != start[name]]
    return Outcome(entries, error, {}), kept, failures


def _is_as_before(tensor: Tensor, old: Tensor) -> bool:
    return (
        tensor.device == old.device
        and tensor.dtype is old.dtype
        and torch.equal(tensor.isnan(), old.isnan())
        and torch.equal(tensor.nan_to_num(), old.nan_to_num())
    )


def _keyed(program: Program, door: str, constant: bool) -> list[Failure]:
    expected = _eager(program, door, constant)
    found, kept, failures = _ours(program, door, constant)
    if expected.unwritten:
        if found.error is None:
            if door == "initialize_" and expected.aliased:
                return []
            return [Failure("garbage accepted", ", ".join(expected.unwritten))]
        if isinstance(found.error, ValueError):
            return failures
        return [_failure_of(found.error), *failures]
    if expected.log.unwritten.decides or _means_nothing(expected.outcome.entries):
        return []
    expected.outcome.outside = {}
    if not expected.sure:
        return failures
    taint = Tainted()
    if expected.outcome.error is None:
        taint = tainted(expected.log, None if constant else expected.keys)
    said = constant or None not in expected.keys
    seen = said and not taint.cells and not taint.read
    failures += _compare(program, door, expected.outcome, found, taint.cells, seen)
    if kept != expected.kept and found.error is None and expected.outcome.error is None:
        failures.append(Failure("structure", f"objects replaced: {kept} for {expected.kept}"))
    return failures


def _means_nothing(entries: list[Entry]) -> bool:
    """Whether there is a value that nobody has written."""
    return any(
        (entry.nan is not None and entry.nan.any()) or "nan" in str(entry.what.get("value"))
        for entry in entries
    )


def _skipped(program: Program) -> list[Failure]:
    """Check that a parameter that is skipped stays what it was."""
    with poisoned():
        given = _declared(program, False)
        before = given._parameters.get("w0")
        if before is None:
            return []
        with torch.no_grad():
            before.fill_(7.0)
        _run(lambda: fastinit.initialize_(given, key=KEY, skip="w0"))
        if not bool((before == 7).all()):
            return [Failure("touched from outside", "w0, which was skipped")]
    return []


def _races(program: Program) -> bool:
    """Whether a list names one tensor twice, which a device works on at the same time."""
    slots = len(program.slots)
    shared = bool({"ties", "ties by .data"} & model_programs.features(program))
    return any(
        step.name == "foreach_mul_" and (shared or step.to % slots == step.other % slots)
        for step in program.steps
    )


def judge(program: Program, door: str, device: str = "cpu") -> list[Failure]:
    """List what is wrong with a program at a door, all of it on a device."""
    if device != "cpu" and _races(program):
        return []
    there = contextlib.nullcontext() if device == "cpu" else _carried(lambda: torch.device(device))
    with there:
        return _judge(program, door)


def _judge(program: Program, door: str) -> list[Failure]:
    if door == "batch":
        return _batch(program)
    failures = _keyed(program, door, constant=False)
    values = [failure for failure in failures if failure.kind == "wrong value"]
    # Where values of draws are not said, or to tell a wrong key from a wrong value.
    if values or not failures:
        constants = _keyed(program, door, constant=True)
        if not constants:
            constants = [Failure("wrong key", failure.detail) for failure in values]
        failures = [f for f in failures if f.kind != "wrong value"] + constants
    if door == "initialize_" and program.skip:
        failures += _skipped(program)
    return failures


def check(program: Program, door: str, device: str = "cpu") -> None:
    """Assert that a program is right at a door."""
    failures = judge(program, door, device)
    assert not failures, "\n".join(
        [f"{door}: {kind}: {detail}" for kind, detail in failures]
        + [model_programs.source(program)]
    )
