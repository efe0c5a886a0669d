"""`initialize_` and `materialize` on sharded modules: any rank, seen from this process."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank, dtensor
from support.sharded_models import (
    WAYS,
    WIDTH,
    Mixed,
    by_fsdp,
    initialized,
    on_meta,
    real,
    wrong_in,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import _StridedShard

import fastinit
from fastinit._models import sharded_ops
from fastinit._recording.settle import Settled

WORLD = 4


@pytest.mark.parametrize("rank", range(WORLD))
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("function", "made"),
    [(fastinit.initialize_, real), (fastinit.materialize, on_meta)],
    ids=["initialize_", "materialize"],
)
def test_bits(function: Any, made: Any, way: str, rank: int) -> None:
    want = initialized()
    with as_rank(rank, WORLD):
        model = made(way, WORLD)
        with CommDebugMode() as collectives:
            assert function(model, key=3) is model
        assert collectives.get_total_counts() == 0
        assert wrong_in(model, want) == []


@pytest.mark.parametrize("way", WAYS)
def test_only_what_no_part_tells_is_computed_as_a_whole(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[str] = []

    def compute(part: Any, source: Tensor, ops: Any) -> Any:
        whole.extend(op.label for op in ops)
        return computed(part, source, ops)

    computed = sharded_ops._whole
    monkeypatch.setattr(sharded_ops, "_whole", compute)
    with as_rank(0, WORLD):
        fastinit.initialize_(real(way, WORLD), key=3)
    assert set(whole) == (set() if way == "tensor_parallel" else {"bernoulli_"})


# ---- what either function takes ------------------------------------------------------------------

RULES: dict[Any, Any] = {
    "*.bias": nn.init.ones_,
    nn.Embedding: nn.init.normal_,
    "*.packed": fastinit.kaiming_uniform_,
    "default": None,
}


@pytest.mark.parametrize("way", WAYS)
def test_rules(way: str) -> None:
    want = fastinit.initialize_(Mixed(), RULES, key=3)
    with as_rank(1, WORLD):
        assert wrong_in(fastinit.initialize_(real(way, WORLD), RULES, key=3), want) == []
        assert wrong_in(fastinit.materialize(on_meta(way, WORLD), rules=RULES, key=3), want) == []


def test_prefix() -> None:
    want = initialized(prefix="decoder")
    with as_rank(2, WORLD):
        model = fastinit.initialize_(real("fsdp", WORLD), key=3, prefix="decoder")
        assert wrong_in(model, want) == []


def test_skipped_shards_stay() -> None:
    want = initialized()
    with torch.no_grad():
        want.layers[1].up.weight.fill_(7)
    with as_rank(1, WORLD):
        model = fastinit.initialize_(real("fsdp", WORLD), key=3, skip="layers.1.up.weight")
        assert wrong_in(model, want) == []


def test_what_reads_a_skipped_shard_is_refused() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.full((8, 4), 2.0))
            self.second = nn.Parameter(torch.full((8, 4), 3.0))

        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.second.copy_(self.first)

    with as_rank(1, WORLD):
        model: Any = fully_shard(Copies(), mesh=init_device_mesh("cpu", (WORLD,)))
        with pytest.raises(NotImplementedError, match=r"an initialiser reads first \(copy_\)"):
            fastinit.initialize_(model, key=3, skip="first")
        assert same_bits(model.first.to_local().detach(), torch.full((2, 4), 2.0))
        assert same_bits(model.second.to_local().detach(), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype(dtype: torch.dtype) -> None:
    with torch.device("meta"):
        want = Mixed()
    fastinit.materialize(want, dtype=dtype, key=3)
    for way in WAYS:
        with as_rank(3, WORLD):
            model = fastinit.materialize(on_meta(way, WORLD), dtype=dtype, key=3)
            assert wrong_in(model, want) == []


def test_types_of_their_own() -> None:
    def make() -> nn.Module:
        model = Mixed()
        model.experts.to(torch.bfloat16)
        model.conv.to(torch.float64)
        return model

    want = fastinit.initialize_(make(), key=3)
    with as_rank(3, WORLD):
        # FSDP2 asks for one type in each group.
        model = real("tensor_parallel", WORLD, make)
        assert wrong_in(fastinit.initialize_(model, key=3), want) == []


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_loaded(sharded: bool) -> None:
    want = initialized()
    value = torch.arange(3.0 * WIDTH * WIDTH).view(3 * WIDTH, WIDTH)
    scale = torch.tensor([3.0, 4.0, 5.0])
    with torch.no_grad():
        want.layers[0].attention.in_proj_weight.copy_(value)
        want.experts.scale.copy_(scale)
    name = "layers.0.attention.in_proj_weight"
    with as_rank(2, WORLD):
        model = on_meta("fsdp", WORLD)
        loaded: Tensor = value
        if sharded:
            like: Any = dict(model.named_parameters())[name]
            loaded = DTensor.from_local(value[18:27], like.device_mesh, like.placements)
        fastinit.materialize(model, key=3, state_dict={name: loaded, "experts.scale": scale})
        assert wrong_in(model, want) == []


def test_loaded_shards_of_another_layout() -> None:
    with as_rank(2, WORLD):
        model = on_meta("fsdp", WORLD)
        mesh: Any = model.head.weight
        loaded = DTensor.from_local(torch.ones(13, 3), mesh.device_mesh, [Shard(1)])
        with pytest.raises(
            NotImplementedError, match=r"'state_dict': embedding\.weight is a DTensor"
        ):
            fastinit.materialize(model, key=3, state_dict={"embedding.weight": loaded})
        assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_factory(way: str) -> None:
    def factory() -> nn.Module:
        model = Mixed()
        model.experts.reset_parameters()
        return model

    want = fastinit.initialize_(Mixed(), factory=factory, key=3)
    with as_rank(1, WORLD):
        model = fastinit.initialize_(real(way, WORLD), factory=factory, key=3)
        assert wrong_in(model, want) == []


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    want = initialized()
    with as_rank(1, WORLD):
        model = fastinit.initialize_(real("fsdp", WORLD), key=3, progress=True)
        assert wrong_in(model, want) == []
    assert "fastinit: 100%" in capsys.readouterr().err


# ---- what else is there afterwards ---------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_parameters_stay_the_objects_they_are(way: str) -> None:
    with as_rank(1, WORLD):
        model = real(way, WORLD)
        before = dict(model.named_parameters(remove_duplicate=False))
        versions = {name: p._version for name, p in before.items()}
        fastinit.initialize_(model, key=3)
        after = dict(model.named_parameters(remove_duplicate=False))
        assert before.keys() == after.keys()
        assert all(before[name] is after[name] for name in before)
        assert all(p._version > versions[name] for name, p in after.items())


def test_materialized_parameters_stay_the_objects_they_are() -> None:
    with as_rank(1, WORLD):
        model = on_meta("fsdp", WORLD)
        before = dict(model.named_parameters(remove_duplicate=False))
        fastinit.materialize(model, key=3)
        after = dict(model.named_parameters(remove_duplicate=False))
        held = {name for name in before if before[name] is after[name]}
        assert {name for name in before if not name.startswith("lstm.")} <= held
        assert model.head.weight is model.embedding.weight


def test_offloaded_shards() -> None:
    want = initialized()
    with as_rank(1, WORLD):
        with torch.device("meta"):
            model = Mixed()
        by_fsdp(model, offload_policy=CPUOffloadPolicy(pin_memory=False))
        assert wrong_in(fastinit.materialize(model, key=3), want) == []


def test_offloaded_shards_lie_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the mesh is: here it says that it is somewhere else."""
    want = fastinit.initialize_(nn.Linear(4, 8), key=3)
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        layer = nn.Linear(4, 8, device="meta")
        fully_shard(layer, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))
        with monkeypatch.context() as patched:
            patched.setattr(DeviceMesh, "device_type", property(lambda _: "meta"))
            fastinit.materialize(layer, key=3)
        assert wrong_in(layer, want) == []


