"""What the modules of a model define for themselves, run by torch: what `initialize_` promises.

Written apart from fastinit's own search for these methods, as a check on it: where a model built by
`initialize_` differs from what its constructor gives, it has to be like this.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import nn

_FLAG = "_is_hf_initialized"


def _pretrained(module: nn.Module) -> bool:
    return hasattr(module, "initialize_weights") and hasattr(module, "_init_weights")


def _of_diffusers(module: nn.Module) -> bool:
    """Whether this is of a library that calls no initialiser but by constructors."""
    return type(module).__module__.startswith("diffusers.")


def _children_first(module: nn.Module, inside: bool) -> Iterator[tuple[nn.Module, bool]]:
    for child in module.children():
        yield from _children_first(child, inside or _pretrained(module))
    yield module, inside


def _count(method: object) -> int:
    """How many arguments a method has to be given."""
    empty = inspect.Parameter.empty
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    return sum(p.default is empty and p.kind not in kinds for p in parameters)


def _constructor_names(module: nn.Module, name: str) -> bool:
    """Whether a constructor of a module's class says a name in its source."""
    if type(module).__module__.startswith("torch."):
        return True
    for kind in type(module).__mro__:
        if "__init__" in vars(kind) and kind.__module__ != "torch.nn.modules.module":
            try:
                if f"{name}(" in inspect.getsource(kind.__init__):  # type: ignore[misc]
                    return True
            except (OSError, TypeError):
                continue
    return False


def _poison(dtype: torch.dtype) -> float | int:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return 0 if dtype == torch.bool else torch.iinfo(dtype).max - 5


def poison(model: nn.Module, buffers: bool) -> None:
    """Overwrite all values, so that what nobody writes again shows."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *(model.buffers() if buffers else ())]:
            tensor.fill_(_poison(tensor.dtype))


def is_written(tensor: torch.Tensor) -> bool:
    """Whether no element is what `poison` writes."""
    if tensor.is_floating_point() or tensor.is_complex():
        return not bool(tensor.isnan().any())
    return tensor.dtype != torch.bool and not bool((tensor == _poison(tensor.dtype)).any())


def reset(model: nn.Module, apart: bool = True) -> nn.Module:
    """Let each module of a model initialise itself, children first, and then tie what is tied.

    Tied parameters are initialised `apart`: a model of transformers says which of them counts,
    otherwise it is the first.
    """
    for module in model.modules():
        for holder in (module, *module._parameters.values(), *module._buffers.values()):
            if holder is not None:
                vars(holder).pop(_FLAG, None)
    groups = _untie(model) if apart else []
    visited: set[nn.Module] = set()
    tops = []
    for module, inside in _children_first(model, False):
        if module not in visited:
            visited.add(module)
            _reset_one(module, inside)
            if _pretrained(module) and not inside:
                tops.append(module)
    for top in tops:
        top.tie_weights()  # type: ignore[operator]
    for places in groups:
        first = places[0][0]._parameters[places[0][1]]
        for owner, name in places[1:]:
            owner._parameters[name] = first  # unless it is, by now
    return model


def _untie(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Give tied parameters memory of their own; return the places of each."""
    found: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(parameter, []).append((module, name))
    groups = [places for places in found.values() if len(places) > 1]
    for places in groups:
        for owner, name in places[1:]:
            old = owner._parameters[name]
            assert old is not None
            owner._parameters[name] = nn.Parameter(old.detach().clone(), old.requires_grad)
    return groups


def _reset_one(module: nn.Module, inside: bool) -> None:
    pretrained = _pretrained(module)
    for name in ("reset_parameters", "_reset_parameters"):
        method = getattr(module, name, None)
        if callable(method) and _count(method) == 0:
            if not (inside or pretrained) or _constructor_names(module, name):
                method()
            break
    if pretrained:
        if not inside:
            module.initialize_weights()  # type: ignore[operator]
        return
    for name in ("init_weights", "_init_weights"):
        method = getattr(module, name, None)
        own = inside or _of_diffusers(module)
        if not callable(method) or (own and not _constructor_names(module, name)):
            continue
        if _count(method) == 0:
            method()
            return
        if name == "_init_weights" and _count(method) == 1:
            module.apply(method)
            return
