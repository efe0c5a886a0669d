"""`fastinit.materialize()`: from the meta device, or a constructor, to a model with weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, TypeVar, overload

import torch
from torch import nn

from fastinit._models import rules as _rules
from fastinit._models.default_dtype import default_dtype
from fastinit._models.names import (
    Named,
    Pattern,
    check_patterns,
    named_buffers,
    named_parameters,
)
from fastinit._models.placing import give_memory, move, take_memory_back
from fastinit._models.recording import recording, without_collections
from fastinit._models.session import (
    Request,
    Result,
    check_plain,
    check_unsharded,
    check_untransformed,
    finish,
    key_or_drawn,
    run_initialisers,
    settle,
)
from fastinit._models.snapshot import Snapshot, held_tensors
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
    request = Request(
        "materialize",
        key_or_drawn(key, "materialize"),
        checked,
        allow=allow_uninitialized,
        progress=progress,
        prefix=prefix,
    )
    with without_collections():
        if isinstance(module_or_factory, nn.Module):
            _fill_in(module_or_factory, request, place, dtype)
            return module_or_factory
        return _build(module_or_factory, request, place, dtype)


def _check_allowed(request: Request, result: Result) -> None:
    holders = {**result.parameters, **result.buffers}
    argument = request.argument("allow_uninitialized")
    check_patterns(request.allow, holders, argument, "parameter or buffer")


def _build(
    factory: Callable[[], Any],
    request: Request,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    def run(recorder: Recorder) -> Result:
        recorder.redirect = True
        with recording(recorder), default_dtype(dtype):
            module = factory()
        recorder.redirect = False
        if not isinstance(module, nn.Module):
            raise TypeError(
                "fastinit.materialize: argument 'module_or_factory' must return a torch.nn.Module, "
                f"got {type(module).__name__}"
            )
        parameters = named_parameters(module, request.prefix)
        buffers = named_buffers(module, request.prefix)
        check_unsharded(module, parameters, "materialize")
        result = Result(module, parameters, buffers)
        on_meta = [n for n, named in {**parameters, **buffers}.items() if named.tensor.is_meta]
        if request.rules is not None:
            _rules.warn_of_unused(request.rules, parameters, "materialize", buffers)
        if on_meta:
            result = _give_and_run(recorder, request, module)
        elif request.rules is not None:
            result = run_initialisers(recorder, request, module, {})
        _check_allowed(request, result)
        return result

    found = settle(request, run, lambda: None)
    try:
        finish(found, request, lambda: move(found.recorder, found.result, device, None))
    except BaseException:
        found.recorder.restore()
        raise
    return found.result.module


def _give_and_run(
    recorder: Recorder,
    request: Request,
    module: nn.Module,
) -> Result:
    """Give what is on the meta device memory, and run what the module defines."""
    both = {
        **named_parameters(module, request.prefix),
        **named_buffers(module, request.prefix),
    }
    untouched = {name: named for name, named in both.items() if not named.tensor.is_meta}
    given = give_memory(recorder, both.values())
    try:
        return run_initialisers(recorder, request, module, untouched, own_as_well=True)
    except BaseException:
        take_memory_back(given)
        raise


def _fill_in(
    module: nn.Module,
    request: Request,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> None:
    parameters = named_parameters(module, request.prefix)
    if request.rules is not None:
        buffers = named_buffers(module, request.prefix)
        _rules.warn_of_unused(request.rules, parameters, "materialize", buffers)
    check_plain(module, parameters, "materialize")
    state = Snapshot(module)
    given: list[Any] = []

    def undo() -> None:
        state.restore()
        take_memory_back(given)
        given.clear()

    def run(recorder: Recorder) -> Result:
        both = {**parameters, **named_buffers(module, request.prefix)}
        untouched = {name: named for name, named in both.items() if not named.tensor.is_meta}
        given.extend(give_memory(recorder, both.values()))
        result = run_initialisers(
            recorder, request, module, untouched, own_as_well=True, others=state.tensors
        )
        for name, owner, tensor in held_tensors(module, request.prefix):
            if tensor.is_meta:
                result.buffers[name] = Named(name, tensor, owner, name.rpartition(".")[2])
        _check_allowed(request, result)
        return result

    found = settle(request, run, undo)
    try:
        finish(found, request, lambda: move(found.recorder, found.result, device, dtype))
    except BaseException:
        found.recorder.restore()
        undo()
        raise
