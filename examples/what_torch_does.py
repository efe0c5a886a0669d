"""What torch's and fastinit's initialisers write into DTensors: a table, by two processes here.

    python examples/what_torch_does.py

Every function fills a tensor of which each of two ranks has half the rows, on the CPU. The whole is
put together and looked at: is it what the function says it writes? Then modules initialise
themselves, whose weights `fully_shard` has divided in this way, by their own `reset_parameters`.
"""

import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, empty

import fastinit

RANKS = 2


def ranks_differ(full: Tensor) -> str:
    half = full.shape[0] // RANKS
    return "every rank the same numbers" if torch.equal(full[:half], full[half:]) else ""


def is_orthogonal(full: Tensor) -> str:
    narrow = full if full.shape[0] >= full.shape[1] else full.T
    error = (narrow.T @ narrow - torch.eye(narrow.shape[1])).abs().max()
    return "" if error < 1e-5 else "columns are not orthogonal"


def zeros_per_column(full: Tensor) -> str:
    counts = sorted(set((full == 0).sum(0).tolist()))
    return "" if counts == [4] else f"{counts} zeros in a column, not 4"


def is_identity(full: Tensor) -> str:
    return "" if torch.equal(full, torch.eye(8)) else "not the identity"


def is_dirac(full: Tensor) -> str:
    want = nn.init.dirac_(torch.empty(8, 4, 3))
    if torch.equal(full, want):
        return ""
    return "all zeros" if not full.any() else "not what passes channels on"


Fill = Callable[..., Tensor]
# What is called, on which size, and what it should have written.
CALLS: list[tuple[str, tuple[int, ...], Callable[[Tensor], str]]] = [
    ("normal_", (8, 4), ranks_differ),
    ("uniform_", (8, 4), ranks_differ),
    ("trunc_normal_", (8, 4), ranks_differ),
    ("kaiming_uniform_", (8, 4), ranks_differ),
    ("orthogonal_", (8, 4), is_orthogonal),
    ("orthogonal_", (4, 8), is_orthogonal),
    ("sparse_", (8, 6), zeros_per_column),
    ("eye_", (8, 8), is_identity),
    ("dirac_", (8, 4, 3), is_dirac),
]


class Experts(nn.Module):
    """A packed weight, filled one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8, 4, 3))

    def reset_parameters(self) -> None:
        for number in range(8):
            nn.init.constant_(self.weight[number], number + 1)


class Gates(nn.Module):
    """One of four gates starts open."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            self.weight[2:4].fill_(1)


def padding_is_zero(full: Tensor) -> str:
    return "the padding row is random" if full[2].any() else ""


def experts_are_numbered(full: Tensor) -> str:
    want = torch.arange(1.0, 9.0).view(8, 1, 1).expand(8, 4, 3)
    return "" if torch.equal(full, want) else "what was there before"


def a_gate_is_open(full: Tensor) -> str:
    want = torch.tensor([0.0, 0, 1, 1, 0, 0, 0, 0])
    return "" if torch.equal(full, want) else "the slice is not written"


MODULES: list[tuple[str, Callable[[], nn.Module], Callable[[Tensor], str]]] = [
    ("Embedding(padding_idx)", lambda: nn.Embedding(8, 4, padding_idx=2), padding_is_zero),
    ("weight[k] for each k", Experts, experts_are_numbered),
    ("weight[2:4].fill_(1)", Gates, a_gate_is_open),
]


def outcome_of_module(
    make: Callable[[], nn.Module],
    initialise: Callable[[nn.Module], object],
    judge: Callable[[Tensor], str],
    mesh: DeviceMesh,
) -> str:
    torch.manual_seed(0)
    with torch.device("meta"):
        module = make()
    fully_shard(module, mesh=mesh)
    module.to_empty(device="cpu")
    with torch.no_grad():
        module.weight.fill_(9)
    try:
        initialise(module)
        return judge(module.weight.full_tensor().detach()) or "right"
    except Exception as error:
        return f"{type(error).__name__}"


def outcome(
    library: object, name: str, size: tuple[int, ...], judge: Callable, meshes: list
) -> str:
    function = getattr(library, name)
    arguments = (0.5,) if name == "sparse_" else ()
    results = []
    for mesh in meshes:  # of two ranks, then of each rank alone
        torch.manual_seed(0)
        tensor = empty(*size, device_mesh=mesh, placements=[Shard(0)])
        try:
            function(tensor, *arguments)
            results.append(tensor.full_tensor())
        except Exception as error:
            return f"{type(error).__name__}"
    wrong = judge(results[0])
    if not wrong and not torch.equal(*results):
        wrong = "other weights than on one rank"
    return wrong or "right"


def work(rank: int, place: str, rows: list) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=RANKS)
    # Both made by every rank, one after the other.
    alone = [DeviceMesh("cpu", [r]) for r in range(RANKS)]
    meshes = [DeviceMesh("cpu", list(range(RANKS))), alone[rank]]
    for name, size, judge in CALLS:
        theirs = outcome(nn.init, name, size, judge, meshes)
        ours = outcome(fastinit, name, size, judge, meshes)
        if rank == 0:
            rows.append((f"{name} {'×'.join(map(str, size))}", theirs, ours))
    for name, make, judge in MODULES:
        theirs = outcome_of_module(make, lambda m: m.reset_parameters(), judge, meshes[0])
        ours = outcome_of_module(make, fastinit.initialize_, judge, meshes[0])
        if rank == 0:
            rows.append((name, theirs, ours))
    distributed.destroy_process_group()


def main() -> None:
    with multiprocessing.Manager() as manager, tempfile.TemporaryDirectory() as folder:
        rows = manager.list()
        multiprocessing.spawn(work, (f"file://{folder}/store", rows), nprocs=RANKS)
        table = [("call", f"torch {torch.__version__}", "fastinit"), *rows]
    for call, theirs, ours in table:
        print(f"{call:24}{theirs:36}{ours}")


if __name__ == "__main__":
    main()
