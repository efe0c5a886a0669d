"""Random constructors and initialisers give what eager torch gives, at each of the three doors."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from support.model_judge import check, judge
from support.model_programs import (
    DOORS,
    FAILS_TODAY,
    Program,
    Step,
    features,
    make_program,
    programs,
)

from fastinit import _C
from fastinit._fills import batch
from fastinit._models import session
from fastinit._recording import coverage, graph, replay

CHECKS = list(HealthCheck)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors are small; and deterministic algorithms, which poison memory, warn of what is not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("door", "count"), [("batch", 1000), ("materialize", 500), ("initialize_", 500)]
)
def test_programs_give_what_eager_torch_gives(door: str, count: int) -> None:
    _search(door, count)


@pytest.mark.parametrize("door", DOORS)
def test_programs_that_shrink(door: str) -> None:
    @settings(max_examples=20, derandomize=True, suppress_health_check=CHECKS, deadline=None)
    @given(programs(door))
    def search(program: Program) -> None:
        check(program, door)

    search()


def test_what_fails_today_is_named_after_features() -> None:
    """So that a flag whose feature was renamed does not go on excluding nothing."""
    known = features(Program((("parameter", "float32"),), (), ()))
    for seed in range(2000):
        known |= features(make_program(random.Random(seed).choice))
    assert known >= set(FAILS_TODAY)


def _search(door: str, count: int) -> None:
    """Look for a failure in programs of all features that hold, and say the first."""
    for seed in range(count):
        check(make_program(random.Random(seed).choice, door), door)


def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators read memory whose fills wait, and nothing guards it."""
    monkeypatch.setattr(batch._Queue, "touched", lambda self, values: [])
    monkeypatch.setattr(_C, "guard_storage", lambda storage, closed: None)


def _late_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw more is counted for each name."""
    monkeypatch.setattr(
        replay.Keys, "next", lambda self, name: self._key.fold_in(name).fold_in(len(self._count))
    )


def _one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay.Names, "with_temporaries", lambda self, ops: lambda op: "same")


def _dead_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is overwritten is computed, so that later draws get later keys."""
    monkeypatch.setattr(session, "eliminate_dead", lambda ops, live: list(ops))


def _too_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a part of memory overwrites all of it."""
    monkeypatch.setattr(graph.Ref, "whole", property(lambda self: True))


def _reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's arguments need not be computed for it."""
    monkeypatch.setattr(graph.Op, "reads", property(lambda self: set()))


def _unwritten_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage.Coverage, "has", lambda self, ref, before=True: True)


def _touches_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    run = replay.run_fills

    def and_draw(*arguments: Any) -> None:
        torch.rand(1)
        run(*arguments)

    monkeypatch.setattr(replay, "run_fills", and_draw)


DEFECTS: list[tuple[str, Callable[[pytest.MonkeyPatch], None]]] = [
    ("batch", _no_flush),
    ("materialize", _late_keys),
    ("materialize", _one_name),
    ("materialize", _dead_is_alive),
    ("materialize", _too_dead),
    ("materialize", _reads_nothing),
    ("materialize", _unwritten_passes),
    ("materialize", _touches_the_generator),
    ("initialize_", _late_keys),
    ("initialize_", _dead_is_alive),
    ("initialize_", _unwritten_passes),
]


@pytest.mark.parametrize(
    ("door", "plant"),
    DEFECTS,
    ids=[f"{door}-{plant.__name__.strip('_')}" for door, plant in DEFECTS],
)
def test_the_programs_find_planted_defects(
    door: str, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        plant(patched)
        with pytest.raises(AssertionError, match=door):
            _search(door, 500)


# Flags whose feature fails in the plainest program that has it: when it does no more, it goes.
PLAIN = {
    "reads": "item",
    "numpy": "numpy *=",
    "threads": "drawn in a thread",
    "copies of itself": "copy_ of itself",
    ".data": "data = data / norm",
    "grad": "grad",
    "deepcopy": "deepcopy of a child",
    "nested holders": "ema",
}


@pytest.mark.parametrize("feature", PLAIN)
def test_what_is_flagged_fails(feature: str) -> None:
    steps = (Step("normal"), Step(PLAIN[feature]), Step("mul_"))
    program = Program((("parameter", "float32"),), ("norm",), steps)
    doors = FAILS_TODAY[feature][0]
    assert any(judge(program, door) for door in doors), "remove the flag"
