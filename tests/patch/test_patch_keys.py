"""`fastinit.patch()`: keys and generators.

That fastinit ran is shown by its bits (a keyed draw equals the same fill made directly) and by a
dispatch mode that sees which random kernels ran.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.patch_helpers import RandomKernels, direct, nth, same
from torch import nn

import fastinit
from fastinit import Key


def test_without_a_key_it_is_the_drop_in() -> None:
    torch.manual_seed(5)
    expected = [
        fastinit.kaiming_uniform_(torch.empty(3, 4), 5**0.5),
        fastinit.normal_(torch.empty(7), 1.0, 2.0),
        fastinit.uniform_(torch.empty(2, 2)),
    ]
    after = torch.get_rng_state()
    torch.manual_seed(5)
    with fastinit.patch(), RandomKernels() as seen:
        drawn = [nn.Linear(4, 3, bias=False).weight, torch.empty(7).normal_(1, 2), torch.rand(2, 2)]
    assert all(map(same, drawn, expected))
    assert torch.equal(torch.get_rng_state(), after)
    assert seen.torch == []


@pytest.mark.parametrize("key", [None, 0])
def test_a_generator_of_the_caller_s_is_used(key: int | None) -> None:
    calls: list[Callable[[torch.Generator], torch.Tensor]] = [
        lambda g: torch.nn.init.trunc_normal_(torch.empty(5), generator=g),
        lambda g: torch.nn.init.kaiming_uniform_(torch.empty(5, 2), generator=g),
        lambda g: torch.nn.init.sparse_(torch.empty(5, 2), 0.5, generator=g),
        lambda g: torch.empty(5).normal_(generator=g),
        lambda g: torch.rand(5, generator=g),
        lambda g: torch.randn(5, generator=g, out=torch.empty(5)),
        lambda g: torch.normal(0.0, 1.0, (5,), generator=g),
        lambda g: torch.normal(torch.zeros(5), 1.0, generator=g),
    ]
    if "generator" in torch.ops.aten.rand_like.overloads():
        calls.append(lambda g: torch.rand_like(torch.empty(5), generator=g))
    before = torch.get_rng_state()
    for call in calls:
        generator = torch.Generator().manual_seed(3)
        states, results = [generator.get_state()], []
        with fastinit.patch(key):
            for _ in range(2):
                results.append(call(generator))
                states.append(generator.get_state())
            generator.manual_seed(3)
            assert same(call(generator), results[0])
            assert key is None or same(torch.rand(3), direct("uniform_", (3,), key=nth(0, 0)))
        assert not same(*results)
        assert not torch.equal(states[0], states[1])
        assert not torch.equal(states[1], states[2])
    if key is not None:
        assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(8)
    with fastinit.patch(key):
        drawn = torch.rand(6, generator=generator)
    assert same(drawn, fastinit.uniform_(torch.empty(6), generator=generator.manual_seed(8)))


def test_draws_are_numbered_in_order() -> None:
    """Composite functions, tensors' normals, empty and meta tensors each count once."""
    draws: list[Callable[[], torch.Tensor]] = [
        lambda: torch.nn.init.kaiming_uniform_(torch.empty(2, 3)),
        lambda: torch.nn.init.orthogonal_(torch.empty(3, 3)),
        lambda: torch.nn.init.sparse_(torch.empty(3, 3), 0.5),
        lambda: torch.nn.init.trunc_normal_(torch.empty(3), std=0.3, a=-0.1),
        lambda: torch.normal(torch.zeros(3), torch.ones(3)),
        lambda: torch.rand(0),
        lambda: torch.randn(3, device="meta"),
        lambda: torch.nn.init.trunc_normal_(torch.empty(3, device="meta")),
        lambda: torch.nn.init.orthogonal_(torch.empty(3, 2, device="meta")),
        lambda: torch.empty(3, dtype=torch.float16).uniform_(),
    ]
    for count in range(len(draws) + 1):
        with fastinit.patch(9):
            for draw in draws[:count]:
                draw()
            assert same(torch.rand(5), direct("uniform_", (5,), key=nth(9, count)))


def test_accepted_keys() -> None:
    expected = direct("uniform_", (3,), key=Key(11).fold_in(0))
    for key in (11, Key(11), torch.tensor(11).item()):
        with fastinit.patch(key=key):
            assert same(torch.rand(3), expected)
    with fastinit.patch(key=Key(2**64 - 1)):
        assert same(torch.rand(3), direct("uniform_", (3,), key=Key(2**64 - 1).fold_in(0)))
    for wrong in (1.5, "0", True, torch.Generator()):
        with pytest.raises(TypeError, match="'key'"):
            fastinit.patch(wrong)
    with pytest.raises(ValueError, match="'key'"):
        fastinit.patch(2**64)


def test_a_key_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = []
    for key in (0, 0, 1):
        with fastinit.patch(key):
            drawn.append((torch.randint(1 << 30, (5,)), torch.rand(5)))
            torch.manual_seed(99)  # what the code inside does to it does not matter either
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    with pytest.raises(ZeroDivisionError), fastinit.patch(0):
        torch.randperm(5)
        1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


def test_own_functions_inside_a_keyed_patch() -> None:
    """They are no draws of the patch: without `key=` the seeded generator decides."""
    before = torch.get_rng_state()

    def build() -> torch.Tensor:
        with fastinit.patch(3):
            first = fastinit.normal_(torch.empty(4))
            assert same(torch.rand(4), direct("uniform_", (4,), key=nth(3, 0)))
            assert same(fastinit.normal_(torch.empty(4), key=1), direct("normal_", (4,), key=1))
            return first

    assert same(build(), build())
    assert torch.equal(torch.get_rng_state(), before)
