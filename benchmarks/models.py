"""A GPT-2 from transformers' own configuration class, built natively and under fastinit."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import moments
import report
import torch
from timing import Contender, Race
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit

# the published hyper-parameters; the rest are GPT2Config's defaults
PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
}
SIDES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "native": contextlib.nullcontext,
    "fastinit": fastinit.patch,
}


class DrawCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements that torch's random in-place operators are asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._schema.name in ("aten::normal_", "aten::uniform_"):
            self.elements += args[0].numel()
        return func(*args, **(kwargs or {}))


def build(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    return auto.from_config(config)


def reinitialise(model: Any) -> None:
    """Make again, in place, every draw that building ``model`` made.

    That is each module's own constructor draws (``reset_parameters``; transformers' Conv1D has
    none, so the line of its constructor stands here), then the model's ``init_weights``, which
    redraws nearly all of them, with the flags cleared that would make it skip what it has done.
    """
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if isinstance(module, Conv1D):
            torch.nn.init.normal_(module.weight, std=0.02)
            torch.nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for module in model.modules():
        module.__dict__.pop("_is_hf_initialized", None)
        for parameter in module.parameters(recurse=False):
            parameter.__dict__.pop("_is_hf_initialized", None)
    model.init_weights()


@dataclass
class Choice:
    """A model and what building it takes; the transient untied output layer is included."""

    name: str
    config: Any
    parameters: int
    draws: int

    @property
    def nbytes(self) -> int:
        untied: int = self.config.vocab_size * self.config.n_embd
        return 4 * (self.parameters + untied)


def describe(name: str) -> Choice:
    """Count a model's parameters and draws on the meta device, which costs no memory."""
    from transformers import GPT2Config

    config = GPT2Config(**PUBLISHED[name])
    with torch.device("meta"):
        model = build(config)
    with DrawCounter() as counter:
        reinitialise(model)
    return Choice(name, config, sum(p.numel() for p in model.parameters()), counter.elements)


def choose(quick: bool) -> Choice | None:
    """The largest GPT-2 that fits in a third of memory (and in what is free), or None."""
    limit = min(report.total_memory() / 3, 0.9 * report.available_memory())
    for name in ["gpt2"] if quick else PUBLISHED:
        if (choice := describe(name)).nbytes <= limit:
            return choice
    return None


