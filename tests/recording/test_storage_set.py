"""Storages are told from later ones that are made where they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fastinit
from fastinit._recording.storage_set import StorageSet


def test_a_later_storage_is_another() -> None:
    held = StorageSet()
    for _ in range(1000):
        tensor = torch.empty(3)
        assert tensor not in held
        held.add(tensor)
        assert tensor.view(1, 3) in held
        del tensor


def test_what_lives_stays_and_what_dies_is_let_go() -> None:
    held, kept = StorageSet(), [torch.empty(3) for _ in range(200)]
    held.add_all(kept)
    for _ in range(2000):
        held.add(torch.empty(3))
    assert all(tensor in held for tensor in kept)
    assert len(held._holds) < 1000


def test_what_large_memory_leaves_is_let_go_soon() -> None:
    held = StorageSet()
    for _ in range(20):
        held.add(torch.empty(1 << 22, dtype=torch.uint8))
    assert len(held._holds) <= 2


def test_what_has_no_storage_is_in_none() -> None:
    held, sparse = StorageSet(), torch.eye(2).to_sparse()
    held.add(sparse)
    assert sparse not in held


@pytest.mark.parametrize("temporaries", [0, 1, 10])
def test_memory_of_before_is_written_once(temporaries: int) -> None:
    table, runs = np.zeros(4, dtype=np.float32), []

    def factory() -> nn.Module:
        runs.append(1)
        module = nn.Linear(2, 2)
        float(module.weight.detach().sum())  # read early, so all of this runs again
        made = [torch.ones(3) for _ in range(temporaries)]
        del made  # what is made next may be where these were
        torch.from_numpy(table).add_(1)
        return module

    fastinit.materialize(factory, key=0)
    assert len(runs) == 2
    assert table.tolist() == [1.0] * 4
