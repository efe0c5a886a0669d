"""What one rank of a large mesh pays for its part of a model: seconds and memory beside world size.

    python benchmarks/sharded.py [--worlds 256,1024,4096] [--layers 61] [--quick]

The model has the shape of DeepSeek-V3 (671 B parameters, packed experts), in plain modules on the
meta device; experts over 64 ranks and FSDP2 over the others, the rest by FSDP2 over all. Ranks are
seen one by one, each in a process of its own, through torch's fake process group. Beside the model
as it is there is one with as many elements in experts for each rank, whatever the number of ranks.
Times are processor time, the least of some rounds but for `materialize`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import fastinit

KEY = 5
STD = 0.02
EXPERT_RANKS = 64


class Linear(nn.Linear):
    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=STD)


class Experts(nn.Module):
    def __init__(self, count: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(count, 2 * inner, width))
        self.down = nn.Parameter(torch.empty(count, width, inner))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.gate_up, std=STD)
        nn.init.normal_(self.down, std=STD)


class Layer(nn.Module):
    """Latent attention, and experts or, in the first three layers, a dense block."""

    def __init__(self, experts: int, width: int, scale: int) -> None:
        super().__init__()
        heads, inner = 128 // scale, 2048 // scale
        self.q_a = Linear(1536 // scale, width)
        self.q_norm = nn.RMSNorm(1536 // scale)
        self.q_b = Linear(heads * 192, 1536 // scale)
        self.kv_a = Linear(576 // scale, width)
        self.kv_norm = nn.RMSNorm(512 // scale)
        self.kv_b = Linear(heads * 256, 512 // scale)
        self.o = Linear(width, heads * 128)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        if experts:
            self.router = Linear(experts, width)
            self.experts = Experts(experts, width, inner)
        block = inner if experts else 18432 // scale
        self.gate = Linear(block, width)
        self.up = Linear(block, width)
        self.down = Linear(width, block)


class Model(nn.Module):
    def __init__(self, layers: int, experts: int, scale: int) -> None:
        super().__init__()
        width, words = 7168 // scale, 129280 // scale
        self.embedding = nn.Embedding(words, width)
        self.layers = nn.ModuleList(
            Layer(0 if k < 3 else experts, width, scale) for k in range(layers)
        )
        self.norm = nn.RMSNorm(width)
        self.head = Linear(words, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight, std=STD)


def sharded(world: int, layers: int, experts: int, scale: int) -> nn.Module:
    """Make the model as a rank has it, on the meta device."""
    over = min(EXPERT_RANKS, world)
    plane = init_device_mesh("cpu", (world // over, over), mesh_dim_names=("fsdp", "ep"))
    line = init_device_mesh("cpu", (world,))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = Model(layers, experts, scale)
    torch.set_default_dtype(default)
    for layer in model.layers:
        packed: Any = getattr(layer, "experts", None)
        if packed is not None:
            for name, parameter in list(packed._parameters.items()):
                spread = distribute_tensor(
                    parameter.detach(), plane["ep"], [Shard(0)], src_data_rank=None
                )
                packed.register_parameter(name, nn.Parameter(spread))
            fully_shard(packed, mesh=plane["fsdp"], shard_placement_fn=lambda _: Shard(1))
        fully_shard(layer, mesh=line)
    result: nn.Module = fully_shard(model, mesh=line)
    return result


def status(name: str) -> float:
    """A figure of this process's memory, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 2**20
    return math.nan


