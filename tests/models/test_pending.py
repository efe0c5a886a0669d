"""What a recording on pending memory promises: keys by name for all, threads, forks, globals."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import threading
import time
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


def test_memory_that_was_there_is_put_back_before_a_further_run() -> None:
    shared = torch.arange(3.0)

    def make() -> nn.Module:
        model = Scaled(3, 4)
        nn.init.normal_(shared).max().item()
        shared.add_(1)
        model.register_buffer("shared", shared)
        return model

    made = materialize(make, key=KEY)
    assert same_bits(made.shared, fastinit.normal_(torch.empty(3), key=_word("shared")) + 1)


def test_what_a_function_holds_is_put_back_before_a_further_run() -> None:
    class Holds(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 4)
            inner, default = torch.zeros(4), torch.zeros(4)
            self.table = lambda t=default: t
            self.other = lambda: inner

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if hasattr(self, "table"):
                with torch.no_grad():
                    self.seen = torch.stack([self.table(), self.other()])
                    self.table().copy_(self.weight[:, 0])
                    self.other().add_(1)
                self.largest = torch.randn(3).max().item() + self.weight.sum().item()

    module = initialize_(Holds(), key=KEY)
    assert not module.seen.any()
    assert same_bits(module.table(), module.weight.detach()[:, 0].contiguous())
    assert (module.other() == 1).all()


# ---- threads, tasks, processes -------------------------------------------------------------------


def _pool(count: int) -> concurrent.futures.ThreadPoolExecutor:
    pool = concurrent.futures.ThreadPoolExecutor(count)
    list(pool.map(time.sleep, [0.01] * count * 2))  # so that its threads are there
    return pool


def test_layers_that_threads_build_have_the_keys_of_their_names() -> None:
    expected = materialize(lambda: nn.Sequential(*(Scaled(3, 4) for _ in range(6))), key=KEY)
    with _pool(3) as before:

        def pooled() -> nn.Module:
            return nn.Sequential(*before.map(lambda _: Scaled(3, 4), range(6)))

        def own_pool() -> nn.Module:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                return nn.Sequential(*pool.map(lambda _: Scaled(3, 4), range(6)))

        def started() -> nn.Module:
            layers: list[Any] = [None] * 6

            def build(k: int) -> None:
                layers[k] = Scaled(3, 4)

            threads = [threading.Thread(target=build, args=(k,)) for k in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return nn.Sequential(*layers)

        state = torch.get_rng_state()
        for make in (pooled, own_pool, started):
            for name, value in materialize(make, key=KEY).state_dict().items():
                assert same_bits(value, expected.state_dict()[name]), (make.__name__, name)
        assert torch.equal(torch.get_rng_state(), state)
    assert threading.Thread.start.__module__ == "threading"
    assert concurrent.futures.ThreadPoolExecutor.submit.__module__.startswith("concurrent")


def test_materialize_in_several_threads_keeps_dtypes_and_the_default_one() -> None:
    dtypes = [torch.float32, torch.bfloat16, None]

    def one(k: int) -> bool:
        dtype = dtypes[k % 3]
        made = materialize(
            lambda: nn.Sequential(*(nn.Linear(4, 4) for _ in range(20))), None, dtype
        )
        return {p.dtype for p in made.parameters()} == {dtype or torch.float32}

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(24)))
    assert torch.get_default_dtype() is torch.float32


def test_batches_of_tasks_that_take_turns() -> None:
    async def build(key: int, rounds: int) -> list[torch.Tensor]:
        made = []
        with fastinit.patch(key, batch=True):
            for _ in range(rounds):
                await asyncio.sleep(0)
                made.append(torch.empty(4).normal_())
                await asyncio.sleep(0)
        return made

    async def main() -> list[list[torch.Tensor]]:
        return await asyncio.gather(*(build(k, 5 - k) for k in range(4)))

    for key, made in enumerate(asyncio.run(main())):
        for n, tensor in enumerate(made):
            assert same_bits(tensor, fastinit.normal_(torch.empty(4), key=Key(key).fold_in(n)))
    assert torch._C._len_torch_dispatch_stack() == 0
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_process_reads_what_the_model_gets() -> None:
    class Forks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writer, self.weight.detach().numpy().tobytes())
                os._exit(0)
            self.seen = os.read(reader, 16)
            os.waitpid(child, 0)
            os.close(reader)
            os.close(writer)

    made = materialize(Forks, key=KEY)
    assert made.seen == made.weight.detach().numpy().tobytes()
    assert same_bits(made.weight.data, fastinit.normal_(torch.empty(4), key=_word("weight")))


# ---- what is outside -----------------------------------------------------------------------------


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


# ---- what goes around ----------------------------------------------------------------------------


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


# ---- what is loaded, skipped, left ---------------------------------------------------------------


def test_a_state_dict_is_loaded_instead_of_drawn() -> None:
    loaded = {"0.weight": torch.full((4, 3), 7.0), "1.running_mean": torch.full((4,), 5.0)}

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))

    with torch.device("meta"):
        bare = make()
    expected = materialize(make, key=KEY).state_dict()
    for made in (
        materialize(make, key=KEY, state_dict=loaded),
        materialize(bare, key=KEY, state_dict=loaded),
        materialize(
            make, key=KEY, state_dict=loaded, rules={"2.*": None, "*bias": None, "1.*": None}
        ),
    ):
        for name, value in made.state_dict().items():
            assert same_bits(value, loaded.get(name, expected[name])), name


@pytest.mark.parametrize(
    ("state_dict", "error", "message"),
    [
        (3, TypeError, "'state_dict' must be a mapping"),
        ({"weight": 3}, TypeError, "names to tensors, got int for 'weight'"),
        ({"wieght": torch.ones(2)}, ValueError, "no parameter or buffer 'wieght'"),
        ({"weight": torch.ones(2)}, ValueError, r"weight has shape \(2,\), the module's is \(4, 3"),
    ],
)
def test_state_dicts_that_do_not_fit(state_dict: Any, error: type[Exception], message: str) -> None:
    with torch.device("meta"):
        bare = nn.Linear(3, 4)
    for module in (bare, lambda: nn.Linear(3, 4)):
        with pytest.raises(error, match=message):
            materialize(module, key=KEY, state_dict=state_dict)
    assert bare.weight.is_meta


def test_what_is_skipped_gets_memory_and_no_values() -> None:
    with torch.device("meta"):
        bare = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    expected = materialize(lambda: nn.Linear(3, 4), key=KEY, prefix="1")
    written: list[int] = []
    run = memory.run_fills

    def counted(fills: Any, done: Any = None) -> None:
        fills = list(fills)
        written.extend(tensor.numel() for tensor, _ in fills)
        run(fills, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "run_fills", counted)
        materialize(bare, key=KEY, skip="0.*")
        materialize(lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), key=KEY, skip="0.*")
    assert written == [16, 4, 16, 4]
    assert not bare[0].weight.is_meta
    assert expected.weight.shape == (4, 3)
    with pytest.raises(ValueError, match="'skip': 'x' matches no parameter or buffer"):
        materialize(lambda: nn.Linear(2, 2), skip="x")


def test_what_legacy_constructors_make_in_spite_of_meta_is_initialised() -> None:
    class Legacy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.bias = nn.Parameter(torch.Tensor(4, 4))
            self.register_buffer("table", torch.Tensor(4))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            nn.init.xavier_uniform_(self.bias)
            nn.init.ones_(self.table)

    with torch.device("meta"):
        first, second = Legacy(), Legacy()
    with pytest.warns(UserWarning, match="bias, table are real beside others on the meta device"):
        materialize(first, None, torch.bfloat16, key=KEY)
    expected = fastinit.xavier_uniform_(torch.empty(4, 4), key=_word("bias"))
    assert same_bits(first.bias.data, expected.bfloat16())
    assert first.table.dtype is torch.bfloat16
    assert (first.table == 1).all()
    with torch.no_grad():
        second.bias.fill_(7)
    materialize(second, key=KEY, skip=["bias", "table"])
    assert (second.bias == 7).all()


def test_what_stays_on_the_meta_device_is_named() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.total = torch.tensor(2)
            self.others = [{"x": torch.arange(3)}]

    with torch.device("meta"):
        bare = Holds()
    with pytest.raises(ValueError, match=r"total \(attribute\), others\.0\.x \(attribute\)"):
        materialize(bare, key=KEY)
    assert bare.linear.weight.is_meta
    materialize(bare, key=KEY, allow_uninitialized=["total", "others*"])


def test_nothing_on_the_meta_device_and_lazy_parameters_are_errors() -> None:
    with pytest.raises(ValueError, match="nothing of Linear is on the meta device"):
        materialize(nn.Linear(2, 2), key=KEY)
    with pytest.raises(ValueError, match=r"without a shape yet: 1\.weight, 1\.bias"):
        materialize(lambda: nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)), key=KEY)
    assert isinstance(materialize(nn.ReLU(), key=KEY), nn.ReLU)


@pytest.mark.parametrize("rules", [None, {"default": nn.init.ones_}])
def test_a_lazy_module_that_is_loaded_stays_loaded(rules: Any) -> None:
    def values(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.full(shape, 7.0)

    module = initialize_(nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2)), rules, key=KEY)
    state = {"0.weight": values((2, 3)), "0.bias": values((2,)), "1.weight": values((2, 2))}
    module.load_state_dict(state, strict=False)
    module(torch.ones(1, 3))
    for name, value in state.items():
        assert same_bits(module.state_dict()[name], value), name
    assert not (module[1].bias == 7).any()
    assert not module._load_state_dict_pre_hooks


class FullyShardedDataParallel(nn.Module):
    """Named as FSDP1's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


