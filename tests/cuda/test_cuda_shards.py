"""Shards on a CUDA device: the bits that the CPU writes into the full tensor."""

from __future__ import annotations

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank_of, dtensor
from support.shard_cases import BY_PRODUCTS, CONSTANT, DRAWN, fill, shapes_of, whole
from torch.distributed.tensor import Shard

import fastinit

pytestmark = pytest.mark.cuda
DEVICE = "cuda"


def same(name: str, got: torch.Tensor, want: torch.Tensor) -> bool:
    if name in BY_PRODUCTS:
        return torch.allclose(got.cpu(), want, atol=1e-5, rtol=0)
    return same_bits(got.cpu().contiguous(), want.contiguous())


@pytest.mark.parametrize("name", [*DRAWN, *CONSTANT])
def test_boxes_and_ranges(name: str) -> None:
    for size in shapes_of(name):
        want = whole(name, size, torch.float32)
        rows = torch.empty(2, *size[1:], device=DEVICE)
        fill(name, fastinit.shard(rows, size, (1,) + (0,) * (len(size) - 1)))
        assert same(name, rows, want[1:3])
        columns = torch.empty(size[0], 2, *size[2:], device=DEVICE)
        fill(name, fastinit.shard(columns, size, (0, size[1] - 2) + (0,) * (len(size) - 2)))
        assert same(name, columns, want[:, -2:])
        line = torch.empty(want.numel() - 9, device=DEVICE)
        fill(name, fastinit.shard(line, size, start=5))
        assert same(name, line, want.flatten()[5:-4])


@pytest.mark.parametrize("name", DRAWN)
def test_dtensors_draw_from_the_devices_generator(name: str) -> None:
    size = shapes_of(name)[0]
    torch.manual_seed(4)
    want = DRAWN[name](torch.empty(size, device=DEVICE)).cpu()
    half = -(-size[0] // 2)
    for rank, part in ((0, want[:half]), (1, want[half:])):
        with as_rank_of((2,), rank) as mesh:
            shard = dtensor(torch.empty_like(part, device=DEVICE), size, mesh, [Shard(0)])
            torch.manual_seed(4)
            DRAWN[name](shard)
            assert same(name, shard._local_tensor, part), rank


def test_orthogonal_by_rows() -> None:
    want = fastinit.orthogonal_(torch.empty(300, 40), key=5)
    part = torch.empty(50, 40, device=DEVICE)
    boxes = [0, 0, 50, 40, 100, 0]
    torch.ops.fastinit_testing.orthogonal_by_rows_(part, 1.0, [300, 40], boxes, key=5)
    torch.testing.assert_close(part.cpu(), want[100:150], atol=1e-5, rtol=0)
