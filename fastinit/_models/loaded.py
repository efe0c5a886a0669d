"""What is loaded: by transformers, which marks it, or from a state dict that is given."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastinit._models.names import Named
from fastinit._warnings import outside

# It marks modules, too, but these when it has initialised them.
FLAG = "_is_hf_initialized"


def warn_of_loaded(parameters: Mapping[str, Named]) -> None:
    """Warn that loaded values are about to be overwritten."""
    found = [name for name, named in parameters.items() if vars(named.tensor).get(FLAG)]
    if not found:
        return
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    warnings.warn(
        f"fastinit.initialize_: overwrites what was loaded from a checkpoint: "
        f"{', '.join(found[:5])}{more}; argument 'skip' keeps it",
        UserWarning,
        stacklevel=outside(),
    )


def check_state_dict(state_dict: Any) -> Mapping[str, Tensor]:
    """Check that this maps names to tensors; None is an empty one.

    Raises:
        TypeError: if it does not.
        ValueError: if a tensor has no values.
    """
    if state_dict is None:
        return {}
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "fastinit.materialize: argument 'state_dict' must be a mapping from names to tensors, "
            f"got {type(state_dict).__name__}"
        )
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(
                "fastinit.materialize: argument 'state_dict' must map names to tensors, got "
                f"{type(value).__name__} for {name!r}"
            )
        if value.is_meta:
            raise ValueError(
                f"fastinit.materialize: argument 'state_dict': {name} is on the meta device, where "
                "it has no values"
            )
    return state_dict


def places_of(
    state_dict: Mapping[str, Tensor],
    named: Mapping[str, Named],
    argument: str,
    module: nn.Module,
    prefix: str,
) -> dict[str, Tensor]:
    """Give what is loaded by the first names of its places.

    A tied one may have any of its names, and all may have those of the module's own `state_dict`,
    without the prefix, and with the segments that wrappers add.

    Args:
        state_dict: what is loaded.
        named: the places.
        argument: for messages.
        module: what holds the places.
        prefix: its name in a larger one.

    Raises:
        ValueError: if a name is that of no parameter or buffer, or its shape is another.
    """
    if not state_dict:
        return {}
    first = {alias: name for name, one in named.items() for alias in (*one.aliases, name)}
    if not first.keys() >= state_dict.keys():
        ways = (
            _names_in_torch(named, module, prefix),
            {name.removeprefix(f"{prefix}."): at for name, at in first.items()},
            _names_in_torch(named, module, ""),
        )
        # One that knows all: with and without the prefix a name may be that of two places.
        known = next((way for way in ways if way.keys() >= state_dict.keys()), None)
        if known is None:
            renamed = _as_hooks_have_it(module, state_dict, argument)
            known, state_dict = (first, state_dict) if renamed is None else (ways[2], renamed)
        first = known
    found: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if name not in first:
            raise ValueError(f"{argument}: there is no parameter or buffer {name!r}")
        place = named[first[name]].tensor
        if place.shape != value.shape:
            raise ValueError(
                f"{argument}: {name} has shape {tuple(value.shape)}, the module's is "
                f"{tuple(place.shape)}"
            )
        found[first[name]] = value
    return found


def _as_hooks_have_it(
    module: nn.Module, state_dict: Mapping[str, Tensor], argument: str
) -> dict[str, Tensor] | None:
    """Give what is loaded by the names that modules' own hooks before loading give it.

    None: something has no place then, either.

    Raises:
        ValueError: if a hook objects.
    """
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    wrong: list[str] = []
    versions = getattr(state_dict, "_metadata", None) or {}

    def load(owner: nn.Module, local: dict[str, Tensor], prefix: str) -> None:
        about = versions.get(prefix[:-1], {})
        for hook in owner._load_state_dict_pre_hooks.values():
            hook(local, prefix, about, True, [], unexpected, wrong)
        own = {*owner._parameters.keys(), *owner._buffers.keys()}
        of_child: dict[str, dict[str, Tensor]] = {}
        for name, value in local.items():
            attribute, _, below = name.removeprefix(prefix).partition(".")
            if not below and attribute in own:
                found[name] = value
            elif not below or attribute not in owner._modules:
                unexpected.append(name)
            elif name.startswith(prefix):
                of_child.setdefault(attribute, {})[name] = value
        for name, child in owner._modules.items():
            if child is not None:
                load(child, of_child.get(name, {}), f"{prefix}{name}.")

    load(module, {**state_dict}, "")
    if wrong:
        raise ValueError(f"{argument}: {'; '.join(wrong)}")
    return None if unexpected else found


def _names_in_torch(named: Mapping[str, Named], module: nn.Module, prefix: str) -> dict[str, str]:
    """Give names by those that torch has, wrappers included."""
    of_places = {(owner, a): name for name, one in named.items() for owner, a in one.places}
    return {
        f"{path}.{attribute}".removeprefix("."): of_places[owner, attribute]
        for path, owner in module.named_modules(prefix=prefix, remove_duplicate=False)
        for attribute in (*owner._parameters.keys(), *owner._buffers.keys())
        if (owner, attribute) in of_places
    }
