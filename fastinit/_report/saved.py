"""Weights that are saved, as a module that can be reported on: what the files hold, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

# What checkpoints of training runs call the weights.
_CALLED = frozenset({"model", "model_state_dict", "module", "net", "network", "state_dict"})
_INDEX = ".index.json"
# How folders name their weights, the first that are there count: in pieces or whole.
_IN_FOLDERS = (f"*.safetensors{_INDEX}", "*.safetensors", f"*.bin{_INDEX}", "*model*.bin", "*.pt")


def _of_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ImportError(f"{path} needs safetensors: pip install safetensors") from None
    found: Mapping[str, Any] = load_file(path)
    return found


def _of_torch(path: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # of the old format, which cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"holds a {type(state).__name__}, not a state dict")
    return state


def _files(path: Path) -> dict[Path, list[str]]:
    """Find the files that hold the weights: of a folder, an index, or the file itself.

    Each with the names that an index says it holds.
    """
    found: dict[Path, list[str]] = {}
    if path.is_dir():
        for pattern in _IN_FOLDERS:
            for file in sorted(path.glob(pattern)):
                found |= _files(file)
            if found:
                return found
        raise ValueError(f"{path} holds no weights: {', '.join(_IN_FOLDERS)}")
    if not path.name.endswith(_INDEX):
        return {path: []}
    try:
        for name, piece in json.loads(path.read_text())["weight_map"].items():
            found.setdefault(path.parent / piece, []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no index of weights: it has no 'weight_map'") from None
    return dict(sorted(found.items()))


def _by_name(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _in_checkpoint(state: Mapping[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """Find the state dicts that a checkpoint of a training run holds beside other things."""
    held = {
        str(name): value
        for name, value in state.items()
        if isinstance(value, Mapping) and not str(name).endswith("_extra_state")
    }
    return {name: found for name, value in held.items() if (found := _by_name(value))}


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        state = _of_safetensors(file) if file.suffix == ".safetensors" else _of_torch(file)
    except ImportError:
        raise
    except Exception as error:  # of many kinds, and long
        lines = str(error).strip().splitlines() or [type(error).__name__]
        why = lines[0]
        if isinstance(error, UnpicklingError):  # torch advises to trust the file
            held = re.search(r"GLOBAL (\S+)", str(error))
            why = f"it holds {held[1]}; save the tensors alone" if held else "it is no state dict"
        raise ValueError(f"{file} cannot be read as weights: {why}") from error
    found, inside = _by_name(state), _in_checkpoint(state)
    named = not inside.keys().isdisjoint(_CALLED)
    most = max(map(len, inside.values()), default=0)
    # What lies beside a state dict is not the weights, nor what lies inside one.
    if state and (named or len(found) < most or not found):
        if len(inside) != 1:
            listed = ", ".join(repr(name) for name in state)
            several = f"; save one of {', '.join(map(repr, inside))} by itself" if inside else ""
            raise ValueError(f"{file} holds no weights by name, but {listed}{several}")
        (found,) = inside.values()
    yield from found.items()


def files_of(path: Path) -> list[Path]:
    """List the files that `load` reads: none if it would fail."""
    try:
        files = _files(path) if path.exists() else {}
    except (OSError, ValueError):
        return []
    return [*files, *(path.glob(f"*{_INDEX}") if path.is_dir() else ())]


def load(path: Path) -> nn.Module:
    """Load what is saved as parameters of a module, nested by the dots in their names.

    Args:
        path: a state dict (safetensors or torch's format), a checkpoint that holds one of them
            beside other things, the index of one in pieces, or a folder with either.

    Raises:
        FileNotFoundError: if it, or a piece, is not there.
        ValueError: if it holds no weights, a name twice, or not all that its index names.
        ImportError: if it needs safetensors, and that is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    root = nn.Module()
    for file, indexed in _files(path).items():
        missing = set(indexed)
        for name, value in _tensors(file):
            missing.discard(name)
            *segments, attribute = name.split(".")
            owner = root
            for segment in segments:
                owner = owner._modules.setdefault(segment, nn.Module())  # type: ignore[assignment]
            if attribute in owner._parameters:
                raise ValueError(f"{path} holds {name!r} twice; name one of the files")
            owner._parameters[attribute] = nn.Parameter(value, requires_grad=False)
        if missing:
            listed = ", ".join(repr(name) for name in indexed if name in missing)
            raise ValueError(f"{file} does not hold what the index says it does: {listed}")
    if next(root.parameters(), None) is None:
        raise ValueError(f"{path} holds no weights")
    return root
