"""Modules, patches, compiled code and lists over several devices, on CUDA tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.common import ELEMENTWISE, REAL_DTYPES, bits, fill, operator, same_bits
from support.cuda_helpers import F32, KEY, default_generator, no_cuda_randomness
from support.layout_cases import MATRIX_LAYOUTS, laid_out
from support.promise_cases import ONE_OF_EACH, Case, fill_many
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fastinit
from fastinit import Key

pytestmark = pytest.mark.cuda

OPS = torch.ops.fastinit
SINGLE: dict[str, tuple[Any, ...]] = {
    "uniform_": (-1.0, 2.0),
    "normal_": (0.5, 2.0),
    "trunc_normal_": (0.5, 2.0, -1.0, 3.0),
    "random_words_": (),
}


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions_agree_with_the_cpu(
    name: str, layout: str, dtype: torch.dtype, original_calls: list[str]
) -> None:
    here = fill(name, laid_out(layout, 30, 20, dtype=dtype), key=3)
    there = fill(name, laid_out(layout, 30, 20, dtype=dtype, device="cuda"), key=3)
    assert there.is_cuda
    assert same_bits(here, there.cpu())
    assert original_calls == []


def test_drop_in_calls_do_not_reach_torch(original_calls: list[str]) -> None:
    for name in ELEMENTWISE:
        fill(name, torch.zeros(30, 20, device="cuda"))
    assert original_calls == []


def test_what_is_not_handled() -> None:
    """Refused as on the CPU, or torch's."""
    integers = torch.zeros(5, dtype=torch.int64, device="cuda")
    for given in ({}, {"key": 1}):
        with pytest.raises(NotImplementedError, match="int64"):
            fastinit.uniform_(integers, **given)
    pair = torch.zeros(5, dtype=torch.complex64, device="cuda")
    with pytest.raises(NotImplementedError, match="complex64"):
        fastinit.trunc_normal_(pair, key=1)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_opcheck(name: str, layout: str) -> None:
    dtype = torch.int32 if name == "random_words_" else torch.float32
    tensor = laid_out(layout, 5, 3, dtype=dtype, device="cuda")
    torch.library.opcheck(operator(name).default, (tensor, *SINGLE[name]), {"key": -3})


def test_opcheck_of_lists() -> None:
    tensors = [torch.zeros(5, 3, device="cuda"), torch.zeros(4, 4, device="cuda").t()]
    arguments = (tensors, [1, 0, 2, 0], [0.0, 1.0, 0.0, 0.0] * 2, [1, 2])
    torch.library.opcheck(OPS.fill_many_.default, arguments)


def test_versions_and_leaves() -> None:
    weight = nn.Parameter(torch.zeros(5, 3, device="cuda"))
    before = weight._version
    fastinit.normal_(weight)
    assert weight._version == before + 1
    assert weight.grad_fn is None
    with torch.inference_mode():
        inference = torch.zeros(5, device="cuda")
        fastinit.normal_(inference, key=KEY)
    assert np.array_equal(bits(inference), F32.whole(KEY, 5))
    with pytest.raises(RuntimeError, match="inference tensor"):
        fastinit.normal_(inference)


def test_fake_tensors_draw_nothing() -> None:
    torch.cuda.init()
    with no_cuda_randomness(), FakeTensorMode():
        fake = torch.empty(30, 20, device="cuda")
        for name in ELEMENTWISE:
            fill(name, fake)
            fill(name, fake, key=1)
        assert fake.is_cuda


