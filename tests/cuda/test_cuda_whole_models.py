"""`initialize_`, `materialize` and `batch()` on a CUDA device: the bits of the CPU, and where."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.cuda_helpers import keep_busy, no_cuda_randomness
from torch import nn

import fastinit

pytestmark = pytest.mark.cuda
WIDTH = 32


class Model(nn.Module):
    """Ties, padding rows, slices, scaled draws, buffers, a type of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH, padding_idx=3)
        self.attention = nn.MultiheadAttention(WIDTH, 4)
        self.recurrent = nn.LSTM(WIDTH, 8, num_layers=2)
        self.conv = nn.Conv2d(3, 7, 3)
        self.norm = nn.BatchNorm2d(7)
        self.half = nn.Linear(WIDTH, 6, dtype=torch.bfloat16)
        self.packed = nn.Parameter(torch.empty(4, 8, WIDTH))
        self.head = nn.Linear(WIDTH, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.empty(3))
        self.register_buffer("positions", torch.empty(7, dtype=torch.int64))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for number, part in enumerate(self.packed):
            nn.init.trunc_normal_(part, std=0.01 * (number + 1))
        self.packed[2].mul_(0.5)
        self.packed[:, 0].zero_()
        self.scale.copy_(self.packed[1, 1, :3])
        self.positions.copy_(torch.arange(7))


def states(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}


def assert_same(module: nn.Module, want: nn.Module, device: str = "cuda") -> None:
    expected = states(want)
    found = states(module)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype is expected[name].dtype, name
        assert same_bits(tensor, expected[name]), name
    for name, held in (*module.named_parameters(), *module.named_buffers()):
        assert held.device.type == device, name


def on_device() -> nn.Module:
    with torch.device("cuda"):
        return Model()


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Model()


def test_initialize_() -> None:
    want = fastinit.initialize_(Model(), key=3)
    for model in (Model().cuda(), on_device()):
        objects = [*model.parameters()]
        versions = [p._version for p in objects]
        with no_cuda_randomness():
            assert fastinit.initialize_(model, key=3) is model
        assert_same(model, want)
        assert all(a is b for a, b in zip(objects, model.parameters(), strict=True))
        assert all(p._version > v for p, v in zip(objects, versions, strict=True))
        assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [Model, on_device, on_meta, "meta"])
def test_materialize(given: Any, dtype: torch.dtype | None) -> None:
    """Factories on the CPU, on the device and on meta, and a module on meta."""
    source = on_meta() if given == "meta" else given
    like: Any = on_meta() if given == "meta" else Model
    want = fastinit.materialize(like, dtype=dtype, key=3)
    with no_cuda_randomness():
        model = fastinit.materialize(source, "cuda", dtype, key=3)
    assert_same(model, want)
    assert model.head.weight is model.embedding.weight


def test_an_index_is_a_device() -> None:
    model = fastinit.materialize(Model, 0, key=3)
    assert_same(model, fastinit.materialize(Model, key=3))
    assert {p.device for p in model.parameters()} == {torch.device("cuda", 0)}


def test_from_the_device_to_the_cpu() -> None:
    model = fastinit.materialize(on_device, "cpu", key=3)
    assert_same(model, fastinit.materialize(Model, key=3), "cpu")


def test_a_model_over_both_devices() -> None:
    def both() -> nn.Module:
        model = Model()
        model.recurrent.cuda()
        model.conv.cuda()
        return model

    want = fastinit.initialize_(Model(), key=3)
    for model in (
        fastinit.initialize_(both(), key=3),
        fastinit.materialize(both, key=3),
    ):
        for name, tensor in states(model).items():
            assert same_bits(tensor, states(want)[name]), name
        places = {name: p.device.type for name, p in model.named_parameters()}
        assert places["conv.weight"] == places["recurrent.weight_hh_l1"] == "cuda"
        assert places["packed"] == "cpu"


@pytest.mark.parametrize("made", [Model, on_device])
def test_a_factory_that_moves(made: Callable[[], nn.Module]) -> None:
    """By `.cuda()`, after which cuDNN lays an LSTM's weights in one buffer."""
    want = fastinit.materialize(Model, key=3)
    assert_same(fastinit.materialize(lambda: made().cuda(), key=3), want)
    assert_same(fastinit.materialize(lambda: made().cpu().cuda(), key=3), want)


@pytest.mark.parametrize("ours", [True, False])
def test_a_generator_of_another_device_is_an_error(ours: bool) -> None:
    """As in torch; but for a module on meta, which may go anywhere."""

    class Draws(nn.Module):
        def __init__(self, device: str, source: str) -> None:
            super().__init__()
            self.source = source
            self.weight = nn.Parameter(torch.empty(20, 30, device=device))
            if device != "meta":
                self.reset_parameters()

        @torch.no_grad()
        def reset_parameters(self) -> None:
            generator = torch.Generator(self.source).manual_seed(5)
            if ours:
                fastinit.normal_(self.weight, generator=generator)
            else:
                self.weight.normal_(generator=generator)

    for device, source in (("cuda", "cpu"), ("cpu", "cuda")):
        with pytest.raises(RuntimeError, match=f"Expected a '{device}' device type for generator"):
            Draws(device, source)
        with pytest.raises(RuntimeError, match=f"Expected a '{device}' device type for generator"):
            fastinit.materialize(lambda d=device, s=source: Draws(d, s), key=3)  # type: ignore[misc]
    model = fastinit.materialize(Draws("meta", "cuda"), "cuda", key=3)
    generator = torch.Generator("cuda").manual_seed(5)
    want = fastinit.normal_(torch.empty(20, 30, device="cuda"), generator=generator)
    assert torch.equal(model.weight, want)


