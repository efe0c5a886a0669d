"""What ranks do in tests/distributed/test_orthogonal_together.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, empty
from torch.distributed.tensor.debug import CommDebugMode

import fastinit
from support.common import same_bits
from support.worlds import Cases, mesh_of

CASES: Cases = {}
# Tall, wide, square, uneven and empty shards, of several panels, of convolutions.
SIZES = [(13, 9), (5, 12), (1, 4), (2, 2), (64, 64), (300, 40), (40, 300), (9, 3, 2, 2), (6, 7, 5)]
TOLERANCE = {torch.float64: 1e-13, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = [torch.float64, torch.complex64, torch.complex128, torch.float16, torch.bfloat16]


def case(function: Callable[[int], None]) -> Callable[[int], None]:
    CASES[function.__name__] = function
    return function


def layouts(world: int) -> list[tuple[Any, list[Any]]]:
    line = [(mesh_of(world), [one]) for one in (Shard(0), Shard(1), Replicate())]
    if world % 2:
        return line
    plane = mesh_of(2, world // 2)
    pairs = (
        [Shard(0), Shard(1)],
        [Shard(0), Shard(0)],
        [Replicate(), Shard(1)],
        [Shard(0), Replicate()],
    )
    return [*line, *((plane, list(pair)) for pair in pairs)]


def collectives_of(mesh: Any, placements: Sequence[Any], batch_dims: int) -> int:
    """A check and a sum along each dimension of the mesh that spreads matrices."""
    spread = [
        k
        for k, one in enumerate(placements)
        if isinstance(one, Shard) and one.dim >= batch_dims and mesh.size(k) > 1
    ]
    return 2 * len(spread)


def digests(tensor: Tensor) -> list[str]:
    found: list[Any] = [None] * distributed.get_world_size()
    text = hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    distributed.all_gather_object(found, text)
    return found


def check(
    size: tuple[int, ...],
    mesh: Any,
    placements: list[Any],
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> None:
    want = fastinit.orthogonal_(torch.empty(size, dtype=dtype), key=7, **options)
    tensor = empty(*size, dtype=dtype, device_mesh=mesh, placements=placements)
    version = tensor._version
    with CommDebugMode() as collectives:
        assert fastinit.orthogonal_(tensor, key=7, distributed=True, **options) is tensor
    about = size, placements, dtype, options
    count = collectives_of(mesh, placements, options.get("batch_dims", 0))
    assert collectives.get_total_counts() == count, (about, collectives.get_total_counts())
    assert tensor._version > version, about
    got = tensor.full_tensor()
    allowed = TOLERANCE.get(dtype, 1e-5) * max(1, abs(options.get("gain", 1)))
    assert (got - want).abs().max() <= allowed, (about, (got - want).abs().max())
    if count == 0:
        assert same_bits(got, want), about
    # Ranks add up by themselves in each replica, and have the same bits nevertheless.
    assert len(set(digests(got))) == 1, about


@case
def any_layout(world: int) -> None:
    for size in SIZES:
        for mesh, placements in layouts(world):
            check(size, mesh, placements)


@case
def any_dtype_and_gain(world: int) -> None:
    for dtype in DTYPES:
        check((13, 9), mesh_of(world), [Shard(0)], dtype, gain=2.0)
        check((9, 13), mesh_of(world), [Shard(0)], dtype, gain=-0.5)


@case
def batches(world: int) -> None:
    for mesh, placements in layouts(world):
        check((5, 7, 6), mesh, placements, batch_dims=1)
        check((2, 3, 4, 9), mesh, placements, batch_dims=2)
    check((3, 8, 5), mesh_of(world), [Shard(2)], batch_dims=1)


@case
def several_sums(world: int) -> None:
    """Matrices and sums that do not fit into one collective."""
    from fastinit._distributed import orthogonal

    at_once = orthogonal._AT_ONCE
    orthogonal._AT_ONCE = 300
    try:
        for size, options in (((60, 40), {}), ((9, 20, 8), {"batch_dims": 1})):
            want = fastinit.orthogonal_(torch.empty(size), key=7, **options)  # type: ignore[arg-type]
            tensor = empty(*size, device_mesh=mesh_of(world), placements=[Shard(1)])
            with CommDebugMode() as collectives:
                fastinit.orthogonal_(tensor, key=7, distributed=True, **options)  # type: ignore[arg-type]
            assert collectives.get_total_counts() > 3 or world == 1
            assert (tensor.full_tensor() - want).abs().max() < 1e-5
    finally:
        orthogonal._AT_ONCE = at_once


@case
def without_distributed_nothing_is_communicated(world: int) -> None:
    for size in SIZES:
        tensor = empty(*size, device_mesh=mesh_of(world), placements=[Shard(0)])
        with CommDebugMode() as collectives:
            fastinit.orthogonal_(tensor, key=7)
        assert collectives.get_total_counts() == 0


@case
def lists(world: int) -> None:
    sizes = [(13, 9), (8, 8), (13, 9)]
    want = fastinit.orthogonal_many_([torch.empty(s) for s in sizes], [1, 2, 3], keys=[1, 2, 3])
    tensors = [empty(*s, device_mesh=mesh_of(world), placements=[Shard(0)]) for s in sizes]
    fastinit.orthogonal_many_(tensors, [1, 2, 3], keys=[1, 2, 3], distributed=True)
    for one, whole in zip(tensors, want, strict=True):
        assert (one.full_tensor() - whole).abs().max() < 1e-5


@case
def without_a_key(world: int) -> None:
    torch.manual_seed(5)
    want = fastinit.orthogonal_(torch.empty(13, 9))
    state = torch.get_rng_state()
    torch.manual_seed(5)
    tensor = empty(13, 9, device_mesh=mesh_of(world), placements=[Shard(0)])
    fastinit.orthogonal_(tensor, distributed=True)
    assert (tensor.full_tensor() - want).abs().max() < 1e-5
    assert torch.equal(torch.get_rng_state(), state)


def error_of(function: Callable[[], object]) -> str:
    try:
        function()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@case
def ranks_that_differ(world: int) -> None:
    last = distributed.get_rank() == world - 1
    for differing in ({"key": 3 + last}, {"key": 3, "gain": 2.0 if last else 1.0}):
        local = torch.full((3, 6), 7.0)
        tensor = DTensor.from_local(local, mesh_of(world), [Shard(0)])
        call = partial(fastinit.orthogonal_, tensor, distributed=True, **differing)
        said = error_of(call)
        if world == 1:
            assert said == ""
            continue
        assert f"RuntimeError: fastinit.orthogonal_: the {world} ranks that share a DTensor" in said
        assert f"Here: key {differing['key']}, gain {float(differing.get('gain', 1))}" in said, said
        assert torch.equal(local, torch.full((3, 6), 7.0))
    torch.manual_seed(last)
    tensor = empty(8, 6, device_mesh=mesh_of(world), placements=[Shard(0)])
    said = error_of(lambda: fastinit.orthogonal_(tensor, distributed=True))
    assert ("seeded alike" in said) == (world > 1), said


class Model(nn.Module):
    """With a matrix that is scaled afterwards, one of which a part is orthogonal, and a tie."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 13, bias=False)
        self.down = nn.Linear(13, 6, bias=False)
        self.experts = nn.Parameter(torch.empty(5, 6, 8))
        self.few = nn.Parameter(torch.empty(2, 6))
        self.part = nn.Parameter(torch.empty(8, 6))
        self.drawn = nn.Parameter(torch.empty(8, 6))
        self.tied = nn.Linear(6, 13, bias=False)
        self.tied.weight = self.up.weight


