"""Nothing that was initialised is kept: modules, their classes and weights go with their owners."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations

import fastinit


def fill(layer: Any) -> None:
    nn.init.ones_(layer.weight)


class Layer(nn.Module):
    """One of whose initialisers others make: `how(layer)`."""

    def __init__(self, how: Callable[[Any], Callable[..., object]] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 3))
        if how is not None:
            self.reset_parameters = how(self)

    def extra_repr(self) -> str:
        return "layer"


def closure(layer: Layer) -> Callable[[], None]:
    return lambda: fill(layer)


def partial(layer: Layer) -> Callable[[], None]:
    return functools.partial(fill, layer)


def method_of_a_closure(layer: Layer) -> Callable[[], None]:
    return types.MethodType(lambda _: fill(layer), layer)


def method_of_a_partial(layer: Layer) -> Callable[[], None]:
    return types.MethodType(functools.partial(lambda inner, _: fill(inner), layer), layer)


def wrapped(layer: Layer) -> Callable[[], None]:
    return torch.no_grad()(closure(layer))


def called(layer: Layer) -> Callable[[], None]:
    class Fills:
        def __call__(self) -> None:
            fill(layer)

    return Fills()


def of_every(layer: Layer) -> Callable[[], None]:
    """Under a name that is called for all modules below."""

    def one(module: nn.Module) -> None:
        fill(layer)

    layer._init_weights = one
    return lambda: None


def of_its_own_class(layer: Layer) -> Callable[[], None]:
    """A class that a function has made holds what that had."""

    class Own(Layer):
        def reset_parameters(self) -> None:
            fill(layer)

        def _init_weights(self, module: nn.Module) -> None:
            fill(layer)

        def reset_parameters_by(self, std: float) -> None:
            nn.init.normal_(layer.weight, std=std)

    layer.__class__ = Own
    return lambda: fill(layer)


def in_slots(layer: Layer) -> Callable[[], None]:
    """An object whose class has slots, and holds it too."""

    class Slotted:
        __slots__ = ("held",)
        of_class = (layer,)

    layer.slotted = Slotted()
    layer.slotted.held = layer
    return lambda: fill(layer)


def hooks(layer: Layer) -> Callable[[], None]:
    layer.register_forward_pre_hook(functools.partial(lambda *_: None, layer))
    layer.weight.owner = layer
    layer.register_load_state_dict_post_hook(lambda *_: fill(layer))
    return lambda: fill(layer)


def computed(layer: Layer) -> Callable[[], None]:
    layer.inner = parametrizations.weight_norm(nn.Linear(3, 3))
    layer.inner.owner = [layer]
    return lambda: nn.init.normal_(layer.weight)


def reading(layer: Layer) -> Callable[[], None]:
    """Has initialisers run twice."""
    return lambda: layer.weight.copy_(torch.randn(3, 3) / torch.randn(2).norm().item())


def copying(layer: Layer) -> Callable[[], None]:
    def copy() -> None:
        source = torch.randn(3, 3)
        source.owner = layer
        layer.weight.copy_(source)

    return copy


WAYS = (
    closure,
    partial,
    method_of_a_closure,
    method_of_a_partial,
    wrapped,
    called,
    of_every,
    of_its_own_class,
    in_slots,
    hooks,
    computed,
    reading,
    copying,
)


def initialised(how: Any) -> nn.Module:
    return fastinit.initialize_(Layer(how), key=0)


def by_rules(how: Any) -> nn.Module:
    layer = Layer(how)
    rules = {"*weight*": functools.partial(lambda _, t: nn.init.zeros_(t), layer), "default": None}
    return fastinit.initialize_(layer, key=0, rules=rules)


def by_factory(how: Any) -> nn.Module:
    def factory() -> Layer:
        layer = Layer(how)
        with torch.no_grad():
            nn.init.ones_(layer.weight)
        return layer

    return fastinit.materialize(factory, key=0)


def from_meta(how: Any) -> nn.Module:
    with torch.device("meta"):
        layer = Layer(how)
    return fastinit.materialize(layer, key=0)


def patched(how: Any) -> nn.Module:
    layer = Layer(how)
    with fastinit.patch(0, module=layer), torch.no_grad():
        nn.init.normal_(torch.empty(3))
        for name in ("reset_parameters", "_init_weights"):
            for arguments in ((), (layer,)):
                try:
                    getattr(layer, name, lambda *_: None)(*arguments)
                except TypeError:
                    continue
        layer.more = nn.Linear(3, 3)
    return layer


def batched(how: Any) -> nn.Module:
    with fastinit.batch(), torch.no_grad():
        layer = Layer(how)
        nn.init.normal_(layer.weight)
        layer.copy = layer.weight.clone()
    return layer


def reported(how: Any) -> nn.Module:
    layer = fastinit.initialize_(Layer(how), key=0)
    str(fastinit.report(layer))
    return layer


def checked(how: Any) -> nn.Module:
    layer = Layer(how)
    with fastinit.check_ranks(layer), torch.no_grad():
        fastinit.normal_(layer.weight, key=1)
        fastinit.normal_(torch.empty(3), key=1)
    return layer


def failed(how: Any) -> nn.Module:
    layer = Layer(how)
    layer.lacking = nn.Parameter(torch.empty(2))
    with pytest.raises(ValueError, match="lacking"):
        fastinit.initialize_(layer, key=0)
    return layer


DOORS = (
    initialised,
    by_rules,
    by_factory,
    from_meta,
    patched,
    batched,
    reported,
    checked,
    failed,
)


def refs_of(module: nn.Module) -> list[weakref.ref[Any]]:
    kind = type(module)
    own = [kind] if kind is not Layer else []
    return [weakref.ref(one) for one in (module, *own, *module.parameters(), *module.modules())]


def is_gone(make: Callable[[], nn.Module]) -> bool:
    kept = refs_of(make())
    gc.collect()
    return all(one() is None for one in kept)


@pytest.mark.filterwarnings("ignore:fastinit")
@pytest.mark.parametrize("door", DOORS)
def test_modules_are_let_go(door: Callable[[Any], nn.Module]) -> None:
    kept = {how.__name__: refs_of(door(how)) for how in WAYS}
    gc.collect()
    assert [name for name, refs in kept.items() if any(one() is not None for one in refs)] == []


@pytest.mark.filterwarnings("ignore:fastinit")
def test_shards_are_let_go() -> None:
    with as_rank(1, 2):
        mesh = init_device_mesh("cpu", (2,))

        def make() -> nn.Module:
            layer: Any = Layer()
            layer.reset_parameters = functools.partial(fill, layer)
            fully_shard(layer, mesh=mesh)
            fastinit.initialize_(layer, key=0)
            with fastinit.patch(0, module=layer), torch.no_grad():
                nn.init.normal_(layer.weight)
            str(fastinit.report(layer))
            return layer

        kept = weakref.ref(make())
        gc.collect()
        assert kept() is None


def test_what_fans_and_rules_look_at_is_let_go() -> None:
    def make() -> nn.Module:
        layer = Layer()
        fastinit.fans(layer)
        fastinit.kaiming_normal_(fastinit.shard(layer.weight, (6, 3), (3, 0)), key=3)
        return layer

    assert is_gone(make)


def test_a_context_of_a_patch_keeps_no_modules() -> None:
    """Tasks that were started inside, and are still there, have copies of it."""
    contexts: list[contextvars.Context] = []

    def make() -> nn.Module:
        layer = Layer()
        with fastinit.patch(0, module=layer), torch.no_grad():
            contexts.append(contextvars.copy_context())
            nn.init.normal_(layer.weight)
        return layer

    assert is_gone(make)
    assert len(contexts) == 1


def test_tasks_of_a_patch_keep_no_modules() -> None:
    async def main() -> bool:
        done = asyncio.Event()
        tasks = []

        def make() -> nn.Module:
            layer = Layer()
            with fastinit.patch(0, module=layer):
                tasks.append(asyncio.get_running_loop().create_task(done.wait()))
            return layer

        gone = is_gone(make)
        done.set()
        await asyncio.gather(*tasks)
        return gone

    assert asyncio.run(main())


def test_what_wrapped_a_method_is_let_go() -> None:
    """As a profiler does for a while."""

    def make() -> nn.Module:
        layer = Layer()
        method = torch.Tensor.normal_

        def normal_(self: Any, *args: Any, **kwargs: Any) -> Any:
            layer.seen = True
            return method(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as change:
            change.setattr(torch.Tensor, "normal_", normal_)
            with fastinit.patch(0):
                torch.empty(3).normal_()
        assert layer.seen
        with fastinit.patch(0):  # which finds it gone
            torch.empty(3).normal_()
        return layer

    assert is_gone(make)


def test_warnings_are_those_of_before() -> None:
    """What is known of a class is not known of the next one at the same address."""

    def kind(fills: bool) -> type[nn.Module]:
        class Made(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(2, 2)
                if fills:
                    nn.init.zeros_(self.inner.bias)

        if not fills:

            class Made(nn.Module):  # type: ignore[no-redef]
                def __init__(self) -> None:
                    super().__init__()
                    self.inner = nn.Linear(2, 2)

        return Made

    for k in range(20):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            fastinit.initialize_(kind(k % 2 == 0)(), key=0)
        assert len(found) == (k % 2 == 0)
        gc.collect()