def test_report() -> None:
    with as_rank(1, WORLD):
        model = fastinit.initialize_(real("fsdp", WORLD), key=3)
        rows = {row.name: row for row in fastinit.report(model).parameters}
    for want in fastinit.report(initialized()).parameters:
        got = rows[want.name]
        assert (got.shape, got.dtype, got.rule) == (want.shape, want.dtype, want.rule)
        assert ("written twice" in got.flags) == ("written twice" in want.flags)
        assert got.expected == want.expected


def test_an_error_leaves_the_module_as_it_was() -> None:
    def fail(tensor: Tensor) -> None:
        raise RuntimeError("out of paint")

    with as_rank(1, WORLD):
        for make, function in ((real, fastinit.initialize_), (on_meta, fastinit.materialize)):
            model = make("fsdp", WORLD)
            before = dict(model.named_parameters(remove_duplicate=False))
            local = {name: p._local_tensor for name, p in before.items()}
            held = {n: t.clone() for n, t in local.items()}
            with pytest.raises(RuntimeError, match="out of paint"):
                function(model, rules={"embedding.*": fail, "default": None}, key=3)
            after = dict(model.named_parameters(remove_duplicate=False))
            assert all(before[name] is after[name] for name in before)
            assert all(after[name]._local_tensor is local[name] for name in before)
            if make is real:
                assert all(same_bits(local[name], held[name]) for name in before)


