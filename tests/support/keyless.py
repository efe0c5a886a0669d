"""Sequences of draws without a key, the same on every rank, whatever it holds of what they fill."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Placement, Replicate, Shard, empty, rand
from torch.distributed.tensor.debug import CommDebugMode

import fastinit
from support.rank_cases import case


class Draws:
    """Makes draws that a seed chooses.

    Args:
        seed: chooses them.
        meshes: what DTensors lie on; ranks may be outside of some.
        place: of `shares` who hold parts by hand, which one this is.
        shares: how many there are.
    """

    def __init__(self, seed: int, meshes: Sequence[DeviceMesh], place: int, shares: int) -> None:
        self._choose = random.Random(seed)
        self._meshes = meshes
        self._place = place
        self._shares = shares
        self.generator = torch.Generator().manual_seed(seed)

    def run(self, count: int) -> list[str]:
        """Make some draws; give the names of what was drawn by."""
        kinds: list[Callable[[], None]] = [
            self.call,
            self.call,
            self.under_a_key,
            self.by_a_generator,
            self.under_a_patch,
            self.a_box,
            self.a_range,
            self.a_plain_tensor,
            self.a_model,
            self.a_batch,
            self.refused,
        ]
        chosen = self._choose.choices(kinds, k=count)
        for kind in chosen:
            kind()
        return [kind.__name__ for kind in chosen]

    def _size(self, dims: int = 2) -> tuple[int, ...]:
        return tuple(self._choose.choice((0, 1, 2, 3, 5, 8)) for _ in range(dims))

    def _dtensor(self) -> Tensor:
        """Make one, often with ranks that hold nothing, at times without any elements."""
        mesh = self._choose.choice(self._meshes)
        size = self._size()
        kinds: list[Placement] = [Shard(0), Shard(1), Replicate()]
        placements = self._choose.choices(kinds, k=mesh.ndim)
        return empty(*size, device_mesh=mesh, placements=placements)

    def _function(self) -> Callable[..., Tensor]:
        return self._choose.choice(
            [
                fastinit.normal_,
                fastinit.uniform_,
                fastinit.trunc_normal_,
                fastinit.xavier_normal_,
                fastinit.kaiming_uniform_,
                fastinit.lecun_normal_,
                fastinit.orthogonal_,
                lambda tensor, **how: fastinit.sparse_(tensor, 0.5, **how),
            ]
        )

    def _fill(self, tensor: Tensor, **how: object) -> None:
        function = self._function()
        try:
            function(tensor, **how)
        except (ValueError, ZeroDivisionError):  # of sizes of which there is none, on every rank
            assert 0 in tensor.shape, (function, tensor.shape)

    def call(self) -> None:
        self._fill(self._dtensor())

    def under_a_key(self) -> None:
        self._fill(self._dtensor(), key=self._choose.randrange(100))

    def by_a_generator(self) -> None:
        self._fill(self._dtensor(), generator=self.generator)

    def under_a_patch(self) -> None:
        tensor = self._dtensor()
        with fastinit.patch(), torch.no_grad():
            self._choose.choice([nn.init.normal_, nn.init.trunc_normal_, nn.init.uniform_])(tensor)
            tensor.normal_()
            torch.rand_like(tensor)
            rand(3, 5, device_mesh=self._meshes[0], placements=[Shard(0)] * self._meshes[0].ndim)

    def a_box(self) -> None:
        rows, columns = self._size()
        each = -(-rows // self._shares)
        first = min(rows, each * self._place)
        local = torch.empty(min(rows, first + each) - first, columns)
        self._fill(fastinit.shard(local, (rows, columns), (first, 0)))

    def a_range(self) -> None:
        size = self._size()
        numel = math.prod(size)
        each = -(-numel // self._shares)
        first = min(numel, each * self._place)
        local = torch.empty(min(numel, first + each) - first)
        self._fill(fastinit.shard(local, size, start=first))

    def a_plain_tensor(self) -> None:
        fastinit.normal_(torch.empty(self._size()))

    def a_model(self) -> None:
        mesh = self._meshes[0]
        key = self._choose.choice((None, 3))
        with torch.device(self._choose.choice(("cpu", "meta"))):
            layer = nn.Sequential(nn.Linear(3, 2), nn.Embedding(5, 4, 1))
        fully_shard(layer, mesh=mesh)
        on_meta = layer[0].weight.is_meta
        (fastinit.materialize if on_meta else fastinit.initialize_)(layer, key=key)
        rules = {"*": self._choose.choice([fastinit.normal_, nn.init.zeros_])}
        fastinit.initialize_(layer, rules, key=key)
        with fastinit.patch(module=layer), torch.no_grad():
            for parameter in layer.parameters():
                nn.init.normal_(parameter)

    def a_batch(self) -> None:
        with fastinit.batch():
            self._fill(self._dtensor())
            fastinit.uniform_(torch.empty(3))

    def refused(self) -> None:
        with pytest.raises(RuntimeError, match="std"):
            fastinit.normal_(self._dtensor(), std=-1.0)
        with pytest.raises(ValueError, match="sparsity"):
            fastinit.sparse_(self._dtensor(), math.nan)


# ---- on processes --------------------------------------------------------------------------------


def drawn(seed: int) -> list[torch.Tensor]:
    """Make a sequence on four ranks; give the states after it."""
    rank = distributed.get_rank()
    meshes = [DeviceMesh("cpu", ranks) for ranks in ([0, 1, 2, 3], [[0, 1], [2, 3]], [1, 2], [3])]
    draws = Draws(seed, meshes, rank, 4)
    with CommDebugMode() as collectives, fastinit.check_ranks():
        draws.run(20)
    assert collectives.get_total_counts() == 0
    return [torch.get_rng_state(), draws.generator.get_state()]


@case
def states_agree_after_sequences() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        states: list[Any] = [None] * 4
        distributed.all_gather_object(states, drawn(seed))
        for other in states[1:]:
            assert all(map(torch.equal, states[0], other)), seed


@case
def another_seed_is_named_in_any_sequence() -> None:
    for seed in range(3):
        torch.manual_seed(seed + (distributed.get_rank() == 2))
        begin = time.monotonic()
        with pytest.raises(RuntimeError, match="rank 2") as error:
            drawn(seed)
        took = time.monotonic() - begin
        assert "not the same: the key" in str(error.value), error.value
        assert took < 5, took
        distributed.barrier()
