"""What is loaded, skipped, refused or left, and what meta modules keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import fastinit
from fastinit import Key, initialize_, materialize
from fastinit._recording import memory

KEY = Key(3)


def _word(name: str, n: int = 0) -> Key:
    return KEY.fold_in(name).fold_in(n)


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
        ({"weight": torch.ones(4, 3, device="meta")}, ValueError, "weight is on the meta device"),
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


def test_a_prefix_is_a_string() -> None:
    for call in (initialize_, materialize):
        with pytest.raises(TypeError, match="argument 'prefix' must be a str, got int"):
            call(nn.Linear(2, 2), key=KEY, prefix=3)


def test_what_is_skipped_gets_memory_and_no_values() -> None:
    with torch.device("meta"):
        bare = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    expected = materialize(lambda: nn.Linear(3, 4), key=KEY, prefix="1")
    written: list[int] = []
    run = memory.run_fills

    def counted(fills: Any) -> None:
        written.extend(tensor.numel() for tensor, _ in fills)
        run(fills)

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
        first, second, loaded = Legacy(), Legacy(), Legacy()
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
    for tensor in (loaded.bias, loaded.table):
        tensor.data.fill_(7)
        tensor._is_hf_initialized = True  # as transformers marks what it has loaded
    materialize(loaded, key=KEY)
    assert (loaded.bias == 7).all()


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


def test_what_is_real_beside_meta_is_loaded() -> None:
    with torch.device("meta"):
        module: Any = nn.Linear(3, 4)
    module.scale = nn.Parameter(torch.ones(2))
    materialize(module, key=KEY, state_dict={"scale": torch.full((2,), 7.0)})
    assert module.scale.tolist() == [7, 7]


def test_a_meta_module_of_weakly_held_parameters_is_loaded_and_skipped() -> None:
    state = nn.LSTM(3, 4).state_dict()
    with torch.device("meta"):
        loaded, skipped = nn.LSTM(3, 4), nn.LSTM(3, 4)
    before = [[id(p) for p in one.parameters()] for one in (loaded, skipped)]
    materialize(loaded, key=KEY, state_dict=state)
    materialize(skipped, key=KEY, skip="weight_ih_l0")
    assert [[id(p) for p in one.parameters()] for one in (loaded, skipped)] == before
    for name, value in loaded.state_dict().items():
        assert same_bits(value, state[name])
    assert not any(parameter.is_meta for parameter in skipped.parameters())


_WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda net: torch.compile(net, backend="eager"),  # type: ignore[dict-item,return-value]
    "parallel": nn.DataParallel,
    "checkpointed": lambda net: nn.Sequential(*map(checkpoint_wrapper, net.children())),
    "inside": lambda net: nn.Sequential(nn.DataParallel(net), nn.Linear(3, 3)),
}


@pytest.mark.parametrize("wrapper", _WRAPPERS)
def test_the_names_of_a_wrapped_models_own_state_dict(wrapper: str) -> None:
    def make() -> nn.Module:
        return _WRAPPERS[wrapper](nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))

    theirs = make().state_dict()
    with torch.device("meta"):
        bare = make()
    for made in (
        materialize(make, key=1, state_dict=theirs),
        materialize(make, key=1, state_dict=theirs, prefix="encoder"),
        materialize(bare, state_dict=theirs),
    ):
        for name, value in made.state_dict().items():
            assert same_bits(value, theirs[name]), name


@pytest.mark.parametrize("wrapper", ["compiled", "checkpointed"])
def test_a_prefix_may_have_what_wrappers_add(wrapper: str) -> None:
    wrapped = initialize_(
        _WRAPPERS[wrapper](nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))), key=3
    )
    before = {name: p.detach().clone() for name, p in wrapped.named_parameters()}
    for path, part in [*wrapped.named_modules()]:
        if isinstance(part, nn.Linear):
            initialize_(part, key=3, prefix=path)
            assert same_bits(part.weight.data, before[f"{path}.weight"])


def test_a_prefix_that_is_the_name_of_a_part() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.model = nn.Linear(3, 3), nn.Module()
            self.model.scale = nn.Linear(3, 3)

    theirs = Outer().state_dict()
    for prefix in ("model", "other", ""):
        made = materialize(Outer, key=1, prefix=prefix, state_dict=theirs).state_dict()
        assert all(same_bits(value, theirs[name]) for name, value in made.items())


class _Renaming(nn.Module):
    """As wrappers that hide themselves in state dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_state_dict_post_hook(self._without)
        self.register_load_state_dict_pre_hook(self._with)

    @staticmethod
    def _without(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}inner.")]:
            state[prefix + name.removeprefix(f"{prefix}inner.")] = state.pop(name)

    @staticmethod
    def _with(module: nn.Module, state: Any, prefix: str, *_: Any) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            state[f"{prefix}inner.{name.removeprefix(prefix)}"] = state.pop(name)


