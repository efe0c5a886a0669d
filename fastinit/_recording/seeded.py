"""torch's own draws under a key."""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Generator, Tensor

_lock = threading.RLock()  # a recording around another sees the operator that that one runs


class _Here(threading.local):
    """Whether an operator of this thread runs under a key."""

    def __init__(self) -> None:
        self.is_seeded = False


_here = _Here()


@functools.cache
def _with_generator(func: Any) -> Any:
    """Find the overload that takes a generator; None if there is none."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    packet = func.overloadpacket
    given = [(a.name, str(a.type)) for a in func._schema.arguments]
    for overload in packet.overloads():
        candidate = getattr(packet, overload)
        wanted = [(a.name, str(a.type)) for a in candidate._schema.arguments]
        if [pair for pair in wanted if pair[0] != "generator"] == given and wanted != given:
            return candidate
    return None


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    device = kwargs.get("device")
    if device is not None:
        return torch.device(device)
    found = next((value.device for value in args if isinstance(value, Tensor)), None)
    return found or torch.device("cpu")


def default_generator(device: torch.device) -> Generator:
    """Give the generator of a CPU or a CUDA device that torch draws from if it is given none."""
    if device.type == "cpu":
        return torch.default_generator
    found: Generator = torch.cuda.default_generators[device.index or 0]
    return found


def seeded(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: int) -> Any:
    """Run an operator that draws under a key, whatever it takes one by."""
    if func.namespace == "fastinit":
        return func(*args, **{**kwargs, "key": key})
    device = _device_of(args, kwargs)
    if device.type not in ("cpu", "cuda"):
        return func(*args, **kwargs)
    keyed = _with_generator(func)
    word = key % (1 << 64)
    if keyed is not None:
        generator = Generator(device)
        generator.manual_seed(word)
        return keyed(*args, **{**kwargs, "generator": generator})
    default = default_generator(device)
    if _here.is_seeded:  # the key of the recording inside counts
        return func(*args, **kwargs)
    with _lock:
        before = default.get_state()
        default.manual_seed(word)
        _here.is_seeded = True
        try:
            return func(*args, **kwargs)
        finally:
            _here.is_seeded = False
            default.set_state(before)
