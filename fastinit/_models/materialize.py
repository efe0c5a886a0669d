"""`fastinit.materialize()`: from the meta device, or a constructor, to a model with weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit._distributed.fill import is_sharded
from fastinit._models import rules as _rules
from fastinit._models.checks import check_plain, check_prefix, check_unsharded, check_untransformed
from fastinit._models.default_dtype import default_dtype
from fastinit._models.loaded import check_state_dict
from fastinit._models.names import (
    Named,
    NamedTensors,
    Pattern,
    check_patterns,
    matches,
    named_tensors,
)
from fastinit._models.placing import Given, give_memory, move, take_memory_back
from fastinit._models.recording import recording, without_collections
from fastinit._models.renaming import Rename, Renaming
from fastinit._models.session import (
    Request,
    Result,
    Run,
    complete,
    key_or_drawn,
    run_initialisers,
)
from fastinit._models.sharded import Twins, reshard
from fastinit._models.snapshot import Snapshot, held_tensors
from fastinit._models.unmade import made_in_spite_of_meta, warn_of_unmade
from fastinit._recording.graph import Op
from fastinit._recording.recorder import Recorder
from fastinit.key import Key

_M = TypeVar("_M", bound=nn.Module)


def _check_dtype(dtype: torch.dtype | None) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(
            f"fastinit.materialize: argument 'dtype' must be a floating-point torch.dtype, got "
            f"{dtype!r}"
        )


@overload
def materialize(
    module_or_factory: _M,
    device: torch.device | str | int | None = ...,
    dtype: torch.dtype | None = ...,
    rules: _rules.Rules | None = ...,
    *,
    key: Key | SupportsIndex | None = ...,
    progress: bool = ...,
    prefix: str = ...,
    skip: Pattern | Sequence[Pattern] = ...,
    state_dict: Mapping[str, Tensor] | None = ...,
    allow_uninitialized: Pattern | Sequence[Pattern] = ...,
    rename: Rename | None = ...,
) -> _M: ...


@overload
def materialize(
    module_or_factory: Callable[[], _M],
    device: torch.device | str | int | None = ...,
    dtype: torch.dtype | None = ...,
    rules: _rules.Rules | None = ...,
    *,
    key: Key | SupportsIndex | None = ...,
    progress: bool = ...,
    prefix: str = ...,
    skip: Pattern | Sequence[Pattern] = ...,
    state_dict: Mapping[str, Tensor] | None = ...,
    allow_uninitialized: Pattern | Sequence[Pattern] = ...,
    rename: Rename | None = ...,
) -> _M: ...


def materialize(
    module_or_factory: Any,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    rules: _rules.Rules | None = None,
    *,
    key: Key | SupportsIndex | None = None,
    progress: bool = False,
    prefix: str = "",
    skip: Pattern | Sequence[Pattern] = (),
    state_dict: Mapping[str, Tensor] | None = None,
    allow_uninitialized: Pattern | Sequence[Pattern] = (),
    rename: Rename | None = None,
) -> Any:
    """Build a model with weights, each of them drawn once and written once.

    A factory (any callable without arguments that returns a module) runs as it is, but what it
    fills waits: in the end everything that has not been overwritten since is filled in one go,
    under the keys that `initialize_` uses. So the values are those of `initialize_(factory(),
    key=key)` wherever the module can initialise itself. A constructor that reads a value gets it.
    If that was drawn before it could be told what for, the factory runs again (once, as a rule; at
    most four times), with everything that it has changed in tensors put back; so it must not count
    on being called once. Threads that it starts belong to it, and so does what it gives to pools of
    threads. Parameters, hooks, optimizers and ties are what the factory made
    them. Layers that are copies of one, as those of `torch.nn.TransformerEncoder`, stay copies;
    `fastinit.report` flags them.

    A module on the meta device is given memory and initialised by what it defines itself (see
    `initialize_`), its buffers as well. Parameters and buffers that are real already stay, but for
    those that constructors make in spite of `torch.device("meta")`, by `torch.Tensor(n)` or
    `torch.normal`: a UserWarning names them, and they are initialised like the others.

    DTensors on the meta device get memory for the shard that is here, where their mesh is (on the
    CPU under FSDP2's CPUOffloadPolicy), and the bits that the unsharded module would get; see
    `initialize_`. So `fully_shard`, or `parallelize_module`, of a module on the meta device, and
    then this. Plain tensors beside them go where the mesh is.

    Every draw has a key of its own, whatever state torch's generators are put in meanwhile; one
    with a `generator=` takes its numbers from there. Python's and NumPy's own generators are seeded
    from the key meanwhile, and put back.

    Peak memory is that of the model, plus the largest temporary of its initialisers. Large
    parameters on the CPU get huge pages where the kernel grants them; FASTINIT_HUGE_PAGES=0 in the
    environment turns that off (see docs/performance.md for when that is faster).

    Args:
        module_or_factory: a module on the meta device, or a callable that makes one.
        device: where it goes; None: where the factory asks for it, the CPU for meta tensors, and
            where the mesh is if there are DTensors.
        dtype: of floating-point parameters. It is torch's default dtype while a factory runs, which
            may ask for others; a meta module's parameters, and the floating-point buffers of
            modules that have parameters, get it.
        rules: as for `initialize_`; they apply after the factory has run.
        key: a `Key` or an int; None draws one from torch's default generator.
        progress: whether to show a progress bar (needs tqdm).
        prefix: the name of the module inside a larger one, as for `initialize_`.
        skip: globs or compiled regular expressions; parameters and buffers whose names match are
            not initialised: they get memory without values, or keep what they have. Each has to
            match one.
        state_dict: what is loaded: parameters and buffers by their names, copied into their places
            instead of drawn. It may be a part of all. A name that there is not is an error.
        allow_uninitialized: globs or compiled regular expressions; parameters and buffers whose
            names match may stay uninitialized, to be loaded. Each has to match one.
        rename: from names in this module to those in the whole model, which keys derive from: a
            mapping (names that it has not stay) or a callable. For experts and pipeline stages that
            are shared out by hand: each rank calls its first one `...0`, and the same name under
            one key is the same weight. Rules and patterns see the names in this module.

    Returns:
        The module: the one that was given, or made.

    Raises:
        ValueError: if a parameter or buffer has not been given values; the message lists these. If
            nothing of a module that is given is on the meta device, or a parameter is lazy. If
            no rule matches a parameter, or what may stay uninitialized or is to be skipped matches
            nothing, or a name or a shape in `state_dict` is none of the module's, or `rename` gives
            two the same name.
        NotImplementedError: if a parameter of a module that is given is a tensor subclass with
            memory of its own other than a DTensor, or one that a factory makes is a part of one
            (a DTensor, FSDP1, ZeRO-3). As for `initialize_`, of DTensors. If a DTensor in
            `state_dict` is sharded otherwise than its place.
        TypeError: if an argument, or what the factory returns, has the wrong type.
        ImportError: if `progress` is asked for and tqdm is missing.

    Warns:
        UserWarning: if constructors have made parameters in spite of `torch.device("meta")`; if
            rules match nothing; if what is drawn depends on what was drawn before in a way that
            names do not settle.

    Examples:
        >>> model = fastinit.materialize(lambda: AutoModel.from_config(config), key=0)
        >>> with torch.device("meta"):
        ...     layer = torch.nn.TransformerEncoderLayer(512, 8)
        >>> fastinit.materialize(layer, dtype=torch.bfloat16, key=0)
    """
    _check_dtype(dtype)
    if not callable(module_or_factory):
        raise TypeError(
            "fastinit.materialize: argument 'module_or_factory' must be a torch.nn.Module or a "
            f"callable that returns one, got {type(module_or_factory).__name__}"
        )
    checked = None if rules is None else _rules.check(rules)
    place = None if device is None else torch.device(device)
    if place is not None and place.type == "meta":
        raise ValueError(
            "fastinit.materialize: argument 'device' is the meta device, which has no memory to "
            "give values to"
        )
    check_untransformed("materialize")
    check_prefix(prefix, "materialize")
    request = Request(
        "materialize",
        key_or_drawn(key, "materialize"),
        checked,
        skip,
        allow_uninitialized,
        check_state_dict(state_dict),
        progress,
        prefix,
        Renaming(rename, "materialize"),
    )
    with without_collections():
        if isinstance(module_or_factory, nn.Module):
            _fill_in(module_or_factory, request, place, dtype)
            return module_or_factory
        return _build(module_or_factory, request, place, dtype)


def _held_on_meta(request: Request, module: nn.Module) -> list[Named]:
    """Find tensors on the meta device that a module holds otherwise than as parameters."""
    return [
        Named(name, tensor, owner, name.rpartition(".")[2])
        for name, owner, tensor in held_tensors(module, request.prefix)
        if tensor.is_meta and not is_sharded(tensor)
    ]


def _left_alone(request: Request, named: dict[str, Named]) -> dict[str, Named]:
    """Choose what is not to be initialised: what is skipped, and what is loaded."""
    check_patterns(request.skip, named, request.argument("skip"), "parameter or buffer")
    loaded = request.loaded(named)
    return {n: one for n, one in named.items() if n in loaded or matches(n, request.skip)}


def _load(recorder: Recorder, request: Request, result: Result, twins: Twins | None) -> None:
    """Copy what is loaded into its places; into shards it is copied in the end."""
    named = {**result.parameters, **result.buffers}
    loaded = request.loaded(named)
    whole = {n: v for n, v in loaded.items() if twins is None or not twins.load(recorder, n, v)}
    with recording(recorder), torch.no_grad():
        for name, value in whole.items():
            named[name].tensor.copy_(value)


def _complete(
    recorder: Recorder,
    request: Request,
    module: nn.Module,
    tensors: NamedTensors,
    given: list[Given],
    others: Iterable[Tensor] = (),
    twins: Twins | None = None,
) -> Result:
    """Give what is on the meta device memory, and run the initialisers that have not been run."""
    named = tensors.both
    lazy = [name for name, one in named.items() if is_lazy(one.tensor)]
    if lazy:
        raise ValueError(
            f"fastinit.{request.where}: parameters without a shape yet: {', '.join(lazy)}; call "
            "fastinit.initialize_, which waits for the first call of the module"
        )
    alone = _left_alone(request, named)
    sharded_on_meta: set[str] = set()
    if twins is not None:
        sharded_on_meta = twins.on_meta - alone.keys()
        twins.put_in(recorder, twins.named.keys() - sharded_on_meta)
        tensors = NamedTensors(*map(twins.placed, tensors))
        named, alone = tensors.both, twins.placed(alone)
    unmade = made_in_spite_of_meta({n: one for n, one in named.items() if n not in alone})
    on_meta = {n for n, one in named.items() if one.tensor.is_meta} | sharded_on_meta
    if on_meta:
        warn_of_unmade(unmade, request.where)
        given.extend(give_memory(recorder, [*named.values()], _held_on_meta(request, module)))
        tensors = named_tensors(module, request.prefix)  # some may be other objects
        named = tensors.both
        untouched = {
            n: one for n, one in named.items() if n in alone or not (n in on_meta or n in unmade)
        }
        result = run_initialisers(
            recorder,
            request,
            module,
            tensors,
            untouched,
            anew=unmade.keys() | sharded_on_meta,
            own_as_well=True,
            others=others,
        )
        result.buffers.update({one.name: one for one in _held_on_meta(request, module)})
    elif request.rules is not None:
        result = run_initialisers(recorder, request, module, tensors, alone)
    else:
        result = Result(module, *tensors, untouched=list(alone.values()))
    _load(recorder, request, result, twins)
    loaded = request.loaded(named)
    result.untouched = [one for one in result.untouched if one.name not in loaded]
    holders = {**result.parameters, **result.buffers}
    request.rename.check(holders)
    argument = request.argument("allow_uninitialized")
    check_patterns(request.allow, holders, argument, "parameter or buffer")
    return result


def _build(
    factory: Callable[[], Any],
    request: Request,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    given: list[Given] = []

    def undo() -> None:
        take_memory_back(given)  # a module on the meta device may be there before and afterwards
        given.clear()

    def run(recorder: Recorder) -> Result:
        with recording(recorder), default_dtype(dtype):
            module = factory()
        if not isinstance(module, nn.Module):
            raise TypeError(
                "fastinit.materialize: argument 'module_or_factory' must return a torch.nn.Module, "
                f"got {type(module).__name__}"
            )
        tensors = named_tensors(module, request.prefix)
        _warn(request, tensors)
        check_unsharded(module, tensors.parameters, request.where)
        _check_made_whole(tensors.parameters, request.where)
        return _complete(recorder, request, module, tensors, given)

    def moves(found: Run, ops: Sequence[Op]) -> Sequence[Op]:
        move(found.recorder, found.result, device, None)
        return ops

    return complete(request, run, undo, moves).result.module


def _check_made_whole(parameters: dict[str, Named], where: str) -> None:
    """Raise NotImplementedError for parameters that a factory has sharded."""
    sharded = [name for name, named in parameters.items() if is_sharded(named.tensor)]
    if sharded:
        raise NotImplementedError(
            f"fastinit.{where}: the factory has sharded {', '.join(sharded)} (DTensor); call it "
            'under torch.device("meta") and pass the module that it makes'
        )


def _fill_in(
    module: nn.Module,
    request: Request,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> None:
    reshard(module)
    tensors = named_tensors(module, request.prefix)
    named = tensors.both
    _warn(request, tensors)
    check_plain(module, tensors.parameters, request.where)
    if named and not any(one.tensor.is_meta or is_lazy(one.tensor) for one in named.values()):
        raise ValueError(
            f"fastinit.{request.where}: nothing of {type(module).__name__} is on the meta device, "
            f"so nothing would be initialised; {', '.join(list(named)[:5])} have memory, and "
            "fastinit.initialize_ gives them values"
        )
    twins = Twins(module, tensors, request.prefix, request.where)
    state = Snapshot(module)
    given: list[Given] = []

    def undo() -> None:
        state.restore()
        twins.take_out()
        take_memory_back(given)
        given.clear()

    def run(recorder: Recorder) -> Result:
        return _complete(recorder, request, module, tensors, given, state.tensors, twins)

    def moves(found: Run, ops: Sequence[Op]) -> Sequence[Op]:
        ops = twins.divide(found, ops, device, dtype)
        move(found.recorder, found.result, device or twins.device, dtype)
        return ops

    complete(request, run, undo, moves)


def _warn(request: Request, tensors: NamedTensors) -> None:
    if request.rules is not None:
        _rules.warn_of_unused(request.rules, tensors.parameters, request.where, tensors.buffers)
