"""Letting go of memory that nobody has any more, and of what was recorded."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn

import fastinit
from fastinit._patch.scope import Scope
from fastinit._recording.graph import Op, Storage
from fastinit._recording.memory import Memory

_MIB = 1 << 20


def _large() -> torch.Tensor:
    return torch.empty(_MIB, dtype=torch.uint8)


def test_a_search_for_the_dead_does_not_look_at_all_that_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[Storage] = []
    alive = Storage.is_alive.fget  # type: ignore[attr-defined]

    def counted(storage: Storage) -> bool:
        looks.append(storage)
        return bool(alive(storage))

    memory, held = Memory(), []
    monkeypatch.setattr(Storage, "is_alive", property(counted))
    counts = []
    for _ in range(2):
        looks.clear()
        for _ in range(400):
            held.append(_large())
            memory.close(held[-1])
        counts.append(len(looks))
    assert counts[1] < 1.5 * counts[0]
    memory.open_all()


def test_what_dies_is_let_go() -> None:
    memory, held = Memory(), []
    for k in range(300):
        tensor = _large()
        memory.close(tensor)
        if k % 10 == 0:
            held.append(tensor)
    del tensor
    assert len(memory.storages()) <= len(held) + 1
    # What dies behind what lives on is found when there is twice as much.
    later = [_large() for _ in range(40)]
    for one in later:
        memory.close(one)
    held.clear()
    later += [_large() for _ in range(100)]
    for one in later[40:]:
        memory.close(one)
    assert len(memory.storages()) == len(later)
    memory.open_all()


def _layer() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))


def _patched(*, batch: bool) -> None:
    with fastinit.patch(batch=batch):
        _layer()


@pytest.mark.parametrize(
    "initialise",
    [
        lambda: fastinit.initialize_(_layer(), key=0),
        lambda: fastinit.initialize_(_layer(), {"default": fastinit.normal_}, key=0),
        lambda: fastinit.materialize(_layer, key=0),
        lambda: fastinit.materialize(_layer().to("meta"), key=0),
        lambda: _patched(batch=False),
        lambda: _patched(batch=True),
    ],
    ids=["initialize_", "rules", "factory", "meta", "patch", "batch"],
)
def test_nothing_of_a_recording_is_left_to_the_garbage_collector(
    initialise: Callable[[], object],
) -> None:
    initialise()
    gc.collect()
    before = set(map(id, gc.get_objects()))
    gc.disable()
    try:
        initialise()
        held = [one for one in gc.get_objects() if id(one) not in before]
    finally:
        gc.enable()
    kinds = (Memory, Op, Scope, Storage)
    assert [one for one in held if isinstance(one, kinds)] == []


@pytest.mark.parametrize("road", ["materialize", "initialize_"])
def test_what_is_kept_for_a_report_holds_no_memory(road: str) -> None:
    gc.collect()
    before = {id(found) for found in gc.get_objects() if type(found) is Storage}
    module = nn.Linear(3, 4)
    if road == "materialize":
        module = fastinit.materialize(lambda: nn.Linear(3, 4), key=0)
    else:
        fastinit.initialize_(module, key=0)
    kept = [f for f in gc.get_objects() if type(f) is Storage and id(f) not in before]
    assert kept  # what was done
    assert [storage for storage in kept if storage.alive() is not None] == []
    assert [row.flags for row in fastinit.report(module).parameters] == [(), ()]
