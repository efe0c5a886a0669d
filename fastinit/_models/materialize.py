"""`fastinit.materialize()`: from the meta device, or a constructor, to a model with weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex, TypeVar, overload

import torch
from torch import Tensor, nn

from fastinit._models import rules as _rules
from fastinit._models.names import (
    Named,
    Pattern,
    check_patterns,
    named_buffers,
    named_modules,
    named_parameters,
)
from fastinit._models.recording import recording, without_collections
from fastinit._models.session import (
    Session,
    check_plain,
    check_untransformed,
    finish,
    key_or_drawn,
    record,
)
from fastinit._recording.graph import Op, Storage
from fastinit._recording.recorder import Recorder
from fastinit._recording.replay import Runner
from fastinit.key import Key

_M = TypeVar("_M", bound=nn.Module)


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    if dtype is not None:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _loose_tensors(module: nn.Module, recorder: Recorder, prefix: str) -> dict[str, Named]:
    """Find recorded tensors that modules hold as plain attributes, alone or in a list or dict."""
    found: dict[str, Named] = {}
    seen: set[int] = set()
    for path, owner in named_modules(module, prefix):
        for attribute, value in vars(owner).items():
            if attribute in ("_parameters", "_buffers", "_modules"):
                continue
            items: Any = [value]
            if isinstance(value, (list, tuple)):
                items = value
            elif isinstance(value, dict):
                items = value.values()
            for k, item in enumerate(items):
                if (
                    isinstance(item, Tensor)
                    and item.is_meta
                    and id(item) not in seen
                    and recorder.storage_of(item) is not None
                ):
                    seen.add(id(item))
                    name = f"{path}.{attribute}" + (f".{k}" if item is not value else "")
                    found[name.removeprefix(".")] = Named(name, item, owner, attribute)
    return found


def _replace(named: Named, tensor: Tensor) -> None:
    """Give a parameter or buffer its memory: the same object, wherever it is held."""
    old = named.tensor
    new = tensor
    if isinstance(old, nn.Parameter):
        new = torch.Tensor._make_subclass(type(old), tensor, old.requires_grad)
    elif old.requires_grad:
        new = tensor.requires_grad_()
    vars(new).update(vars(old))
    try:
        torch.utils.swap_tensors(old, new)  # type: ignore[no-untyped-call]
        return
    except RuntimeError:  # somebody holds it weakly, as LSTM does, or in a way torch does not like
        pass
    for owner, attribute in named.places:
        tables: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers, vars(owner))
        for table in tables:
            if table.get(attribute) is old:
                table[attribute] = new
        refresh = getattr(owner, "_init_flat_weights", None)
        if refresh is not None:
            refresh()


def _wants_dtype(named: Named, dtype: torch.dtype | None) -> bool:
    """Whether `dtype` is meant for this: parameters, and buffers beside parameters."""
    if dtype is None or not named.tensor.is_floating_point() or named.tensor.dtype is dtype:
        return False
    beside = (p for p in named.owner._parameters.values() if p is not None)
    return isinstance(named.tensor, nn.Parameter) or any(p.is_floating_point() for p in beside)


def _install(
    recorder: Recorder,
    runner: Runner,
    tensors: dict[str, Named],
    dtype: torch.dtype | None,
) -> None:
    """Put real memory in the place of everything that was recorded, or lies on another device."""
    inside = torch.is_inference_mode_enabled()
    for named in tensors.values():
        # What a factory made in inference mode is what it would have been without us.
        with torch.inference_mode(inside or named.tensor.is_inference()):
            _install_one(recorder, runner, named, dtype)


def _install_one(
    recorder: Recorder, runner: Runner, named: Named, dtype: torch.dtype | None
) -> None:
    tensor = named.tensor
    if tensor.is_meta:
        # Without elements it was never tracked.
        storage = recorder.storage_of(tensor)
        real = runner.tensor(recorder.ref(tensor)) if storage is not None else None
        if real is None:
            real = torch.empty(tensor.shape, dtype=tensor.dtype, device=runner.place(_NOWHERE))
        if _wants_dtype(named, dtype) and real.dtype is not dtype:
            real = real.to(dtype)
        _replace(named, real)
    else:
        place = tensor.device if recorder.device is None else recorder.device
        wanted = dtype if _wants_dtype(named, dtype) else tensor.dtype
        if place != tensor.device or wanted is not tensor.dtype:
            _replace(named, tensor.detach().to(place, wanted))


_NOWHERE = Storage(0, None)


def _cast_early(session: Session, dtype: torch.dtype | None) -> Callable[[list[Op]], None]:
    """Make memory that is only filled of the final type at once, which halves the space."""

    def mark(ops: list[Op]) -> None:
        named = {**session.parameters, **session.buffers}
        wanted = {
            ref.storage
            for name, ref in session.refs.items()
            if _wants_dtype(named[name], dtype) and ref.storage.real is None
        }
        for name, ref in session.refs.items():
            if not _wants_dtype(named[name], dtype):
                wanted.discard(ref.storage)
        for op in ops:
            if op.fill is None:
                wanted -= op.storages
        for storage in wanted:
            storage.dtype = dtype

    return mark


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
    allow_uninitialized: Pattern | Sequence[Pattern] = ...,
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
    allow_uninitialized: Pattern | Sequence[Pattern] = ...,
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
    allow_uninitialized: Pattern | Sequence[Pattern] = (),
) -> Any:
    """Build a model with weights, each of them drawn once and written once.

    A factory (any callable without arguments that returns a module) runs as it is, but what it
    allocates lies on the meta device and what it fills is written down. Tables of constants, such
    as rotary frequencies, position ids and masks, are computed as ever. Then the memory is
    allocated and everything that has not been overwritten since is filled in one go, under the keys
    that `initialize_` uses: the values are those of `initialize_(factory(), key=key)` wherever the
    module can initialise itself. Operators on weights are repeated on real memory; a constructor
    that reads a value gets it. Tied parameters stay tied, and parameters stay the objects they
    were.

    A module on the meta device is given memory and initialised by what it defines itself (see
    `initialize_`), its buffers as well; parameters and buffers that are real already stay.

    Peak memory is that of the model, plus the largest temporary of its initialisers. Large
    parameters on the CPU get huge pages where the kernel grants them; FASTINIT_HUGE_PAGES=0 in the
    environment turns that off (see docs/performance.md for when that is faster).

    Args:
        module_or_factory: a module on the meta device, or a callable that makes one.
        device: where it goes; None: where the factory asks for it, the CPU for meta tensors.
        dtype: of floating-point parameters. It is torch's default dtype while a factory runs, which
            may ask for others; a meta module's parameters, and the floating-point buffers of
            modules that have parameters, get it.
        rules: as for `initialize_`; they apply after the factory has run.
        key: a `Key` or an int; None draws one from torch's default generator.
        progress: whether to show a progress bar (needs tqdm).
        prefix: the name of the module inside a larger one, as for `initialize_`.
        allow_uninitialized: globs or compiled regular expressions; parameters and buffers whose
            names match may stay uninitialized, to be loaded. Each has to match one.

    Returns:
        The module: the one that was given, or made.

    Raises:
        ValueError: if a parameter or buffer has not been given values; the message lists these. If
            no rule matches a parameter, or what may stay uninitialized matches nothing.
        NotImplementedError: if a parameter of a module that is given is a tensor subclass with
            memory of its own, such as a DTensor.
        TypeError: if an argument, or what the factory returns, has the wrong type.
        RuntimeError: if a module that is given was made in inference mode and this is not called
            there.
        ImportError: if `progress` is asked for and tqdm is missing.

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
    check_untransformed("materialize")
    recorder = Recorder(key_or_drawn(key, "materialize"), place)
    with without_collections():
        return _materialize(
            module_or_factory, recorder, dtype, checked, progress, prefix, allow_uninitialized
        )


