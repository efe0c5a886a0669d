"""What FSDP2 and modules hold of shards: objects that stay, memory in turns, methods."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard, distribute_tensor

import fastinit

WORLD = 4


def _sharded(module: nn.Module) -> Any:
    return fully_shard(module, mesh=init_device_mesh("cpu", (WORLD,)))


def _on_meta(make: Any) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = make()
    return made


@pytest.mark.parametrize("kind", [nn.Linear, nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_shards_on_meta_stay_the_objects_that_they_are(kind: Any, dtype: Any) -> None:
    with as_rank(1, WORLD):
        module = _sharded(_on_meta(lambda: kind(4, 4)))
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        before = [*module.parameters()]
        references = [*map(weakref.ref, before)]
        told: list[Any] = []
        for parameter in before:
            parameter.register_post_accumulate_grad_hook(told.append)
            parameter.mark = len(told)
        fastinit.materialize(module, dtype=dtype, key=0)
        assert all(a is b for a, b in zip(before, module.parameters(), strict=True))
        assert all(one() is b for one, b in zip(references, before, strict=True))
        assert all("mark" in vars(parameter) for parameter in before)
        values = [parameter.to_local().clone() for parameter in before]
        for parameter in before:
            parameter.to_local().sum().backward()
        assert len(told) == len(before)
        optimizer.step()
        for value, parameter in zip(values, before, strict=True):
            assert torch.equal(parameter.to_local(), value - 1)
            assert parameter.dtype is (dtype or torch.float32)


def test_a_distributed_tensor_that_is_held_weakly_stays_itself() -> None:
    with as_rank(1, WORLD):
        mesh = init_device_mesh("cpu", (WORLD,))
        layer = _on_meta(lambda: nn.Linear(4, 8))
        spread = distribute_tensor(layer.weight.detach(), mesh, [Shard(0)], src_data_rank=None)
        layer.weight = nn.Parameter(spread)
        held = weakref.ref(layer.weight)
        fastinit.materialize(layer, key=0)
        assert held() is layer.weight
        assert not layer.weight.is_meta


class Legacy(nn.Module):
    """Whose constructor makes memory in spite of the meta device."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.Tensor(8, 6))
        self.bias = nn.Parameter(torch.zeros(8))
        if buffer:
            self.register_buffer("shift", torch.zeros(3))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if "shift" in self._buffers:
            nn.init.zeros_(self.shift)


@pytest.mark.parametrize("buffer", [False, True])
def test_shards_made_in_spite_of_meta_are_initialised(buffer: bool) -> None:
    with as_rank(1, WORLD):
        module = _on_meta(lambda: Legacy(buffer))
        with torch.no_grad():
            module.weight.fill_(777)  # what such memory may hold
        _sharded(module)
        with pytest.warns(UserWarning, match=r"materialize: weight are real beside"):
            fastinit.materialize(module, key=0)
        assert torch.equal(module.weight.to_local(), torch.ones(2, 6))
        assert torch.equal(module.bias.to_local(), torch.zeros(2))


def test_such_shards_that_are_skipped_stay() -> None:
    with as_rank(1, WORLD):
        module = _on_meta(lambda: Legacy(False))
        with torch.no_grad():
            module.weight.fill_(777)
        fastinit.materialize(_sharded(module), key=0, skip="weight")
        assert torch.equal(module.weight.to_local(), torch.full((2, 6), 777.0))


def test_what_is_all_on_meta_is_not_called_real() -> None:
    with as_rank(1, WORLD), warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = _on_meta(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 12)))
        fastinit.materialize(_sharded(nn.Sequential(layer)), key=0)


class Encoder(nn.Module):
    """Whose initialiser calls a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.layer.weight.div_(self.encode(torch.ones(1, 8)).norm())


def test_forward_methods_of_fsdp_are_the_modules_own_meanwhile() -> None:
    want = fastinit.initialize_(Encoder(), key=0).layer.weight
    with as_rank(1, WORLD):
        module = _sharded(Encoder())
        register_fsdp_forward_method(module, "encode")
        before = {**vars(module)}
        fastinit.initialize_(module, key=0)
        assert vars(module) == before
        assert [*vars(module)] == [*before]
        on_meta = _sharded(_on_meta(Encoder))
        register_fsdp_forward_method(on_meta, "encode")
        fastinit.materialize(on_meta, key=0)
        for made in (module, on_meta):
            assert torch.equal(made.layer.weight.to_local(), want[2:4])
        module.reset_parameters = None
        with pytest.raises(ValueError, match=r"does not write all of layer\.weight"):
            fastinit.initialize_(module, {"layer.bias": nn.init.zeros_, "default": lambda t: t})
        assert vars(module)["encode"] == before["encode"]


def test_a_part_of_a_unit_that_is_not_sharded_just_now() -> None:
    with as_rank(1, WORLD):
        module = _sharded(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
        for fill in (
            lambda part: fastinit.initialize_(part, {"default": nn.init.ones_}, key=0),
            lambda part: _ones_under_a_patch(part),
        ):
            with torch.no_grad():
                for parameter in module[1].parameters():
                    parameter.zero_()
                module(torch.ones(1, 8))  # after which the outermost unit keeps what it gathered
            fill(module[1])
            module.reshard()
            for parameter in module[1].parameters():
                assert torch.equal(parameter.to_local(), torch.ones_like(parameter.to_local()))


def _ones_under_a_patch(part: nn.Module) -> None:
    with fastinit.patch(3, module=part):
        for parameter in part.parameters():
            nn.init.ones_(parameter)


class Late(nn.Module):
    """Whose constructor gives some values, and whose own initialiser the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.late = nn.Linear(8, 8), nn.Parameter(torch.empty(8))
        with torch.no_grad():
            self.layer.bias.copy_(torch.arange(8.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.late)


@pytest.mark.parametrize("skip", [(), "layer.bias", "layer.weight"])
def test_none_and_skip_are_what_a_factory_that_shards_has_made(skip: Any) -> None:
    how = {"rules": {"default": None}, "skip": skip, "key": 0}
    with as_rank(1, WORLD):
        made = fastinit.materialize(lambda: _sharded(Late()), **how)
        assert torch.equal(made.layer.bias.to_local(), torch.tensor([2.0, 3.0]))
        assert torch.equal(made.late.to_local(), torch.ones(2))
        if skip != "layer.weight":
            want = fastinit.materialize(Late, **how)
            assert torch.equal(made.layer.weight.to_local(), want.layer.weight[2:4])
