"""Rare operators and modes in initialisers: what they give under a recording and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor

import fastinit
from fastinit import Key, materialize
from fastinit._recording import copies, waiting

KEY = Key(3)
_aten = torch.ops.aten


def _word(name: str, n: int = 0) -> Key:
    return KEY.fold_in(name).fold_in(n)


def _linear(weight: Tensor, name: str) -> Tensor:
    return fastinit.kaiming_uniform_(torch.empty_like(weight), 5**0.5, key=_word(name))


class _Buffers(nn.Module):
    def __init__(self, **buffers: Tensor) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)


def _rrelu(in_place: bool) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        x, noise = torch.randn(4, 8), torch.empty(4, 8)
        before = x.clone()
        operator = _aten.rrelu_with_noise_ if in_place else _aten.rrelu_with_noise
        return _Buffers(before=before, y=operator(x, noise, 0.1, 0.3, True), noise=noise)

    return make


@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_that_an_operator_saves_to_is_written(in_place: bool) -> None:
    made = materialize(_rrelu(in_place), key=KEY)
    again = materialize(_rrelu(in_place), key=KEY)
    assert same_bits(made.y, made.before * made.noise)
    assert set(made.noise[made.before > 0].tolist()) == {1.0}
    assert ((made.noise[made.before < 0] >= 0.1) & (made.noise[made.before < 0] <= 0.3)).all()
    assert same_bits(made.noise, again.noise)


def test_values_and_indices_that_a_helper_saves_are_written() -> None:
    def make() -> nn.Module:
        values, indices = torch.empty(4), torch.empty(4, dtype=torch.int64)
        _aten._cummax_helper(torch.tensor([2.0, 1.0, 3.0, 0.0]), values, indices, 0)
        x, largest, places = torch.randn(4), torch.empty(4), torch.empty(4, dtype=torch.int64)
        _aten._cummax_helper(x, largest, places, 0)
        return _Buffers(values=values, indices=indices, x=x, largest=largest, places=places)

    made = materialize(make, key=KEY)
    assert made.values.tolist() == [2, 2, 3, 3]
    assert made.indices.tolist() == [0, 0, 2, 2]
    assert same_bits(made.largest, made.x.cummax(0).values)
    assert torch.equal(made.places, made.x.cummax(0).indices)


def test_statistics_without_values_stay_without() -> None:
    def make() -> nn.Module:
        mean, var = torch.empty(4), torch.empty(4)
        _aten._native_batch_norm_legit(torch.randn(8, 4), None, None, mean, var, True, 0.1, 1e-5)
        return _Buffers(mean=mean, var=var)

    with pytest.raises(ValueError, match=r"mean \(buffer\), var \(buffer\)"):
        materialize(make, key=KEY)


def test_nested_tensors_in_a_batch() -> None:
    first, second = (fastinit.normal_(torch.empty(n, 3), key=n) for n in (2, 4))
    with fastinit.batch():
        a, b = (fastinit.normal_(torch.empty(n, 3), key=n) for n in (2, 4))
        strided = torch.nested.nested_tensor([a, b])
        c, d = (fastinit.normal_(torch.empty(n, 3), key=n) for n in (2, 4))
        jagged = torch.nested.as_nested_tensor([c, d], layout=torch.jagged)
        e = fastinit.normal_(torch.empty(4, 3), key=4)
        doubled = torch.nested.nested_tensor_from_jagged(e, torch.tensor([0, 1, 4])) * 2
        padded = torch.nested.to_padded_tensor(strided, 0.0)
        fastinit.zeros_(a)
        torch.empty_like(strided).zero_()
        torch.empty_like(jagged).zero_()
    assert same_bits(padded[0, :2], first)
    assert same_bits(padded[1], second)
    assert same_bits(jagged.values(), torch.cat([first, second]))
    assert same_bits(doubled.values(), second * 2)
    assert not a.any()


def test_a_lazy_layer_that_a_factory_runs() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2))
        model(torch.ones(2, 3))
        return model

    made = materialize(make, key=KEY)
    assert type(made[0]) is nn.Linear
    for name in ("0.weight", "2.weight"):
        weight = made.get_parameter(name).detach()
        assert same_bits(weight, _linear(weight, name)), name
    assert made[1].num_batches_tracked == 1
    out = made[0](torch.ones(2, 3)).mean(0)
    torch.testing.assert_close(made[1].running_mean, 0.1 * out)


class _Faked(nn.Module):
    """Works out a shape on tensors that have no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        mode = FakeTensorMode()
        weight = mode.from_tensor(self.layer.weight.detach())
        with mode:
            other = nn.Linear(4, 5)
            drawn = nn.init.normal_(torch.empty(2, 3))
            self.shape = tuple(other(drawn @ weight.t()).shape)
        # Outside of their mode they still have no memory.
        changed = nn.init.uniform_(drawn.clone()).mul_(2)
        left = torch.empty_like(drawn).fill_(1)
        self.kinds = {type(t) for t in (weight, drawn, other.weight, changed, left)}