def test_compiled() -> None:
    def model_init(x: torch.Tensor) -> torch.Tensor:
        return fastinit.normal_(fastinit.uniform_(x * 0.0, key=3), std=2.0, key=KEY) + 1.0

    compiled = torch.compile(model_init, backend="aot_eager", fullgraph=True)
    x = torch.zeros(300, 20, device="cuda")
    assert torch.equal(compiled(x), model_init(x))

    def drawing(x: torch.Tensor) -> torch.Tensor:
        return fastinit.normal_(x * 0.0)

    torch.manual_seed(2)
    want = drawing(x)
    torch.manual_seed(2)
    got = torch.compile(drawing, backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(got, want)


# ---- modules ------------------------------------------------------------------------------------


def build(device: str) -> nn.Module:
    options: dict[str, Any] = {"device": device}
    return nn.Sequential(
        nn.Linear(31, 17, **options),
        nn.Conv2d(5, 7, 3, **options),
        nn.LSTM(9, 8, num_layers=2, **options),
        nn.Embedding(50, 11, padding_idx=3, **options),
        nn.Linear(13, 6, dtype=torch.bfloat16, **options),
        nn.MultiheadAttention(16, 4, **options),
    )


def states(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def test_a_keyed_patch_builds_the_same_on_both() -> None:
    with no_cuda_randomness(), fastinit.patch(key=7):
        there = build("cuda")
    with fastinit.patch(key=7):
        here = build("cpu")
    want = states(here)
    for name, tensor in states(there).items():
        assert same_bits(tensor, want[name]), name


def test_a_patch_follows_the_seed() -> None:
    built = []
    for _ in range(2):
        torch.manual_seed(4)
        with fastinit.patch():
            built.append(states(build("cuda")))
        assert default_generator().get_offset() > 0
    for name, tensor in built[0].items():
        assert same_bits(tensor, built[1][name]), name


def test_a_patch_of_factories_and_methods() -> None:
    with fastinit.patch(key=Key(2)):
        there = [torch.randn(99, device="cuda"), torch.empty(99, device="cuda").uniform_(-1, 1)]
    with fastinit.patch(key=Key(2)):
        here = [torch.randn(99), torch.empty(99).uniform_(-1, 1)]
    for a, b in zip(there, here, strict=True):
        assert a.is_cuda
        assert same_bits(a.cpu(), b)


# ---- several devices ----------------------------------------------------------------------------


def test_a_list_over_every_device() -> None:
    devices = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    cases = [case for case in ONE_OF_EACH for _ in devices]
    places = [device for _ in ONE_OF_EACH for device in devices]
    keys = list(range(len(cases)))
    tensors = [
        case.empty(1000 + key, device=device)
        for case, device, key in zip(cases, places, keys, strict=True)
    ]
    current = torch.cuda.current_device()
    fill_many(tensors, cases, keys)
    assert torch.cuda.current_device() == current
    for case, tensor, key in zip(cases, tensors, keys, strict=True):
        assert np.array_equal(bits(tensor), case.whole(key, 1000 + key)), (case, tensor.device)
        assert tensor._version == 1


def test_a_list_with_a_bad_entry_writes_nothing() -> None:
    here, there = torch.zeros(50), torch.zeros(50, device="cuda")
    normal, wrong = Case("float32", "normal", (0.0, 1.0)), Case("float32", "normal", (0.0, -1.0))
    for order in ([there, here], [here, there]):
        with pytest.raises(RuntimeError, match="std"):
            fill_many(order, [normal, wrong], [1, 2])
    with pytest.raises(RuntimeError, match="meta"):
        fill_many([there, torch.zeros(5, device="meta")], [normal, normal], [1, 2])
    assert not here.any()
    assert not there.any()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one() -> None:
    tensor = F32.empty(100_003, device="cuda:1")
    assert torch.cuda.current_device() == 0
    assert np.array_equal(bits(F32.fill(tensor, KEY)), F32.whole(KEY, 100_003))
    before = torch.cuda.default_generators[0].get_offset()
    offset = torch.cuda.default_generators[1].get_offset()
    fastinit.normal_(tensor)
    assert torch.cuda.default_generators[0].get_offset() == before
    assert torch.cuda.default_generators[1].get_offset() == offset + 4
    assert torch.cuda.current_device() == 0


def test_pinned_memory_is_the_cpus() -> None:
    tensor = torch.empty(300, 700, pin_memory=True)
    with no_cuda_randomness():
        F32.fill(tensor, KEY)
    assert np.array_equal(bits(tensor), F32.whole(KEY, 300, 700))
    assert tensor.is_pinned()
