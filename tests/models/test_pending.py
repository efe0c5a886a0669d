"""What a recording on pending memory promises: keys by name for what was read, too, and globals."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.common import same_bits
from torch import nn

import fastinit
from fastinit import Key, initialize_, materialize
from fastinit._recording import memory, recorder

KEY = Key(3)


def _word(name: str, n: int = 0) -> Key:
    return KEY.fold_in(name).fold_in(n)


class Scaled(nn.Linear):
    """Reads what it has drawn."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.div_(self.weight.norm().item())


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Scaled(3, 4),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    ],
    ids=["read", "orthogonal", "weight_norm"],
)
def test_a_layer_more_moves_nothing_although_values_are_read(layer: Callable[[], Any]) -> None:
    alone = materialize(lambda: nn.ModuleDict({"b": layer()}), key=KEY)
    beside = materialize(lambda: nn.ModuleDict({"a": layer(), "b": layer()}), key=KEY)
    for name, value in alone.state_dict().items():
        assert same_bits(value, beside.state_dict()[name]), name
    assert not torch.equal(beside["a"].weight, beside["b"].weight)


def test_a_read_is_a_second_run_and_no_read_is_none() -> None:
    calls: list[int] = []

    def make(kind: type[nn.Linear]) -> nn.Module:
        calls.append(1)
        return kind(3, 4)

    made = materialize(lambda: make(Scaled), key=KEY)
    assert len(calls) == 2
    weight = fastinit.kaiming_uniform_(torch.empty(4, 3), 5**0.5, key=_word("weight"))
    assert same_bits(made.weight.data, weight / weight.norm().item())
    calls.clear()
    materialize(lambda: make(nn.Linear), key=KEY)
    assert len(calls) == 1


def test_what_only_copies_or_scales_waits_and_is_run_once() -> None:
    calls: list[int] = []

    def make() -> nn.Module:
        calls.append(1)
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2)
        model.position = nn.Parameter(torch.randn(1, 5, 8) * 0.02)
        with torch.no_grad():
            model.layers[0].linear1.weight.mul_(0.5).clamp_(-0.1, 0.1)
            model.layers[1].linear1.weight.copy_(torch.randn(16, 8))
        return model

    made = materialize(make, key=KEY)
    assert len(calls) == 1
    drawn = fastinit.normal_(torch.empty(1, 5, 8), key=_word("position"))
    assert same_bits(made.position.data, drawn * 0.02)


def test_a_run_that_is_not_the_first_says_so() -> None:
    sizes = iter([3])

    def make() -> nn.Module:
        model = nn.Module()
        model.weight = nn.Parameter(torch.randn(next(sizes)))
        model.largest = model.weight.max().item()
        return model

    with pytest.raises(StopIteration) as caught:
        materialize(make, key=KEY)
    said = [*getattr(caught.value, "__notes__", []), str(caught.value)]
    assert any("further run" in text for text in said)


def test_memory_of_outside_is_changed_once_however_often_a_factory_runs() -> None:
    counts, masked = torch.zeros(3), torch.zeros(2, 2)

    def make(fails: bool) -> nn.Module:
        counts.add_(1)
        masked[torch.eye(2, dtype=torch.bool)] += 1
        torch._foreach_add_([counts], 1)
        made = torch.zeros(3)
        made.add_(counts)
        model = Scaled(3, 4)
        model.register_buffer("made", made)
        if fails:
            raise KeyError
        return model

    with pytest.raises(KeyError):
        materialize(lambda: make(True), key=KEY)
    assert not counts.any()
    assert not masked.any()
    model = materialize(lambda: make(False), key=KEY)
    assert counts.tolist() == [2, 2, 2]
    assert torch.equal(masked, torch.eye(2))
    assert torch.equal(model.made, counts)