def test_fake_tensors_inside_a_factory_and_a_batch() -> None:
    with fastinit.patch(1):
        expected = _Faked().layer.weight
    with fastinit.patch(1, batch=True):
        batched = _Faked()
    made = materialize(_Faked, key=KEY)
    for one in (batched, made):
        assert one.shape == (2, 5)
        assert all(issubclass(kind, FakeTensor) for kind in one.kinds)
    assert same_bits(batched.layer.weight.data, expected.data)
    weight = made.layer.weight.detach()
    assert same_bits(weight, _linear(weight, "layer.weight"))


def test_a_factory_and_a_batch_inside_fake_tensors() -> None:
    with FakeTensorMode():
        with fastinit.batch():
            batched = nn.Linear(3, 4)
            drawn = fastinit.normal_(torch.empty(3), key=1)
        made = materialize(lambda: nn.Linear(3, 4), key=KEY)
    for tensor in (batched.weight, drawn, made.weight):
        assert isinstance(tensor, FakeTensor)
    assert made.weight.shape == (4, 3)


@pytest.mark.parametrize("change", [False, True])
def test_chains_of_copies_take_work_in_proportion(
    change: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    create = copies.Op

    def counted(*args: Any, **kwargs: Any) -> Any:
        made[-1] += 1
        return create(*args, **kwargs)

    for module in (copies, waiting):
        monkeypatch.setattr(module, "Op", counted)

    def operations(length: int) -> int:
        def make() -> nn.Module:
            x = torch.randn(5)
            for _ in range(length):
                x = x.clone() * 1.01 if change else x.clone()
            return _Buffers(x=x)

        made.append(0)
        materialize(make, key=KEY)
        return made[-1]

    short, middle, long = (operations(n) for n in (50, 100, 200))
    assert 0 < middle <= 2 * short + 50
    assert 0 < long <= 2 * middle + 50
    assert long < 20 * 200


def test_the_meta_device_is_no_place_for_values() -> None:
    for module in (lambda: nn.Linear(2, 2), nn.Linear(2, 2, device="meta")):
        for device in ("meta", torch.device("meta")):
            with pytest.raises(ValueError, match="'device' is the meta device"):
                materialize(module, device, key=KEY)


# What is made of values that nobody has written has none either, whatever its bits are.
OF_NOTHING: dict[str, Callable[[Tensor], object]] = {
    "a copy of a copy": lambda w: w.copy_(w.clone().neg()),
    "arithmetic after a copy": lambda w: (w.clone(), w.mul_(2)),
    "a sum after a copy": lambda w: (w.clone(), w.copy_(torch.sin(w) + w)),
    "a list's arithmetic": lambda w: (w.clone(), torch._foreach_mul_([w], 2)),
    "out= of a copy": lambda w: torch.sin(w.clone(), out=w),
    "another type": lambda w: w.copy_(w.clone().to(torch.float16)),
    "a part": lambda w: (w.clone(), w[:2].mul_(2), w[2:].fill_(1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("way", OF_NOTHING)
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_what_is_made_of_nothing_is_nothing(way: str, dtype: torch.dtype) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 6, dtype=dtype), requires_grad=False)
            OF_NOTHING[way](self.weight)

    with pytest.raises(ValueError, match=r"nothing that Model defines writes weight"):
        fastinit.materialize(Model, key=0)


# Elements that depend on values have some, whatever the others of the same tensor are.
OF_PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": lambda w: w.mul_(2),
    "a tensor in place": lambda w: w.add_(torch.ones(4, 6)),
    "a list in place": lambda w: (torch._foreach_mul_([w], 2.0), w)[1],
    "a product": lambda w: w * 2,
    "a row to each": lambda w: w + torch.ones(6),
    "laid out otherwise": lambda w: w.t().neg().t(),
    "another type": lambda w: w.double(),
    "a short type": lambda w: w.to(torch.bfloat16),
    "a copy of another type": lambda w: w.copy_(w.double()),
    "out= of itself": lambda w: torch.add(w, 1, out=w),
    "a row more": lambda w: torch.cat([w, torch.ones(1, 6)])[:4],
    "a row more, of another type": lambda w: torch.cat([w, torch.ones(1, 6).double()])[:4],
    "columns more, of another type": lambda w: torch.hstack([torch.ones(4, 2).double(), w])[:, 2:],
    "a list of numbers beside": lambda w: torch.cat([torch.empty(0), w]),
    "repeated": lambda w: w.repeat(2, 1)[4:],
    "padded": lambda w: torch.nn.functional.pad(w, (1, 1, 1, 0))[1:, 1:-1],
    "on a diagonal": lambda w: torch.block_diag(w, torch.ones(2, 2).double())[:4, :6],
    "a stack": lambda w: torch.stack([torch.ones(4, 6).double(), w], 1)[:, 1],
    "out= of joined": lambda w: torch.cat([w, torch.ones(1, 6)], out=torch.empty(5, 6))[:4],
    "chosen, of another type": lambda w: torch.where(torch.ones(4, 6) > 0, w, w.double()),
}


@pytest.mark.parametrize("way", OF_PARTS)
def test_what_is_made_of_parts_with_values_has_them(way: str) -> None:
    class Model(nn.Module):
        def __init__(self, complete: bool) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 6), requires_grad=False)
            self.weight[0].copy_(torch.arange(6.0))
            self.weight[2, ::2].copy_(torch.ones(3))
            self.weight.data = OF_PARTS[way](self.weight.data)
            self.weight[1].fill_(3)
            self.weight[3].fill_(4)
            if complete:
                self.weight[2, 1::2].fill_(5)

    expected = Model(complete=True).weight
    made = fastinit.materialize(lambda: Model(complete=True), key=0).weight
    assert torch.equal(made, expected)
    with pytest.raises(ValueError, match=r"nothing that Model defines writes weight"):
        fastinit.materialize(lambda: Model(complete=False), key=0)