def test_an_error_while_shards_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    with as_rank(1, WORLD):
        model = on_meta("fsdp", WORLD)
        before = dict(model.named_parameters(remove_duplicate=False))
        monkeypatch.setattr(Settled, "finish", fail)
        with pytest.raises(MemoryError):
            fastinit.materialize(model, key=3)
        after = dict(model.named_parameters(remove_duplicate=False))
        assert all(after[name] is before[name] and after[name].is_meta for name in before)
        monkeypatch.undo()
        assert wrong_in(fastinit.materialize(model, key=3), initialized()) == []


def test_initialisers_that_ask_for_a_class() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 8, bias=False)

        def init_weights(self) -> None:
            if type(self) is Asks and type(self.layer) is nn.Linear:
                nn.init.normal_(self.layer.weight, std=0.02)

    want = fastinit.initialize_(Asks(), key=3)
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        model = Asks()
        fully_shard(model.layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        kinds = [type(module) for module in model.modules()]
        assert wrong_in(fastinit.initialize_(model, key=3), want) == []
        assert [type(module) for module in model.modules()] == kinds
        with torch.device("meta"):
            model = Asks()
        fully_shard(model.layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert wrong_in(fastinit.materialize(model, key=3), want) == []
        assert [type(module).__name__ for module in model.modules()] == ["FSDPAsks", "FSDPLinear"]


@pytest.mark.parametrize("function", [nn.init.orthogonal_, partial(nn.init.sparse_, sparsity=0.5)])
def test_shards_of_several_boxes(function: Any) -> None:
    """Halves of fused projections, with what is no fill."""
    layer = nn.Linear(6, 8, bias=False)
    fastinit.initialize_(layer, {"weight": function}, key=3)
    want = torch.cat([layer.weight.detach()[2:4], layer.weight.detach()[6:8]])
    with as_rank(1, 2):
        mesh = init_device_mesh("cpu", (2,))
        shard: Any = dtensor(torch.zeros(4, 6), (8, 6), mesh, [_StridedShard(0, split_factor=2)])
        layer.weight = nn.Parameter(shard)
        fastinit.initialize_(layer, {"weight": function}, key=3)
        assert same_bits(shard._local_tensor, want)


@pytest.mark.parametrize("rows", [slice(2, 4), None], ids=["a view", "itself"])
def test_what_a_module_keeps_of_a_parameter_has_values(rows: slice | None) -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8, 4))
            self.kept: list[Tensor] = []

        def reset_parameters(self) -> None:
            nn.init.normal_(self.weight)
            self.kept = [self.weight if rows is None else self.weight.detach()[rows]]

    want: Any = fastinit.initialize_(Keeps(), key=3)
    with as_rank(1, WORLD):
        model: Any = fully_shard(Keeps(), mesh=init_device_mesh("cpu", (WORLD,)))
        fastinit.initialize_(model, key=3)
        assert wrong_in(model, want) == []
        assert same_bits(model.kept[0], want.kept[0])


def test_what_is_not_written_is_named() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8, 4))

    with as_rank(0, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        model = fully_shard(Bare().to("meta"), mesh=mesh)
        with pytest.raises(ValueError, match=r"nothing that Bare defines writes weight"):
            fastinit.materialize(model, key=3)


def test_partial_sums_are_refused_by_name() -> None:
    with as_rank(0, WORLD):
        layer = nn.Linear(4, 4)
        mesh = init_device_mesh("cpu", (WORLD,))
        layer.weight = nn.Parameter(DTensor.from_local(torch.ones(4, 4), mesh, [Partial()]))
        with pytest.raises(NotImplementedError, match=r"initialize_: weight is a .*Partial"):
            fastinit.initialize_(layer, key=3)
        assert same_bits(layer.weight._local_tensor, torch.ones(4, 4))
