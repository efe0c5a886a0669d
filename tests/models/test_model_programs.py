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
from fastinit._fills import spans
from fastinit._recording import batch, graph, memory, naming, settle
from fastinit._recording.recorder import Recorder

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
    following = naming.Keys.next

    def one_more(self: naming.Keys, name: str) -> int:
        if name not in self._names:
            following(self, name)
        return following(self, name)

    monkeypatch.setattr(naming.Keys, "next", one_more)


def _one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming.Names, "of", lambda self, ref: "same")


def _guesses_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read early keeps the key that was guessed for it."""
    always = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(settle.Settled, "right", always, raising=False)


def _dead_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is overwritten is computed, so that later draws get later keys."""
    monkeypatch.setattr(settle, "without_dead", lambda ops, live: list(ops))


def _too_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a part of memory overwrites all of it."""
    everything = lambda self, region: self.remove(0, 1 << 62)  # noqa: E731
    monkeypatch.setattr(spans.Spans, "remove_region", everything)


def _reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's arguments need not be computed for it."""
    monkeypatch.setattr(Recorder, "_need", lambda self, ref: self.unguard(ref.storage))


def _unwritten_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph.Storage, "has_values", lambda self, region: True)


def _touches_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    run = memory.run_fills

    def and_draw(*arguments: Any) -> None:
        torch.rand(1)
        run(*arguments)

    monkeypatch.setattr(memory, "run_fills", and_draw)


DEFECTS: list[tuple[str, Callable[[pytest.MonkeyPatch], None]]] = [
    ("batch", _no_flush),
    ("materialize", _late_keys),
    ("materialize", _one_name),
    ("materialize", _guesses_stay),
    ("materialize", _dead_is_alive),
    ("materialize", _too_dead),
    ("materialize", _reads_nothing),
    ("materialize", _unwritten_passes),
    ("materialize", _touches_the_generator),
    ("initialize_", _late_keys),
    ("initialize_", _guesses_stay),
    ("initialize_", _dead_is_alive),
    ("initialize_", _unwritten_passes),
]


# `w1.masked_fill_(w0 > 0.5, 1)` before w0 has values, which it gets then.
UNWRITTEN = Program(
    (("parameter", "float32"), ("parameter", "float32")),
    (),
    (Step("constant", 1), Step("masked_fill_", 1, 0), Step("constant", 0, number=2)),
)


@pytest.mark.parametrize("door", ["materialize", "initialize_"])
def test_what_a_comparison_makes_of_unwritten_memory_is_unwritten(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not judge(UNWRITTEN, door)
    _unwritten_passes(monkeypatch)
    assert {failure.kind for failure in judge(UNWRITTEN, door)} == {"garbage accepted"}


def test_a_program_that_branches_on_unwritten_memory_means_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = (Step("branch"), Step("constant", number=2))
    monkeypatch.setattr(graph.Storage, "has_values", lambda self, region: False)
    assert not judge(Program((("parameter", "float32"),), (), steps), "materialize")


def test_what_is_read_of_a_draw_without_a_name_is_not_compared() -> None:
    """The memory that it is in is overwritten, and then the parameter gets other memory."""
    steps = (Step("tolist"), Step("eye"), Step("double and back"))
    assert not judge(Program((("drawn", "float32"),), (), steps), "materialize")


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
