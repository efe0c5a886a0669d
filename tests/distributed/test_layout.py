"""Which elements a shard holds: generated layouts against torch.chunk, and torch's own FSDP2."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from support.common import bits
from support.fake_ranks import as_rank_of, dtensor
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor.placement_types import _StridedShard

import fastinit
from fastinit._distributed.layout import Split, boxes_of
from fastinit._distributed.part import part_of

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.complex64,
]
KEY = 11


def chunk(elements: np.ndarray, dim: int, count: int, index: int) -> np.ndarray:
    """A rank's share, by torch itself: where chunks run out, nothing."""
    if elements.shape[dim] == 0:
        return elements
    chunks = torch.chunk(torch.from_numpy(elements), count, dim)
    if index < len(chunks):
        return chunks[index].numpy()
    return elements.take(range(0), dim)


class Layout:
    """A drawn layout: a mesh, what each of its dimensions splits, and in which order."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.mesh = [draw.choice([1, 2, 2, 3, 4]) for _ in range(draw.randint(1, 4))]
        self.size = [draw.choice([0, 1, 2, 3, 5, 7, 8, 12]) for _ in range(draw.randint(1, 3))]
        dims = [draw.choice([None, *range(len(self.size))]) for _ in self.mesh]
        self.dims = {k: dim for k, dim in enumerate(dims) if dim is not None}
        self.order = draw.sample(list(self.dims), len(self.dims))
        self.rank = draw.randrange(math.prod(self.mesh))
        self.kind = draw.choice(["left to right", "shard_order", "strides", "fused"])
        self.fused = draw.choice([2, 3])
        if self.kind in ("left to right", "fused"):
            self.order = sorted(self.dims)
        self.dtype = draw.choice(DTYPES)

    @property
    def coordinate(self) -> list[int]:
        return [int(c) for c in np.unravel_index(self.rank, self.mesh)]

    def fused_dim(self) -> int | None:
        """A mesh dimension that alone splits its tensor dimension: that split may be strided."""
        if self.kind != "fused":
            return None
        times = Counter(self.dims.values())
        return next((k for k, dim in self.dims.items() if times[dim] == 1), None)

    def held(self) -> np.ndarray:
        """The row-major numbers of the elements that the rank holds, in the shape of its shard."""
        elements = np.arange(math.prod(self.size)).reshape(self.size)
        for k in self.order:
            dim, count, index = self.dims[k], self.mesh[k], self.coordinate[k]
            if k == self.fused_dim():
                parts = [chunk(elements, dim, self.fused, p) for p in range(self.fused)]
                elements = np.concatenate([chunk(p, dim, count, index) for p in parts], dim)
            else:
                elements = chunk(elements, dim, count, index)
        return elements

    def described(self) -> tuple[list[Any], dict[str, Any]]:
        """Placements, and what a specification needs besides."""
        placements: list[Any] = [
            Replicate() if k not in self.dims else Shard(self.dims[k])
            for k in range(len(self.mesh))
        ]
        fused = self.fused_dim()
        if fused is not None:
            placements[fused] = _StridedShard(self.dims[fused], split_factor=self.fused)
        if self.kind not in ("shard_order", "strides"):
            return placements, {}
        entries = [
            (dim, tuple(k for k in self.order if self.dims[k] == dim))
            for dim in sorted(set(self.dims.values()))
        ]
        if self.kind == "strides":
            # Of the order, each split's stride: the parts there were already, of those to its left.
            for _, order in entries:
                for place, k in enumerate(order):
                    parts = math.prod(self.mesh[j] for j in order[:place] if j > k)
                    if parts != 1:
                        placements[k] = _StridedShard(self.dims[k], split_factor=parts)
            return placements, {}
        try:
            from torch.distributed.tensor._dtensor_spec import ShardOrderEntry
        except ImportError:  # this torch knows no order
            self.order = sorted(self.dims)
            return placements, {}
        order = tuple(ShardOrderEntry(tensor_dim=d, mesh_dims=dims) for d, dims in entries)
        return placements, {"shard_order": order}


@pytest.mark.parametrize("block", range(10))
def test_generated_layouts(block: int) -> None:
    """2,500 of them: the bits of every shard are those of its elements in the full tensor."""
    for seed in range(250 * block, 250 * (block + 1)):
        layout = Layout(seed)
        placements, spec = layout.described()
        held = layout.held()
        want = fastinit.normal_(torch.empty(layout.size, dtype=layout.dtype), key=KEY).flatten()
        want = bits(want)[held.ravel()].reshape(*held.shape, *bits(want).shape[1:])
        local = torch.zeros(held.shape, dtype=layout.dtype)
        with as_rank_of(layout.mesh, layout.rank) as mesh:
            shard = dtensor(local, layout.size, mesh, placements, **spec)
            fastinit.normal_(shard, key=KEY)
        assert np.array_equal(bits(local), want), (seed, vars(layout))


def test_torch_reads_the_same_layouts() -> None:
    """The strides above mean to torch what they mean here."""
    if not hasattr(DTensorSpec, "_maybe_convert_StridedShard_to_shard_order"):
        pytest.skip("this torch decodes no strides")
    seen = 0
    for seed in range(1000):
        layout = Layout(seed)
        if layout.kind != "strides" or layout.order == sorted(layout.dims):
            continue
        placements, _ = layout.described()
        with as_rank_of(layout.mesh, layout.rank) as mesh:
            order = DTensorSpec._maybe_convert_StridedShard_to_shard_order(tuple(placements), mesh)
        # Mesh dimensions of size one have no place in an order that anything could tell.
        counted = [k for k in layout.order if layout.mesh[k] > 1]
        for dim, dims in order:
            read = [k for k in dims if layout.mesh[k] > 1]
            assert read == [k for k in counted if layout.dims[k] == dim]
        seen += 1
    assert seen > 50


def test_the_shards_of_large_meshes_tile_the_tensor() -> None:
    """Every element has one owner on 1024-way meshes, whatever is divided and how unevenly."""
    ranks = 0
    meshes: list[tuple[tuple[int, ...], list[tuple[Split | None, ...]]]] = [
        ((1024,), [(Split(0),), (Split(1),)]),
        ((64, 16), [(Split(0), Split(1)), (Split(0), Split(0)), (Split(0, 16), Split(0))]),
        ((8, 16, 8), [(Split(1), Split(0), Split(1)), (Split(0, 16), Split(0), Split(1))]),
        (
            (4, 4, 8, 8),
            [
                (Split(2), Split(1), Split(0), Split(1)),
                (Split(0), Split(1), Split(2, 2), Split(0)),
            ],
        ),
    ]
    sizes = [(1000, 37, 64), (7, 4096, 6), (1025, 3, 2), (2048, 128, 8), (1, 1024, 5)]
    sizes += [(n, 3 * n + 1, n % 7) for n in (2, 63, 64, 65, 129, 511)]
    for mesh, cases in meshes:
        for splits, size in itertools.product(cases, sizes):
            owners = 0
            seen = np.zeros(size, dtype=np.int8)
            for coordinate in itertools.product(*map(range, mesh)):
                shape = _local_shape(size, mesh, coordinate, splits)
                for box in boxes_of(size, mesh, coordinate, splits, None, shape):
                    owners += math.prod(box.size)
                    ends = zip(box.offset, box.size, strict=True)
                    seen[tuple(slice(o, o + n) for o, n in ends)] += 1
                ranks += 1
            assert owners == math.prod(size), (mesh, splits, size)
            assert (seen == 1).all(), (mesh, splits, size)
        boxes_of.cache_clear()
    assert ranks > 100_000


def _local_shape(
    size: tuple[int, ...],
    mesh: tuple[int, ...],
    coordinate: tuple[int, ...],
    splits: tuple[Split | None, ...],
) -> tuple[int, ...]:
    """The shape that a rank's shard has: lengths alone, in the order that strides stand for."""
    lengths = []
    for dim, length in enumerate(size):
        mine = [k for k, split in enumerate(splits) if split is not None and split.dim == dim]
        strided = [k for k in mine if splits[k].strided != 1]  # type: ignore[union-attr]
        parts = 1
        if len(mine) > 1:
            mine = [k for k in mine if k not in strided] + strided
        elif strided:
            parts = splits[strided[0]].strided  # type: ignore[union-attr]
        runs = [length]
        for k in mine:
            pieces = [_share(n, parts, j) for n in runs for j in range(parts)]
            runs = [_share(n, mesh[k], coordinate[k]) for n in pieces]
        lengths.append(sum(runs))
    return tuple(lengths)


