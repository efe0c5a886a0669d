"""Every initialiser on DTensors, as any rank of several meshes; torch.compile; patch()."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed.tensor as spread
from support.common import no_randomness, same_bits
from support.fake_ranks import as_rank, as_rank_of, dtensor
from support.shard_cases import CONSTANT, DRAWN, KEY, dtypes_of, fill, same, shapes_of, whole
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import _StridedShard

import fastinit
from fastinit._distributed.part import part_of

# A mesh, placements of two-dimensional tensors (others take them for their first two).
LAYOUTS: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "rows": ((3,), [Shard(0)]),
    "columns": ((2,), [Shard(1)]),
    "replicated": ((2,), [Replicate()]),
    "replicas of rows": ((2, 2), [Replicate(), Shard(0)]),
    "rows and columns": ((2, 2), [Shard(0), Shard(1)]),
    "rows twice": ((2, 2), [Shard(0), Shard(0)]),
    "FSDP over tensor parallelism": ((2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
    "fused halves": ((2, 2), [Shard(0), _StridedShard(1, split_factor=2)]),
    "mostly empty": ((16,), [Shard(0)]),
}


def split(tensor: torch.Tensor, mesh: DeviceMesh, placements: list[Any]) -> torch.Tensor:
    """A rank's shard of a tensor, by chunks in the order that `placements` stand for."""
    coordinate: Any = mesh.get_coordinate()
    order = list(range(mesh.ndim))
    if hasattr(placements[0], "split_factor"):  # tensor parallelism has divided it first
        order.reverse()
    for k in order:
        placement = placements[k]
        if placement.is_replicate():
            continue
        dim = placement.dim % tensor.dim()
        fused = getattr(placement, "split_factor", 1) if order[0] == 0 else 1
        parts = []
        for piece in torch.chunk(tensor, fused, dim):
            chunks = torch.chunk(piece, mesh.size(k), dim)
            mine = coordinate[k] < len(chunks)
            parts.append(chunks[coordinate[k]] if mine else piece.narrow(dim, 0, 0))
        tensor = torch.cat(parts, dim)
    return tensor.contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_initialiser(layout: str) -> None:
    """Bit for bit what the full tensor has in that place, and no collective."""
    shape, placements = LAYOUTS[layout]
    for name in [*DRAWN, *CONSTANT]:
        for size in shapes_of(name):
            dtypes = dtypes_of(name) if layout == "rows and columns" else [torch.float32]
            fulls = {dtype: whole(name, size, dtype) for dtype in dtypes}
            for rank in range(math.prod(shape)):
                with as_rank_of(shape, rank) as mesh:
                    for dtype, full in fulls.items():
                        want = split(full, mesh, placements)
                        shard = dtensor(torch.zeros_like(want), size, mesh, placements)
                        version, local = shard._version, shard._local_tensor
                        with CommDebugMode() as collectives:
                            assert fill(name, shard) is shard
                        assert collectives.get_total_counts() == 0
                        assert shard._version > version
                        assert shard._local_tensor is local
                        assert same(name, local, want), (name, size, dtype, rank)


@pytest.mark.parametrize("name", DRAWN)
def test_one_key_is_drawn_on_every_rank(name: str) -> None:
    """Ranks that hold nothing, or are outside of the mesh, move on as others do."""
    size = shapes_of(name)[0]
    torch.manual_seed(6)
    full = DRAWN[name](torch.empty(size))
    state = torch.get_rng_state()
    for rank in range(20):
        with as_rank(rank, 20):
            mesh = DeviceMesh("cpu", list(range(17)), _init_backend=False)
            outside = mesh.get_coordinate() is None
            assert outside == (rank >= 17)
            want = torch.empty(0) if outside else split(full, mesh, [Shard(0)])
            shard = dtensor(torch.zeros_like(want), size, mesh, [Shard(0)])
            torch.manual_seed(6)
            DRAWN[name](shard)
            assert torch.equal(torch.get_rng_state(), state), rank
            assert same_bits(shard._local_tensor, want), rank


