"""Modules whose parameters or buffers have no memory, or not enough: named, and nothing written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank_of
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

import fastinit


def embedding(nbytes: int = 0) -> nn.Embedding:
    module = nn.Embedding(10, 4)
    module.weight.untyped_storage().resize_(nbytes)
    return module


class Two(nn.Module):
    """A layer, then one whose weight was freed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), embedding()


@pytest.mark.parametrize("nbytes", [0, 80])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"rules": {"*weight": fastinit.ones_}},
        {"rules": {"default": None}},
        {"factory": lambda: nn.Embedding(10, 4)},
    ],
)
def test_parameters_are_named(nbytes, arguments: dict[str, Any]):
    module = embedding(nbytes)
    with pytest.raises(
        RuntimeError, match=rf"initialize_: .*: weight has {nbytes} bytes of storage and needs 160"
    ):
        fastinit.initialize_(module, key=0, **arguments)
    assert module.weight.untyped_storage().nbytes() == nbytes


def test_the_others_stay_as_they_were():
    module = Two()
    before = [p.detach().clone() for p in module.first.parameters()]
    with pytest.raises(RuntimeError, match=r"second\.weight has 0 bytes of storage"):
        fastinit.initialize_(module, key=0)
    assert all(map(same_bits, module.first.parameters(), before))
    assert [p._version for p in module.first.parameters()] == [1, 1]  # by the constructor


def test_what_is_skipped_may_have_none():
    module = fastinit.initialize_(Two(), key=0, skip="second.*")
    assert same_bits(
        module.first.weight, fastinit.initialize_(nn.Linear(3, 3), key=0, prefix="first").weight
    )
    assert module.second.weight.untyped_storage().nbytes() == 0


def test_beside_the_meta_device_it_stays():
    module = nn.Sequential(embedding(), nn.Linear(4, 4, device="meta"))
    fastinit.materialize(module, key=0)
    assert module[1].weight.any()
    assert module[0].weight.untyped_storage().nbytes() == 0


@pytest.mark.parametrize("name", ["running_mean", "num_batches_tracked"])
def test_buffers_that_are_written(name):
    module = nn.BatchNorm1d(100)
    before = module.weight.detach().fill_(2).clone()
    module.get_buffer(name).untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=f"would write to {name}, which has 0 bytes of storage"):
        fastinit.initialize_(module, key=0)
    assert same_bits(module.weight, before)


def test_buffers_that_nobody_writes_may_have_none():
    module = nn.Linear(3, 3)
    module.register_buffer("cache", torch.empty(7))
    module.cache.untyped_storage().resize_(0)
    fastinit.initialize_(module, key=0)
    assert module.cache.untyped_storage().nbytes() == 0


def test_buffers_that_a_factory_fills():
    module = nn.BatchNorm1d(100)
    module.running_mean.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="running_mean has 0 bytes of storage and needs 400"):
        fastinit.initialize_(module, key=0, factory=lambda: nn.BatchNorm1d(100))


def test_what_an_initialiser_makes_room_for_first():
    class Cached(nn.Linear):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            if hasattr(self, "cache"):
                self.cache.resize_(16).fill_(3)

    module = Cached(3, 3)
    module.register_buffer("cache", torch.empty(8))
    module.cache.untyped_storage().resize_(0)
    fastinit.initialize_(module, key=0)
    assert module.cache.tolist() == [3] * 16


def test_what_a_factory_has_freed():
    with pytest.raises(RuntimeError, match="has 0 bytes of storage and needs 160"):
        fastinit.materialize(embedding, rules={"default": fastinit.ones_}, key=0)


def test_shards():
    with as_rank_of((2,), 0) as mesh:
        module = nn.Linear(4, 4, bias=False)
        module.weight = nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)]))
        module.weight.to_local().untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="weight has 0 bytes of storage and needs 32"):
            fastinit.initialize_(module, key=0)
        with pytest.raises(RuntimeError, match="'tensor' has 0 bytes of storage and needs 32"):
            fastinit.normal_(module.weight, key=0)


@pytest.mark.parametrize("left", [0, 16])
def test_what_a_factory_makes(left: int) -> None:
    def factory() -> nn.Module:
        layer = nn.Linear(4, 4)
        layer.weight.untyped_storage().resize_(left)
        return layer

    with pytest.raises(RuntimeError, match=rf"weight has {left} bytes of storage and needs 64"):
        fastinit.materialize(factory, key=0)
    assert fastinit.materialize(factory, key=0, skip="weight").weight.shape == (4, 4)
