"""`fastinit.patch()` leaves what is not random as it is outside."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from support.patch_helpers import direct, nth, same
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import fastinit

KEYS = [None, 3]


class PassingOn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _attention() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    x = torch.ones(2, 3, 8)
    return nn.MultiheadAttention(8, 2, batch_first=True).eval(), (x, x, x)


def _layer() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    return layer, (torch.ones(2, 3, 8),)


# How each module's fast path begins.
FAST = {
    "_native_multi_head_attention": _attention,
    "_transformer_encoder_layer_fwd": _layer,
}


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("key", KEYS)
def test_inference_takes_the_fast_path(name: str, key: int | None) -> None:
    module, inputs = FAST[name]()

    def taken() -> bool:
        native = getattr(torch, name)
        with mock.patch.object(torch, name, wraps=native) as fast, torch.inference_mode():
            module(*inputs)
        return fast.called

    assert taken()
    with fastinit.patch(key):
        assert taken()
        with fastinit.patch():
            assert taken()
        with PassingOn():  # somebody else's mode wants to see every call
            assert not taken()
    with PassingOn(), fastinit.patch(key):
        assert not taken()
    with PassingOn():
        assert not taken()
    assert taken()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padding_becomes_nested_tensors_inside() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.rand(2, 3, 8), torch.tensor([[False, False, True], [False, False, False]])
    nested = torch.nested.nested_tensor([torch.rand(2, 8), torch.rand(3, 8)])
    with torch.inference_mode():
        expected = encoder(x, src_key_padding_mask=padding), encoder(nested)
        with fastinit.patch(0):
            padded, ragged = encoder(x, src_key_padding_mask=padding), encoder(nested)
    assert torch.equal(padded, expected[0])
    assert ragged.is_nested
    assert all(map(torch.equal, ragged.unbind(), expected[1].unbind()))


def test_attention_compiles_and_scripts_inside() -> None:
    module, inputs = _attention()

    def results() -> list[torch.Tensor]:
        torch.compiler.reset()
        compiled = torch.compile(lambda *x: module(*x)[0], backend="eager", fullgraph=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted = torch.jit.script(module)
        return [compiled(*inputs), scripted(*inputs)[0]]

    with torch.no_grad():
        expected = results()  # on some processors not to the bit what is computed otherwise
        with fastinit.patch(0):
            assert all(map(torch.equal, results(), expected))


SIZED: list[tuple[str, Callable[..., torch.Tensor]]] = [
    ("uniform_", lambda **k: torch.rand(4, 2, **k)),
    ("uniform_", lambda **k: torch.rand(size=[4, 2], **k)),
    ("normal_", lambda **k: torch.randn((4, 2), **k)),
    ("normal_", lambda **k: torch.normal(0.0, 1.0, (4, 2), **k)),
    ("normal_", lambda **k: torch.normal(torch.zeros(4, 1), torch.ones(2), **k)),
]


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize(("name", "make"), SIZED)
@pytest.mark.parametrize("shape", [(0,), (4, 2), (2, 4), (3,), (9, 9)])
def test_out_is_resized(name: str, make: Callable[..., torch.Tensor], shape: tuple[int]) -> None:
    with fastinit.patch(3):
        out = torch.zeros(shape)
        assert make(out=out) is out
    assert same(out, direct(name, (4, 2), key=nth(3, 0)))
    with fastinit.patch():
        torch.manual_seed(1)
        make(out=out)
        torch.manual_seed(1)
        assert same(out, make())
    native, ours = (torch.empty(2, 9).t()[:, :1] for _ in range(2))
    make(out=native)
    with fastinit.patch(3):
        make(out=ours)
    assert ours.stride() == native.stride()


@pytest.mark.parametrize("key", KEYS)
def test_out_keeps_torch_s_complaints(key: int | None) -> None:
    out = torch.zeros(4)
    with fastinit.patch(key):
        with pytest.raises(RuntimeError, match="dtype"):
            torch.rand(4, dtype=torch.float64, out=out)
        with pytest.raises(RuntimeError):
            torch.rand(-1, out=out)
        assert same(torch.rand(4, dtype=torch.float32, out=out), out)
    assert out.any()


FAKE: list[Callable[[], torch.Tensor]] = [
    lambda: torch.rand(4, device="cuda"),
    lambda: torch.randn(4, device="cuda"),
    lambda: torch.rand_like(torch.empty(4, device="cuda")),
    lambda: torch.randn_like(torch.empty(4, device="cuda"), dtype=torch.float64),
    lambda: torch.normal(0.0, 1.0, (4,), device="cuda"),
    lambda: torch.empty(4, device="cuda").normal_(),
    lambda: nn.Embedding(4, 2, device="cuda").weight,
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="about torch without CUDA")
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("make", FAKE)
def test_fake_tensors_of_devices_that_are_not_there(
    make: Callable[[], torch.Tensor], key: int | None
) -> None:
    with FakeTensorMode():
        expected = make()
        with fastinit.patch(key):
            inside = make()
    with fastinit.patch(key), FakeTensorMode():
        outside = make()
    for made in (inside, outside):
        assert (made.device, made.dtype, made.shape) == (
            expected.device,
            expected.dtype,
            expected.shape,
        )


TRACED: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: x + torch.randn(3),
    lambda x: x + torch.rand_like(x),
    lambda x: torch.normal(x, torch.ones(3)),
    lambda x: torch.empty(3).normal_() + x,
    lambda x: torch.nn.init.uniform_(torch.empty(3)) + x,
]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("function", TRACED)
def test_traces_are_torch_s(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """They run without fastinit, and the checker of traces knows which nodes are random."""
    x = torch.zeros(3)
    with fastinit.patch(), pytest.warns(torch.jit.TracerWarning, match="nondeterministic nodes"):
        traced = torch.jit.trace(function, x)
    assert "fastinit::" not in str(traced.graph)
    assert not torch.equal(traced(x), traced(x))
