"""Counts what the inner loops of the CUDA fill kernels cost, without a GPU.

    python tools/sass_counts.py [--arch 90] [--root another/checkout] [kernel files]

Compiles csrc/cuda/fill_*.cu, disassembles, and counts the instructions of the loop that writes the
middle of a contiguous tensor, per four elements: all of them, and those of each pipe. An SM of
sm_90 issues 128 a clock (four warps of 32 lanes); its pipes take 64 (ALU: logic, shifts, additions,
comparisons, selections, conversions), 128 (FMA, in two halves; products of integers in one of them
only, 64 low and 32 wide or high ones, as an H200 showed), 16 (XU: reciprocals, root estimates, bit
counts), 32 (LSU: memory and shuffles). The pipe that takes longest bounds the loop; `clocks` are
those of one SM for the four elements of 32 lanes, `of memset` what that leaves of an H200's speed
of setting memory. It is a model: only a GPU tells times. For the truncated normal the loops over
tails count as often as they run on average.

Needs nvcc and, on the PATH, cuobjdump and nvdisasm (the toolkit's, or nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm of PyPI).
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("fill_uniform", "fill_normal", "fill_trunc_normal", "fill_constant")
KINDS = ("constant", "words", "uniform", "normal", "narrow", "central", "tail", "far")
DTYPES = ("f32", "f64", "f16", "bf16", "e4m3", "e5m2", "word", "bytes")
ITEMS = (4, 8, 2, 2, 1, 1, 4, 1)
FLAGS = ("-std=c++17", "-O3", "--fmad=false")
# Lanes a clock.
RATES = {"ALU": 64, "FMA": 128, "IMAD": 64, "XU": 16, "LSU": 32, "FP64": 64}
WIDE = 2  # products of 64 bits take as long as so many others
ISSUED = 128
# An H200: processors, clocks a second (as ncu saw them), bytes a second set in memory.
PROCESSORS, CLOCK, MEMSET = 132, 1.95e9, 4.6e12
# Of N(0, 1) on +-2 sigma: what is beyond the middle branch, |d| > 0.425.
TAILS = 0.1107
NAME = re.compile(r"KindE(\d+).*DTypeE(\d+).*ClampE(\d+)")
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z0-9_.]+)([^;]*);")


def pipe(opcode: str) -> str:
    head = opcode.split(".")[0]
    if head in ("FFMA", "FMUL", "FADD", "HFMA2", "HADD2", "HMUL2", "FFMA2", "FMUL2", "FADD2"):
        return "FMA"
    if head == "IMAD":
        return "WIDE" if opcode.startswith(("IMAD.WIDE", "IMAD.HI")) else "IMAD"
    if head in ("DFMA", "DMUL", "DADD", "DSETP"):
        return "FP64"
    if head in ("MUFU", "POPC", "FLO", "BREV", "I2F", "F2I", "F2F"):
        return "XU"
    if head in ("LDS", "STS", "STG", "LDG", "LD", "ST", "SHFL", "ATOMS", "LDL", "STL"):
        return "LSU"
    if head in ("BRA", "BSSY", "BSYNC", "EXIT", "NOP", "WARPSYNC", "CALL", "RET", "BAR", "BRX"):
        return "other"
    if head in ("LDC", "LDCU", "S2R", "CS2R", "S2UR", "R2UR", "DEPBAR") or head.startswith("U"):
        return "other"
    return "ALU"


@dataclass
class Instruction:
    address: int
    opcode: str
    rest: str

    @property
    def back(self) -> int | None:
        """Where a branch to an earlier instruction leads."""
        target = re.search(r"0x([0-9a-f]+)\s*$", self.rest) if self.opcode == "BRA" else None
        at = int(target[1], 16) if target else self.address
        return at if at < self.address else None


def functions(assembly: str) -> dict[str, list[Instruction]]:
    found: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in assembly.splitlines():
        if "Function :" in line:
            body = found.setdefault(line.split(":")[1].strip(), [])
        elif match := LINE.search(line):
            body.append(Instruction(int(match[1], 16), match[3], match[4]))
    return found


def expected_most(n: int, lanes: int) -> float:
    """The mean of the greatest of `lanes` binomial numbers."""
    odds = [math.comb(n, k) * TAILS**k * (1 - TAILS) ** (n - k) for k in range(n + 1)]
    return sum(1 - sum(odds[: k + 1]) ** lanes for k in range(n))


def expected_rounds(n: int) -> float:
    """The mean of the rounds of 32 that a binomial number takes."""
    return sum(
        math.ceil(k / 32) * math.comb(n, k) * TAILS**k * (1 - TAILS) ** (n - k)
        for k in range(n + 1)
    )


def loops(body: list[Instruction]) -> list[tuple[int, int]]:
    return sorted((i.back, i.address) for i in body if i.back is not None)


def count(body: list[Instruction], item: int) -> tuple[Counter[str], float]:
    """Instructions by pipe of the unrolled loop, and how many blocks of four elements it makes."""
    stores = {
        (a, b): sum(i.opcode.startswith("STG.E.128") for i in body if a <= i.address <= b)
        for a, b in loops(body)
    }
    # Of the loops that have stores of 16 bytes, but no smaller loop that has, the one with most.
    least = {
        (a, b): n
        for (a, b), n in stores.items()
        if n > 0
        and not any(
            m > 0 and a <= c and d <= b and (c, d) != (a, b) for (c, d), m in stores.items()
        )
    }
    a, b = max(least, key=lambda loop: least[loop])
    blocks = stores[(a, b)] * 16 / item / 4
    weights = {}
    for c, d in loops(body):
        if a <= c and d <= b and (c, d) != (a, b):
            inner = [i.opcode for i in body if c <= i.address <= d]
            samples = int(4 * blocks)
            reciprocals = any(op.startswith("MUFU") for op in inner)
            weights[(c, d)] = (
                expected_rounds(32 * samples) if reciprocals else expected_most(samples, 32)
            )
    counts: Counter[str] = Counter()
    for i in body:
        if a <= i.address <= b and i.opcode != "NOP":
            times = 1.0
            for (c, d), weight in weights.items():
                times *= weight if c <= i.address <= d else 1
            counts[pipe(i.opcode)] += times
    return counts, blocks


def row(name: str, counts: Counter[str], blocks: float, item: int) -> str:
    each = {p: n / blocks for p, n in counts.items()}
    total = sum(each.values())
    products = each.get("IMAD", 0) + WIDE * each.get("WIDE", 0)
    use = dict(each, FMA=each.get("FMA", 0) + products, IMAD=products)
    clocks = {p: 32 * use.get(p, 0) / rate for p, rate in RATES.items()}
    clocks["issue"] = 32 * total / ISSUED
    bound = max(clocks, key=lambda p: clocks[p])
    cells = [f"{use.get(p, 0):.1f}" for p in RATES]
    share = 32 * 4 * item / clocks[bound] * PROCESSORS * CLOCK / MEMSET
    last = "memory bound" if share >= 1 else f"{share:.0%}"
    cells += [f"{clocks[bound]:.1f} ({bound})", last]
    return " | ".join(["", name, f"{total:.1f}", *cells, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--arch", default="90")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    print(" | ".join(["", "per four elements", "all", *RATES, "clocks", "of memset", ""]).strip())
    print("|".join(["", *["---"] * (len(RATES) + 4), ""]))
    for file in options.files:
        source = options.root / "csrc" / "cuda" / f"{file}.cu"
        with tempfile.TemporaryDirectory() as folder:
            binary = Path(folder, "kernel.cubin")
            target = f"-gencode=arch=compute_{options.arch},code=sm_{options.arch}"
            include = f"-I{options.root / 'csrc'}"
            command = ["nvcc", *FLAGS, include, target, "-cubin", "-o", binary, source]
            subprocess.run(command, check=True)
            done = subprocess.run(
                ["cuobjdump", "-sass", binary], check=True, capture_output=True, text=True
            )
        for symbol, body in sorted(functions(done.stdout).items()):
            match = NAME.search(symbol)
            if match is None:
                continue
            kind, dtype, clamped = (int(group) for group in match.groups())
            name = f"{DTYPES[dtype]} {KINDS[kind]}" + (" (clamped)" if clamped == 1 else "")
            print(row(name, *count(body, ITEMS[dtype]), ITEMS[dtype]).strip())


if __name__ == "__main__":
    main()