def seconds(function: Callable[[], object]) -> float:
    """Processor time, of all threads: that by the clock depends on what else a machine does."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def compare_slices(locals_of: dict[str, Any], count: int) -> tuple[int, int]:
    """Draw slices of the unsharded model and compare; give how many there were, and wrong ones."""
    from fastinit._distributed.part import part_of

    chosen = random.Random(1)
    drawn = [name for name, p in locals_of.items() if p.dim() > 1]
    compared = wrong = 0
    for name in drawn:
        parameter = locals_of[name]
        key = fastinit.Key(KEY).fold_in(name).fold_in(0)
        for view, offset in part_of(parameter, name).views():
            for _ in range(max(1, -(-count // len(drawn)))):
                size = [min(5, n) for n in view.shape]
                at = [chosen.randrange(n - k + 1) for n, k in zip(view.shape, size, strict=True)]
                held = view[tuple(slice(a, a + k) for a, k in zip(at, size, strict=True))]
                want = torch.empty(size, dtype=view.dtype)
                place = [a + o for a, o in zip(at, offset, strict=True)]
                part = fastinit.shard(want, tuple(parameter.shape), place)
                fastinit.normal_(part, std=STD, key=key)
                compared += 1
                wrong += not torch.equal(held, want)
    return compared, wrong


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.set_num_threads(args.threads)
    distributed.init_process_group("fake", rank=args.rank, world_size=args.world, store=FakeStore())
    fastinit.materialize(nn.Linear(2, 2, device="meta"), key=1)
    model = sharded(args.world, args.layers, args.experts, args.scale)
    before = status("VmRSS")
    first = seconds(lambda: fastinit.materialize(model, key=KEY))
    peak = status("VmHWM")
    parameters: dict[str, Any] = dict(model.named_parameters())
    locals_ = {name: p._local_tensor for name, p in parameters.items()}
    compared, wrong = compare_slices(parameters, args.slices)
    filled: list[Tensor] = [t for t in locals_.values() if t.dim() > 1 and t.numel()]

    def plain() -> None:
        for k, tensor in enumerate(filled):
            fastinit.normal_(tensor, std=STD, key=k)

    again, alone = [], []
    for _ in range(args.rounds):
        again.append(seconds(lambda: fastinit.initialize_(model, key=KEY)))
        alone.append(seconds(plain))
    elements = sum(t.numel() for t in locals_.values())
    return {
        "rank": args.rank,
        "parameters": sum(p.numel() for p in parameters.values()),
        "tensors": len(parameters),
        "elements": elements,
        "materialize_s": first,
        "initialize_s": min(again),
        "plain_s": min(alone),
        "local_gib": sum(t.nbytes for t in locals_.values()) / 2**30,
        "beside_gib": peak - before - sum(t.nbytes for t in locals_.values()) / 2**30,
        "slices": compared,
        "wrong": wrong,
    }


def row_of(args: argparse.Namespace, world: int, rank: int, experts: int) -> dict[str, Any]:
    """Measure one rank, in a process of its own."""
    command = [sys.executable, __file__, "--world", str(world), "--rank", str(rank)]
    for name in ("layers", "scale", "threads", "rounds", "slices"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--experts", str(experts)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


HEAD = (
    "| model, B | world | rank | elements here, M | GiB | `materialize`, s | `initialize_`, s | "
    "plain fills, s | rate | ns/element | GiB beside | slices |\n" + "|---" * 12 + "|"
)


def line_of(world: int, row: dict[str, Any]) -> str:
    cells = (
        f"{row['parameters'] / 1e9:.0f}",
        f"{world}",
        f"{row['rank']}",
        f"{row['elements'] / 1e6:.0f}",
        f"{row['local_gib']:.2f}",
        f"{row['materialize_s']:.2f}",
        f"{row['initialize_s']:.2f}",
        f"{row['plain_s']:.2f}",
        f"{row['plain_s'] / row['initialize_s']:.2f}",
        f"{row['initialize_s'] / row['elements'] * 1e9:.2f}",
        f"{row['beside_gib']:.2f}",
        f"{row['slices'] - row['wrong']} of {row['slices']}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worlds", default="256,1024,4096")
    parser.add_argument("--layers", type=int, default=61)
    parser.add_argument("--scale", type=int, default=1, help="divides every width")
    parser.add_argument("--ranks", type=int, default=3, help="how many of each world, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=1200, help="for each rank, at least")
    parser.add_argument("--quick", action="store_true", help="seconds: 9 layers, an eighth as wide")
    parser.add_argument("--world", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--experts", type=int, default=256)
    args = parser.parse_args()
    if args.rank is not None:
        print(json.dumps(measure(args)))
        return 0
    if args.quick:
        args.layers, args.scale, args.rounds = 9, 8, 2
    print(f"fastinit {fastinit.__version__}, torch {torch.__version__}, {args.threads} thread(s)")
    print(HEAD)
    wrong = 0
    for same_share in (False, True):
        for world in map(int, args.worlds.split(",")):
            experts = args.experts * world // 1024 if same_share else args.experts
            for rank in (world // 3 + 1, world - 1, 0)[: 1 if same_share else args.ranks]:
                row = row_of(args, world, rank, experts)
                wrong += row["wrong"]
                print(line_of(world, row), flush=True)
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
