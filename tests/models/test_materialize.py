"""`materialize`: factories and meta modules, ties, buffers, what nobody wrote, dtypes, memory."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import no_randomness, same_bits
from torch import nn

import fastinit
from fastinit import _C, Key, materialize
from fastinit._recording import memory


def drawn(name: str, n: int = 0, key: int = 3) -> Key:
    return Key(key).fold_in(name).fold_in(n)


def normal(shape: tuple[int, ...], std: float, name: str, n: int = 0) -> torch.Tensor:
    return fastinit.normal_(torch.empty(shape), 0.0, std, key=drawn(name, n))


class Everything(nn.Module):
    """The ways in which constructors make parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.empty = nn.Parameter(torch.empty(6, 4))
        nn.init.normal_(self.empty, std=0.5)
        self.randn = nn.Parameter(torch.randn(6, 4) * 0.1)
        self.rand = nn.Parameter(torch.rand(4))
        self.zeros = nn.Parameter(torch.zeros(1, 5, 4))
        self.drawn_over = nn.Parameter(torch.zeros(1, 5, 4))
        nn.init.trunc_normal_(self.drawn_over, std=0.02)
        self.table = nn.Embedding(6, 4)
        self.table.weight.data = torch.arange(24.0).view(6, 4)
        self.other = nn.Parameter(torch.ones(6, 4))
        self.other.data = torch.randn(6, 4)
        self.copied = nn.Linear(4, 3)
        with torch.no_grad():
            self.copied.weight.copy_(torch.arange(12.0).view(3, 4))
            self.copied.bias.fill_(0.5).mul_(2)
        self.typed = nn.Parameter(torch.FloatTensor(4).uniform_(2, 3))
        self.twin = copy.deepcopy(self.copied)
        self.tied = nn.Linear(4, 6, bias=False)
        self.tied.weight = self.empty
        self.plain = torch.empty(3).fill_(7.0)
        self.listed = [torch.ones(2), torch.randn(3)]
        self.register_buffer("positions", torch.arange(5).expand(1, -1))
        self.register_buffer("mask", torch.tril(torch.ones(4, 4, dtype=torch.bool)))
        self.register_buffer("drawn", torch.randn(8), persistent=False)
        self.register_buffer("filled", torch.empty(3).zero_())
        self.register_buffer("frequencies", 1.0 / 10000 ** (torch.arange(0, 8, 2).float() / 8))
        self.rates = [x.item() for x in torch.linspace(0, 0.1, 3)]
        self.norm = nn.BatchNorm1d(4)
        self.none = nn.Parameter(torch.empty(0, 3))
        self.register_parameter("nothing", None)
        self.frozen = nn.Parameter(torch.empty(3).fill_(1.0), requires_grad=False)


def test_the_ways_of_constructors() -> None:
    with no_randomness():
        made = materialize(Everything, key=3)
    native = Everything()
    assert [*made.state_dict()] == [*native.state_dict()]
    theirs = dict(native.named_parameters())
    for name, parameter in made.named_parameters():
        other = theirs[name]
        assert (parameter.shape, parameter.dtype, parameter.stride(), parameter.requires_grad) == (
            (other.shape, other.dtype, other.stride(), other.requires_grad)
        ), name
        assert not parameter.is_meta, name
        assert torch.isfinite(parameter).all(), name
    for (name, buffer), other in zip(made.named_buffers(), native.buffers(), strict=True):
        assert name == "drawn" or same_bits(buffer, other), name
    assert same_bits(made.empty.data, normal((6, 4), 0.5, "empty"))
    assert same_bits(made.randn.data, normal((6, 4), 1.0, "randn") * 0.1)
    assert same_bits(made.rand.data, fastinit.uniform_(torch.empty(4), key=drawn("rand")))
    assert same_bits(
        made.drawn_over.data,
        fastinit.trunc_normal_(torch.empty(1, 5, 4), std=0.02, key=drawn("drawn_over")),
    )
    assert torch.equal(made.table.weight, native.table.weight)
    assert same_bits(made.other.data, normal((6, 4), 1.0, "other"))
    assert torch.equal(made.twin.weight, native.twin.weight)
    assert torch.equal(made.copied.bias, torch.ones(3))
    assert ((made.typed >= 2) & (made.typed < 3)).all()
    assert same_bits(made.drawn, normal((8,), 1.0, "drawn"))
    assert made.tied.weight is made.empty
    assert torch.equal(made.plain, torch.full((3,), 7.0))
    assert same_bits(made.listed[1], normal((3,), 1.0, "listed.1"))
    assert made.rates == native.rates
    made.norm(torch.ones(2, 4))


