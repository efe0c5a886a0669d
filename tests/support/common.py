"""What the tests share, in one place: dtypes, devices, functions, bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import fastinit
from fastinit import _C, _fallback
from support.exact_arithmetic import Array

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
REAL_DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
COMPLEX_DTYPES = [torch.complex64, torch.complex128]
OTHER_DTYPES = [torch.int64, torch.int32, torch.uint8, torch.bool]

# Every random function with what it needs besides the tensor.
RANDOM: dict[str, tuple[Any, ...]] = {
    "uniform_": (),
    "normal_": (),
    "trunc_normal_": (),
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (),
    "orthogonal_": (),
    "sparse_": (0.3,),
}
# Those whose values are drawn element by element, so that they agree bit for bit everywhere.
ELEMENTWISE = [name for name in RANDOM if name != "orthogonal_"]
CONSTANT: dict[str, tuple[Any, ...]] = {"constant_": (2.5,), "ones_": (), "zeros_": (), "eye_": ()}


def fill(name: str, tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Call the function of that name with its default arguments."""
    arguments = RANDOM[name] if name in RANDOM else CONSTANT[name]
    return getattr(fastinit, name)(tensor, *arguments, **kwargs)


def operator(name: str) -> Any:
    """Give an operator of the library, or of the one that is for tests alone."""
    testing = torch.ops.fastinit_testing
    return getattr(testing if hasattr(testing, name) else torch.ops.fastinit, name)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: torch.Tensor) -> Array:
    """Bit patterns as unsigned integers; complex elements get a last axis of two.

    So -0.0 differs from 0.0, and a NaN equals itself. They may share the tensor's memory.
    """
    plain = tensor.detach().resolve_conj().resolve_neg()
    real = torch.view_as_real(plain) if plain.is_complex() else plain
    width = real.element_size()
    return real.view(_INTEGERS[width]).cpu().numpy().view(f"uint{8 * width}")


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(bits(a), bits(b))


@contextmanager
def no_randomness(generator: torch.Generator | None = None) -> Iterator[None]:
    """Assert that neither the default CPU generator nor the given one moves."""
    generators = [torch.default_generator] + ([generator] if generator is not None else [])
    before = [g.get_state() for g in generators]
    yield
    for g, state in zip(generators, before, strict=True):
        assert torch.equal(g.get_state(), state), "randomness was consumed"


@contextmanager
def untouched(tensor: torch.Tensor, generator: torch.Generator | None = None) -> Iterator[None]:
    """Assert that the tensor keeps its bits and its version, and that nothing is drawn."""
    before, version = bits(tensor).copy(), tensor._version
    with no_randomness(generator):
        yield
    assert np.array_equal(bits(tensor), before), "the tensor was written"
    assert tensor._version == version, "the tensor's version moved"


def elsewhere(monkeypatch: pytest.MonkeyPatch, tensor: torch.Tensor) -> None:
    """Pretend that this tensor lies on a device that fastinit has no code for."""
    ours, dtype = _fallback.on_handled_device, _C.handled_dtype
    monkeypatch.setattr(_fallback, "on_handled_device", lambda t: t is not tensor and ours(t))
    monkeypatch.setattr(_C, "handled_dtype", lambda t: None if t is tensor else dtype(t))