def test_parts_of_parameters_are_refused_with_the_reason() -> None:
    partitioned = nn.Linear(2, 2)
    partitioned.weight.ds_id = 0
    for module, message in (
        (FullyShardedDataParallel(), "FSDP1"),
        (nn.Sequential(FullyShardedDataParallel()), "FSDP1"),
        (partitioned, "ZeRO-3"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            initialize_(module, key=KEY)
        with pytest.raises(NotImplementedError, match=message):
            materialize(lambda module=module: module, key=KEY)


def test_an_initialiser_that_returns_another_tensor_is_an_error() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    with pytest.raises(ValueError, match="fills the tensor that it is given"):
        initialize_(module, {"default": torch.randn_like}, key=KEY)
    assert same_bits(module.weight.data, before)


def test_an_error_puts_back_what_refuses_to_be_changed() -> None:
    class Frozen(dict):  # type: ignore[type-arg]
        def clear(self) -> None:
            raise AssertionError

        def update(self, *_: Any, **__: Any) -> None:
            raise AssertionError

    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = Frozen(a=1)
            self.seen: list[int] = []
            self.weight = nn.Parameter(torch.zeros(3))

        def reset_parameters(self) -> None:
            dict.__setitem__(self.config, "a", 2)
            self.seen.append(1)

    module = Holds()
    with pytest.raises(ValueError, match=r"writes weight \(parameter\)"):
        initialize_(module, key=KEY)
    assert module.config == {"a": 1}
    assert module.seen == []


# ---- objects on the meta device ------------------------------------------------------------------


def test_a_meta_module_keeps_its_objects_hooks_and_views() -> None:
    calls: list[str] = []
    with torch.device("meta"):
        module: Any = nn.Linear(3, 4)
        module.rnn = nn.LSTM(3, 4)
        module.rows, module.held = module.weight.data[1:], [module.weight.detach()]
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module.weight.register_hook(lambda _: calls.append("hook"))
        module.weight.register_post_accumulate_grad_hook(lambda _: calls.append("after"))
    before = [id(parameter) for parameter in module.parameters()]
    materialize(module, key=KEY)
    assert [id(parameter) for parameter in module.parameters()] == before
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == before
    assert same_bits(module.rows, module.weight.detach()[1:])
    assert module.held[0].data_ptr() == module.weight.data_ptr()
    module(torch.ones(1, 3)).sum().backward()
    assert calls == ["hook", "after"]
    before_step = module.rnn.weight_hh_l0.detach().clone()
    module.rnn(torch.ones(2, 1, 3))[0].sum().backward()
    optimizer.step()
    assert not torch.equal(module.rnn.weight_hh_l0, before_step)


def test_a_meta_module_of_weakly_held_parameters_is_loaded_and_skipped() -> None:
    state = nn.LSTM(3, 4).state_dict()
    with torch.device("meta"):
        loaded, skipped = nn.LSTM(3, 4), nn.LSTM(3, 4)
    materialize(loaded, key=KEY, state_dict=state)
    materialize(skipped, key=KEY, skip="weight_ih_l0")
    for name, value in loaded.state_dict().items():
        assert same_bits(value, state[name])
    assert not any(parameter.is_meta for parameter in skipped.parameters())


def test_a_thread_that_outlives_the_factory_is_torch_s_again() -> None:
    def make() -> Any:
        layer: Any = nn.Linear(3, 4)
        layer.pool = concurrent.futures.ThreadPoolExecutor(1)
        layer.pool.submit(int).result()
        return layer

    made = materialize(make, key=KEY)
    with made.pool as pool:
        assert pool.submit(lambda: torch.randn(3).sum().item()).result() is not None
        pool.submit(lambda: nn.init.constant_(made.weight, 2.0)).result()
        pool.submit(lambda: nn.init.uniform_(made.bias, 3.0, 3.0)).result()
    assert (made.weight == 2).all()
    assert (made.bias == 3).all()
