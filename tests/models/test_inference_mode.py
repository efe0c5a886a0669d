"""Inference mode: everything works there, and what torch closes to writes is never half written.

Inference tensors count no writes, and in that mode operators that are made of others (`reshape`,
`to`) reach a dispatch mode whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import Model, assert_same, values
from test_materialize import Everything
from torch import nn

import fastinit

READS: dict[str, Callable[[torch.Tensor], Any]] = {
    "reshape": lambda w: w.t().reshape(-1),
    "flatten": lambda w: w.t().flatten(),
    "ravel": lambda w: w.t().ravel(),
    "contiguous": lambda w: w.t().contiguous(),
    "to": lambda w: w.to(torch.float64),
    "type_as": lambda w: w.type_as(torch.empty(1, dtype=torch.bfloat16)),
    "narrow": lambda w: w.narrow(0, 1, 2).T.unflatten(0, (2, 2)),
    "linear": lambda w: nn.functional.linear(w, w),
    "norm": lambda w: w.norm() + w.std(),
    "allclose": lambda w: torch.tensor(torch.allclose(w, 2 * w)),
    "item": lambda w: torch.tensor(w[0, 0].item()),
}


class Reading(nn.Module):
    """A weight, and what a constructor makes of it."""

    def __init__(self, read: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.read = read
        self.weight = nn.Parameter(torch.empty(4, 4))
        self.register_buffer("sum", torch.empty(()))
        self.reset_parameters()
        self.register_buffer("made", read(self.weight).clone())

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        with torch.no_grad():
            self.weight.div_(self.weight.norm())
            self.weight[0].uniform_()
            self.sum.copy_(self.read(self.weight).double().sum())
        nn.init.trunc_normal_(self.weight[1:3])


class Recurrent(nn.Module):
    """Modules that hold their parameters in ways of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, proj_size=3)
        self.norm = nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2)


def all_inference(module: nn.Module) -> bool:
    return all(t.is_inference() for t in (*module.parameters(), *module.buffers()))


def no_inference(module: nn.Module) -> bool:
    return not any(t.is_inference() for t in (*module.parameters(), *module.buffers()))


# ---- inside --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Model, Recurrent])
def test_initialize_inside(kind: type[nn.Module]) -> None:
    want = values(fastinit.initialize_(kind(), key=3))
    outer = kind()
    with torch.inference_mode():
        inner = kind()
        fastinit.initialize_(inner, key=3)
        fastinit.initialize_(outer, key=3)
    assert_same(values(inner), want)
    assert_same(values(outer), want)
    assert all_inference(inner)
    assert no_inference(outer)


def test_rules_inside() -> None:
    rules = {1: nn.init.zeros_, "default": fastinit.orthogonal_}
    want = values(fastinit.initialize_(Model(), rules, key=3))
    with torch.inference_mode():
        assert_same(values(fastinit.initialize_(Model(), rules, key=3)), want)


@pytest.mark.parametrize("kind", [Model, Recurrent, Everything])
def test_factory_inside(kind: type[nn.Module]) -> None:
    want = values(fastinit.materialize(kind, key=3))
    with torch.inference_mode():
        module = fastinit.materialize(kind, key=3)
    assert_same(values(module), want)
    assert all_inference(module)


@pytest.mark.parametrize("kind", [Model, Everything])
def test_factory_with_a_mode_of_its_own(kind: type[nn.Module]) -> None:
    @torch.inference_mode()
    def factory() -> nn.Module:
        return kind()

    module = fastinit.materialize(factory, key=3)
    assert_same(values(module), values(fastinit.materialize(kind, key=3)))
    assert all_inference(module)


@pytest.mark.parametrize("made_inside", [False, True])
def test_meta_module_inside(made_inside: bool) -> None:
    def made(inside: bool) -> nn.Module:
        with torch.inference_mode(inside), torch.device("meta"):
            return Model()

    want = values(fastinit.materialize(made(False), key=3))
    with torch.inference_mode():
        module = fastinit.materialize(made(made_inside), key=3)
    assert_same(values(module), want)
    assert all_inference(module)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_reads_weights_sees_values_inside(read: Callable[[torch.Tensor], Any]) -> None:
    want = values(fastinit.materialize(lambda: Reading(read), key=3))
    again = values(fastinit.initialize_(Reading(read), key=5))
    with torch.inference_mode():
        module = fastinit.materialize(lambda: Reading(read), key=3)
        assert_same(values(module), want)
        fastinit.initialize_(module, key=5)
    for name in ("weight", "sum"):
        assert same_bits(values(module)[name], again[name])


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_reads_a_batch_sees_values_inside(read: Callable[[torch.Tensor], Any]) -> None:
    want = read(fastinit.normal_(torch.empty(4, 4), key=1))
    with fastinit.batch():
        tensor = fastinit.normal_(torch.empty(4, 4), key=1)
        with torch.inference_mode():
            got = read(tensor)
    assert same_bits(got, want)


@pytest.mark.parametrize("batch", [False, True])
def test_patch_inside(batch: bool) -> None:
    def build() -> nn.Module:
        with fastinit.patch(key=1, batch=batch):
            return Model()

    want = values(build())
    with torch.inference_mode():
        assert_same(values(build()), want)


def test_lazy_module_called_inside() -> None:
    def made() -> nn.Module:
        lazy = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
        return fastinit.initialize_(lazy, key=3).eval()

    x = torch.ones(3, 5)
    want, module = made(), made()
    want(x)
    with torch.inference_mode():
        module(x)
    assert_same(values(module), values(want))


