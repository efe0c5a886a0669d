"""Draws without a key leave the generators of all ranks alike, and nothing is communicated."""

from __future__ import annotations

import pytest
import torch
from support.fake_ranks import as_rank
from support.keyless import Draws
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode

WORLD = 6


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("block", range(4))
def test_states_agree_after_any_sequence(block: int) -> None:
    """Sequences of all kinds of draws, on ranks of which some hold nothing of what is drawn."""
    kinds: set[str] = set()
    for seed in range(8 * block, 8 * block + 8):
        states = []
        for rank in (0, 1, 5):
            with as_rank(rank, WORLD):
                meshes = [
                    init_device_mesh("cpu", (WORLD,)),
                    init_device_mesh("cpu", (2, 3)),
                    DeviceMesh("cpu", [1, 2]),  # rank 0 and 5 are outside
                    DeviceMesh("cpu", [0]),
                ]
                torch.manual_seed(seed)
                draws = Draws(seed, meshes, rank, WORLD)
                with CommDebugMode() as collectives:
                    kinds |= set(draws.run(12))
                assert collectives.get_total_counts() == 0
                states.append((torch.get_rng_state(), draws.generator.get_state()))
        for state in states[1:]:
            assert all(map(torch.equal, states[0], state)), seed
    assert len(kinds) == 10