def test_a_layer_more_changes_nothing_else() -> None:
    def stack(*widths: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(8, 8) for _ in widths), nn.Linear(8, 4))

    short = materialize(lambda: stack(1, 2), key=3).state_dict()
    long = materialize(lambda: stack(1, 2, 3), key=3).state_dict()
    assert all(same_bits(short[n], long[n]) for n in short if not n.startswith("2"))


def test_what_nobody_wrote() -> None:
    class Forgets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.missing = nn.Parameter(torch.empty(4))
            self.part = nn.Parameter(torch.empty(4))
            self.scaled = nn.Parameter(torch.empty(4))
            self.copied = nn.Parameter(torch.empty(4))
            self.register_buffer("table", torch.empty(2))
            with torch.no_grad():
                self.part[1:].fill_(1.0)
                self.scaled.mul_(2.0)
                self.copied.copy_(torch.empty(4))

    with pytest.raises(ValueError) as error:
        materialize(Forgets, key=3)
    for name in ("missing", "part", "scaled", "copied"):
        assert f"{name} (parameter)" in str(error.value)
    assert "table (buffer)" in str(error.value)
    assert "linear" not in str(error.value)
    assert "constructor" not in str(error.value)  # which has run
    patterns = ["missing", "part", "scaled", "copied", "tab*"]
    made = materialize(Forgets, key=3, allow_uninitialized=patterns)
    assert not any(t.is_meta for t in (*made.parameters(), *made.buffers()))
    assert (made.part[1:] == 1).all()
    with pytest.raises(ValueError, match="copied"):
        materialize(Forgets, key=3, allow_uninitialized=[*patterns[:3], "table"])


def test_parts_that_make_a_whole() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.empty(4, 3))
            self.columns = nn.Parameter(torch.empty(4, 4))
            with torch.no_grad():
                for row in self.rows:
                    row.normal_()
                self.columns[:, ::2].fill_(1.0)
                self.columns[:, 1::2].fill_(2.0)

    made = materialize(Halves, key=3)
    assert torch.equal(made.columns, torch.tensor([1.0, 2.0]).repeat(4, 2))
    for k in range(4):
        assert same_bits(made.rows[k].detach(), normal((3,), 1.0, "rows", k))


# ---- modules on the meta device ------------------------------------------------------------------


def test_a_meta_module_is_the_same_object_with_the_same_parameters() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    weight, buffer = module[0].weight, module[1].running_var
    weight.tag = "kept"
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    assert materialize(module, key=3) is module
    assert module[0].weight is weight
    assert module[1].running_var is buffer
    assert weight.tag == "kept"
    assert isinstance(weight, nn.Parameter)
    assert optimizer.param_groups[0]["params"][0] is weight
    module(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    expected = fastinit.initialize_(nn.Linear(4, 4), key=3, prefix="0")
    fresh = materialize(nn.Sequential(nn.Linear(4, 4, device="meta")), key=3)
    assert same_bits(fresh[0].weight.data, expected.weight.data)


def test_what_is_real_stays() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))
    before = module[0].weight.detach().clone()
    materialize(module, key=3)
    assert same_bits(module[0].weight.data, before)
    assert not module[1].weight.is_meta


def test_a_meta_module_without_initialiser_is_left_as_it_was() -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.empty(3, device="meta"))
    module.register_buffer("table", torch.empty(3, device="meta"))
    with pytest.raises(
        ValueError,
        match=r"weight \(parameter\), table \(buffer\);.* materialize\(factory\) in place",
    ):
        materialize(module, key=3)
    assert module.weight.is_meta
    materialize(module, key=3, rules={"default": nn.init.ones_}, allow_uninitialized="table")
    assert (module.weight == 1).all()


def test_a_factory_on_the_meta_device() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("angles", torch.arange(4.0) / 4)
            self.register_buffer("like", torch.ones_like(self.linear.weight))
            self.register_buffer("beside", torch.arange(4, device=self.linear.weight.device) * 2)

    def factory() -> nn.Module:
        with torch.device("meta"):
            return Rotary()

    # As a module that is given: what only its constructor knows is lost.
    with pytest.raises(ValueError, match=r"angles \(buffer\), like \(buffer\), beside \(buffer\)"):
        materialize(factory, key=3)
    made = materialize(factory, key=3, allow_uninitialized=["angles", "like", "beside"])
    assert same_bits(made.linear.weight, materialize(Rotary, key=3).linear.weight)


