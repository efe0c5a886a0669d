"""orthogonal_ as an operator: arguments, versions, compilation, memory, the caller's settings."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import no_randomness, same_bits, untouched
from support.layout_cases import MATRIX_LAYOUTS, laid_out
from support.orthogonal_helpers import COMPUTED, OPS, draw
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

import fastinit

# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((4, 4), {"batch_dims": 1}, "at least 2 dimensions besides those of the batch"),
        ((4, 4, 4), {"batch_dims": -1}, "must not be negative"),
        ((4, 4), {"method": "svd"}, "'householder' or 'qr', but got 'svd'"),
        ((4,), {}, "at least 2 dimensions, but got shape"),
    ],
)
def test_bad_arguments(shape, kwargs, message):
    for tensor in (torch.zeros(shape), torch.zeros(shape, device="meta")):
        with no_randomness(), pytest.raises(ValueError, match=message):
            fastinit.orthogonal_(tensor, **kwargs)
    tensor = torch.zeros(shape)
    with untouched(tensor), pytest.raises(ValueError, match=message):
        fastinit.orthogonal_(tensor, key=1, **kwargs)


@pytest.mark.parametrize("kwargs", [{"batch_dims": (0,)}, {"batch_dims": None}, {"method": 3}])
def test_arguments_of_wrong_types(kwargs):
    tensor = torch.zeros(4, 4, 4)
    with untouched(tensor), pytest.raises(TypeError, match=f"'{next(iter(kwargs))}' must be a"):
        fastinit.orthogonal_(tensor, **kwargs)


def test_arguments_that_torch_does_not_have(monkeypatch):
    """On a tensor that goes to torch they are refused, not ignored."""
    monkeypatch.setattr("fastinit.initializers.draw.handled", lambda tensor, dtypes: False)
    tensor = torch.zeros(3, 4, 4)
    for kwargs in ({"batch_dims": 1}, {"method": "qr"}):
        with untouched(tensor), pytest.raises(NotImplementedError, match="torch's function has no"):
            fastinit.orthogonal_(tensor, **kwargs)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3), (0, 2, 3)])
def test_nothing_to_fill(shape):
    with no_randomness():
        fastinit.orthogonal_(torch.empty(shape))
        if len(shape) == 3:
            fastinit.orthogonal_(torch.empty(shape), batch_dims=1)


# ---- the operators -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (140, 150)])
def test_opcheck(shape):
    tensor = torch.zeros(shape)
    torch.library.opcheck(OPS.orthogonal_.default, (tensor, 1.5), {"key": -3})
    torch.library.opcheck(OPS.orthogonal_many_.default, ([tensor, tensor + 0], [1.0, 2.0]),
                          {"keys": [1, 2]})  # fmt: skip
    torch.library.opcheck(OPS.sparse_.default, (tensor, 0.3), {"key": -3})


def test_versions_move_once():
    tensors = [torch.zeros(5, 3), torch.zeros(150, 150), torch.zeros(5, 3, dtype=torch.bfloat16)]
    for tensor in tensors:
        before = tensor._version
        fastinit.orthogonal_(tensor)
        assert tensor._version == before + 1
    fastinit.orthogonal_many_(tensors)
    assert [t._version for t in tensors] == [2, 2, 2]


def test_fake_and_compiled_calls():
    with no_randomness(), FakeTensorMode():
        fastinit.orthogonal_(torch.empty(5, 3))
        fastinit.orthogonal_many_([torch.empty(5, 3), torch.empty(5, 3)])
        fastinit.sparse_(torch.empty(5, 3), 0.3)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def build() -> tuple[torch.Tensor, torch.Tensor]:
        return (
            fastinit.orthogonal_(torch.empty(2, 6, 4), batch_dims=1),
            fastinit.sparse_(torch.empty(6, 4), 0.5),
        )

    torch.manual_seed(3)
    compiled = build()
    torch.manual_seed(3)
    eager = (
        fastinit.orthogonal_(torch.empty(2, 6, 4), batch_dims=1),
        fastinit.sparse_(torch.empty(6, 4), 0.5),
    )
    for a, b in zip(compiled, eager, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
@pytest.mark.parametrize("shape", [(20, 31), (150, 131)])
def test_memory_around_stays_as_it_was(layout, shape):
    tensor = laid_out(layout, *shape, dtype=torch.float32)
    whole = torch.empty(0).set_(tensor.untyped_storage())
    whole.fill_(-7)
    fastinit.orthogonal_(tensor, key=1)
    written = whole != -7
    assert int(written.sum()) == tensor.numel()


def peak_memory(fill: Callable[[], Any]) -> int:
    """The most bytes that torch had allocated at once during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        fill()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


