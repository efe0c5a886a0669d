"""`fastinit.patch(key, module=model)` over DTensors, as any rank of a mesh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.decoders import Spread, of, stages
from support.fake_ranks import as_rank
from support.sharded_models import wrong_in
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit
from fastinit._distributed.fill import OBSERVERS
from fastinit.key import signed


def over(model: Any, way: str, world: int) -> nn.Module:
    plan: dict[str, Any] = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
    for layer in model.layers.values():
        if way == "fsdp over tensor parallelism":
            parallelize_module(layer, mesh["tp"], plan)
        fully_shard(layer, mesh=mesh["dp"] if way != "hsdp" else mesh)
    result: nn.Module = fully_shard(model, mesh=mesh["dp"] if way != "hsdp" else mesh)
    return result


@pytest.fixture(scope="module")
def spread() -> Iterator[Spread]:
    model = Spread()
    with fastinit.patch(3, module=model), torch.no_grad():
        model.init_weights()
    yield model


@pytest.mark.parametrize("way", ["fsdp", "hsdp", "fsdp over tensor parallelism"])
@pytest.mark.parametrize("rank", [0, 3, 13])
def test_dtensors(spread: Spread, way: str, rank: int) -> None:
    """Of 8 ranks along the mesh some hold nothing of a weight with 6 rows."""
    with as_rank(rank, 16):
        with torch.device("meta"):
            model = over(Spread(), way, 16)
        model.to_empty(device="cpu")
        for _ in range(2):  # drawn anew, the same again
            with fastinit.patch(3, module=model), torch.no_grad():
                model.init_weights()
            assert wrong_in(model, spread) == []


@pytest.mark.parametrize("stage", [0, 1])
def test_stages_of_dtensors(spread: Spread, stage: int) -> None:
    with as_rank(stage, 4):
        with torch.device("meta"):
            model = over(stages(Spread(), 2)[stage], "fsdp", 4)
        model.to_empty(device="cpu")
        with fastinit.patch(3, module=model), torch.no_grad():
            model.init_weights()
        assert wrong_in(model, stages(spread, 2)[stage]) == []


def test_an_empty_shard_counts_as_on_other_ranks() -> None:
    keys: dict[int, list[int]] = {}
    for rank in (0, 3):
        noted = keys.setdefault(rank, [])

        def note(tensor: Any, name: str, numbers: Any, key: int, noted: list[int] = noted) -> None:
            noted.append(key)

        with as_rank(rank, 4):
            layer = fully_shard(nn.Linear(4, 3), mesh=init_device_mesh("cpu", (4,)))
            OBSERVERS.append(note)
            try:
                with fastinit.patch(0, module=layer):
                    for _ in range(2):
                        nn.init.normal_(layer.weight)
            finally:
                OBSERVERS.remove(note)
        assert layer.weight.to_local().numel() == (0 if rank else 4)
    assert keys[3] == keys[0] == 2 * [signed(int(of("weight")))]


def test_full_parameters_are_put_away_first(spread: Spread) -> None:
    """What is written into them FSDP2 throws away."""
    with as_rank(1, 2):
        model: Any = over(Spread(), "fsdp", 2)
        for module in (model, *model.layers.values()):
            module.unshard()
        with fastinit.patch(3, module=model), torch.no_grad():
            model.init_weights()
        for module in (model, *model.layers.values()):
            module.reshard()
        assert wrong_in(model, spread) == []


# ---- draws that fastinit has no function for -----------------------------------------------------


def drawn_by_torch(module: Any, draw: Any, how: dict[str, Any]) -> Any:
    torch.manual_seed(5)
    with fastinit.patch(**how), torch.no_grad():
        nn.init.normal_(module.weight)
        draw(module.weight)
        draw(module.bias.data)
        module.bias.add_(1)
        if "module" not in how:
            draw(module.weight[2:5])
    return module


@pytest.mark.parametrize("named", [None, False, True])
@pytest.mark.parametrize(
    "draw",
    [
        lambda tensor: tensor.bernoulli_(0.3),
        lambda tensor: tensor.cauchy_(),
        lambda tensor: tensor.exponential_(lambd=2.0),
        lambda tensor: tensor.geometric_(0.4),
        lambda tensor: tensor.log_normal_(),
        lambda tensor: tensor.random_(0, 9),
    ],
    ids=["bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "random_"],
)
def test_draws_of_torchs_own_methods(draw: Any, named: bool | None) -> None:
    def how(module: nn.Module) -> dict[str, Any]:
        return {} if named is None else {"key": 3, **({"module": module} if named else {})}

    whole = nn.Linear(5, 7)
    want = drawn_by_torch(whole, draw, how(whole))
    for rank in range(4):
        with as_rank(rank, 4):
            model: Any = nn.Linear(5, 7, device="meta")
            fully_shard(model, mesh=init_device_mesh("cpu", (4,))).to_empty(device="cpu")
            version = model.weight._version
            drawn_by_torch(model, draw, how(model))
            assert model.weight._version > version
            assert wrong_in(model, want) == []


def test_draws_of_torchs_own_into_sums_are_refused() -> None:
    with as_rank(0, 2), fastinit.patch():
        mesh = init_device_mesh("cpu", (2,))
        with pytest.raises(NotImplementedError, match=r"fastinit.bernoulli_: .* sums over ranks"):
            DTensor.from_local(torch.ones(4), mesh, [Partial()]).bernoulli_(0.5)


def test_what_torch_draws_by_is_the_full_tensor() -> None:
    chances = torch.linspace(0, 1, 35).view(7, 5)
    with fastinit.patch():
        torch.manual_seed(1)
        want = torch.empty(7, 5).bernoulli_(chances)
    with as_rank(1, 4), fastinit.patch():
        mesh = init_device_mesh("cpu", (4,))
        weight: Any = distribute_tensor(torch.ones(7, 5), mesh, [Shard(0)], src_data_rank=None)
        state = torch.get_rng_state()
        with pytest.raises(NotImplementedError, match=r"bernoulli_ of a DTensor takes the full"):
            weight.bernoulli_(weight.clone())
        assert torch.equal(torch.get_rng_state(), state)
        assert weight.to_local().eq(1).all()
        torch.manual_seed(1)
        weight.bernoulli_(chances)
        assert torch.equal(weight.to_local(), want[2:4])
