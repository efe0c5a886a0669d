"""The registered operators: schemas, tracing, version counters, threads."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest
import torch
from support.common import (
    COMPLEX_DTYPES,
    RANDOM,
    REAL_DTYPES,
    fill,
    no_randomness,
    operator,
    same_bits,
    untouched,
)
from support.layout_cases import laid_out
from torch._subclasses.fake_tensor import FakeTensorMode

import fastinit
from fastinit import Key

OPS = torch.ops.fastinit
SINGLE: dict[str, tuple[Any, ...]] = {
    "uniform_": (-1.0, 2.0),
    "normal_": (0.5, 2.0),
    "trunc_normal_": (0.5, 2.0, -1.0, 3.0),
    "random_words_": (),
}


def empty_for(name: str, *shape: int, **kwargs: Any) -> torch.Tensor:
    if name == "random_words_":
        kwargs["dtype"] = torch.int32
    return torch.zeros(*shape, **kwargs)


def call(name: str, tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    assert operator(name)(tensor, *SINGLE[name], **kwargs) is None
    return tensor


# ---- registration --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SINGLE, "fill_many_"])
def test_schemas(name):
    op = operator(name).default
    assert op._schema.is_mutable
    assert not op._schema.returns
    assert op._schema.arguments[0].alias_info.is_write
    seeded = torch.Tag.nondeterministic_seeded in op.tags
    assert seeded == (name != "fill_many_")  # every one of its keys is given


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_opcheck(name, layout):
    dtype = torch.int32 if name == "random_words_" else torch.float32
    tensor = laid_out(layout, 5, 3, dtype=dtype)
    torch.library.opcheck(operator(name).default, (tensor, *SINGLE[name]), {"key": -3})


# Without test_aot_dispatch_dynamic, which compares with an eager run: that would draw other values.
WITHOUT_A_KEY = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in ("uniform_", "normal_", "trunc_normal_") for d in REAL_DTYPES]
    + [("normal_", d) for d in COMPLEX_DTYPES],
)
def test_opcheck_of_dtypes(name, dtype):
    op, tensor = operator(name).default, torch.zeros(5, 3, dtype=dtype)
    # The others compare values, which torch cannot do with float8 tensors.
    utils = ("test_autograd_registration", "test_faketensor")
    chosen = {"test_utils": utils} if dtype.itemsize == 1 else {}
    torch.library.opcheck(op, (tensor, *SINGLE[name]), {"key": 1}, **chosen)


@pytest.mark.parametrize("name", SINGLE)
def test_opcheck_without_a_key(name):
    op, tensor = operator(name).default, empty_for(name, 5, 3)
    for kwargs in ({}, {"generator": torch.Generator()}):
        torch.library.opcheck(op, (tensor, *SINGLE[name]), kwargs, test_utils=WITHOUT_A_KEY)


# ---- randomness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGLE)
def test_meta_and_fake_calls_draw_nothing(name):
    generator = torch.Generator()
    with no_randomness(generator):
        for kwargs in ({}, {"key": 1}, {"generator": generator}):
            call(name, empty_for(name, 4, 3, device="meta"), **kwargs)
            call(name, empty_for(name, 0), **kwargs)
            with FakeTensorMode():
                call(name, empty_for(name, 4, 3), **kwargs)


@pytest.mark.parametrize("name", SINGLE)
def test_a_rejected_call_draws_nothing(name):
    generator = torch.Generator()
    tensor = empty_for(name, 4)
    with untouched(tensor, generator), pytest.raises(RuntimeError, match=r"key.*generator"):
        call(name, tensor, key=1, generator=generator)
    wrong = torch.zeros(4, dtype=torch.int16)
    with untouched(wrong, generator), pytest.raises(NotImplementedError, match=r"int32|float32"):
        call(name, wrong, generator=generator)


@pytest.mark.parametrize("name", SINGLE)
def test_keys_are_twos_complement(name):
    for word in (2**64 - 1, 2**63, 2**63 - 1, 0):
        signed = word - 2**64 if word >> 63 else word
        first, second = empty_for(name, 9), empty_for(name, 9)
        call(name, first, key=signed)
        if name != "random_words_":
            getattr(fastinit, name)(second, *SINGLE[name], key=Key(word))
            assert same_bits(first, second)
    assert not same_bits(call(name, empty_for(name, 9), key=-1), first)


@pytest.mark.parametrize("name", SINGLE)
def test_default_generator_is_used_like_an_explicit_one(name):
    torch.manual_seed(11)
    first, second = call(name, empty_for(name, 9)), call(name, empty_for(name, 9))
    generator = torch.Generator().manual_seed(11)
    with no_randomness():
        assert same_bits(first, call(name, empty_for(name, 9), generator=generator))
        assert same_bits(second, call(name, empty_for(name, 9), generator=generator))
    torch.manual_seed(11)
    word = OPS.reserve_key(torch.device("cpu"))
    assert same_bits(first, call(name, empty_for(name, 9), key=word))


def test_purposes_do_not_share_words():
    """What a mask draws is not what values draw under the same key."""
    words = call("random_words_", empty_for("random_words_", 4096), key=3)
    values = torch.empty(4096)
    OPS.uniform_(values, 0.0, 1.0, key=3)
    shared = (words.to(torch.int64) & 0xFFFFFFFF) >> 8 == (values.double() * 2**24).to(torch.int64)
    assert shared.sum() == 0


# ---- version counters ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_version_counter(name, device):
    tensor = empty_for(name, 4, 3, device=device)
    for _ in range(3):
        before = tensor._version
        call(name, tensor, key=1)
        assert tensor._version == before + 1


@pytest.mark.parametrize("name", SINGLE)
def test_version_counter_is_shared_with_views(name):
    tensor = empty_for(name, 4, 3)
    view = tensor[1:3]
    before = tensor._version
    call(name, view, key=1)
    assert tensor._version == view._version == before + 1


@pytest.mark.parametrize("name", SINGLE)
def test_version_counter_and_inference_mode(name):
    ordinary = empty_for(name, 4, 3)
    before = ordinary._version
    with torch.inference_mode():
        call(name, ordinary, key=1)
        inference = call(name, empty_for(name, 4, 3), key=1)
        call(name, inference[1:], key=1)
    assert ordinary._version == before + 1
    assert inference.is_inference()
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):  # torch's own rule
        call(name, inference, key=1)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_"])
@pytest.mark.parametrize("grad", [True, False])
def test_ops_are_not_recorded(name, grad):
    parameter = torch.nn.Parameter(torch.zeros(4, 3))
    with torch.set_grad_enabled(grad):
        call(name, parameter, key=1)
    assert parameter.is_leaf
    assert parameter.grad_fn is None


# ---- torch.compile -------------------------------------------------------------------------------


@pytest.fixture
def _fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("key", [None, 5])
def test_compiled_calls_are_eager_calls(name, key):
    def function(tensor: torch.Tensor) -> torch.Tensor:
        return fill(name, tensor, key=key) if key is not None else fill(name, tensor)

    # Without a key sparse_ reserves one, an int that leaves an op: the graph breaks there.
    fullgraph = name != "sparse_" or key is not None
    with no_randomness():
        compiled = torch.compile(function, fullgraph=fullgraph, backend="aot_eager")
    torch.manual_seed(3)
    expected, after = function(torch.zeros(6, 4)), torch.get_rng_state()
    torch.manual_seed(3)
    tensor = torch.zeros(6, 4)
    assert compiled(tensor) is tensor
    assert same_bits(tensor, expected)
    assert torch.equal(torch.get_rng_state(), after), "compiling drew, or the call did not"
    torch.manual_seed(3)
    compiled(torch.nn.Parameter(tensor))
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_with_dynamic_shapes():
    compiled = torch.compile(
        lambda t: fastinit.kaiming_uniform_(t, a=2.0), fullgraph=True, dynamic=True, backend="eager"
    )
    for rows in (3, 5, 8):
        torch.manual_seed(rows)
        tensor = compiled(torch.zeros(rows, rows + 1))
        torch.manual_seed(rows)
        expected = fastinit.kaiming_uniform_(torch.zeros(rows, rows + 1), a=2.0)
        assert same_bits(tensor, expected)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_by_inductor():
    compiled = torch.compile(lambda t: fastinit.normal_(t).mul(2.0), fullgraph=True)
    torch.manual_seed(3)
    first, second = compiled(torch.zeros(50)), compiled(torch.zeros(50))
    torch.manual_seed(3)
    assert same_bits(first, fastinit.normal_(torch.zeros(50)).mul(2.0))
    assert same_bits(second, fastinit.normal_(torch.zeros(50)).mul(2.0))


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_with_a_key_from_outside():
    key = Key(2**64 - 1)
    compiled = torch.compile(
        lambda t: fastinit.normal_(t, key=key), fullgraph=True, backend="aot_eager"
    )
    with no_randomness():
        tensor = compiled(torch.zeros(9))
    assert same_bits(tensor, fastinit.normal_(torch.zeros(9), key=-1))


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_with_keys_that_change():
    def drawing(tensor: torch.Tensor) -> torch.Tensor:
        return fastinit.normal_(tensor, key=fastinit.reserve_key("cpu"))

    def given(tensor: torch.Tensor, key: object) -> torch.Tensor:
        return fastinit.normal_(tensor, key=key)

    torch.manual_seed(3)
    eager = [drawing(torch.zeros(9)) for _ in range(5)]
    torch.manual_seed(3)
    compiled = torch.compile(drawing, backend="eager")
    for expected in eager:
        assert same_bits(compiled(torch.zeros(9)), expected)
    compiled = torch.compile(given, fullgraph=True, backend="eager")
    for word in (1, 2**63 + 2, -7):  # one graph each, of eight that torch allows
        expected = fastinit.normal_(torch.zeros(9), key=word)
        for key in (word, Key(word)):
            assert same_bits(compiled(torch.zeros(9), key), expected)


# ---- small tensors, threads ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_", "random_words_"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_small_fills_are_the_beginnings_of_large_ones(name, dtype):
    kwargs = {} if name == "random_words_" else {"dtype": dtype}
    large = call(name, empty_for(name, 5000, **kwargs), key=7)
    for n in (1, 2, 3, 4, 5, 15, 16, 17, 31, 63, 257, 1000):
        assert same_bits(call(name, empty_for(name, n, **kwargs), key=7), large[:n])


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="torch has one thread here")
def test_large_fills_use_several_threads():
    large = torch.empty(1 << 24)
    counts = []
    for _ in range(5):  # on a busy machine one thread may do all the work of a fill
        OPS.normal_(large, key=1)
        counts.append(torch.ops.fastinit_testing.last_fill_threads())
    assert max(counts) > 1
    assert max(counts) <= torch.get_num_threads()
    OPS.normal_(torch.empty(16), key=1)
    assert torch.ops.fastinit_testing.last_fill_threads() == 1


def test_one_thread_is_honoured():
    threads = torch.get_num_threads()
    large = torch.empty(1 << 22)
    expected = call("normal_", torch.empty(1 << 22), key=1)
    torch.set_num_threads(1)
    try:
        call("normal_", large, key=1)
        assert torch.ops.fastinit_testing.last_fill_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert same_bits(large, expected)


def test_other_python_threads_run_during_a_fill():
    """The GIL is only given up on purpose here: nothing else makes the interpreter switch."""
    ticks, stop = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0001)

    tensor = torch.empty(1 << 25)
    call("normal_", tensor, key=1)
    interval = sys.getswitchinterval()
    thread = threading.Thread(target=tick)
    sys.setswitchinterval(1000.0)
    try:
        thread.start()
        while ticks == 0:
            time.sleep(0.001)
        before = ticks
        call("normal_", tensor, key=1)
        after = ticks
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert after > before


def test_threads_share_the_default_generator():
    """Concurrent draws are all different, and together move the generator as far as in sequence."""
    torch.manual_seed(4)
    expected = [fastinit.normal_(torch.empty(64)) for _ in range(40)]
    after = torch.get_rng_state()
    torch.manual_seed(4)
    drawn: list[torch.Tensor] = []

    def draw() -> None:
        for _ in range(10):
            drawn.append(fastinit.normal_(torch.empty(64)))

    workers = [threading.Thread(target=draw) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert torch.equal(torch.get_rng_state(), after)
    assert {tuple(t.tolist()) for t in drawn} == {tuple(t.tolist()) for t in expected}
