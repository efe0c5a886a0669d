"""What torch's and fastinit's initialisers write into DTensors: a table, by two processes here.

    python examples/what_torch_does.py

Every function fills a tensor of which each of two ranks has half the rows, on the CPU. The whole is
put together and looked at: is it what the function says it writes?
"""

import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import DeviceMesh
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