def test_nothing_is_drawn_for_a_tensor_without_elements() -> None:
    with as_rank_of((2,), 1) as mesh, no_randomness():
        shard = dtensor(torch.zeros(0, 3), (0, 3), mesh, [Shard(0)])
        fastinit.normal_(shard)
        fastinit.orthogonal_(shard)
        fastinit.sparse_(shard, 0.5)


def test_parameters_of_all_kinds() -> None:
    want = fastinit.normal_(torch.empty(8, 6), key=KEY)
    with as_rank_of((2, 2), 3) as mesh:
        local = torch.zeros(6, 8).t()[:4, ::2]
        shard = dtensor(local, (8, 6), mesh, [Shard(0), Shard(1)])
        parameter = nn.Parameter(shard)
        assert parameter.requires_grad
        fastinit.normal_(parameter, key=KEY)
        held: Any = parameter
        assert same_bits(held._local_tensor.detach().contiguous(), want[4:, 3:].contiguous())
        assert parameter.is_leaf and parameter.grad_fn is None
        with torch.inference_mode():
            closed = dtensor(torch.zeros(4, 3), (8, 6), mesh, [Shard(0), Shard(1)])
            fastinit.normal_(closed, key=KEY)
        assert same_bits(closed._local_tensor, want[4:, 3:].contiguous())
        for call in (lambda: fastinit.normal_(closed), lambda: fastinit.zeros_(closed)):
            with pytest.raises(RuntimeError, match="inference"):
                call()
        meta = dtensor(torch.empty(4, 3, device="meta"), (8, 6), mesh, [Shard(0), Shard(1)])
        with no_randomness():
            fastinit.normal_(meta)
            fastinit.orthogonal_(meta, key=1)


def test_lists_of_matrices() -> None:
    with as_rank_of((2,), 1) as mesh:
        shards = [dtensor(torch.zeros(3, 4), (6, 4), mesh, [Shard(0)]) for _ in range(2)]
        plain = torch.zeros(6, 4)
        fastinit.orthogonal_many_([shards[0], plain, shards[1]], keys=[1, 2, 3])
        for key, got in (
            (1, shards[0]._local_tensor),
            (2, plain[3:]),
            (3, shards[1]._local_tensor),
        ):
            want = fastinit.orthogonal_(torch.empty(6, 4), key=key)
            assert same_bits(got, want[3:])


def test_lists_of_matrices_draw_keys_in_their_order() -> None:
    whole = [torch.zeros(size) for size in ((6, 4), (4, 4), (2, 3), (6, 4))]
    torch.manual_seed(3)
    fastinit.orthogonal_many_(whole)
    after = torch.get_rng_state()
    with as_rank_of((2,), 1) as mesh:
        shards = [dtensor(torch.zeros(3, 4), (6, 4), mesh, [Shard(0)]) for _ in range(2)]
        plain = [torch.zeros(4, 4), torch.zeros(2, 3)]
        torch.manual_seed(3)
        fastinit.orthogonal_many_([shards[0], *plain, shards[1]])
    assert torch.equal(torch.get_rng_state(), after)
    got = [shards[0]._local_tensor, *plain, shards[1]._local_tensor]
    for one, want in zip(got, [whole[0][3:], *whole[1:3], whole[3][3:]], strict=True):
        torch.testing.assert_close(one, want, atol=1e-6, rtol=0)


def test_lists_with_a_wrong_matrix_are_left_alone() -> None:
    with as_rank_of((2,), 1) as mesh:
        shard = dtensor(torch.zeros(3, 4), (6, 4), mesh, [Shard(0)])
        summed = dtensor(torch.zeros(6, 4), (6, 4), mesh, [Partial()])
        vector = dtensor(torch.zeros(3), (6,), mesh, [Shard(0)])
        plain = torch.zeros(4, 4)
        wrong = ((ValueError, vector), (ValueError, torch.zeros(3)), (NotImplementedError, summed))
        for error, last in wrong:
            with no_randomness(), pytest.raises(error, match="orthogonal_: argument 'tensor'"):
                fastinit.orthogonal_many_([plain, shard, last])
            assert not plain.any() and not shard._local_tensor.any()


