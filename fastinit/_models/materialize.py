"""`fastinit.materialize()`: from the meta device, or a constructor, to a model with weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, SupportsIndex, TypeVar, overload

import torch
from torch import Tensor, distributed, nn

from fastinit._distributed.fill import is_sharded
from fastinit._distributed.part import is_outside
from fastinit._models import rules as _rules
from fastinit._models.checks import (
    check_not_fake,
    check_not_lazy,
    check_plain,
    check_prefix,
    check_unsharded,
    check_untransformed,
)
from fastinit._models.default_dtype import POSSIBLE, default_dtype
from fastinit._models.fully_sharded import reshard
from fastinit._models.held_shards import (
    by_memory,
    check_have_values,
    check_not_alone,
    held_shards,
)
from fastinit._models.history import keep_known, still_known
from fastinit._models.loaded import check_state_dict
from fastinit._models.names import NamedTensors, named_tensors
from fastinit._models.patterns import Pattern, Patterns
from fastinit._models.placing import Given, move, take_memory_back
from fastinit._models.recording import recording, without_collections
from fastinit._models.renaming import Rename, Renaming
from fastinit._models.request import Request, Result
from fastinit._models.rest import initialise_rest
from fastinit._models.session import Drawn, Run, complete, key_or_drawn
from fastinit._models.sharded import Twins
from fastinit._models.snapshot import Snapshot
from fastinit._recording.graph import Op
from fastinit._recording.recorder import Recorder
from fastinit._recording.sharding import Sharding
from fastinit.key import Key

_M = TypeVar("_M", bound=nn.Module)


def _check_dtype(dtype: torch.dtype | None, constructs: bool) -> None:
    if dtype is None:
        return
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(
            f"fastinit.materialize: argument 'dtype' must be a floating-point torch.dtype, got "
            f"{dtype!r}"
        )
    if constructs and dtype not in POSSIBLE:
        raise TypeError(
            f"fastinit.materialize: argument 'dtype' is {dtype}, which cannot be torch's default "
            "dtype while a factory runs; make the module on the meta device, in "
            "`with torch.device('meta')`, and give that"
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
    key=key)` wherever constructors do what `initialize_` runs, all of it, last and without
    arguments, but for weights that a module computes (`torch.nn.utils.parametrizations`,
    `weight_norm`, `prune`): what a constructor draws before has the names of the parts that it
    ends in. A constructor that reads a value gets it.
    If that was drawn before it could be told what for, the factory runs again (once, as a rule; at
    most four times), with everything that it has changed in tensors put back, and what it has drawn
    from a `generator=`; so it must not count on being called once. Compiled functions run inside as
    they were before, and those with `fullgraph=True` not at all, as in every dispatch mode of
    torch's. Threads that it starts belong to it until it ends, and so does what it gives to pools
    of threads (`concurrent.futures.ThreadPoolExecutor`, `multiprocessing.pool.ThreadPool`); but not
    what a thread does that was there before and takes its work from a queue of somebody's own.
    Parameters, hooks, optimizers and ties are what the factory made them. Layers that are copies of
    one, as those of `torch.nn.TransformerEncoder`, stay copies; `fastinit.report` flags them.

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
    parameters on the CPU get huge pages, as many as the machine has at hand; FASTINIT_HUGE_PAGES=0
    in the environment turns that off, 1 asks for them whatever it has (docs/performance.md says
    when that is slower).

    Args:
        module_or_factory: a module on the meta device, or a callable that makes one.
        device: where it goes; None: where the factory asks for it, the CPU for meta tensors, and
            where the mesh is if there are DTensors.
        dtype: of floating-point parameters. It is torch's default dtype while a factory runs, which
            may ask for others; so there it is one that torch can have as default. A meta module's
            parameters, and the floating-point buffers of modules that have parameters, get it.
        rules: as for `initialize_`; they apply after the factory has run. None leaves what it has
            given values as it made it.
        key: a `Key` or an int; None draws one from torch's default generator.
        progress: whether to show a progress bar (needs tqdm).
        prefix: the name of the module inside a larger one, as for `initialize_`: names begin with
            it, those in `state_dict` with or without.
        skip: globs or compiled regular expressions; parameters and buffers whose names match are
            not initialised: they get memory without values, or keep what they have. Each has to
            match one.
        state_dict: what is loaded: parameters and buffers by their names, or those that the
            module's own `state_dict` has, copied into their places instead of drawn. It may be a
            part of all. A name that there is not is an error.
        allow_uninitialized: globs or compiled regular expressions; parameters, buffers and tensors
            that the module holds otherwise (in a list, say: "held.0") whose names match may stay
            uninitialized, to be loaded. Each has to match one.
        rename: from names in this module to those in the whole model, which keys derive from: a
            mapping (names that it has not stay) or a callable. For experts and pipeline stages that
            are shared out by hand: each rank calls its first one `...0`, and the same name under
            one key is the same weight. Rules and patterns see the names before that.

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
            (FSDP1, ZeRO-3). If a factory reads values of a DTensor, writes to its shard, or makes
            it of a shard that it has drawn. As for `initialize_`, of DTensors. If a DTensor that
            the module holds otherwise than as a parameter or buffer would get no values. If one in
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
    _check_dtype(dtype, not isinstance(module_or_factory, nn.Module))
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
    prefix = check_prefix(prefix, "materialize")
    request = Request(
        "materialize",
        key_or_drawn(key, "materialize"),
        checked,
        Patterns(skip),
        Patterns(allow_uninitialized),
        check_state_dict(state_dict),
        progress,
        prefix,
        Renaming(rename, "materialize"),
        constructs=not isinstance(module_or_factory, nn.Module),
    )
    with without_collections():
        if isinstance(module_or_factory, nn.Module):
            _fill_in(module_or_factory, request, place, dtype)
            return module_or_factory
        return _build(module_or_factory, request, place, dtype)


def _build(
    factory: Callable[[], Any],
    request: Request,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    given: list[Given] = []
    twins: Twins | None = None
    if distributed.is_available() and distributed.is_initialized():
        # Before the factory imports them: what shards is exchanged where it is known.
        importlib.import_module("torch.distributed.fsdp")

    def undo() -> None:
        nonlocal twins
        with ExitStack() as stack:
            stack.callback(given.clear)
            # A module on the meta device may be there before and afterwards.
            stack.callback(take_memory_back, given)
            if twins is not None:
                there, twins = twins, None
                there.take_out()

    def run(recorder: Recorder) -> Result:
        nonlocal twins
        sharding = Sharding(recorder)
        with recording(recorder, sharding), default_dtype(dtype):
            module = factory()
        if not isinstance(module, nn.Module):
            raise TypeError(
                "fastinit.materialize: argument 'module_or_factory' must return a torch.nn.Module, "
                f"got {type(module).__name__}"
            )
        tensors = named_tensors(module, request.prefix)
        _warn(request, tensors)
        check_unsharded(module, tensors.parameters, request.where)
        if distributed.is_available() and distributed.is_initialized():
            held = held_shards(module, request.prefix, tensors)
            check_have_values(held, request.where, sharding)
            check_not_alone(module, request.prefix, tensors, request.where, sharding)
        if any(is_sharded(one.tensor) for one in tensors.both.values()):
            twins = Twins(module, tensors, request.where, sharding)
        return initialise_rest(recorder, request, module, tensors, given, twins=twins, made=True)

    def moves(found: Run, ops: Sequence[Op], drawn: Drawn) -> Sequence[Op]:
        if twins is not None:
            ops = twins.divide(found, ops, drawn, device)
        move(found.recorder, found.result, device, None)
        return ops

    return complete(request, run, undo, moves).result.module


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
    check_not_lazy(named, request.where)
    check_plain(module, tensors.parameters, request.where)
    check_not_fake(request.where, "a module on the meta device")
    if named and not any(t.is_meta or (is_sharded(t) and is_outside(t)) for t in tensors.tensors):
        raise ValueError(
            f"fastinit.{request.where}: nothing of {type(module).__name__} is on the meta device, "
            f"so nothing would be initialised; {', '.join(list(named)[:5])} have memory, and "
            "fastinit.initialize_ gives them values"
        )
    twins = Twins(module, tensors, request.where)
    state = Snapshot(module)
    given: list[Given] = []

    def undo() -> None:
        with ExitStack() as stack:
            stack.callback(given.clear)
            stack.callback(take_memory_back, given)
            stack.callback(twins.take_out)
            state.restore()

    held = held_shards(module, request.prefix, tensors, state.sharded)
    check_have_values(held, request.where)
    apart = by_memory(held)

    def run(recorder: Recorder) -> Result:
        recorder.apart = apart
        return initialise_rest(
            recorder, request, module, tensors, given, state.tensors, state.arrays, twins
        )

    def moves(found: Run, ops: Sequence[Op], drawn: Drawn) -> Sequence[Op]:
        ops = twins.divide(found, ops, drawn, device, dtype)
        move(found.recorder, found.result, device or twins.device, dtype)
        return ops

    known = still_known(tensors.parameters.values())
    found = complete(request, run, undo, moves)
    state.put_versions_back(named.tensor for named in found.result.untouched)
    keep_known(known, found.result.untouched)


def _warn(request: Request, tensors: NamedTensors) -> None:
    if request.rules is not None:
        _rules.warn_of_unused(request.rules, tensors.parameters, request.where, tensors.buffers)
