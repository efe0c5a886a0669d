"""Shards that initialisers draw with `generator=`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit
from fastinit._recording import waiting

WORLD = 4


class _Draws(nn.Linear):
    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.normal_(generator=torch.Generator().manual_seed(5))
        nn.init.zeros_(self.bias)


@pytest.mark.parametrize("function", [fastinit.initialize_, fastinit.materialize])
def test_a_generator_of_any_device_may_draw_shards(
    function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which the whole is on the CPU meanwhile, wherever its mesh is."""
    seen = []

    def source(tensor: Tensor, ref: Any, generator: torch.Generator) -> torch.device:
        seen.append(ref.storage.stands_in)
        return tensor.device

    monkeypatch.setattr(waiting, "_source", source)
    with as_rank(1, WORLD):
        model: Any = _Draws(3, 8, device="meta")
        model = fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
        if function is fastinit.initialize_:
            model = model.to_empty(device="cpu")
        local = function(model, key=3).weight.to_local().detach()
    assert seen
    assert all(seen)
    want = fastinit.normal_(torch.empty(8, 3), generator=torch.Generator().manual_seed(5))
    assert same_bits(local, want[len(local) : 2 * len(local)])