def _scaled(tensor: Tensor) -> None:
    fastinit.orthogonal_(tensor, 2.0, distributed=True)
    tensor.mul_(0.5)
    tensor[1:3].zero_()


def _of_a_part(tensor: Tensor) -> None:
    fastinit.normal_(tensor)
    fastinit.orthogonal_(tensor[2:6], distributed=True)


def _then_drawn(tensor: Tensor) -> None:
    """What no part tells, so that each rank makes the whole."""
    fastinit.orthogonal_(tensor, distributed=True)
    tensor[:2].bernoulli_(0.5)


RULES = {
    "down.weight": _scaled,
    "experts": partial(fastinit.orthogonal_, batch_dims=1, distributed=True),
    "part": _of_a_part,
    "drawn": _then_drawn,
    "default": partial(fastinit.orthogonal_, distributed=True),
}


@case
def rules_of_models(world: int) -> None:
    """Also with plain parameters, and on one process: a rule serves any model."""
    whole = fastinit.initialize_(Model(), RULES, key=3)
    want = dict(whole.named_parameters())
    meshes = [mesh_of(world)] if world % 2 else [mesh_of(world), mesh_of(2, world // 2)]
    for mesh in meshes:
        for function in (fastinit.materialize, fastinit.initialize_):
            with torch.device("meta"):
                model = Model()
            fully_shard(model, mesh=mesh)
            if function is fastinit.initialize_:
                model.to_empty(device="cpu")
                model.tied.weight = model.up.weight
            with CommDebugMode() as collectives:
                function(model, rules=RULES, key=3)
            # up, down, experts' six rows each are shared (their first dimension is not), few.
            shared = world if mesh.ndim == 1 else world // 2
            assert collectives.get_total_counts() == (0 if shared == 1 else 2 * 3)
            assert model.tied.weight is model.up.weight
            for name, parameter in model.named_parameters():
                full: Any = parameter
                full = full.full_tensor().detach()
                assert (full - want[name]).abs().max() < 1e-5, name
                if name in ("part", "drawn", "experts"):
                    assert same_bits(full, want[name].detach()), name
                assert len(set(digests(full))) == 1