def test_batches_fill_shards() -> None:
    want = fastinit.normal_(torch.empty(6, 4), key=KEY)
    with as_rank_of((2,), 1) as mesh, fastinit.batch():
        shard = spread.empty(6, 4, device_mesh=mesh, placements=[Shard(0)])
        fastinit.ones_(shard)
        fastinit.normal_(shard, key=KEY)
    assert same_bits(shard._local_tensor, want[3:])


def test_shards_that_are_still_on_their_way() -> None:
    """A collective that has not been waited for would write over what is filled."""
    with as_rank_of((2,), 1) as mesh:
        shard = dtensor(torch.zeros(3, 4), (6, 4), mesh, [Shard(0)])
        gathered: Any = shard.redistribute(placements=[Replicate()], async_op=True)
        assert type(gathered._local_tensor) is not torch.Tensor
        fastinit.normal_(gathered, key=KEY)
        assert same_bits(gathered.to_local().clone(), fastinit.normal_(torch.empty(6, 4), key=KEY))


def test_bad_arguments_leave_everything_as_it_was() -> None:
    with as_rank_of((2,), 1) as mesh:
        shard = dtensor(torch.zeros(3, 4), (6, 4), mesh, [Shard(0)])
        calls: list[tuple[type[Exception], Callable[[], object]]] = [
            (RuntimeError, lambda: fastinit.normal_(shard, std=-1.0)),
            (ValueError, lambda: fastinit.sparse_(shard, 1.5)),
            (ValueError, lambda: fastinit.orthogonal_(shard, batch_dims=1)),
            (ValueError, lambda: fastinit.delta_orthogonal_(shard)),
            (ValueError, lambda: fastinit.dirac_(shard)),
            (ValueError, lambda: fastinit.normal_(shard, generator=torch.Generator(), key=1)),
            (NotImplementedError, lambda: fastinit.normal_(shard.to(torch.int64))),
        ]
        for error, call in calls:
            with no_randomness(), pytest.raises(error):
                call()
            assert not shard._local_tensor.any()


def test_a_shard_that_is_no_ordinary_tensor_is_refused() -> None:
    class Odd(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, *call: Any) -> Any:
            raise AssertionError("not asked")

    with as_rank_of((2,), 1) as mesh:
        odd: Any = torch.Tensor._make_wrapper_subclass(Odd, (3, 4))
        shard = dtensor(odd, (6, 4), mesh, [Shard(0)])
        with pytest.raises(NotImplementedError, match=r"whose shards are of the class .*Odd"):
            fastinit.normal_(shard)


# ---- torch.compile -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("name", [*DRAWN, *CONSTANT])
def test_one_graph(name: str, dtype: torch.dtype) -> None:
    if dtype not in dtypes_of(name):
        return
    size = shapes_of(name)[0]
    placements = [Shard(0), Shard(1)]
    with as_rank_of((2, 2), 1) as mesh:
        torch._dynamo.reset()
        want = split(whole(name, size, dtype), mesh, placements)

        def filled(x: torch.Tensor) -> torch.Tensor:
            return fill(name, x) + 1

        compiled = torch.compile(filled, fullgraph=True, backend="aot_eager")
        shard = dtensor(torch.zeros_like(want), size, mesh, placements)
        result: Any = compiled(shard)
        assert same_bits(shard._local_tensor, want)
        assert same_bits(result._local_tensor, want + 1)


def test_one_graph_without_a_key() -> None:
    """Each call draws, as many as without the compiler."""
    with as_rank_of((2, 2), 1) as mesh:
        torch._dynamo.reset()
        compiled = torch.compile(fastinit.kaiming_uniform_, fullgraph=True, backend="aot_eager")
        eager, traced = (
            [dtensor(torch.zeros(4, 3), (8, 6), mesh, [Shard(0), Shard(1)]) for _ in range(3)]
            for _ in range(2)
        )
        compiled(traced[0])
        torch.manual_seed(2)
        for shard in eager:
            fastinit.kaiming_uniform_(shard)
        state = torch.get_rng_state()
        torch.manual_seed(2)
        for shard in traced:
            compiled(shard)
        assert torch.equal(torch.get_rng_state(), state)
        for a, b in zip(eager, traced, strict=True):
            assert same_bits(a._local_tensor, b._local_tensor)