def allocate_as_a_fresh_process() -> None:
    """Keep glibc at its initial threshold, from which on every allocation is its own mapping.

    Left alone it rises once large blocks are freed. Later models would then live in the heap, whose
    pages, and whose mode of huge pages, one start-up would inherit from another.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).mallopt(-3, 128 * 1024)  # M_MMAP_THRESHOLD


def return_free_memory() -> None:
    """Give what is free in the heap back to the kernel as well."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def touch_and_free(nbytes: int) -> None:
    """Have the host back ``nbytes`` of memory, so that no start-up pays for that.

    In huge pages where the kernel grants them: a guest hands its free huge pages back to the host
    sooner than its small ones, and touching small ones would leave them unbacked.
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory would get small pages
    with mmap.mmap(-1, nbytes, flags=private) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel built without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(memory, dtype=torch.uint8).fill_(0)
        del whole  # or the mapping cannot be closed
    return_free_memory()


@dataclass
class StartUps:
    """Start-up samples of one side: seconds, and the page faults and kernel time among them."""

    contender: Contender
    minor_faults: list[int] = field(default_factory=list)
    kernel_s: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return self.contender.as_dict() | {
            "minor_page_faults": self.minor_faults,
            "kernel_s": self.kernel_s,
        }


class ModelPart:
    """Both rows for one model: initialisation of touched memory, and start-up from nothing."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.model: Any = None
        self.start_ups = {
            side: StartUps(Contender("build(side)", build=self._build, side=side)) for side in SIDES
        }
        self.initialisation = Race(
            {side: Contender("again(side)", again=self._reinitialise, side=side) for side in SIDES},
            ("fastinit", "native", "fastinit"),
        )
        self.checks: list[moments.Check] = []

    def _build(self, side: str) -> None:
        with SIDES[side]():
            self.model = build(self.choice.config)

    def _reinitialise(self, side: str) -> None:
        with SIDES[side]():
            reinitialise(self.model)

    def _check(self, what: str) -> None:
        self.checks.append(moments.check(what, self.model))

    def start_up(self, side: str) -> None:
        self.model = None
        return_free_memory()
        touch_and_free(self.choice.nbytes)
        torch.manual_seed(len(self.checks))
        row = self.start_ups[side]
        before = resource.getrusage(resource.RUSAGE_SELF)
        row.contender.sample()
        after = resource.getrusage(resource.RUSAGE_SELF)
        row.minor_faults.append(after.ru_minflt - before.ru_minflt)
        row.kernel_s.append(after.ru_stime - before.ru_stime)
        self._check(f"{side} start-up")

    def run(self, deadline: float, rounds: int = 3) -> None:
        """One round of everything, then more while they should end before ``deadline``."""
        allocate_as_a_fresh_process()
        report.progress(f"{self.choice.name}: native start-up")
        self.start_up("native")
        while self.initialisation.rounds < rounds:
            report.progress(f"{self.choice.name}: initialisation")
            # the fastinit start-up is still to come; it costs less than a round does
            late = time.perf_counter() + 2 * self.initialisation.last_round_s > deadline
            if self.initialisation.rounds and late:
                break
            torch.manual_seed(self.initialisation.rounds)
            self.initialisation.round()  # ends with fastinit
        self._check("fastinit initialisation")
        report.progress(f"{self.choice.name}: fastinit start-up")
        start = time.perf_counter()
        self.start_up("fastinit")
        cost = time.perf_counter() - start + self.start_ups["native"].contender.median
        for _ in range(rounds - 1):
            if time.perf_counter() + 1.5 * cost > deadline:
                break
            self.start_up("native")
            self.start_up("fastinit")
        self.model = None
        return_free_memory()

    def tables(self) -> list[report.Table]:
        choice, race = self.choice, self.initialisation
        builds = {side: row.contender for side, row in self.start_ups.items()}
        rows = []
        for what, sides in (("initialisation", race.contenders), ("start-up", builds)):
            native, ours = sides["native"], sides["fastinit"]
            rows.append(
                [
                    what,
                    report.figures(native.median),
                    report.figures(ours.median),
                    f"{native.median / ours.median:.1f}x",
                    report.figures(choice.draws / native.median / 1e9),
                    report.figures(choice.draws / ours.median / 1e9),
                    f"{len(native.samples)}/{len(ours.samples)}",
                ]
            )
        faults = {
            side: f"{max(row.minor_faults):,} page faults and {max(row.kernel_s):.1f} s of kernel "
            "time"
            for side, row in self.start_ups.items()
        }
        notes = [
            f"initialisation: the {choice.draws / 1e9:.2f} G random elements that building the "
            "model draws (constructors,",
            "  then init_weights), drawn again in place into a model that is already in memory.",
            "start-up: AutoModelForCausalLM.from_config, after the model's size was allocated, "
            "touched and freed.",
            "  The kernel zeroes fresh memory page by page when it is first written, whoever "
            "writes; that cost, which",
            "  dwarfs fastinit's draws, is in both figures (kernel time is summed over threads):",
            *(f"  {side}: {text}." for side, text in faults.items()),
        ]
        title = (
            f"{choice.name}: {choice.parameters / 1e6:,.0f} M parameters, fp32, "
            f"{choice.nbytes / report.GIB:.1f} GiB while building"
        )
        header = ["row", "native s", "fastinit s", "native/fastinit"]
        header += ["native G/s", "fastinit G/s", "samples"]
        timings = report.Table(title, header, rows, notes)
        return [timings, moments.table(self.checks)]

    @property
    def failures(self) -> list[str]:
        return [line for check in self.checks for line in check.failures]

    def as_dict(self) -> dict[str, Any]:
        race = self.initialisation
        builds = {side: row.as_dict() for side, row in self.start_ups.items()}
        native, ours = (self.start_ups[side].contender.median for side in ("native", "fastinit"))
        return {
            "model": self.choice.name,
            "parameters": self.choice.parameters,
            "random_elements_drawn": self.choice.draws,
            "initialisation": {
                "ratio": race.ratio("native", "fastinit"),
                "contenders": {name: c.as_dict() for name, c in race.contenders.items()},
            },
            "start_up": {"ratio": native / ours, "contenders": builds},
            "checks": [check.as_dict() for check in self.checks],
        }


def expected_seconds(choice: Choice, native: float, ours: float, touch: float) -> float:
    """Seconds that one round of everything should take.

    ``native`` and ``ours`` are speeds in elements per second, ``touch`` is the speed of touching
    fresh memory in bytes per second.
    """
    draws = choice.draws * (2 / native + 3 / ours)
    checks = 3 * choice.parameters / 1e9
    return draws + 6 * choice.nbytes / touch + checks


def missing_transformers() -> str:
    """Why the model part cannot run, or an empty string when it can."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # configurations only: nothing is downloaded
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        return f"transformers cannot be imported ({error}); `pip install transformers` adds it"
    return ""
