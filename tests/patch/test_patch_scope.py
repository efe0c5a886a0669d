"""`fastinit.patch()`: how it is entered, left and undone, in threads too.

That fastinit ran is shown by its bits (a keyed draw equals the same fill made directly) and by a
dispatch mode that sees which random kernels ran.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from support.patch_helpers import (
    PRISTINE,
    RandomKernels,
    code_objects,
    direct,
    in_thread,
    nth,
    same,
)
from torch import nn
from torch.nn.init import trunc_normal_ as early_trunc_normal_

import fastinit


def test_everything_is_restored() -> None:
    names = set(vars(torch.nn.init))
    for key in (None, 3):
        with fastinit.patch(key), fastinit.patch():
            assert code_objects() != PRISTINE
            assert set(vars(torch.nn.init)) == names
        assert code_objects() == PRISTINE
        with pytest.raises(ValueError, match="mine"), fastinit.patch(key):
            torch.rand(3)
            raise ValueError("mine")
        assert code_objects() == PRISTINE
        assert set(vars(torch.nn.init)) == names
        assert torch._C._len_torch_function_stack() == 0
    with RandomKernels() as seen:
        nn.Linear(3, 3)
        torch.rand(3)
    assert seen.fastinit == []
    assert len(seen.torch) == 3


def test_source_and_signature_stay_readable_inside() -> None:
    import inspect

    outside = inspect.getsource(torch.nn.init.normal_), inspect.signature(torch.nn.init.normal_)
    with fastinit.patch():
        inside = inspect.getsource(torch.nn.init.normal_), inspect.signature(torch.nn.init.normal_)
        assert torch.nn.init.normal_.__code__.co_name == "normal_"
    assert inside == outside


def test_patches_nest() -> None:
    before = torch.get_rng_state()
    with fastinit.patch(0):
        a0 = torch.rand(3)
        with fastinit.patch(1):
            b0 = torch.rand(3)
            r1 = torch.randint(1 << 30, (3,))
            b1 = torch.nn.init.normal_(torch.empty(3))
        a1 = torch.empty(3).normal_()
        r0 = torch.randint(1 << 30, (3,))
        with fastinit.patch():  # from the generator that the outer one has seeded
            free = torch.nn.init.normal_(torch.empty(3))
        a2 = torch.nn.init.uniform_(torch.empty(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(a0, direct("uniform_", (3,), key=nth(0, 0)))
    assert same(b0, direct("uniform_", (3,), key=nth(1, 0)))
    assert same(b1, direct("normal_", (3,), key=nth(1, 1)))
    assert same(a1, direct("normal_", (3,), key=nth(0, 1)))
    assert same(a2, direct("uniform_", (3,), key=nth(0, 2)))
    with fastinit.patch(0):
        assert torch.equal(torch.randint(1 << 30, (3,)), r0)
        assert same(fastinit.normal_(torch.empty(3)), free)
    with fastinit.patch(1):
        assert torch.equal(torch.randint(1 << 30, (3,)), r1)


def test_one_object_entered_again_and_again() -> None:
    patch = fastinit.patch(4)
    expected = direct("uniform_", (3,), key=nth(4, 0))
    with patch as entered:
        assert entered is patch
        assert same(torch.rand(3), expected)
        with patch:
            assert same(torch.rand(3), expected)
            torch.rand(3)
        assert same(torch.rand(3), direct("uniform_", (3,), key=nth(4, 1)))
    with patch:
        assert same(torch.rand(3), expected)
    with pytest.raises(RuntimeError, match="has not entered"):
        patch.__exit__(None, None, None)


def test_left_out_of_order() -> None:
    """Generators and exit stacks may do that: what is left stays in force."""
    before = torch.get_rng_state()
    first, second = fastinit.patch(1), fastinit.patch(2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert same(torch.rand(3), direct("uniform_", (3,), key=nth(2, 0)))
    second.__exit__(None, None, None)
    assert code_objects() == PRISTINE
    assert torch._C._len_torch_function_stack() == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_decorator() -> None:
    @fastinit.patch(key=6)
    def build(depth: int, *, scale: float = 1.0) -> list[torch.Tensor]:
        """Builds."""
        drawn = [torch.nn.init.normal_(torch.empty(3), std=scale)]
        if depth:
            drawn += build(depth - 1, scale=scale)
        return [*drawn, torch.rand(3)]

    assert (build.__name__, build.__doc__) == ("build", "Builds.")
    drawn = build(2, scale=0.5)
    assert len(drawn) == 6
    for i in range(3):  # each call counts from 0, and the outer ones go on after it
        assert same(drawn[i], direct("normal_", (3,), 0.0, 0.5, key=nth(6, 0)))
        assert same(drawn[3 + i], direct("uniform_", (3,), key=nth(6, 1)))
    assert all(map(same, build(2, scale=0.5), drawn))

    with pytest.raises(ZeroDivisionError):
        fastinit.patch()(lambda: 1 / 0)()
    assert torch._C._len_torch_function_stack() == 0

    with pytest.raises(TypeError, match=r"@fastinit\.patch\(\)"):
        fastinit.patch(build)

    def generator_function() -> Iterator[int]:
        yield 1

    async def coroutine_function() -> None:
        pass

    class Generates:
        def __call__(self) -> Iterator[int]:
            yield 1

    class Awaited:
        async def __call__(self) -> None:
            pass

    kinds = (generator_function, coroutine_function, nn.Linear, Generates(), Awaited())
    for unsuitable in kinds:
        with pytest.raises(TypeError, match="cannot decorate"):
            fastinit.patch()(unsuitable)
    for uncallable in (3, property(build), classmethod(build)):
        with pytest.raises(TypeError, match="decorates functions, got"):
            fastinit.patch(0)(uncallable)
    assert fastinit.patch(0)(nn.Linear(2, 2))(torch.ones(2)).shape == (2,)


# Threads


def test_other_threads_run_torch() -> None:
    def native() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [
            early_trunc_normal_(torch.empty(50), generator=generator),
            torch.nn.init.kaiming_normal_(torch.empty(5, 5), generator=generator),
            torch.nn.init.orthogonal_(torch.empty(5, 5), generator=generator),
            torch.rand(9, generator=generator),
            # fastinit's own fallback ends in the exchanged function.
            fastinit.uniform_(torch.empty(9, dtype=torch.complex64), generator=generator),
        ]

    expected = native()
    with fastinit.patch(0):
        from_thread = in_thread(native)
        patched = native()
        with pytest.raises(RuntimeError, match="has not entered"):
            in_thread(lambda: leaving.__exit__(None, None, None))
        own = in_thread(lambda: fastinit.patch(5)(lambda: torch.rand(3))())
        assert same(torch.rand(3), direct("uniform_", (3,), key=nth(0, 0)))
    assert all(map(same, from_thread, expected))
    assert not any(map(same, patched[:-1], expected))
    assert same(own, direct("uniform_", (3,), key=nth(5, 0)))


leaving = fastinit.patch()


def test_threads_patching_at_once() -> None:
    before = torch.get_rng_state()
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            barrier.wait(60)
            for i in range(150):
                key = number * 1000 + i
                with fastinit.patch(key):
                    weight = torch.nn.init.normal_(torch.empty(3, 4))
                    method = torch.empty(3).uniform_()
                assert same(weight, direct("normal_", (3, 4), key=nth(key, 0)))
                assert same(method, direct("uniform_", (3,), key=nth(key, 1)))
                generator = torch.Generator().manual_seed(i)
                native = torch.nn.init.normal_(torch.empty(20), generator=generator)
                assert same(native, torch.empty(20).normal_(generator=generator.manual_seed(i)))
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert not failures, failures
    assert code_objects() == PRISTINE
    assert torch.equal(torch.get_rng_state(), before)