# ---- patch() -------------------------------------------------------------------------------------


def build(empty: Callable[..., torch.Tensor], library: Any, **where: Any) -> list[torch.Tensor]:
    """What code for DTensors and code for whole tensors both call."""
    tensors = [empty(9, 5, **where) for _ in range(8)]
    nn.init.trunc_normal_(tensors[0], std=0.02, a=-0.06, b=0.06)
    nn.init.kaiming_uniform_(tensors[1], a=math.sqrt(5))
    nn.init.orthogonal_(tensors[2])
    nn.init.sparse_(tensors[3], 0.4)
    nn.init.eye_(tensors[4])
    nn.init.zeros_(tensors[5])
    tensors[6].normal_(1.0, 2.0)
    tensors[7].uniform_(-1, 1)
    return [
        *tensors,
        torch.rand_like(tensors[0]),
        torch.randn_like(tensors[0]),
        library.rand(9, 5, **where),
        library.randn((9, 5), **where),
        nn.init.dirac_(empty(6, 4, 3, **where)),
    ]


@pytest.mark.parametrize("key", [None, 3])
def test_patch(key: int | None) -> None:
    """The same numbers under a patch as without shards: keyed by the same draws, in order."""
    with fastinit.patch(key=key):
        torch.manual_seed(8)
        fulls = build(torch.empty, torch)
        state = torch.get_rng_state()
    layouts = [[Shard(0), Shard(1)], [Replicate(), Shard(0)]]
    for rank, placements in itertools.product(range(4), layouts):
        with as_rank_of((2, 2), rank) as mesh, fastinit.patch(key=key):
            torch.manual_seed(8)
            shards = build(spread.empty, spread, device_mesh=mesh, placements=placements)
            assert torch.equal(torch.get_rng_state(), state)
            for k, (shard, full) in enumerate(zip(shards, fulls, strict=True)):
                assert isinstance(shard, DTensor)
                assert same_bits(shard._local_tensor, split(full, mesh, placements)), k


def test_patch_is_over_when_it_is_over() -> None:
    functions = (spread.rand, spread.randn, nn.init.eye_, nn.init.dirac_)
    before = [function.__code__ for function in functions]
    with fastinit.patch():
        assert all(f.__code__ is not code for f, code in zip(functions, before, strict=True))
        with as_rank_of((2,), 0) as mesh:
            made = spread.rand(4, device_mesh=mesh, placements=[Shard(0)], requires_grad=True)
        assert made.requires_grad and made.is_leaf
    assert [function.__code__ for function in functions] == before


@pytest.mark.parametrize("key", [None, 3])
def test_patch_hands_no_shard_to_torch(key: int | None) -> None:
    """As it does with other tensors that a key cannot be honoured for: shards would be alike."""
    with as_rank_of((2,), 0) as mesh, fastinit.patch(key=key):
        partial = dtensor(torch.zeros(4, 4), (4, 4), mesh, [Partial()])
        with pytest.raises(NotImplementedError, match="sums over ranks"):
            nn.init.normal_(partial)
        with pytest.raises(NotImplementedError, match="sums over ranks"):
            partial.uniform_()


def test_patch_takes_shards() -> None:
    want = fastinit.normal_(torch.empty(9, 5), key=fastinit.Key(3).fold_in(0))
    local = torch.zeros(4, 5)
    with fastinit.patch(key=3):
        nn.init.normal_(fastinit.shard(local, (9, 5), (2, 0)))
    assert same_bits(local, want[2:6])


def test_parts_are_found_for_a_scalar() -> None:
    with as_rank_of((2,), 1) as mesh:
        shard = dtensor(torch.zeros(()), (), mesh, [Replicate()])
        assert part_of(shard, "").size == ()
        fastinit.normal_(shard, key=KEY)
        assert same_bits(shard._local_tensor, fastinit.normal_(torch.zeros(()), key=KEY))