def test_what_a_holder_writes_after_such_an_operator_counts() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 6), requires_grad=False)
            array = self.weight.numpy()
            array[:2] = 1
            self.weight[2:].copy_(self.weight.clone()[2:].neg())
            array[2:] = 2

    weight = fastinit.materialize(Model, key=0).weight
    assert weight[:2].eq(1).all()
    assert weight[2:].eq(2).all()


def test_what_numpy_has_written_of_its_own_is_put_back_before_a_further_run() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.array = np.ones((4, 6), np.float32)
            self.first = torch.from_numpy(self.array)
            self.second = torch.from_numpy(np.ones((4, 6), np.float32))

        def reset_parameters(self) -> None:
            array = self.first.detach().numpy()
            array *= 0.5
            self.second.uniform_(2, 3)  # cannot wait, so its key is a guess at first

    model = fastinit.initialize_(Model(), key=0)
    assert model.first.eq(0.5).all()
    assert (model.array == 0.5).all()
    assert model.second.ge(2).all()


def test_values_beside_what_is_made_of_nothing_stay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 6), requires_grad=False)
            self.weight[0].copy_(torch.empty(6))
            self.weight[0].copy_(torch.arange(6.0))

    assert torch.equal(materialize(Model, key=KEY).weight, Model().weight)


def test_what_an_initialiser_adds_has_to_be_written() -> None:
    class Model(nn.Linear):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            self.extra = nn.Parameter(torch.empty(3))

    with pytest.raises(ValueError, match=r"nothing that Model defines writes extra"):
        fastinit.initialize_(Model(2, 3), key=KEY)


@pytest.mark.parametrize("make", [lambda: nn.Parameter(torch.randn(3)), lambda: nn.Linear(2, 2)])
def test_what_an_initialiser_adds_is_initialised(make: Callable[[], Any]) -> None:
    class Model(nn.Linear):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            self.extra = make()

    model = fastinit.initialize_(Model(2, 3), key=KEY)
    added = dict(model.named_parameters()).keys() - {"weight", "bias"}
    assert added
    for name in added:
        row = next(row for row in fastinit.report(model).parameters if row.name == name)
        assert row.rule, name


def test_an_initialiser_may_be_of_one_module_alone() -> None:
    def set_to_two() -> None:
        with torch.no_grad():
            module.weight.fill_(2)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

    module: Any = Plain()
    module.reset_parameters = set_to_two
    fastinit.initialize_(module, key=KEY)
    assert module.weight.eq(2).all()


def test_what_a_holder_has_written_counts_beside_what_has_no_values() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 6), requires_grad=False)
            self.weight[0].copy_(torch.arange(6.0))
            other = torch.empty(4, 6)
            other.numpy()[:] = 1
            self.weight.add_(other)
            self.weight[1:].fill_(2)

    made = materialize(Model, key=KEY).weight
    assert torch.equal(made[0], torch.arange(6.0) + 1)
    assert made[1:].eq(2).all()