def test_rules_and_what_is_skipped() -> None:
    rules = {"*.bias": nn.init.ones_, nn.Embedding: nn.init.normal_, "default": None}
    want = Model()
    model = Model()
    model.load_state_dict(want.state_dict())
    model.cuda()
    fastinit.initialize_(want, rules, key=3, skip="packed")
    fastinit.initialize_(model, rules, key=3, skip="packed")
    assert_same(model, want)


def test_batches() -> None:
    with fastinit.patch(key=3):
        want = Model()
    with no_cuda_randomness(), torch.device("cuda"):
        with fastinit.patch(key=3), fastinit.batch():
            model = Model()
        assert_same(model, want)
        with fastinit.patch(key=3, batch=True):
            model = Model()
    assert_same(model, want)


def reads(function: Callable[[torch.Tensor], Any]) -> Callable[[], nn.Module]:
    def factory() -> nn.Module:
        model = nn.Linear(WIDTH, WIDTH, device="cuda")
        with torch.no_grad():
            model.seen = function(model.weight)  # type: ignore[assignment]
        return model

    return factory


@pytest.mark.parametrize(
    "function",
    [
        lambda w: w.norm().item(),
        lambda w: w.cpu().numpy().tolist(),
        lambda w: w.div_(w.abs().max()).sum().tolist(),
        lambda w: torch.from_dlpack(w.detach()).clone().tolist(),
        lambda w: (w.data_ptr(), w.clone().tolist())[1],
        lambda w: w.to("cpu", non_blocking=False).tolist(),
        lambda w: repr(w),
        lambda w: (w @ w).tolist(),
    ],
)
def test_a_constructor_that_reads_gets_what_stays(function: Any) -> None:
    model: Any = fastinit.materialize(reads(function), key=3)
    again = nn.Linear(WIDTH, WIDTH, device="cuda")
    fastinit.initialize_(again, key=3)
    with torch.no_grad():
        assert model.seen == function(again.weight)
        assert torch.equal(model.weight, again.weight)


def test_torch_s_own_draws_have_keys() -> None:
    """Those of a CUDA device are its own, not those of the CPU."""

    def factory() -> nn.Module:
        model = nn.Linear(WIDTH, WIDTH, device="cuda")
        with torch.no_grad():
            model.weight.bernoulli_(0.5)
            model.bias.exponential_()
            model.register_buffer("order", torch.randperm(100, device="cuda"))
            gamma = torch.distributions.Gamma(torch.ones(9, device="cuda"), 2.0)
            model.register_buffer("gamma", gamma.sample())
        return model

    with no_cuda_randomness():
        models = [fastinit.materialize(factory, key=3) for _ in range(2)]
        other = fastinit.materialize(factory, key=4)
    assert_same(models[0], models[1])
    for name, tensor in states(other).items():
        assert not torch.equal(tensor, states(models[0])[name]), name


def test_an_error_puts_everything_back() -> None:
    class Fails(nn.Linear):
        broken = False

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if self.broken:
                self.weight.norm().item()
                raise RuntimeError("out of paint")

    model = Fails(WIDTH, WIDTH, device="cuda")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.broken = True
    with no_cuda_randomness(), pytest.raises(RuntimeError, match="out of paint"):
        fastinit.initialize_(model, key=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.is_cuda


def test_what_nobody_writes_is_named() -> None:
    def factory() -> nn.Module:
        model = nn.Linear(WIDTH, WIDTH)
        model.left = nn.Parameter(torch.empty(5, device="cuda"))
        return model

    with pytest.raises(ValueError, match="writes left"):
        fastinit.materialize(factory, key=3)


# ---- memory and streams -------------------------------------------------------------------------


def test_memory_is_that_of_the_model() -> None:
    def factory() -> nn.Module:
        return nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(16)))

    size = 16 * 4 * 2048**2
    fastinit.materialize(lambda: nn.Linear(3, 3), "cuda", key=1)
    for options in ({"device": "cuda"}, {}):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        where: Any = contextlib.nullcontext() if options else torch.device("cuda")
        with where:
            model = fastinit.materialize(factory, key=3, **options)
        peak = torch.cuda.max_memory_allocated() - before
        assert peak < 1.05 * size, (options, peak, size)
        del model


def test_what_waits_runs_on_the_stream_of_the_call() -> None:
    model = nn.Linear(512, 512, device="cuda")
    fastinit.initialize_(nn.Linear(512, 512, device="cuda"), key=1)
    want = fastinit.initialize_(nn.Linear(512, 512), key=3)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        keep_busy()
        fastinit.initialize_(model, key=3)
        copy = model.weight.detach().clone()
    side.synchronize()
    assert same_bits(copy.cpu(), want.weight.detach())


def test_a_seed_that_cuda_has_not_seen_yet_stays_pending() -> None:
    """`torch.manual_seed` before CUDA is started is kept for then."""
    program = """
import torch, fastinit
from torch import nn
torch.manual_seed(5)
if {ours}:
    fastinit.materialize(lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout()), key=3)
    with fastinit.patch(key=4):
        nn.Linear(3, 3)
    fastinit.initialize_(nn.Linear(3, 3), key=1)
    assert not torch.cuda.is_initialized()
print(torch.rand(3, device="cuda").tolist())
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program.format(ours=ours)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for ours in (True, False)
    ]
    assert said[0] == said[1]


def test_report() -> None:
    here = fastinit.report(fastinit.initialize_(Model(), key=3))
    there = fastinit.report(fastinit.initialize_(Model().cuda(), key=3))
    assert there.flags == here.flags
    for one, other in zip(here.parameters, there.parameters, strict=True):
        assert one.name == other.name
        if one.measured is not None:
            assert other.measured is not None
            assert other.measured.std == pytest.approx(one.measured.std, rel=1e-4, nan_ok=True)