def test_two_results_in_one_memory_are_both_written() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            flat = torch.empty(8)
            nn.init.normal_(flat[:4])
            nn.init.normal_(flat[4:])
            torch.frexp(torch.full((4,), 12.0), out=(flat[:4], torch.empty(4, dtype=torch.int32)))
            torch.aminmax(torch.arange(4.0), out=(flat[3], flat[7]))
            self.register_buffer("flat", flat)

    made = materialize(Both, key=KEY)
    assert made.flat[:4].tolist() == [0.75, 0.75, 0.75, 0.0]
    assert made.flat[7] == 3
    drawn = fastinit.normal_(torch.empty(4), key=_word("flat"))
    assert same_bits(made.flat[4:7], drawn[:3])


def test_memory_that_was_there_is_put_back_before_a_further_run() -> None:
    drawn, shared = torch.zeros(3), torch.arange(3.0)
    runs: list[int] = []

    def make() -> nn.Module:
        runs.append(1)
        model = Scaled(3, 4)
        nn.init.normal_(drawn).max().item()
        drawn.add_(1)
        shared.add_(drawn.abs().sign())
        model.register_buffer("drawn", drawn)
        model.register_buffer("shared", shared)
        return model

    made = materialize(make, key=KEY)
    assert len(runs) == 2
    assert same_bits(made.drawn, fastinit.normal_(torch.empty(3), key=_word("drawn")) + 1)
    assert same_bits(made.shared, torch.arange(3.0) + 1)


def test_what_a_function_holds_is_put_back_before_a_further_run() -> None:
    runs: list[int] = []

    class Holds(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 4)
            inner, default = torch.zeros(4), torch.zeros(4)
            self.table = lambda t=default: t
            self.other = lambda: inner

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if hasattr(self, "table"):
                runs.append(1)
                with torch.no_grad():
                    self.seen = torch.stack([self.table(), self.other()])
                    self.table().numpy()[:] += 2  # which no operator tells
                    self.other().numpy()[:] += 1
                    drawn = torch.randn(4, 3)
                    self.largest = drawn.max().item()  # before it is known what it is for
                    self.weight.copy_(drawn)

    module = initialize_(Holds(), key=KEY)
    assert len(runs) == 2
    assert not module.seen.any()
    assert (module.table() == 2).all()
    assert (module.other() == 1).all()


def test_python_s_and_numpy_s_generators_are_seeded_and_put_back() -> None:
    class Others(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drawn = (random.random(), np.random.rand())  # noqa: NPY002
            self.weight = nn.Parameter(torch.zeros(2))

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    a, b = materialize(Others, key=1), materialize(Others, key=1)
    assert a.drawn == b.drawn
    assert a.drawn != materialize(Others, key=2).drawn
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    with fastinit.patch(1):
        first = Others().drawn
    with fastinit.patch(1):
        assert Others().drawn == first
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_a_seed_that_waits_for_cuda_stays() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8).exponential_())
            self.register_buffer("order", torch.randperm(50))
            # This one takes no generator.
            self.register_buffer("dropped", torch.native_dropout(torch.ones(9), 0.5, True)[0])

    calls = torch.cuda._lazy_seed_tracker.get_calls()
    materialize(Draws, key=1)
    assert torch.cuda._lazy_seed_tracker.get_calls() == calls


def test_keys_do_not_depend_on_who_has_looked_at_the_memory() -> None:
    module = nn.Sequential(nn.Linear(3, 4), Scaled(4, 4))
    initialize_(module, key=KEY)
    first = {name: value.clone() for name, value in module.state_dict().items()}
    for parameter in module.parameters():
        parameter.detach().numpy()
    initialize_(module, key=KEY)
    for name, value in module.state_dict().items():
        assert same_bits(value, first[name]), name


def test_what_a_plain_attribute_keeps_changes_no_weight() -> None:
    class Replaced(nn.Module):
        def __init__(self, keeps: bool) -> None:
            super().__init__()
            self.keeps = keeps
            self.weight = nn.Parameter(torch.empty(4, 3))

        def reset_parameters(self) -> None:
            nn.init.uniform_(self.weight)
            if self.keeps:
                self.column = self.weight.detach()[:, 0]
            self.weight = nn.Parameter(torch.randn(4, 3))

    kept, apart = (initialize_(Replaced(keeps), key=KEY) for keeps in (True, False))
    assert same_bits(kept.weight.data, apart.weight.data)
    assert same_bits(apart.weight.data, fastinit.normal_(torch.empty(4, 3), key=_word("weight")))
    replaced = fastinit.uniform_(torch.empty(4, 3), key=_word("weight", 1))
    assert same_bits(kept.column, replaced[:, 0])


