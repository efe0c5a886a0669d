"""`materialize` and `initialize_` on real models: written, tied, distributed as native, finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scipy import stats
from support.common import no_randomness, same_bits
from support.model_zoo import TORCH, TRANSFORMERS, inputs_of, transformers_factory
from torch import nn

import fastinit
from fastinit import _compiled
from fastinit._fills import fill

# What nothing but the constructor writes, so that initialize_ has to be told to leave it.
ONLY_CONSTRUCTED = {"clip": ["logit_scale"]}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of elements of every fill, constants apart."""
    seen: list[int] = []
    run = _compiled.fill_many_op

    def count(tensors: Any, plan: Any, *rest: Any) -> None:
        seen.extend(t.numel() for t, kind in zip(tensors, plan[::2], strict=True) if kind != 0)
        run(tensors, plan, *rest)

    monkeypatch.setattr(fill, "fill_many_op", count)
    yield seen


def ties(module: nn.Module) -> set[frozenset[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {frozenset(group) for group in names.values()}


def check_like_native(ours: nn.Module, native: nn.Module) -> None:
    theirs = dict(native.named_parameters())
    assert [*dict(ours.named_parameters())] == [*theirs]
    assert ties(ours) == ties(native)
    for name, parameter in ours.named_parameters():
        other = theirs[name]
        assert type(parameter) is type(other), name
        assert (parameter.shape, parameter.dtype, parameter.device, parameter.requires_grad) == (
            (other.shape, other.dtype, other.device, other.requires_grad)
        ), name
        a, b = parameter.detach().double().flatten(), other.detach().double().flatten()
        assert torch.isfinite(a).all(), name
        if b.numel() > 1 and b.std() == 0:
            assert torch.equal(a, b), name
        elif b.numel() >= 32:
            assert stats.ks_2samp(a.numpy(), b.numpy()).pvalue > 1e-7, name
        if b.numel() >= 256 and not torch.equal(a, b):
            assert a.std() / b.std() == pytest.approx(1, abs=0.35), name
    buffers = dict(ours.named_buffers())
    for name, buffer in native.named_buffers():
        assert same_bits(buffers[name], buffer), name


def finite(output: Any) -> bool:
    if isinstance(output, torch.Tensor):
        return bool(torch.isfinite(output).all())
    values = output.values() if hasattr(output, "values") else output
    return all(finite(v) for v in values if isinstance(v, (torch.Tensor, tuple)))


def check_same_values(a: nn.Module, b: nn.Module) -> None:
    others = b.state_dict()
    for name, value in a.state_dict().items():
        assert same_bits(value, others[name]), name


def check_initialised_alike(
    ours: nn.Module, factory: Callable[[], nn.Module], skip: list[str]
) -> None:
    """The same key gives the same values to a model that is there already."""
    other = factory()
    assert fastinit.initialize_(other, key=3, skip=skip) is other
    values = dict(ours.named_parameters())
    for name, parameter in other.named_parameters():
        assert same_bits(parameter.data, values[name].data), name
    for (name, a), b in zip(other.named_buffers(), ours.buffers(), strict=True):
        assert same_bits(a, b), name


@pytest.mark.parametrize("family", list(TRANSFORMERS))
def test_transformers(family: str, drawn: list[int]) -> None:
    pytest.importorskip("transformers")
    factory = transformers_factory(family)
    with no_randomness():
        ours = fastinit.materialize(factory, key=3)
    parameters = sum(p.numel() for p in ours.parameters())
    # One draw per weight, not two or three; rwkv's are orthogonal.
    assert sum(drawn) <= parameters
    assert sum(drawn) > 0.3 * parameters or family == "rwkv"
    check_like_native(ours, factory())
    check_initialised_alike(ours, factory, ONLY_CONSTRUCTED.get(family, []))
    ours.eval()
    with torch.no_grad():
        assert finite(ours(**inputs_of(family), return_dict=True))


@pytest.mark.parametrize("name", list(TORCH))
def test_torch(name: str, drawn: list[int]) -> None:
    factory, inputs = TORCH[name]
    with no_randomness():
        ours = fastinit.materialize(factory, key=3)
    assert sum(drawn) <= sum(p.numel() for p in ours.parameters())
    check_like_native(ours, factory())
    if name == "Transformer":  # clones share one layer's values, where nothing draws them again
        return
    check_initialised_alike(ours, factory, [])
    with torch.no_grad():
        assert finite(ours(*inputs()))
    with torch.device("meta"):
        bare = factory()
    assert fastinit.materialize(bare, key=3) is bare
    whole = fastinit.materialize(factory, key=3)
    check_same_values(bare, whole)
    with torch.no_grad():
        assert finite(bare(*inputs()))


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "rwkv", "clip"])
def test_transformers_from_meta(family: str) -> None:
    pytest.importorskip("transformers")
    factory = transformers_factory(family)
    with torch.device("meta"):
        bare = factory()
    if family == "clip":
        with pytest.raises(ValueError, match="logit_scale"):
            fastinit.materialize(bare, key=3)
        assert all(p.is_meta for p in bare.parameters())
        return
    fastinit.materialize(bare, key=3)
    check_like_native(bare, factory())
    whole = fastinit.materialize(factory, key=3)
    check_same_values(bare, whole)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "deepseek_v3"])
def test_transformers_in_bfloat16(family: str) -> None:
    pytest.importorskip("transformers")
    factory = transformers_factory(family)
    ours = fastinit.materialize(factory, dtype=torch.bfloat16, key=3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        native = factory()
    finally:
        torch.set_default_dtype(before)
    check_like_native(ours, native)
    whole = fastinit.materialize(factory, key=3)
    weights = dict(whole.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.dim() > 1 and parameter.dtype is torch.bfloat16 and family != "mamba":
            assert same_bits(parameter.data, weights[name].data.to(torch.bfloat16)), name