def _share(length: int, count: int, index: int) -> int:
    size = -(-length // count)
    return max(0, min(length, size * (index + 1)) - size * index)


@pytest.mark.parametrize("mesh_shape", [(2, 2), (3, 2), (2, 3), (4, 2), (2, 4)])
def test_fsdp_over_tensor_parallelism_on_one_dimension(mesh_shape: tuple[int, int]) -> None:
    """Rows 1 to 13: what the shards hold is what FSDP2 has put there, uneven and empty ones too."""
    for rank in range(math.prod(mesh_shape)):
        with as_rank_of(mesh_shape, rank) as flat:
            mesh = torch.distributed.device_mesh.init_device_mesh(
                "cpu", mesh_shape, mesh_dim_names=("dp", "tp")
            )
            assert flat.shape == mesh.shape
            for rows in range(1, 14):
                layer = nn.Linear(1, rows, bias=False)
                numbers = torch.arange(float(rows)).view(rows, 1)
                layer.weight = nn.Parameter(
                    distribute_tensor(numbers, mesh["tp"], [Shard(0)], src_data_rank=None)
                )
                fully_shard(layer, mesh=mesh["dp"])
                part = part_of(layer.weight, "normal_")
                held: Any = layer.weight
                held = held._local_tensor.detach().flatten().tolist()
                rows_here = [
                    row
                    for box in part.boxes
                    for row in range(box.offset[0], box.offset[0] + box.size[0])
                ]
                assert held == rows_here, (rows, rank)


def test_placements_that_leave_open_what_is_held() -> None:
    """Two fused halves divided by both FSDP2 and tensor parallelism, on one dimension."""
    placements = [_StridedShard(0, split_factor=2), _StridedShard(0, split_factor=2)]
    with as_rank_of((2, 3), 1) as mesh:
        shard = dtensor(torch.zeros(4, 3), (24, 3), mesh, placements)
        for function in (fastinit.normal_, fastinit.zeros_, fastinit.eye_):
            with pytest.raises(
                NotImplementedError,
                match=rf"{function.__name__}: .*of dimension 0.*shard_placement_fn",
            ):
                function(shard)
        assert not shard._local_tensor.any()
        other = dtensor(torch.zeros(5, 3), (24, 3), mesh, [Shard(0), Shard(0)])
        with pytest.raises(NotImplementedError, match=r"do not give the shape \(5, 3\)"):
            fastinit.normal_(other, key=1)


def test_placements_of_an_unknown_kind_are_refused() -> None:
    class Ragged(Placement):
        dims = (0, 1)

    with as_rank_of((2, 2), 1) as mesh:
        shard = dtensor(torch.zeros(4, 3), (8, 3), mesh, [Shard(0), Replicate()])
        shard._spec.placements = (Shard(0), Ragged())
        with pytest.raises(NotImplementedError, match=r"sparse_: .*of a kind that fastinit does"):
            fastinit.sparse_(shard, 0.5)


def test_partial_sums_are_refused() -> None:
    with as_rank_of((2, 2), 1) as mesh:
        shard = dtensor(torch.zeros(4, 3), (8, 3), mesh, [Shard(0), Partial()])
        for function in (fastinit.normal_, fastinit.ones_, fastinit.orthogonal_):
            with pytest.raises(NotImplementedError, match=r"sums over ranks.*redistribute\(\)"):
                function(shard)
        assert not shard._local_tensor.any()
