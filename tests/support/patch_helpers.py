"""What the tests of `fastinit.patch()` share."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit
from fastinit import Key
from support.common import same_bits

RANDOM_INIT = [
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
]
DICTIONARY = {name: getattr(torch.nn.init, name) for name in RANDOM_INIT}  # as transformers keeps
EXTRA = {"sparse_": (0.3,)}  # arguments without a default


class RandomKernels(TorchDispatchMode):
    """Counts the calls of torch's random kernels and of fastinit's."""

    def __init__(self) -> None:
        super().__init__()
        self.torch: list[str] = []
        self.fastinit: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in func.tags:
            (self.fastinit if func.namespace == "fastinit" else self.torch).append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def only_fastinit() -> Iterator[RandomKernels]:
    """Inside, random kernels of fastinit run and none of torch; the generator is untouched."""
    before = torch.get_rng_state()
    with RandomKernels() as seen:
        yield seen
    assert seen.torch == []
    assert seen.fastinit
    assert torch.equal(torch.get_rng_state(), before)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and bits, NaN included."""
    if (a.dtype, a.shape, a.layout) != (b.dtype, b.shape, b.layout):
        return False
    if a.layout is not torch.strided:
        return torch.equal(a.to_dense(), b.to_dense())
    return same_bits(a, b)


def nth(key: int, n: int) -> Key:
    return Key(key).fold_in(n)


def direct(name: str, shape: tuple[int, ...], *args: Any, key: Key | int) -> torch.Tensor:
    return getattr(fastinit, name)(torch.empty(shape), *args, key=key)


def code_objects() -> dict[str, Any]:
    return {
        name: (
            value,
            value.__code__,
            value.__defaults__,
            value.__kwdefaults__,
            value.__closure__,
            dict(vars(value)),
        )
        for name, value in vars(torch.nn.init).items()
        if isinstance(value, types.FunctionType)
    }


PRISTINE = code_objects()  # before any test has patched anything


def evaluate(expression: str) -> torch.Tensor:
    image = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    return eval(expression, {"torch": torch, "nn": nn, "image": image})


def in_thread(function: Callable[[], Any]) -> Any:
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]