def test_a_factory_partly_on_the_meta_device() -> None:
    """What it makes with memory has its values, whatever initialisers of the rest do to it."""

    class Copies(nn.Module):
        def __init__(self, device: str | None) -> None:
            super().__init__()
            self.real = nn.Parameter(torch.randn(4, 4))
            self.register_buffer("table", torch.arange(4.0) * 2)
            self.meta = nn.Parameter(torch.empty(4, 4, device=device))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.meta.copy_(self.real)
                self.meta[0].normal_()
                self.real.mul_(2)
                self.table.add_(1)

    def factory(device: str | None) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4, device=device), Copies(device))

    made = materialize(lambda: factory("meta"), key=3)
    assert same_bits(made[0].weight, materialize(lambda: factory(None), key=3)[0].weight)
    assert same_bits(made[1].weight, materialize(lambda: factory(None), key=3)[1].weight)
    assert same_bits(made[2].meta[1:], made[2].real[1:])
    assert not same_bits(made[2].meta[0], made[2].real[0])
    key = fastinit.Key(3).fold_in("2.real").fold_in(0)
    assert same_bits(made[2].real.detach(), fastinit.normal_(torch.empty(4, 4), key=key) * 2)
    assert same_bits(made[2].table, torch.arange(4.0) * 2 + 1)


def test_nothing_is_drawn_for_what_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    run_fills = memory.run_fills

    def counted(fills: Any) -> None:
        filled.append(len(fills))
        run_fills(fills)

    monkeypatch.setattr(memory, "run_fills", counted)
    factory = lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4, device="meta"))  # noqa: E731
    materialize(factory, key=3)
    assert sum(filled) == 4


def test_lstm_and_parameter_subclasses() -> None:
    with torch.device("meta"):
        module = nn.LSTM(3, 4)
    materialize(module, key=3)
    expected = fastinit.initialize_(nn.LSTM(3, 4), key=3)
    assert module._flat_weights[0] is module.weight_ih_l0
    x = torch.ones(2, 1, 3)
    assert torch.equal(module(x)[0], expected(x)[0])

    class Special(nn.Parameter):
        pass

    module = nn.Module()
    module.weight = Special(torch.empty(3, device="meta"), requires_grad=False)
    materialize(module, key=3, rules={"default": nn.init.ones_})
    assert type(module.weight) is Special
    assert not module.weight.requires_grad


# ---- dtype, device, rules ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_of_a_meta_module(dtype: torch.dtype) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 4, padding_idx=1), nn.Linear(4, 4), nn.BatchNorm1d(4))

    with torch.device("meta"):
        module = make()
        module[1].register_module("angles", nn.Module())
        module[1].angles.register_buffer("table", torch.empty(3))
    rules = {"1.weight": lambda w: w.normal_().mul_(0.3), "default": None}
    materialize(module, None, dtype, rules, key=3, allow_uninitialized="*table")
    expected = fastinit.initialize_(make(), rules, key=3)
    for name, value in expected.state_dict().items():
        ours = module.state_dict()[name]
        if not value.is_floating_point():
            assert same_bits(ours, value)
        elif dtype is torch.float64 and name in ("0.weight", "1.bias"):
            assert torch.allclose(ours, value.double(), atol=1e-5)
        else:
            assert same_bits(ours, value.to(dtype)), name
    assert module[1].angles.table.dtype is torch.float32  # beside no parameter


