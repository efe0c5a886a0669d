"""Address space that no memory is behind until somebody touches it: what twins are made of."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastinit import _C


def test_what_is_reserved_is_an_ordinary_tensor() -> None:
    for size, stride in (((700, 900), (1, 700)), ((3, 2), (2, 1)), ((0, 5), (5, 1)), ((), ())):
        made = _C.reserve(size, stride, torch.float32)
        assert (made.shape, made.stride(), made.dtype) == (size, stride, torch.float32)
        assert made.is_cpu
        assert made.is_leaf
        assert not made.requires_grad
        assert made.untyped_storage().resizable()
        assert torch.equal(made.fill_(2), torch.full(size, 2.0))
    made = _C.reserve((1 << 20,), (1,), torch.bfloat16)
    grown = made.fill_(3).resize_(1 << 21)
    assert bool((grown[: 1 << 20] == 3).all())
    assert torch.equal(
        copy.deepcopy(made[: 1 << 20]), torch.full((1 << 20,), 3, dtype=torch.bfloat16)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system may refuse")
def test_more_is_reserved_than_the_machine_has() -> None:
    made = _C.reserve((1 << 41,), (1,), torch.int8)  # 2 TiB
    made[1 << 40] = 5
    assert int(made[1 << 40]) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of mappings")
def test_a_space_is_few_mappings() -> None:
    # A process may have 65,530. Neighbours are one until some of them go.
    mappings = Path("/proc/self/maps")
    before = len(mappings.read_text().splitlines())
    space = _C.AddressSpace()
    made = [_C.reserve((1 << 20,), (1,), torch.int8, space) for _ in range(2000)]
    assert len({one.data_ptr() for one in made}) == len(made)
    for k in (0, 1, 1998, 1999):
        made[k].fill_(k % 100)
    del made[1:1998:2]
    assert len(mappings.read_text().splitlines()) < before + 64
    assert [int(one.sum()) >> 20 for one in (made[0], made[1], *made[-2:])] == [0, 0, 98, 99]


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's figures")
def test_a_part_of_a_space_gives_its_memory_back() -> None:
    space = _C.AddressSpace()
    others = [_C.reserve((1 << 20,), (1,), torch.int8, space) for _ in range(2)]
    large = _C.reserve((1 << 28,), (1,), torch.int8, space).fill_(1)
    had = resident()
    del large
    assert had - resident() > 1 << 27
    assert int(others[0].fill_(3)[5]) == 3


_LITTLE = """
import resource, torch
from fastinit import _C
space = _C.AddressSpace()
a = _C.reserve((1 << 21,), (1,), torch.int8, space)
begun = [int(line.split()[0]) for line in open("/proc/self/statm")][0] * 4096
resource.setrlimit(resource.RLIMIT_AS, (begun + (1 << 30),) * 2)
other = _C.AddressSpace()  # for which there are no 4 TiB
b, c = (_C.reserve((1 << 21,), (1,), torch.int8, other).fill_(k) for k in (5, 6))
assert (int(b[-1]), int(c[-1]), int(a.fill_(2)[-1])) == (5, 6, 2)
try:
    _C.reserve((1 << 31,), (1,), torch.int8, other)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere limits are others")
def test_a_space_where_there_is_little() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LITTLE], capture_output=True, text=True, check=False
    )
    assert "reserve: 2147483648 bytes: Cannot allocate memory" in done.stdout, done.stderr


def test_what_cannot_be_reserved_raises() -> None:
    with pytest.raises(RuntimeError, match="reserve: 281474976710656 bytes"):
        _C.reserve((1 << 45,), (1,), torch.float64)
    with pytest.raises(TypeError, match="reserve: expects a size, strides and a dtype"):
        _C.reserve([1], (1,), torch.float64)  # type: ignore[arg-type]
