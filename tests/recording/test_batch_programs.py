"""`fastinit.batch()` gives the eager result or an error: random programs, and planted defects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from support.batch_programs import PARTS, PROGRAM, check

from fastinit import _C
from fastinit._fills.spans import Spans
from fastinit._recording import memory
from fastinit._recording.batch import BatchMode, _Queue
from fastinit._recording.graph import Storage

CHECKS = list(HealthCheck)


@settings(max_examples=500, suppress_health_check=CHECKS)
@given(PROGRAM)
@example(PARTS)
def test_the_eager_result_or_an_error(program: Any) -> None:
    check(program)


def _misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operator and no function flushes any more; the guard still speaks."""
    monkeypatch.setattr(_Queue, "touched", lambda self, values: [])


def _misses_unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    _misses(monkeypatch)
    monkeypatch.setattr(_C, "guard_storage", lambda storage, closed: None)


def _misses_functions_unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        BatchMode, "__torch_function__", lambda self, f, t, a=(), k=None: f(*a, **(k or {}))
    )
    monkeypatch.setattr(_C, "guard_storage", lambda storage, closed: None)


def _unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and capsules read garbage."""
    monkeypatch.setattr(_C, "guard_storage", lambda storage, closed: None)


def _covers_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spans, "remove_region", lambda self, region: self.remove(0, 1 << 62))


def _late_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are taken from the generator when the fills run, in the reverse order."""
    run = memory.run_fills

    def reversed_keys(fills: Any) -> None:
        keys = [fill.key for _, fill in fills][::-1]
        run(
            [
                (tensor, fill._replace(key=key))
                for (tensor, fill), key in zip(fills, keys, strict=True)
            ]
        )

    monkeypatch.setattr(memory, "run_fills", reversed_keys)


def _out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    run = memory.run_fills
    monkeypatch.setattr(memory, "run_fills", lambda fills: run(fills[::-1]))


def _reopens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been handed out is queued for again."""
    real = _Queue.open

    def open_and_close(self: _Queue, storages: list[Storage]) -> None:
        opened = [s for s in storages if s.address in self._storages]
        real(self, opened)
        for storage in opened:
            storage.pending = []
            self._storages[storage.address] = storage

    monkeypatch.setattr(_Queue, "open", open_and_close)
    monkeypatch.setattr(_C, "guard_storage", lambda storage, closed: None)


DEFECTS = [
    _misses,
    _misses_unguarded,
    _misses_functions_unguarded,
    _unguarded,
    _covers_too_much,
    _late_keys,
    _out_of_order,
    _reopens,
]


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda plant: plant.__name__.strip("_"))
def test_the_programs_find_planted_defects(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(
        max_examples=3000,
        suppress_health_check=CHECKS,
        phases=[Phase.explicit, Phase.generate],
        database=None,
        derandomize=True,
    )
    @given(PROGRAM)
    @example(PARTS)
    def search(program: Any) -> None:
        check(program)

    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(AssertionError):
            search()
