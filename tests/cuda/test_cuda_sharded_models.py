"""Sharded modules on a CUDA device: any rank of any mesh, and one process under NCCL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from support import sharded_models
from support.common import same_bits
from support.fake_ranks import as_rank
from support.sharded_models import WAYS, initialized, on_meta, real, wrong_in
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, empty
from torch.distributed.tensor.debug import CommDebugMode

import fastinit

pytestmark = pytest.mark.cuda
WORLD = 4


@pytest.fixture(autouse=True)
def _meshes_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_models, "device", "cuda")


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("function", "made"),
    [(fastinit.initialize_, real), (fastinit.materialize, on_meta)],
    ids=["initialize_", "materialize"],
)
def test_any_rank(function: Any, made: Any, way: str, rank: int) -> None:
    """But for torch's own draws, which a device draws otherwise than the CPU."""
    want = initialized()
    with as_rank(rank, WORLD):
        model = made(way, WORLD)
        state = torch.cuda.get_rng_state()
        with CommDebugMode() as collectives:
            assert function(model, key=3) is model
        assert collectives.get_total_counts() == 0
        assert torch.equal(torch.cuda.get_rng_state(), state)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            assert tensor.device.type == "cuda", name
        found = set(wrong_in(model, want))
    # `read` is divided by its norm, whose last bit is the device's.
    assert found <= {"experts.whole", "experts.read", "experts.wide"}


def test_offloaded_shards_stay_on_the_cpu() -> None:
    want = initialized()
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cuda", (WORLD,))
        with torch.device("meta"):
            model: Any = sharded_models.Mixed()
        fully_shard(model, mesh=mesh, offload_policy=CPUOffloadPolicy())
        fastinit.materialize(model, key=3)
        assert {p.device.type for p in model.parameters()} == {"cpu"}
        assert wrong_in(model, want) == []


# ---- NCCL ---------------------------------------------------------------------------------------


@pytest.fixture
def _nccl() -> Iterator[None]:
    torch.cuda.set_device(0)
    distributed.init_process_group(
        "nccl",
        store=distributed.HashStore(),
        rank=0,
        world_size=1,
        timeout=timedelta(seconds=60),
        device_id=torch.device("cuda", 0),
    )
    yield
    distributed.destroy_process_group()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 256)
        self.down = nn.Linear(256, 64)
        self.norm = nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def blocks() -> nn.Sequential:
    return nn.Sequential(*(Block() for _ in range(3)))


def fully_sharded(**options: Any) -> Any:
    with torch.device("meta"):
        model = blocks()
    for block in model:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def assert_full(model: nn.Module, want: nn.Module) -> None:
    expected = dict(want.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            whole: Any = parameter
            assert same_bits(whole.full_tensor().cpu(), expected[name].detach()), name


@pytest.mark.usefixtures("_nccl")
def test_a_model_that_trains() -> None:
    want = fastinit.initialize_(blocks(), key=3)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for options in ({}, {"reshard_after_forward": False}, {"mp_policy": half}):
        model = fully_sharded(**options)
        with CommDebugMode() as collectives:
            fastinit.materialize(model, key=3)
        assert collectives.get_total_counts() == 0
        assert_full(model, want)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(2):
            model(torch.ones(2, 64, device="cuda")).sum().backward()
            optimizer.step()
        assert not torch.equal(model[0].up.bias.full_tensor().cpu(), want[0].up.bias)  # type: ignore
        fastinit.initialize_(model, key=3)
        assert_full(model, want)
        x = torch.ones(2, 64)
        result = model(x.cuda()).float().cpu()
        error = 0.1 if "mp_policy" in options else 1e-4
        torch.testing.assert_close(result, want(x), atol=error, rtol=0.02)


@pytest.mark.usefixtures("_nccl")
def test_a_factory_that_shards() -> None:
    want = fastinit.materialize(blocks, key=3)

    def factory() -> nn.Module:
        model = blocks()
        for block in model:
            fully_shard(block)
        return fully_shard(model)

    model = fastinit.materialize(factory, key=3)
    assert_full(model, want)
    model(torch.ones(2, 64, device="cuda")).sum().backward()


@pytest.mark.usefixtures("_nccl")
def test_ranks_that_agree_and_reports() -> None:
    model, whole = fully_sharded(), blocks()
    torch.manual_seed(1)
    with fastinit.check_ranks(model, timeout=30):
        fastinit.materialize(model)
    torch.manual_seed(1)
    assert_full(model, fastinit.initialize_(whole))
    rows = {row.name: row for row in fastinit.report(model, distributed=True).parameters}
    want = {row.name: row for row in fastinit.report(whole).parameters}
    assert rows.keys() == want.keys()
    measured = rows["0.up.weight"].measured
    assert measured is not None
    expected = want["0.up.weight"].measured
    assert expected is not None
    assert measured.std == pytest.approx(expected.std)


@pytest.mark.usefixtures("_nccl")
@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
def test_orthogonal_matrices_together(placement: Any) -> None:
    want = fastinit.orthogonal_(torch.empty(96, 40), key=5)
    mesh = init_device_mesh("cuda", (1,))
    for together in (False, True):
        tensor = empty(96, 40, device_mesh=mesh, placements=[placement])
        fastinit.orthogonal_(tensor, key=5, distributed=together)
        torch.testing.assert_close(tensor.full_tensor().cpu(), want, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("_nccl")
def test_patches() -> None:
    with fastinit.patch(key=5):
        want = nn.Linear(64, 32)
    sharded: Any = fully_shard(nn.Linear(64, 32, device="meta")).to_empty(device="cuda")
    with fastinit.patch(key=5), CommDebugMode() as collectives:
        sharded.reset_parameters()
    assert collectives.get_total_counts() == 0
    assert_full(sharded, want)


@pytest.mark.usefixtures("_nccl")
def test_a_factory_draws_from_a_generator_of_the_device() -> None:
    def factory() -> nn.Module:
        model, mesh = nn.Module(), init_device_mesh("cuda", (1,))
        model.weight = nn.Parameter(empty(64, 32, device_mesh=mesh, placements=[Shard(0)]))
        generator = torch.Generator("cuda").manual_seed(5)
        nn.init.normal_(model.weight, generator=generator)
        return model

    generator = torch.Generator("cuda").manual_seed(5)
    want = fastinit.normal_(torch.empty(64, 32, device="cuda"), generator=generator)
    weight: Any = fastinit.materialize(factory, key=3).weight
    assert torch.equal(weight.full_tensor(), want)
