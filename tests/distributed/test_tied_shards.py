"""DTensors that share memory, as parameters tied by `.data`; draws with `out=`; other refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.fake_ranks import as_rank
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import fastinit

WORLD = 4
Spread = Callable[[Tensor], Any]


def _spread(tensor: Tensor) -> Any:
    mesh = init_device_mesh("cpu", (WORLD,))
    return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)


def _constant_last(net: Any) -> None:
    nn.init.normal_(net.tied)
    nn.init.constant_(net.head[:3], 5.0)


def _in_turns(net: Any) -> None:
    nn.init.normal_(net.head)
    net.tied.mul_(2.0)
    net.head[1].zero_()
    net.tied.add_(1.0)


def _whole(net: Any) -> None:
    nn.init.orthogonal_(net.tied)
    net.head.copy_(net.head.flip(0))


class _Net(nn.Module):
    def __init__(self, spread: Spread, steps: Callable[[Any], None]) -> None:
        super().__init__()
        self.head = nn.Parameter(spread(torch.ones(6, 4)))
        self.tied = nn.Parameter(self.head.data)
        self.steps = steps

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.steps(self)


def _on_meta(spread: Spread, steps: Callable[[Any], None]) -> nn.Module:
    with torch.device("meta"):
        return _Net(spread, steps)


def _reset(net: Any) -> Any:
    net.reset_parameters()
    return net


DOORS: dict[str, Callable[..., Any]] = {
    "initialize_": lambda *how: fastinit.initialize_(_Net(*how), key=0),
    "meta": lambda *how: fastinit.materialize(_on_meta(*how), key=0),
    "meta, double": lambda *how: fastinit.materialize(_on_meta(*how), dtype=torch.float64, key=0),
    "factory": lambda *how: fastinit.materialize(lambda: _reset(_Net(*how)), key=0),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("steps", [_constant_last, _in_turns, _whole])
def test_shards_that_share_memory_are_tied(door: str, steps: Callable[[Any], None]) -> None:
    if door == "factory" and steps is _whole:
        pytest.skip("a factory does not turn round what it has sharded")
    whole = DOORS[door](lambda tensor: tensor, steps)
    for rank in (0, 1, 3):
        with as_rank(rank, WORLD):
            sharded = DOORS[door](_spread, steps)
            locals_ = sharded.head._local_tensor, sharded.tied._local_tensor
            assert locals_[0].data_ptr() == locals_[1].data_ptr()
            rows = whole.head.detach().chunk(WORLD)[rank] if rank < 3 else whole.head[:0].detach()
            for local in locals_:
                assert same_bits(local.detach(), rows)


def test_what_is_tied_to_something_skipped_stays_too() -> None:
    with as_rank(1, WORLD):
        for name in ("head", "tied"):
            net = fastinit.initialize_(_Net(_spread, _constant_last), key=0, skip=name)
            assert bool((net.head._local_tensor == 1).all())


def test_ties_that_initialisers_part_are_refused() -> None:
    def part(net: Any) -> None:
        nn.init.normal_(net.head)
        net.tied.data = torch.zeros(6, 4)

    with as_rank(1, WORLD):
        net = _Net(_spread, part)
        with pytest.raises(NotImplementedError, match="head and tied are DTensors that share memo"):
            fastinit.initialize_(net, key=0)
        assert bool((net.head._local_tensor == 1).all())


def test_shards_beside_each_other_in_one_memory_are_no_ties() -> None:
    """As in a flat buffer."""
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        net, flat = nn.Module(), torch.zeros(12)
        for name, part in zip("ab", flat.chunk(2), strict=True):
            spread = distribute_tensor(part, mesh, [Replicate()], src_data_rank=None)
            net.register_parameter(name, nn.Parameter(spread))
        fastinit.initialize_(net, {"default": fastinit.normal_}, key=0)
        for name in "ab":
            want = fastinit.normal_(torch.empty(6), key=fastinit.Key(0).fold_in(name).fold_in(0))
            local: Any = net.get_parameter(name)
            assert same_bits(local._local_tensor.detach(), want)


# ---- draws into what is there --------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda w: torch.randn(w.shape, out=w.data),
        lambda w: torch.rand(*w.shape, out=w.detach()),
        lambda w: torch.normal(1.0, 2.0, tuple(w.shape), out=w.data),
        torch.no_grad()(lambda w: torch.normal(1.0, 2.0, w.shape, out=w)),
        lambda w: torch.randn(w.shape, out=w.data, dtype=torch.float32, layout=torch.strided),
        lambda w: torch.rand(w.shape, out=w.data, pin_memory=False),
        lambda w: torch.normal(torch.ones(8, 4), 2.0, out=w.data),
        lambda w: torch.normal(torch.ones(8, 4), torch.full((8, 4), 2.0), out=w.data),
    ],
)
def test_draws_with_out_have_the_bits_of_the_whole(draw: Callable[[Any], object]) -> None:
    def made(spread: Spread) -> Any:
        layer = nn.Linear(4, 8, bias=False)
        layer.weight = nn.Parameter(spread(layer.weight.detach()))
        draw(layer.weight)
        return layer

    whole = fastinit.materialize(lambda: made(lambda tensor: tensor), key=0).weight.detach()
    with as_rank(1, WORLD):
        sharded = fastinit.materialize(lambda: made(_spread), key=0)
        assert same_bits(sharded.weight._local_tensor.detach(), whole.chunk(WORLD)[1])


# ---- what is refused -----------------------------------------------------------------------------


def test_a_sharded_value_for_an_ordinary_place_is_named() -> None:
    with as_rank(1, WORLD):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
        mesh = init_device_mesh("cpu", (WORLD,))
        fully_shard(model, mesh=mesh, ignored_params={model[0].weight})
        given = {"0.weight": _spread(torch.ones(6, 4))}
        with pytest.raises(
            NotImplementedError, match=r"0\.weight is a DTensor, the module's is an"
        ):
            fastinit.materialize(model, key=0, state_dict=given)
        assert model[0].weight.is_meta


@pytest.mark.parametrize("on_meta", [False, True])
def test_sharded_modules_inside_a_fake_mode(on_meta: bool) -> None:
    with as_rank(1, WORLD):
        with torch.device("meta" if on_meta else "cpu"):
            layer = nn.Linear(4, 4)
        model = fully_shard(layer, mesh=init_device_mesh("cpu", (WORLD,)))
        fill = fastinit.materialize if on_meta else fastinit.initialize_
        with FakeTensorMode(), pytest.raises(NotImplementedError, match="inside FakeTensorMode"):
            fill(model, key=0)


def test_a_module_on_meta_inside_a_fake_mode() -> None:
    with torch.device("meta"):
        layer = nn.Linear(4, 4)
    with FakeTensorMode(), pytest.raises(NotImplementedError, match="inside FakeTensorMode"):
        fastinit.materialize(layer, key=0)
