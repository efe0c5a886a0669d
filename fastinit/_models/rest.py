"""What is left to do for a module of which something is on the meta device."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._distributed.fill import is_sharded
from fastinit._fills.region import Region
from fastinit._models import rules as _rules
from fastinit._models.checks import check_not_lazy
from fastinit._models.held import held_tensors
from fastinit._models.marks import Marks
from fastinit._models.names import (
    Named,
    NamedTensors,
    computed_of,
    named_tensors,
)
from fastinit._models.patterns import Patterns
from fastinit._models.placing import Given, give_memory, refresh
from fastinit._models.recording import recording
from fastinit._models.request import Request, Result
from fastinit._models.session import run_initialisers
from fastinit._models.sharded import Twins
from fastinit._models.unmade import made_in_spite_of_meta, warn_of_unmade
from fastinit._recording.graph import Ref
from fastinit._recording.memory import is_real
from fastinit._recording.recorder import Recorder
from fastinit._tensors import is_put_together, parts_of


def _held(request: Request, module: nn.Module) -> list[Named]:
    """Find the tensors that a module holds otherwise than as parameters."""
    return [
        Named(name, tensor, owner, name.rpartition(".")[2])
        for name, owner, tensor in held_tensors(module, request.prefix)
        if not is_sharded(tensor)
    ]


def _held_on_meta(request: Request, module: nn.Module) -> list[Named]:
    return [one for one in _held(request, module) if one.tensor.is_meta]


def _left_alone(request: Request, module: nn.Module, named: dict[str, Named]) -> dict[str, Named]:
    """Choose what is not to be initialised: what is skipped, and what is loaded."""
    request.skip.check(named, request.argument("skip"), "parameter or buffer")
    loaded = request.loaded(named, module)
    return {n: one for n, one in named.items() if n in loaded or request.skip.match(n)}


def _load(recorder: Recorder, request: Request, result: Result, twins: Twins | None) -> None:
    """Copy what is loaded into its places; into shards it is copied in the end."""
    named = {**result.parameters, **result.buffers}
    loaded = request.loaded(named, result.module)
    whole = {n: v for n, v in loaded.items() if twins is None or not twins.load(recorder, n, v)}
    with recording(recorder), torch.no_grad():
        for name, value in whole.items():
            if is_sharded(value):
                raise NotImplementedError(
                    f"fastinit.{request.where}: argument 'state_dict': {name} is a DTensor, the "
                    "module's is an ordinary tensor; pass the full tensor"
                )
            named[name].tensor.copy_(value)


def initialise_rest(
    recorder: Recorder,
    request: Request,
    module: nn.Module,
    tensors: NamedTensors,
    given: list[Given],
    others: Iterable[Tensor] = (),
    arrays: Iterable[Any] = (),
    twins: Twins | None = None,
    *,
    made: bool = False,
) -> Result:
    """Give what is on the meta device memory, and run the initialisers that have not been run.

    Args:
        recorder: what they are recorded by.
        request: what was asked for.
        module: the module.
        tensors: its parameters and buffers.
        given: gets what takes the memory back.
        others: further tensors that the module holds.
        arrays: NumPy's that it holds.
        twins: of its DTensors.
        made: whether the module has been made under the same recording.
    """
    named = tensors.both
    check_not_lazy(named, request.where)
    together = [
        name for name, one in named.items() if one.tensor.is_meta and is_put_together(one.tensor)
    ]
    if together:
        raise NotImplementedError(
            f"fastinit.{request.where}: sparse or nested tensors on the meta device, where nothing "
            f"says what they are put together of: {', '.join(together)}; pass the factory in place "
            "of the module"
        )
    alone = _left_alone(request, module, named)
    unmade = made_in_spite_of_meta(named, alone)
    sharded_on_meta: set[str] = set()
    if twins is not None:
        sharded_on_meta = twins.without_values - alone.keys()
        if made:
            twins.put_in_made(recorder, twins.without_values & alone.keys())
        else:
            twins.put_in(recorder, twins.named.keys() - sharded_on_meta - unmade)
        tensors = NamedTensors(*map(twins.placed, tensors))
        named, alone = tensors.both, twins.placed(alone)
    on_meta = {n for n, one in named.items() if one.tensor.is_meta} | sharded_on_meta
    if on_meta:
        warn_of_unmade(filter(unmade.__contains__, named), request.where)
        held = _held_on_meta(request, module)
        allowed = [one for one in held if request.allow.match(one.name)]
        given.extend(give_memory(recorder, [*named.values(), *allowed], held))
        tensors = named_tensors(module, request.prefix)  # some may be other objects
        named = tensors.both
        untouched = {
            n: one for n, one in named.items() if n in alone or not (n in on_meta or n in unmade)
        }
        aside = _Aside(recorder, untouched.values() if made else ())
        if aside:
            tensors = named_tensors(module, request.prefix)
        result = run_initialisers(
            recorder,
            request,
            module,
            tensors,
            untouched,
            anew=unmade | sharded_on_meta,
            own_as_well=True,
            others=others,
            arrays=arrays,
        )
        result.buffers.update({one.name: one for one in _held_on_meta(request, module)})
        if made:
            result.untouched = [one for one in result.untouched if one.name in alone]
            aside.put_back(recorder, request.skip)
    elif request.rules is not None:
        untouched, aside = dict(alone), _Aside(recorder, ())
        if made:  # what has no rule is as it was made, unless that gave it no values
            free = _without_rule(request, tensors, alone)
            made_so = {n: one for n, one in named.items() if n in free}
            kept = {n: one for n, one in made_so.items() if _has_values(recorder, one.tensor)}
            untouched |= kept
            if any(name in free and name not in kept for name in tensors.parameters):
                aside = _Aside(recorder, untouched.values())
                tensors = named_tensors(module, request.prefix)
        result = run_initialisers(recorder, request, module, tensors, untouched, made=made)
        result.untouched = [one for one in result.untouched if one.name in alone]
        aside.put_back(recorder, request.skip)
    else:
        result = Result(module, *tensors, untouched=list(alone.values()))
    _load(recorder, request, result, twins)
    loaded = request.loaded(named, module)
    result.untouched = [one for one in result.untouched if one.name not in loaded]
    holders = {**result.parameters, **result.buffers}
    request.rename.check(holders, computed_of(holders))
    if request.allow:
        holders.update({one.name: one for one in _held(request, module)})
    argument = request.argument("allow_uninitialized")
    request.allow.check(holders, argument, "parameter or buffer")
    return result


def _without_rule(request: Request, named: NamedTensors, alone: Container[str]) -> set[str]:
    """Name the parameters and buffers to which no rule gives an initialiser."""
    rules = request.rules or []
    wanted = {name: one for name, one in named.parameters.items() if name not in alone}
    chosen = _rules.choose(rules, wanted)
    of_buffers = _rules.choose_for_buffers(rules, named.buffers, named.parameters)
    free = {name for name in named.buffers if name not in alone and name not in of_buffers}
    return free.union(name for name, (_, initialiser) in chosen.items() if initialiser is None)


def _has_values(recorder: Recorder, tensor: Tensor) -> bool:
    if is_put_together(tensor):
        return all(_has_values(recorder, part) for part in parts_of(tensor))
    storage = recorder.storage_of(tensor)
    return storage is None or recorder.has_values(Ref(storage, Region.of(tensor)))


class _Aside:
    """What a factory has made, which initialisers may change copies of.

    Args:
        recorder: what records them.
        named: what they are to find copies of.
    """

    def __init__(self, recorder: Recorder, named: Iterable[Named]) -> None:
        self._copies: list[tuple[Named, Marks]] = []
        with recording(recorder), torch.no_grad():
            for one in named:
                storage = recorder.storage_of(one.tensor)
                inside = recorder.is_inside(one.tensor) if storage is None else not storage.outside
                if not inside or not is_real(one.tensor):
                    continue
                copy = one.tensor.detach().clone()
                if isinstance(one.tensor, nn.Parameter):
                    copy = nn.Parameter(copy, one.tensor.requires_grad)
                self._copies.append((one, Marks(copy, one.tensor)))
                for table, attribute in one.tables:
                    table[attribute] = copy
                refresh(one)

    def __bool__(self) -> bool:
        return bool(self._copies)

    def put_back(self, recorder: Recorder, skip: Patterns) -> None:
        """Let go of the copies; what has been hung on them hangs on what is not to be skipped."""
        recorder.unfollow(marks.stand_in for _, marks in self._copies)
        for one, marks in self._copies:
            if not skip.match(one.name):
                marks.hand_over(one.tensor)
