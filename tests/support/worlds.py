"""Worlds of processes, of several sizes, in one start: each is forked from this one, over gloo.

    python tests/support/worlds.py FOLDER MODULE SIZE...

The module of support/ has CASES, functions by name that get the size of the world. Every rank
writes FOLDER/<size>-<rank>.json: by the name of a case "" or what went wrong.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh

TESTS = Path(__file__).resolve().parents[1]
SIZES = [1, 2, 3, 4, 6]
Cases = dict[str, Callable[[int], None]]
# By size and case what went wrong, by rank.
Found = dict[tuple[int, str], dict[int, str]]
_meshes: dict[tuple[int, ...], DeviceMesh] = {}


def mesh_of(*shape: int, names: tuple[str, ...] | None = None) -> DeviceMesh:
    """Give the mesh of all ranks that has this shape; made once, for groups are dear."""
    if shape not in _meshes:
        ranks = torch.arange(distributed.get_world_size()).view(shape)
        _meshes[shape] = DeviceMesh("cpu", ranks, mesh_dim_names=names or ("a", "b")[: len(shape)])
    return _meshes[shape]


def found_in(folder: Path, module: str, sizes: Sequence[int], timeout: float = 900) -> Found:
    """Run the cases of a module of support/ in worlds of these sizes.

    Returns:
        By size and case what went wrong, by rank.
    """
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }
    if sys.platform == "linux":  # whatever the machine's name stands for
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, str(Path(__file__)), str(folder), module, *map(str, sizes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong: Found = {}
    for size in sizes:
        for rank in range(size):
            for name, text in json.loads((folder / f"{size}-{rank}.json").read_text()).items():
                of_case = wrong.setdefault((size, name), {})
                if text:
                    of_case[rank] = text
    return wrong


def check(found: Found, size: int, name: str) -> None:
    """Fail with what was wrong on each rank."""
    wrong = found[size, name]
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())


def _run(folder: Path, cases: Cases, port: int, size: int, rank: int) -> None:
    store = distributed.TCPStore("127.0.0.1", port, is_master=False)
    distributed.init_process_group(
        "gloo",
        store=distributed.PrefixStore(str(size), store),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=30),
    )
    found = {}
    for name, function in cases.items():
        try:
            function(size)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
        try:
            distributed.barrier()
        except RuntimeError as error:  # another rank is elsewhere, and will not come
            found |= {n: f"{found.get(n, '')}{error}" for n in cases if found.get(n) != ""}
            break
    (folder / f"{size}-{rank}.json").write_text(json.dumps(found))


def _fork(work: Callable[..., None], *arguments: Any) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return process


def _wait(processes: Iterable[int]) -> int:
    return sum(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0 for process in processes)


def _serve(pipe: int) -> None:
    """Be the store of all worlds: here, as a process that has threads should not fork."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(pipe, str(store.port).encode())
    signal.pause()


def main(folder: str, module: str, *sizes: str) -> int:
    torch.set_num_threads(1)
    cases: Cases = importlib.import_module(f"support.{module}").CASES
    reading, writing = os.pipe()
    server = _fork(_serve, writing)
    port = int(os.read(reading, 16))
    failed = 0
    try:
        for size in map(int, sizes):
            arguments = Path(folder), cases, port, size
            failed += _wait([_fork(_run, *arguments, rank) for rank in range(size)])
    finally:
        os.kill(server, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
