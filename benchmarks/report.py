"""What the benchmark ran on, and its tables as text, Markdown and JSON."""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


SHORT_DTYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8 e4m3",
    torch.float8_e5m2: "fp8 e5m2",
}


def dtype_name(dtype: torch.dtype) -> str:
    return SHORT_DTYPES.get(dtype, str(dtype).removeprefix("torch."))


def shape_name(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)


def figures(value: float) -> str:
    """Three significant figures without an exponent: 1.23, 12.3, 0.00123."""
    text = f"{value:.3g}"
    return f"{value:.6f}" if "e-" in text else f"{value:.0f}" if "e+" in text else text


@dataclass
class Table:
    """A titled table of ready-made strings; the notes under it explain its columns."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        columns = list(zip(self.header, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        numeric = [all(c.lstrip("-")[:1].isdigit() for c in column[1:]) for column in columns]

        def line(cells: Sequence[str]) -> str:
            aligned = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(cells, widths, numeric, strict=True)
            )
            return "  ".join(aligned).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [self.title, rule, line(self.header), rule, *map(line, self.rows), rule]
        return "\n".join([*lines, *self.notes])

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        lines = [f"### {self.title}", "", line(self.header), line(["---"] * len(self.header))]
        lines += [line(row) for row in self.rows]
        return "\n".join([*lines, "", *(note.strip() for note in self.notes), ""])


def processor() -> str:
    """The processor's model name, as the operating system states it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read_int(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def total_memory() -> int:
    """Bytes this process may use: the machine's memory or its control group's limit, if lower."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if (limit := _read_int(path)) is not None:
            limits.append(limit)
    return min(limits)


def available_memory() -> int:
    """Bytes that can be had without swapping, or :func:`total_memory` where that is unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, total_memory())
    except OSError:
        pass
    return total_memory()


def huge_pages() -> str:
    """Which mode of transparent huge pages the kernel has on, or "unknown"."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0] or "unknown"


class Disturbance:
    """How busy everything but this process has kept the machine since this object was made.

    A fill on all processors suffers from other work more than a native one on a single thread,
    however the two are interleaved, so a reader of the ratios has to know.
    """

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Wall seconds, processor seconds of all other work, seconds stolen by the host."""
        try:
            ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        except (OSError, ValueError):
            return None
        user, nice, system, _, _, irq, softirq, stolen = (
            n / os.sysconf("SC_CLK_TCK") for n in ticks[:8]
        )
        own = time.process_time()
        return time.perf_counter(), user + nice + system + irq + softirq - own, stolen

    def as_dict(self) -> dict[str, float]:
        """Processors kept busy by others, and taken by the host, on average; empty if unknown."""
        now = self._read()
        if self._start is None or now is None:
            return {}
        wall, other, stolen = (b - a for a, b in zip(self._start, now, strict=True))
        return {"other_processes": max(other, 0.0) / wall, "stolen_by_host": stolen / wall}

    def text(self) -> str:
        shares = self.as_dict()
        if not shares:
            return ""
        total = sum(shares.values())
        verdict = "too much: repeat this on an idle machine" if total > 0.1 else "quiet"
        return (
            f"meanwhile other processes kept {shares['other_processes']:.2f} of {os.cpu_count()} "
            f"processors busy, and the host took {shares['stolen_by_host']:.2f} ({verdict})"
        )


def environment(config: dict[str, Any]) -> dict[str, Any]:
    """Facts for the header; ``config`` is what fastinit says of itself."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        **config,
        "torch": torch.__version__,
        "torch capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "logical processors": os.cpu_count(),
        "memory": f"{total_memory() / GIB:.1f} GiB",
        "transparent huge pages": huge_pages(),
        "load average at start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def header(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items())


def markdown(facts: dict[str, Any], tables: Sequence[Table]) -> str:
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    return "\n".join([*lines, "", *(table.markdown() for table in tables)])


def progress(text: str) -> None:
    """A status line that overwrites itself; nothing when stderr is not a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
