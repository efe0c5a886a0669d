"""Interleaved rounds of timed calls, on top of ``torch.utils.benchmark.Timer``."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import benchmark


class RoundTimer(benchmark.Timer):
    """torch's Timer, one sample at a time and without its two unrecorded warm-up calls.

    A native fill of a large table takes seconds, so warm-up calls would triple the cost of a run.
    Every buffer here is touched, and every function called once on a small tensor, beforehand.
    """

    def sample(self, number: int = 1) -> float:
        """Seconds per execution of the statement, over ``number`` executions in a row."""
        return self._timeit(number) / number


class Contender:
    """One way of doing a job: a statement, what it refers to, and the seconds it has taken."""

    def __init__(self, stmt: str, *, number: int = 1, **names: Any) -> None:
        self.timer = RoundTimer(stmt, globals=names)
        self.number = number
        self.samples: list[float] = []

    def sample(self) -> None:
        self.samples.append(self.timer.sample(self.number))

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def as_dict(self) -> dict[str, Any]:
        return {
            "median_s": self.median,
            "min_s": min(self.samples),
            "max_s": max(self.samples),
            "samples_s": self.samples,
            "calls_per_sample": self.number,
        }


class QueuedContender(Contender):
    """A job queued on a device, timed by events on it: `run(n)` does the job n times.

    Without a device it is timed by the clock, which is for trying the benchmarks out.
    """

    def __init__(self, run: Callable[[int], None], device: torch.device) -> None:
        self.run = run
        self.device = device
        self.number = 1
        self.samples = []

    def calibrate(self, seconds: float, most: int) -> None:
        """Warm up, then choose how many jobs make a sample of about that many seconds."""
        for _ in range(3):
            self.sample()
        self.number = max(1, min(most, math.ceil(seconds / max(self.samples[-1], 1e-9))))
        self.samples = []

    def sample(self) -> None:
        if self.device.type == "cpu":
            began = time.perf_counter()
            self.run(self.number)
            self.samples.append((time.perf_counter() - began) / self.number)
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        start.record()
        self.run(self.number)
        end.record()
        end.synchronize()
        self.samples.append(start.elapsed_time(end) / 1e3 / self.number)


class Race:
    """Contenders sampled in turn, so that a slow spell of the machine hits all of them alike.

    ``order`` is one round, by name; a name may occur more than once. ``minimum`` rounds are run
    even when time is short. Contenders named in ``once`` sit out all rounds but the first.
    """

    def __init__(
        self,
        contenders: dict[str, Contender],
        order: Sequence[str],
        *,
        minimum: int = 1,
        once: Sequence[str] = (),
    ) -> None:
        self.contenders = contenders
        self.order = tuple(order)
        self.minimum = minimum
        self.once = frozenset(once)
        self.rounds = 0
        self.last_round_s = 0.0

    def __getitem__(self, name: str) -> Contender:
        return self.contenders[name]

    def round(self) -> None:
        start = time.perf_counter()
        for name in self.order:
            if self.rounds == 0 or name not in self.once:
                self.contenders[name].sample()
        self.rounds += 1
        self.last_round_s = time.perf_counter() - start

    def ratio(self, numerator: str, denominator: str) -> float:
        """Median time of one contender over the median time of another."""
        return self[numerator].median / self[denominator].median


def run_rounds(
    races: Sequence[Race],
    *,
    rounds: int,
    deadline: float,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Bring every race to ``rounds`` rounds, passing over all of them before starting again.

    Past a race's own minimum, a round is skipped when it would end after ``deadline``
    (``time.perf_counter`` seconds), judged by the time its last round took.
    """
    for target in range(1, rounds + 1):
        for index, race in enumerate(races):
            late = time.perf_counter() + race.last_round_s > deadline
            if race.rounds < target and (target <= race.minimum or not late):
                progress(f"round {target}/{rounds}, race {index + 1}/{len(races)}")
                race.round()
