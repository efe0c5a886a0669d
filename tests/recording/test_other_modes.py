"""What else looks at torch's calls sees them under a recording and a batch, `torch.empty` too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.patch_helpers import in_thread
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def _in_batch(make: Callable[[], nn.Module]) -> None:
    with fastinit.patch(batch=True):
        make()


def _in_factory(make: Callable[[], nn.Module]) -> None:
    fastinit.materialize(make, key=0)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("waits", [_in_batch, _in_factory])
@pytest.mark.parametrize(
    ("kind", "call"),
    [(_Operators, torch.ops.aten.empty.memory_format), (_Functions, torch.empty)],
)
def test_modes_of_others_see_allocations(kind: Any, call: Any, waits: Any, inside: bool) -> None:
    mode = kind()

    def within(wanted: bool) -> AbstractContextManager[Any]:
        return mode if wanted else nullcontext()

    def make() -> nn.Module:
        with within(inside):
            return nn.Linear(2, 3)

    with within(not inside):
        waits(make)
    assert mode.seen.count(call) >= 2


@pytest.mark.parametrize("device", ["meta", torch.device("meta")])
def test_a_default_device_counts(device: Any) -> None:
    made: list[Tensor] = []

    def make() -> nn.Module:
        with torch.device(device):
            made.append(torch.empty(2))
        return nn.Linear(2, 2)

    with fastinit.batch():
        make()
    assert made[0].is_meta


def test_out_is_written_where_it_is() -> None:
    out = torch.ones(3)
    with fastinit.batch():
        assert torch.empty(3, out=out) is out
        assert in_thread(out.sum) == 3  # nobody waits for what was there before
    assert out.tolist() == [1, 1, 1]


def test_out_is_written_inside_a_factory() -> None:
    def make() -> nn.Module:
        module = nn.Linear(2, 2)
        out = torch.ones(3)
        assert torch.empty(3, out=out) is out
        assert in_thread(out.sum) == 3
        module.register_buffer("out", out)
        return module

    assert fastinit.materialize(make, key=0).out.tolist() == [1, 1, 1]


class _Ones(TorchFunctionMode):
    """Has memory begin with ones."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return torch.ones(*args) if func is torch.empty else func(*args, **(kwargs or {}))


def test_what_a_mode_of_others_makes_of_memory_is_seen() -> None:
    def make() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.empty(3))
        return module

    with _Ones():
        made = fastinit.materialize(make, key=0)
    assert made.weight.tolist() == [1, 1, 1]


def test_what_is_traced_inside_a_batch_does_not_wait() -> None:
    """The graph makes and fills, as without a batch; what waits outside of it is filled first."""
    before: list[Tensor] = []

    def drawn(x: Tensor) -> Tensor:
        made = fastinit.normal_(torch.empty(5), key=3)
        made[1:3].zero_()
        return made * x + sum(before)

    with fastinit.batch():
        before.append(fastinit.normal_(torch.empty(5), key=4))
        graph = make_fx(drawn)(torch.ones(5))
        assert not any("fill_many" in str(node.target) for node in graph.graph.nodes)
    want = drawn(torch.ones(5))
    for _ in range(2):
        assert same_bits(graph(torch.ones(5)), want)