def test_what_goes_past_the_dispatcher_is_right_after_another_run() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))
            with torch._C._DisableTorchDispatch():  # as C++ code may
                self.seen = self.weight.detach().clone()

    made = materialize(Around, key=KEY)
    assert same_bits(made.seen, made.weight.data)
    assert same_bits(made.weight.data, fastinit.normal_(torch.empty(4), key=_word("weight")))


def test_an_interrupt_leaves_no_garbage_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    module = nn.Linear(3, 3)
    before = module.weight.detach().clone()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "run_fills", interrupted)
        with pytest.raises(KeyboardInterrupt), fastinit.batch():
            tensor = fastinit.normal_(torch.empty(4))
        with pytest.raises(KeyboardInterrupt):
            initialize_(module, key=KEY)
    with pytest.raises(RuntimeError, match="fill pending"):
        tensor.tolist()
    assert same_bits(module.weight.data, before)


def test_an_interrupt_at_the_end_puts_back_what_was_computed_before() -> None:
    calls: list[int] = []
    run = memory.run_fills

    def interrupted(fills: Any) -> None:
        calls.extend(tensor.numel() for tensor, _ in fills)
        if 4 in calls:
            raise KeyboardInterrupt
        run(fills)

    module = Scaled(3, 4)
    before = module.weight.detach().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "run_fills", interrupted)
        with pytest.raises(KeyboardInterrupt):
            initialize_(module, key=KEY)
    assert calls == [12, 4]
    assert same_bits(module.weight.data, before)


def test_temporaries_that_were_read_are_let_go() -> None:
    alive: list[int] = []

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for _ in range(10):
                torch.randn(1000).abs().max().item()
                (this,) = (r for r in recorder._recorders if not r.ended)
                alive.append(sum(s.is_alive for s in this.storages()))
            self.weight = nn.Parameter(torch.zeros(2))

    materialize(Reads, key=KEY)
    assert max(alive) <= 3


def test_traced_scripted_and_nested_tensors_in_a_factory() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)
            self.scripted = torch.jit.script(nn.Linear(4, 4))
            graph = make_fx(lambda x: x.sin() * 2)(self.layer.weight.detach())
            self.traced = graph(self.layer.weight.detach())
            nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
            self.register_buffer("padded", torch.nested.to_padded_tensor(nested, 0.0))

    made = materialize(Mixed, key=KEY)
    assert same_bits(made.traced, made.layer.weight.detach().sin() * 2)
    assert made.padded.sum() == 18
    for name in ("layer", "scripted"):
        weight = getattr(made, name).weight.detach()
        expected = fastinit.kaiming_uniform_(
            torch.empty_like(weight), 5**0.5, key=_word(f"{name}.weight")
        )
        assert same_bits(weight, expected)
    with fastinit.patch(0, batch=True):
        made = Mixed()
    assert same_bits(made.traced, made.layer.weight.detach().sin() * 2)


def test_one_draw_has_one_value_wherever_it_goes() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(3, 4)
        x = torch.randn(3)
        y = x.clone()
        layer.bias.grad = torch.cat([x, x[:1]])
        layer.weight.grad = torch.stack([y] * 4)
        return layer

    made = materialize(make, key=KEY)
    assert same_bits(made.bias.grad[:3], made.weight.grad[0])


def test_one_draw_has_one_value_although_nothing_of_the_model_holds_it() -> None:
    kept: list[torch.Tensor] = []

    def make() -> nn.Module:
        drawn = torch.randn(3)
        kept.extend((drawn, drawn.clone(), torch.randn(3)))
        return nn.Linear(3, 4)

    materialize(make, key=KEY)
    first, copy, other = kept
    assert same_bits(first, copy)
    assert not torch.equal(first, other)