@pytest.mark.parametrize(
    "shape", [(512, 512), (700, 300), (130, 900), (2000, 40), (16, 4000), (100, 100)]
)
@pytest.mark.parametrize("dtype", [*COMPUTED, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "sliced"])
def test_memory_beside_the_tensor(shape, dtype, layout):
    tensor = laid_out(layout, *shape, dtype=dtype)
    fill = functools.partial(fastinit.orthogonal_, tensor, key=1)
    assert peak_memory(fill) <= 2.5 * tensor.numel() * tensor.element_size()


# ---- settings of the caller ----------------------------------------------------------------------


@pytest.fixture
def precision_settings():
    matmul, mkldnn = torch.backends.cuda.matmul, torch.backends.mkldnn
    before = torch.backends.fp32_precision, mkldnn.fp32_precision, mkldnn.matmul.fp32_precision
    allowed = matmul.fp32_precision
    yield
    torch.backends.fp32_precision, mkldnn.fp32_precision, mkldnn.matmul.fp32_precision = before
    matmul.fp32_precision = allowed


LEVELS = {
    "generic": lambda p: setattr(torch.backends, "fp32_precision", p),
    "cpu": lambda p: setattr(torch.backends.mkldnn, "fp32_precision", p),
    "products": lambda p: setattr(torch.backends.mkldnn.matmul, "fp32_precision", p),
}


def precisions() -> tuple[str, ...]:
    mkldnn = torch.backends.mkldnn
    levels = (torch.backends.fp32_precision, mkldnn.fp32_precision, mkldnn.matmul.fp32_precision)
    return (*levels, mkldnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)


@pytest.mark.parametrize("level", LEVELS)
def test_settings_are_left_as_they_were(level, precision_settings):
    LEVELS[level]("bf16")
    before = precisions()
    assert "bf16" in before
    fastinit.orthogonal_(torch.empty(200, 200), key=1)
    assert precisions() == before
    # What a level inherits it still inherits.
    LEVELS[level]("ieee")
    assert "bf16" not in precisions()


@pytest.mark.parametrize("level", LEVELS)
def test_products_are_exact_meanwhile(level, precision_settings):
    """Another thread looks at the setting until it has seen it exact."""
    LEVELS[level]("bf16")
    products, seen, done = torch.backends.mkldnn.matmul, set(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(products.fp32_precision)

    watcher = threading.Thread(target=watch)
    watcher.start()
    tensor = torch.empty(400, 400)
    for _ in range(200):
        fastinit.orthogonal_(tensor, key=1)
        if len(seen) > 1:
            break
    done.set()
    watcher.join()
    assert seen == {"bf16", "ieee"}
    assert products.fp32_precision == "bf16"


def test_autocast_and_flushing_make_no_difference():
    plain = draw((150, 150))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(draw((150, 150)), plain)
        assert torch.is_autocast_enabled("cpu")
    small = draw((20, 20), gain=1e-37)
    try:
        torch.set_flush_denormal(True)
        assert same_bits(draw((20, 20), gain=1e-37), small)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("level", LEVELS)
def test_settings_under_several_threads(level, precision_settings):
    """Calls that begin and end while others run share one change of the setting, and undo it."""
    LEVELS[level]("bf16")
    before, plain = precisions(), draw((150, 150))
    start, wrong = threading.Barrier(4), []

    def work(number: int) -> None:
        start.wait()
        for call in range(12):
            size = 140 + (5 * call + number) % 20  # so that they overlap in every way
            fastinit.orthogonal_(torch.empty(size, size), key=1)
            if not same_bits(draw((150, 150)), plain):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert precisions() == before
    LEVELS[level]("ieee")
    assert "bf16" not in precisions()


def test_short_calls_leave_a_long_one_its_setting(precision_settings):
    """Only the last call under way puts the setting back."""
    LEVELS["products"]("bf16")
    products, seen = torch.backends.mkldnn.matmul, 0
    long = threading.Thread(target=fastinit.orthogonal_, args=(torch.empty(2000, 2000),))
    long.start()
    while long.is_alive():
        seen += products.fp32_precision == "ieee"  # by the long call alone
        fastinit.orthogonal_(torch.empty(4, 4), key=1)
    long.join()
    assert seen >= 3
    assert products.fp32_precision == "bf16"


def test_a_key_for_every_tensor() -> None:
    tensors = [torch.zeros(3, 3) for _ in range(2)]
    with pytest.raises(TypeError, match="a key for every tensor, got None for number 1"):
        fastinit.orthogonal_many_(tensors, keys=[1, None])  # type: ignore[list-item]
    assert not any(tensor.any() for tensor in tensors)


@pytest.mark.parametrize("shape", [(3, 3, 0), (0, 0, 3), (3, 0, 1)])
def test_a_convolution_without_elements_draws_nothing(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    fastinit.delta_orthogonal_(torch.empty(shape), generator=generator)
    assert torch.equal(generator.get_state(), before)
    with pytest.raises(RuntimeError, match="gain"):
        fastinit.delta_orthogonal_(torch.empty(shape), float("nan"))