@pytest.mark.parametrize("make", [_Renaming, lambda: nn.Sequential(nn.Linear(2, 2), _Renaming())])
def test_the_names_that_a_module_s_own_hooks_give(make: Any) -> None:
    whole = make()
    state = whole.state_dict()
    assert not any("inner" in name for name in state)
    found = fastinit.materialize(make, key=3, state_dict=state)
    for name, value in whole.named_parameters():
        assert same_bits(found.get_parameter(name).data, value.data)
    assert state.keys() == whole.state_dict().keys()
    with pytest.raises(ValueError, match="there is no parameter or buffer"):
        fastinit.materialize(make, key=3, state_dict={**state, "other": torch.ones(2)})


class _Hooked(nn.Module):
    def __init__(self, hook: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.register_load_state_dict_pre_hook(hook)


def _renames(module: Any, state: Any, prefix: str, about: Any, *rest: Any) -> None:
    if f"{prefix}old.weight" in state:
        state[f"{prefix}b.weight"] = state.pop(f"{prefix}old.weight")


def _turns_old_ones(module: Any, state: Any, prefix: str, about: Any, *rest: Any) -> None:
    _renames(module, state, prefix, about, *rest)
    if about.get("version", 1) < 2:
        a, b = f"{prefix}a.weight", f"{prefix}b.weight"
        state[a], state[b] = state[b], state[a]


def _refuses(module: Any, state: Any, prefix: str, about: Any, *rest: Any) -> None:
    _renames(module, state, prefix, about, *rest)
    rest[-1].append("too old")


@pytest.mark.parametrize("version", [1, 2])
def test_hooks_are_told_of_versions(version: int) -> None:
    state: Any = OrderedDict({"a.weight": torch.zeros(2, 2), "old.weight": torch.ones(2, 2)})
    state._metadata = {"": {"version": version}}
    want = _Hooked(_turns_old_ones)
    want.load_state_dict(state)
    found = fastinit.materialize(lambda: _Hooked(_turns_old_ones), key=3, state_dict=state)
    for name, value in want.named_parameters():
        assert same_bits(found.get_parameter(name).data, value.data)


def test_hooks_may_object_and_names_may_be_wrong() -> None:
    ones = torch.ones(2, 2)
    for hook, state, said in (
        (_refuses, {"a.weight": ones, "old.weight": ones}, "too old"),
        (_renames, {"typo.weight": ones, "old.weight": ones}, "no parameter or buffer"),
    ):
        with pytest.raises(ValueError, match=said):
            fastinit.materialize(lambda hook=hook: _Hooked(hook), key=3, state_dict=state)


def test_a_module_that_is_lazy_is_named() -> None:
    for device in ("cpu", "meta"):
        with pytest.raises(ValueError, match="without a shape yet: weight, bias; call"):
            fastinit.materialize(nn.LazyLinear(3, device=device), key=0)


# ---- what stays is not written, for autograd either ----------------------------------------------


def _loss(model: Any) -> torch.Tensor:
    loss: torch.Tensor = model[0](torch.ones(1, 3, requires_grad=True)).sum()
    return loss


def _two() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def test_a_graph_of_what_is_skipped_can_be_differentiated() -> None:
    model = _two()
    loss = _loss(model)
    versions = [p._version for p in model.parameters()]
    fastinit.initialize_(model, key=0, skip="0.*")
    loss.backward()
    now = [p._version for p in model.parameters()]
    assert now[:2] == versions[:2]
    assert all(a > b for a, b in zip(now[2:], versions[2:], strict=True))


def test_a_graph_of_what_is_real_can_be_differentiated() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, device="meta"))
    loss = _loss(model)
    fastinit.materialize(model, key=0)
    loss.backward()


def test_a_graph_can_be_differentiated_after_an_error() -> None:
    model = _two()
    loss = _loss(model)
    with pytest.raises(ZeroDivisionError):
        fastinit.initialize_(model, {"1.weight": lambda w: 1 / 0, "default": None}, key=0)
    loss.backward()


def test_memory_that_is_shared_with_what_is_initialised_counts_its_writes() -> None:
    table = torch.zeros(2, 3)
    model = nn.Module()
    model.a, model.b = nn.Parameter(table[0]), nn.Parameter(table[1])
    version = model.a._version
    fastinit.initialize_(model, {"*": nn.init.normal_}, key=0, skip="a")
    assert model.b._version > version
    assert model.a.data.count_nonzero() == 0