def test_dtype_of_a_factory_is_the_default_while_it_runs() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3, 3).normal_())
            self.exact = nn.Parameter(torch.ones(3, dtype=torch.float32))

    made = materialize(Mixed, dtype=torch.bfloat16, key=3)
    assert made.weight.dtype is torch.bfloat16
    assert made.exact.dtype is torch.float32
    assert torch.get_default_dtype() is torch.float32
    expected = materialize(Mixed, key=3)
    assert same_bits(made.weight.data, expected.weight.data.bfloat16())
    with pytest.raises(ZeroDivisionError):
        materialize(lambda: 1 // 0, dtype=torch.bfloat16)
    assert torch.get_default_dtype() is torch.float32


def test_device() -> None:
    made = materialize(lambda: nn.Linear(3, 3), "cpu", key=3)
    assert made.weight.device.type == "cpu"
    assert materialize(nn.Linear(3, 3, device="meta"), torch.device("cpu"), key=3).bias is not None


def test_rules_apply_after_the_factory() -> None:
    rules = {"*.bias": nn.init.ones_, "default": functools.partial(fastinit.normal_, std=0.5)}
    made = materialize(lambda: nn.Sequential(nn.Linear(3, 3)), rules=rules, key=3)
    assert (made[0].bias == 1).all()
    assert same_bits(made[0].weight.data, normal((3, 3), 0.5, "0.weight"))
    kept = materialize(
        lambda: nn.Sequential(nn.Linear(3, 3)), rules={1: nn.init.ones_, "default": None}, key=3
    )
    linear = fastinit.kaiming_uniform_(torch.empty(3, 3), math.sqrt(5), key=drawn("0.weight"))
    assert same_bits(kept[0].weight.data, linear)


def test_torch_s_generator_and_explicit_ones() -> None:
    torch.manual_seed(2)
    a = materialize(lambda: nn.Linear(3, 3))
    torch.manual_seed(2)
    b = materialize(lambda: nn.Linear(3, 3))
    assert same_bits(a.weight.data, b.weight.data)

    def explicit() -> nn.Module:
        layer = nn.Linear(3, 3, bias=False)
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(4))
        return layer

    expected = fastinit.normal_(torch.empty(3, 3), generator=torch.Generator().manual_seed(4))
    assert same_bits(materialize(explicit, key=1).weight.data, expected)


def test_no_memory_is_touched_twice() -> None:
    """What is overwritten is not computed, and nothing but the model's memory is written."""
    sizes: list[int] = []
    original = memory.run_fills

    def counted(fills: Any) -> None:
        sizes.extend(tensor.nbytes for tensor, _ in fills)
        original(fills)

    def make() -> nn.Module:
        model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(20)))
        for layer in model:
            nn.init.normal_(layer.weight)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "run_fills", counted)
        made = materialize(make, key=3)
    assert sum(sizes) == sum(p.numel() * 4 for p in made.parameters())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: materialize(3), TypeError, "module_or_factory"),
        (lambda: materialize(lambda: 3), TypeError, "must return"),
        (lambda: materialize(nn.Linear, key=0), TypeError, "missing"),
        (lambda: materialize(lambda: nn.Linear(2, 2), dtype=torch.int32), TypeError, "'dtype'"),
        (lambda: materialize(lambda: nn.Linear(2, 2), dtype="half"), TypeError, "'dtype'"),
        (lambda: materialize(lambda: nn.Linear(2, 2), rules=3), TypeError, "'rules'"),
        (lambda: materialize(lambda: nn.Linear(2, 2), key=2.5), TypeError, "'key'"),
        (lambda: materialize(lambda: nn.Linear(2, 2), rules={3: None}), ValueError, "matches"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_nothing_stays_on_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        materialize(lambda: 1 // 0)
    assert not torch.empty(2).is_meta
    assert torch._C._len_torch_function_stack() == 0


def test_large_memory_is_backed_by_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(_C, "advise_huge_pages", lambda begin, size: asked.append(size))
    monkeypatch.setenv("FASTINIT_HUGE_PAGES", "1")
    materialize(lambda: nn.Linear(1 << 11, 1 << 10), key=3)
    assert asked == [4 << 21]  # not the bias
    monkeypatch.setenv("FASTINIT_HUGE_PAGES", "0")
    materialize(lambda: nn.Linear(1 << 11, 1 << 10), key=3)
    assert len(asked) == 1


def test_runs_again_after_a_copy_from_a_view() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 3))
            self.register_buffer("row", torch.empty(3))

        def reset_parameters(self) -> None:
            with torch.no_grad():
                noise = torch.randn(4, 3)
                self.weight.copy_(noise / noise.norm())  # under a key that turns out to be wrong
                self.row.copy_(self.weight[0])

    with torch.device("meta"):
        module = Copies()
    materialize(module, key=1)
    want = fastinit.initialize_(Copies(), key=1)
    assert same_bits(module.weight, want.weight)
    assert same_bits(module.row, want.row)