def test_report_inside() -> None:
    with torch.inference_mode():
        module = fastinit.initialize_(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), key=3)
        report = fastinit.report(module, torch.ones(3, 4))
    assert report.flags == {}
    assert fastinit.report(module.eval(), torch.ones(3, 4)).flags == {}


def test_gradients_asked_for_inside() -> None:
    want = fastinit.normal_(torch.empty(4, 4), key=1)
    with torch.inference_mode(), torch.enable_grad():
        tensor = fastinit.normal_(torch.empty(4, 4, requires_grad=True), key=1)
        module = fastinit.initialize_(Model(), key=3)
    assert same_bits(tensor, want)
    assert_same(values(module), values(fastinit.initialize_(Model(), key=3)))


# ---- outside -------------------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "uniform_": (),
    "normal_": (),
    "trunc_normal_": (),
    "constant_": (1.0,),
    "ones_": (),
    "zeros_": (),
    "eye_": (),
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (),
    "orthogonal_": (),
    "sparse_": (0.5,),
    "variance_scaling_": (),
    "lecun_uniform_": (),
    "lecun_normal_": (),
    "trunc_normal_tf_": (),
    "dirac_": (),
    "delta_orthogonal_": (),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_refuse_before_they_write(name: str) -> None:
    shape = (4, 4, 3) if name in ("dirac_", "delta_orthogonal_") else (4, 4)
    with torch.inference_mode():
        tensor = torch.full(shape, 7.0)
    with pytest.raises(RuntimeError, match="inference"):
        getattr(fastinit, name)(tensor, *FUNCTIONS[name])
    assert (tensor == 7).all()
    with torch.inference_mode():
        getattr(fastinit, name)(tensor, *FUNCTIONS[name])
        assert not (tensor == 7).all()


def test_initialize_refuses_by_name_before_it_writes() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.inference_mode():
        module[1].weight = nn.Parameter(torch.full((3, 3), 7.0))
    before, state = values(module), torch.get_rng_state()
    with pytest.raises(RuntimeError, match=r"inference tensors.*: 1\.weight;"):
        fastinit.initialize_(module)
    assert_same(values(module), before)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        fastinit.initialize_(module, key=1)
    assert not torch.equal(module[1].weight, before["1.weight"])


def test_parameters_that_are_skipped_or_ruled_out_may_be_inference_tensors() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.inference_mode():
        module[1] = nn.Linear(3, 3)
    before = values(module)
    fastinit.initialize_(module, {"default": fastinit.normal_}, key=1, skip="1.*")
    assert same_bits(module[1].weight, before["1.weight"])
    assert not torch.equal(module[0].weight, before["0.weight"])


@pytest.mark.parametrize("kind", ["buffer", "skipped"])
def test_initialize_refuses_what_initialisers_write_besides(kind: str) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with torch.inference_mode():
        if kind == "buffer":
            module[1].running_mean = torch.full((3,), 7.0)
        else:
            module[1].weight = nn.Parameter(torch.full((3,), 7.0))
    name = "running_mean" if kind == "buffer" else "weight"
    before = values(module)
    with pytest.raises(RuntimeError, match=rf"write to 1\.{name}, an inference tensor"):
        fastinit.initialize_(module, key=1, skip="1.weight")
    assert_same(values(module), before)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("read", ["item", "numpy", "numpy only", "directly"])
def test_what_was_written_to_be_read_is_put_back(read: str, inside: bool) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((4,), 7.0))

        def reset_parameters(self) -> None:
            if read != "numpy only":
                nn.init.normal_(self.weight)
            if read == "item":
                self.weight.max().item()
            elif read.startswith("numpy"):
                self.weight.detach().numpy()[0] = 3
            else:
                self.weight.detach().map_(torch.ones(4), lambda a, b: a + b)
            raise LookupError

    with torch.inference_mode(inside):
        module = nn.ModuleList([nn.Linear(2, 2), Reader()])
        before = values(module)
        with pytest.raises(LookupError):
            fastinit.initialize_(module, key=1)
        assert_same(values(module), before)


def test_materialize_gives_a_meta_module_made_inside_memory_of_where_it_is_called() -> None:
    for inside in (False, True):
        with torch.inference_mode(), torch.device("meta"):
            module = Model()
        with torch.inference_mode(inside):
            fastinit.materialize(module, key=3)
        assert all(p.is_inference() is inside for p in module.parameters())
        assert_same(values(module), values(fastinit.materialize(Model, key=3)))


def test_materialize_refuses_what_a_factory_finds() -> None:
    with torch.inference_mode():
        found = nn.Linear(3, 3)
    before = values(found)

    def by_us() -> nn.Module:
        fastinit.normal_(found.weight)
        return nn.Sequential(found)

    def by_itself() -> nn.Module:
        found.reset_parameters()
        return nn.Sequential(found)

    for factory in (by_us, by_itself):
        with pytest.raises(RuntimeError, match=r"write to a tensor of shape \(3, 3\)"):
            fastinit.materialize(factory, key=3)
        assert_same(values(found), before)


def test_report_with_inputs_leaves_closed_buffers() -> None:
    with torch.inference_mode():
        module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    rows = fastinit.report(module.eval(), torch.ones(2, 3)).layers
    assert [row.name for row in rows] == ["0", "1"]
