"""Layers of one kind: what the first of them does is done to the others without a call of it."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit
from fastinit._models import repeats
from fastinit._models.history import history_of

_SAVED = {m.__code__ for m in repeats._METHODS if m is not None}


@pytest.fixture
def calls() -> Iterator[Counter[str]]:
    """Count the calls of torch's own code by the class of the layer."""
    found: Counter[str] = Counter()

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in _SAVED:
            found[type(frame.f_locals["self"]).__name__] += 1

    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)


def _alone(module: nn.Module) -> dict[str, Tensor]:
    """Give the values that each layer of a module gets when it is the only one of its kind."""
    values: dict[str, Tensor] = {}
    for name, layer in module.named_children():
        fastinit.initialize_(layer, key=7, prefix=name)
        values |= {f"{name}.{n}": t.clone() for n, t in layer.state_dict().items()}
    return values


_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(3, 4),
    "Linear without bias": lambda: nn.Linear(3, 4, bias=False),
    "Bilinear": lambda: nn.Bilinear(2, 3, 4),
    "Conv2d": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "Embedding": lambda: nn.Embedding(5, 3),
    "Embedding with a padding row": lambda: nn.Embedding(5, 3, padding_idx=2),
    "EmbeddingBag": lambda: nn.EmbeddingBag(5, 3, padding_idx=1),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "LSTM": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    "GRUCell": lambda: nn.GRUCell(3, 4),
}


@pytest.mark.parametrize("name", _LAYERS)
def test_layers_of_a_kind_get_what_each_alone_gets(name: str, calls: Counter[str]) -> None:
    module = nn.ModuleList([_LAYERS[name]() for _ in range(4)])
    expected = _alone(module)
    versions = {n: p._version for n, p in module.named_parameters()}
    once = type(module[0]).__name__
    calls.clear()
    fastinit.initialize_(module, key=7)
    assert calls == {once: 1}
    moved = {n: p._version - versions[n] for n, p in module.named_parameters()}
    assert all(moved[n] == moved["0." + n.partition(".")[2]] > 0 for n in moved)
    rows = {row.name: row for row in fastinit.report(module).parameters}
    for n, row in rows.items():
        first = rows["0." + n.partition(".")[2]]
        assert (row.rule, row.flags) == (first.rule, first.flags)
    for n, value in module.state_dict().items():
        assert same_bits(value, expected[n]), n
    calls.clear()
    made = fastinit.materialize(lambda: nn.ModuleList([_LAYERS[name]() for _ in range(4)]), key=7)
    assert calls == {once: 1}
    for n, value in made.state_dict().items():
        assert same_bits(value, expected[n]), n


def test_what_differs_is_another_kind(calls: Counter[str]) -> None:
    makers: list[Callable[[], nn.Module]] = [
        lambda: nn.Embedding(5, 3, padding_idx=2),
        lambda: nn.Embedding(5, 3, padding_idx=3),
        lambda: nn.Embedding(5, 3),
        lambda: nn.Embedding(5, 3, dtype=torch.bfloat16),
        lambda: nn.Embedding(3, 5),
        lambda: nn.Embedding.from_pretrained(torch.zeros(5, 3).t().contiguous().t(), freeze=False),
        lambda: nn.Linear(5, 3),
        lambda: nn.Linear(5, 3, bias=False),
    ]
    module = nn.ModuleList([make() for make in makers])
    expected = _alone(module)
    calls.clear()
    fastinit.initialize_(module, key=7)
    assert calls == {"Embedding": 6, "Linear": 2}
    for name, value in module.state_dict().items():
        assert same_bits(value, expected[name]), name


class _Doubled(nn.Linear):
    """A layer whose weight is not what its table holds."""

    scale = 0

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        type(self).scale += 1
        with torch.no_grad():
            self.weight.mul_(self.scale)


def test_classes_of_others_are_called() -> None:
    _Doubled.scale = 0
    module = fastinit.materialize(lambda: nn.ModuleList([_Doubled(3, 3) for _ in range(3)]), key=1)
    plain = fastinit.materialize(lambda: nn.ModuleList([nn.Linear(3, 3) for _ in range(3)]), key=1)
    for k in range(3):
        assert same_bits(module[k].weight, plain[k].weight * (k + 1))  # type: ignore[operator]