def _materialize(
    module_or_factory: Any,
    recorder: Recorder,
    dtype: torch.dtype | None,
    rules: list[_rules.Rule] | None,
    progress: bool,
    prefix: str,
    allow_uninitialized: Pattern | Sequence[Pattern],
) -> Any:
    bare = isinstance(module_or_factory, nn.Module)
    if bare:
        module = module_or_factory
    else:
        with recording(recorder), _default_dtype(dtype):
            module = module_or_factory()
        if not isinstance(module, nn.Module):
            raise TypeError(
                "fastinit.materialize: argument 'module_or_factory' must return a torch.nn.Module, "
                f"got {type(module).__name__}"
            )
    parameters, buffers = named_parameters(module, prefix), named_buffers(module, prefix)
    if rules is not None:
        _rules.warn_of_unused(rules, parameters, "materialize")
    session = Session(module, parameters, {}, {}, False, "materialize", allow_uninitialized)
    if bare:
        check_plain(parameters, "materialize")
        for name, named in (*parameters.items(), *buffers.items()):
            storage = recorder.track(named.tensor)
            recorder.names.add(recorder.ref(named.tensor), name)
            if not named.tensor.is_meta:
                session.untouched.add(storage)
        session.parameters = {n: named for n, named in parameters.items() if named.tensor.is_meta}
    if bare or rules is not None:
        session.applied = record(recorder, module, session.parameters, rules, own_as_well=bare)
    session.buffers = {**buffers, **_loose_tensors(module, recorder, prefix)}
    holders = {**parameters, **session.buffers}
    argument = "fastinit.materialize: argument 'allow_uninitialized'"
    check_patterns(allow_uninitialized, holders, argument, "parameter or buffer")
    cast = dtype if bare else None
    runner, history = finish(recorder, session, progress, _cast_early(session, cast))
    everything = (
        {**session.parameters, **session.buffers} if bare else {**parameters, **session.buffers}
    )
    with torch.no_grad():
        _install(recorder, runner, everything, cast)
    history.close()
    return module
