"""A forked child: OpenMP's threads are not there any more, and nothing may wait for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import os, signal, sys
import torch
import fastinit

torch.set_num_threads(4)
big = torch.randn(600, 600)
big @ big, big + 1  # OpenMP has threads now
want = fastinit.normal_(torch.empty(600, 600), key=1)
orthogonal = fastinit.orthogonal_(torch.empty(300, 300), key=1)

def check(got, want):
    torch.set_num_threads(1)  # for the comparison, which is torch's
    assert (got - want).abs().max() < 1e-5

def child():
    {body}

pid = os.fork()
if pid == 0:
    signal.alarm(60)
    try:
        child()
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
BODIES = {
    "normal_": "check(fastinit.normal_(torch.empty(600, 600), key=1), want)",
    "threads": (
        "fastinit.normal_(torch.empty(2000, 2000), key=1);"
        "threads = torch.ops.fastinit_testing.last_fill_threads();"
        "assert 1 < threads <= 4, threads"
    ),
    "orthogonal_": "check(fastinit.orthogonal_(torch.empty(300, 300), key=1), orthogonal)",
    "small matrices": "fastinit.orthogonal_(torch.empty(100, 64, 64), key=1, batch_dims=1)",
    "threads after orthogonal_": (
        "fastinit.orthogonal_(torch.empty(300, 300), key=1); assert torch.get_num_threads() == 4"
    ),
    "sparse_": "fastinit.sparse_(torch.empty(600, 600), 0.5, key=1)",
    "a conjugate view": "fastinit.normal_(torch.empty(600, 600, dtype=torch.cfloat).conj(), key=1)",
    "a truncated normal in both parts": (
        "fastinit.lecun_normal_(torch.empty(600, 600, dtype=torch.cfloat).conj(), key=1)"
    ),
    "constants": (
        "fastinit.constant_(big, 3.0); fastinit.ones_(big); fastinit.zeros_(big);"
        "assert torch.get_num_threads() == 4"
    ),
    "eye_": "fastinit.eye_(big)",
    "threads of the child's own": (
        "import threading\n"
        "    def work():\n"
        "        for _ in range(50): fastinit.zeros_(torch.empty(1000, 1000))\n"
        "    threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "    [thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "    assert torch.get_num_threads() == 4"
    ),
    "a graph of all": (
        "compiled = torch.compile(fastinit.zeros_, fullgraph=True, backend='eager')\n"
        "    assert not compiled(torch.ones(4, 4)).any()"
    ),
    "dirac_": "fastinit.dirac_(torch.empty(300, 300, 3))",
    "delta_orthogonal_": "fastinit.delta_orthogonal_(torch.empty(300, 300, 3), key=1)",
    "report": (
        "layer = torch.nn.Linear(600, 600);"
        "assert fastinit.report(fastinit.initialize_(layer, key=1), big).flags == {}"
    ),
    "initialize_": "fastinit.initialize_(torch.nn.Linear(600, 600), key=1)",
    "materialize": "fastinit.materialize(lambda: torch.nn.Linear(600, 600), key=1)",
    "patch": "fastinit.patch().__enter__(); torch.nn.Linear(600, 600)",
    "a child's child": (
        "pid = os.fork()\n"
        "    if pid == 0: fastinit.normal_(torch.empty(600, 600)); os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0"
    ),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("what", BODIES)
def test_a_forked_child_finishes(what: str) -> None:
    code = PARENT.replace("{body}", BODIES[what])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