def test_functions_that_others_have_exchanged_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    plain = nn.init.uniform_

    def counting(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
        counted.append(len(counted))
        with torch.no_grad():
            return plain(tensor, *arguments, **named).add_(len(counted))

    def factory() -> nn.Module:
        first = [nn.Linear(3, 3) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(nn.init, "uniform_", counting)
            second = [nn.Linear(3, 3) for _ in range(2)]
        third = [nn.Linear(3, 3) for _ in range(2)]
        return nn.ModuleList([*first, *second, *third])

    module = fastinit.materialize(factory, key=3)
    reference = fastinit.materialize(
        lambda: nn.ModuleList([nn.Linear(3, 3) for _ in range(6)]), key=3
    )
    assert counted == [0, 1]
    for k, (layer, other) in enumerate(zip(module, reference, strict=True)):  # type: ignore
        assert same_bits(layer.weight, other.weight)
        added = {2: 1, 3: 2}.get(k, 0)
        assert same_bits(layer.bias, other.bias + added if added else other.bias)


def test_methods_of_tensors_that_others_have_exchanged_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []
    plain = Tensor.fill_

    def counting(tensor: Tensor, value: Any) -> Tensor:
        counted.append(1)
        return plain(tensor, value)

    module = nn.ModuleList([nn.LayerNorm(4) for _ in range(3)])
    fastinit.initialize_(module, key=1)
    monkeypatch.setattr(Tensor, "fill_", counting, raising=False)
    for layer in module:
        layer.reset_parameters()  # type: ignore[operator]
    in_all = len(counted)
    assert in_all >= 3
    fastinit.initialize_(module, key=1)
    assert len(counted) >= 2 * in_all


def test_modes_of_others_see_every_layer() -> None:
    seen: list[Any] = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is nn.init.kaiming_uniform_:
                seen.append(func)
            return func(*args, **(kwargs or {}))

    def factory() -> nn.Module:
        with Mode():
            return nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])

    fastinit.materialize(factory, key=0)
    assert len(seen) == 3


def test_layers_that_share_memory_are_called(calls: Counter[str]) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            memory = torch.empty(2, 4, 4)
            self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(2)])
            for layer, part in zip(self.layers, memory, strict=True):
                layer.weight = nn.Parameter(part)
            for layer in self.layers:
                layer.reset_parameters()  # type: ignore[operator]

    module = fastinit.materialize(Shared, key=5)
    eager = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(2)])
    with torch.no_grad():
        for k, layer in enumerate(eager):
            key = fastinit.Key(5).fold_in(f"layers.{k}.weight").fold_in(0)
            fastinit.kaiming_uniform_(layer.weight, a=5**0.5, key=key)  # type: ignore[arg-type]
    for layer, expected in zip(module.layers, eager, strict=True):  # type: ignore[arg-type]
        assert same_bits(layer.weight, expected.weight)


def test_a_layer_that_was_read_gets_what_was_read() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList()
            self.sums = []
            for _ in range(4):
                self.layers.append(nn.Linear(3, 3))
                self.sums.append(float(self.layers[-1].weight.sum()))  # type: ignore

    module = fastinit.materialize(Reading, key=2)
    assert module.sums == [float(layer.weight.sum()) for layer in module.layers]  # type: ignore
    plain = fastinit.materialize(
        lambda: nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 3) for _ in range(4)])}), key=2
    )
    for name, value in plain.state_dict().items():
        assert same_bits(module.state_dict()[name], value), name


def test_a_layer_whose_memory_numpy_has_is_drawn_at_once() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
            weights = [layer.weight.detach().numpy() for layer in self.layers]  # type: ignore
            for layer in self.layers:
                layer.reset_parameters()  # type: ignore[operator]
            self.sums = [float(weight.sum()) for weight in weights]

    module = fastinit.materialize(Reading, key=2)
    for seen, layer in zip(module.sums, module.layers, strict=True):  # type: ignore[arg-type]
        assert seen == pytest.approx(float(layer.weight.sum()))  # type: ignore[operator,arg-type]


class _Scales(torch.Tensor):
    scale = 1

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if getattr(func, "__name__", "") == "kaiming_uniform_":
            with torch._C.DisableTorchFunctionSubclass():
                result.mul_(cls.scale)
        return result


class _Doubles(_Scales):
    scale = 2


def test_tensors_with_functions_of_their_own_are_asked_each() -> None:
    def factory(kind: type[Tensor]) -> nn.Module:
        layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
        for layer in layers:
            weight: Any = layer._parameters["weight"]
            layer._parameters["weight"] = weight.detach().as_subclass(kind)
            layer.reset_parameters()  # type: ignore[operator]
            layer._parameters["weight"] = weight
        return layers

    doubled = fastinit.materialize(lambda: factory(_Doubles), key=2)
    plain = fastinit.materialize(lambda: factory(_Scales), key=2)
    for name, value in plain.state_dict().items():
        expected = 2 * value if "weight" in name else value
        assert same_bits(doubled.state_dict()[name], expected), name


