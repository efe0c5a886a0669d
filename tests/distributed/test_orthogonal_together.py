"""`orthogonal_(..., distributed=True)`: the ranks that share a matrix make it together.

What the processes do, and what they find, is in support/world_orthogonal.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from support.fake_ranks import as_rank
from support.world_orthogonal import CASES
from support.worlds import SIZES, TESTS, Found, check, found_in
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, empty

import fastinit


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return found_in(tmp_path_factory.mktemp("worlds"), "world_orthogonal", SIZES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, size: int, found: Found) -> None:
    check(found, size, name)


# ---- what it is not for --------------------------------------------------------------------------


def test_a_tensor_of_one_rank_is_refused() -> None:
    tensor = torch.full((4, 3), 7.0)
    state = torch.get_rng_state()
    with pytest.raises(TypeError, match=r"'distributed' is for a DTensor.* is a Tensor of shape"):
        fastinit.orthogonal_(tensor, distributed=True)
    shard = fastinit.shard(tensor, (8, 3), (4, 0))
    with pytest.raises(TypeError, match=r"'distributed' is for a DTensor.* is a TensorShard of"):
        fastinit.orthogonal_(shard, distributed=True)
    with pytest.raises(TypeError, match="is for a DTensor"), fastinit.patch(key=1):
        fastinit.orthogonal_(tensor, distributed=True)
    with pytest.raises(TypeError, match="is for a DTensor"), fastinit.batch():
        fastinit.orthogonal_(torch.empty(4, 3), distributed=True)
    with pytest.raises(TypeError, match="is for a DTensor"):
        fastinit.orthogonal_many_([tensor], distributed=True)
    assert torch.equal(tensor, torch.full((4, 3), 7.0))
    assert torch.equal(torch.get_rng_state(), state)


def test_arguments() -> None:
    with as_rank(0, 2):
        tensor = empty(4, 3, device_mesh=init_device_mesh("cpu", (2,)), placements=[Shard(0)])
        together = partial(fastinit.orthogonal_, tensor, distributed=True)
        with pytest.raises(ValueError, match="'method' must be 'householder' with distributed"):
            together(method="qr")
        with pytest.raises(ValueError, match="'batch_dims' must not be negative"):
            together(batch_dims=-1)
        with pytest.raises(ValueError, match="at least 2 dimensions besides those of the batch"):
            together(batch_dims=1)
        with pytest.raises(TypeError, match="'gain' must be a real number"):
            together(gain="2")
        with pytest.raises(ValueError, match="'key' and 'generator' exclude"):
            together(key=1, generator=torch.Generator())
    with pytest.raises(RuntimeError, match=r"call torch.distributed.init_process_group\(\)"):
        together()


def test_graphs_break_there() -> None:
    def fill(tensor: torch.Tensor) -> torch.Tensor:
        return fastinit.orthogonal_(tensor, key=3, distributed=True)

    with as_rank(0, 1):
        tensor = empty(4, 3, device_mesh=init_device_mesh("cpu", (1,)), placements=[Shard(0)])
        want = fill(tensor).to_local().clone()
        got = torch.compile(fill, backend="eager")(tensor.zero_()).to_local()
        assert torch.equal(got, want)
        torch.compiler.reset()
        with pytest.raises(Exception, match="distributed=True communicates"):
            torch.compile(fill, backend="eager", fullgraph=True)(tensor)


MEMORY = """
import resource, torch, fastinit
from fastinit._distributed import orthogonal
from support.fake_ranks import as_rank
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, empty
torch.set_num_threads(1)
orthogonal._check_alike = lambda *_: None  # fake ranks add nothing up
with as_rank(3, 64):
    mesh = init_device_mesh("cpu", (64,))
    for size in ((512, 64), (1 << 19, 512)):
        tensor = empty(*size, device_mesh=mesh, placements=[Shard(0)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fastinit.orthogonal_(tensor, key=1, distributed=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
def test_memory() -> None:
    """Of the narrower side squared, and of some rows: 17 MiB of 1 GiB are here, and S has 1."""
    command = [sys.executable, "-c", MEMORY]
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 160