def test_nothing_is_left_of_the_exchange() -> None:
    code = {m: m.__code__ for m in repeats._METHODS if m is not None}
    with pytest.raises(ZeroDivisionError):
        fastinit.materialize(lambda: 1 // 0, key=0)  # type: ignore[arg-type,return-value]
    fastinit.initialize_(nn.Linear(2, 2), key=0)
    assert all(method.__code__ is before for method, before in code.items())
    assert "init." in inspect.getsource(nn.Linear.reset_parameters)


def test_children_that_somebody_has_given_a_layer_are_initialised() -> None:
    def factory() -> nn.Module:
        layers = nn.ModuleList([nn.GRU(3, 4) for _ in range(3)])
        layers[1].extra = nn.Linear(2, 2)  # which `reset_parameters` of a GRU draws, too
        layers[1].reset_parameters()  # type: ignore[operator]
        layers[2].reset_parameters()  # type: ignore[operator]
        return layers

    module = fastinit.materialize(factory, key=4)
    key = fastinit.Key(4).fold_in("1.extra.weight").fold_in(0)
    expected = fastinit.uniform_(torch.empty(2, 2), -0.5, 0.5, key=key)
    assert same_bits(module.get_parameter("1.extra.weight"), expected)


class _Gated(nn.LayerNorm):
    """A layer whose numbers are not in the module."""

    asked = 0

    @property
    def elementwise_affine(self) -> bool:
        type(self).asked += 1
        return type(self).asked % 2 == 1

    @elementwise_affine.setter
    def elementwise_affine(self, value: bool) -> None:
        pass


def test_numbers_that_a_class_computes_are_asked_for() -> None:
    module = nn.ModuleList([_Gated(3, bias=False) for _ in range(4)])
    with torch.no_grad():
        for layer in module:
            layer.weight = nn.Parameter(torch.full((3,), 5.0))
    _Gated.asked = 0
    written = fastinit.materialize(lambda: _reset(module), key=0)
    assert [float(layer.weight[0]) for layer in written] == [1.0, 5.0, 1.0, 5.0]  # type: ignore


def _reset(module: nn.ModuleList) -> nn.Module:
    for layer in module:
        layer.weight = nn.Parameter(torch.empty(3).fill_(5))
        layer.reset_parameters()  # type: ignore[operator]
    return module


def test_what_a_rule_does_is_noted_as_what_that_rule_does() -> None:
    module = nn.ModuleList([nn.LayerNorm(3, bias=False) for _ in range(5)])
    layers: dict[Tensor, Any] = {layer.weight: layer for layer in module}  # type: ignore[misc]

    def one(weight: Tensor) -> None:
        layers[weight].reset_parameters()

    def other(weight: Tensor) -> None:
        layers[weight].reset_parameters()

    rules = {"0.*": one, "1.*": other, "2.*": one, "3.*": other, "4.*": None}
    fastinit.initialize_(module, key=1, rules=rules)
    histories = [history_of(layer, "weight") for layer in module]
    noted = [[write.label for write in found.writes] for found in histories if found is not None]
    assert noted == [["one()"], ["other()"], ["one()"], ["other()"], ["constant_"]]


def test_weights_in_another_order_of_memory(calls: Counter[str]) -> None:
    def factory() -> nn.Module:
        layers = nn.ModuleList([nn.Conv2d(4, 4, 3) for _ in range(3)])
        return layers.to(memory_format=torch.channels_last)

    module = factory()
    expected = _alone(module)
    fastinit.initialize_(module, key=7)
    for name, value in module.state_dict().items():
        assert same_bits(value, expected[name]), name


def _on_one_memory() -> nn.Linear:
    layer, memory = nn.Linear(3, 3), torch.zeros(12)
    layer.weight = nn.Parameter(memory[:9].view(3, 3))
    layer.bias = nn.Parameter(memory[9:])
    return layer


def _apart() -> nn.Linear:
    layer = _on_one_memory()
    layer.bias = nn.Parameter(torch.zeros(12)[9:])
    return layer


def test_tensors_of_a_layer_on_one_memory() -> None:
    module = nn.ModuleList([_on_one_memory(), _apart(), _on_one_memory(), _apart()])
    expected = _alone(module)
    fastinit.initialize_(module, key=7)
    for name, value in module.state_dict().items():
        assert same_bits(value, expected[name]), name
