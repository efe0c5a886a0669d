"""orthogonal_: values, accuracy, batches, lists, memory, settings. What it draws: test_haar.py."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from common import LAYOUTS, REAL_DTYPES, no_randomness, same_bits, untouched
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

import fastinit
from fastinit import Key

OPS = torch.ops.fastinit
COMPUTED = [torch.float32, torch.float64, torch.complex64, torch.complex128]
# 1 x n, n x 1, 1 x 1, 2 x 2; around blocks of 4 and of 32; small and large, tall, wide and square.
SHAPES = [
    (1, 1), (1, 5), (5, 1), (2, 2), (3, 2), (2, 3), (4, 4), (5, 5), (7, 4), (8, 13), (64, 64),
    (65, 127), (128, 128), (129, 129), (130, 128), (300, 70), (70, 300), (200, 200), (257, 193),
]  # fmt: skip


def exact_type(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def tolerance(dtype: torch.dtype) -> float:
    """What is promised of |Q^T Q - I| / sqrt(n)."""
    return 1e-14 if dtype in (torch.float64, torch.complex128) else 1.5e-6


def orthogonality(matrix: torch.Tensor) -> float:
    """The largest |Q^H Q - I| / sqrt(n), Frobenius, over a batch."""
    q = matrix.detach().to(exact_type(matrix.dtype))
    q = q.mT if q.shape[-2] < q.shape[-1] else q
    identity = torch.eye(q.shape[-1], dtype=q.dtype)
    error = torch.linalg.matrix_norm(q.mH @ q - identity) / math.sqrt(q.shape[-1])
    return float(error.max())


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **kwargs: Any) -> torch.Tensor:
    # Whatever was in memory must not matter.
    tensor = torch.full(shape, math.nan, dtype=dtype)
    return fastinit.orthogonal_(tensor, **{"key": 1, **kwargs})


def reflected(gaussian: torch.Tensor) -> torch.Tensor:
    """The same by definition: one reflection after the other, each an explicit matrix."""
    x = gaussian.to(exact_type(gaussian.dtype))
    if x.shape[0] < x.shape[1]:
        return reflected(gaussian.T).T
    rows, columns = x.shape
    product = torch.eye(rows, dtype=x.dtype)
    phases = []
    for k in range(columns):
        v = x[:, k].clone()
        v[:k] = 0
        length, first = torch.linalg.vector_norm(v), v[k]
        if length == 0:
            v[k], phase = 1, torch.ones((), dtype=x.dtype)
        else:
            flat = first == 0
            phase = torch.ones_like(first) if flat else first / first.abs()
            if flat and not x.is_complex() and torch.signbit(first):
                phase = -phase
            v[k] += phase * length
        h = torch.eye(rows, dtype=x.dtype) - 2 * torch.outer(v, v.conj()) / v.abs().square().sum()
        product = product @ h
        phases.append(phase)
    return product[:, :columns] * -torch.stack(phases)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [s for s in SHAPES if max(s) <= 130] + [(20, 150), (150, 20)])
@pytest.mark.parametrize("dtype", COMPUTED)
def test_is_the_product_of_the_reflections(shape, dtype):
    gaussian = fastinit.normal_(torch.empty(shape, dtype=dtype), key=1)
    expected = reflected(gaussian)
    atol = 1e-13 if tolerance(dtype) < 1e-10 else 1e-5
    matrix = draw(shape, dtype)
    torch.testing.assert_close(matrix.to(expected.dtype), expected, atol=atol, rtol=0)
    given = OPS.orthogonal_from_(gaussian)
    assert given is None
    torch.testing.assert_close(gaussian.to(expected.dtype), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("size", [5, 200])
def test_columns_without_length_and_signed_zeros(dtype, size):
    gaussian = fastinit.normal_(torch.empty(size, size, dtype=dtype), key=1)
    gaussian[:, 1] = 0
    gaussian[size - 1, size - 1] = 0
    gaussian[2, 2] = -0.0
    gaussian[3, 3] = 0.0
    gaussian[3:, 3] *= 1e-25  # their squares vanish in float32
    expected = reflected(gaussian)
    if tolerance(dtype) > 1e-10:
        # Too short to be told from nothing, so nothing: v is e1.
        zeroed = gaussian.clone()
        zeroed[:, 3] = 0
        expected = reflected(zeroed)
    OPS.orthogonal_from_(gaussian)
    atol = 1e-13 if tolerance(dtype) < 1e-10 else 1e-5
    torch.testing.assert_close(gaussian.to(expected.dtype), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (150, 150)])
def test_all_zeros(shape, dtype, method):
    tensor = torch.zeros(shape, dtype=dtype)
    OPS.orthogonal_from_(tensor, method=method)
    assert orthogonality(tensor) < tolerance(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_types_agree(shape):
    """The same matrix, before the rounding to 16 and 8 bits."""
    single, double = draw(shape), draw(shape, torch.float64)
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=0)
    for dtype in REAL_DTYPES:
        if dtype.itemsize < 4:
            rounded = draw(shape, dtype).float()
            rtol = torch.finfo(dtype).eps
            torch.testing.assert_close(rounded, single.to(dtype).float(), atol=1e-5, rtol=rtol)
    double = draw(shape, torch.complex128)
    torch.testing.assert_close(draw(shape, torch.complex64).cdouble(), double, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (150, 140), (140, 150)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_agree(shape, layout, dtype):
    tensor = LAYOUTS[layout](*shape, dtype=dtype)
    fastinit.orthogonal_(tensor, key=1, gain=1.5)
    expected = draw(shape, dtype, gain=1.5)
    coarse = dtype.itemsize == 2
    torch.testing.assert_close(tensor, expected, atol=8e-3 if coarse else 1e-5, rtol=0)


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("shape", [(12, 5), (150, 160)])
def test_gain(shape, method):
    plain = draw(shape, torch.float64, method=method)
    for gain in (0.0, -2.5, 1e-30, 1e30):
        scaled = draw(shape, torch.float64, method=method, gain=gain)
        torch.testing.assert_close(scaled, gain * plain, atol=0, rtol=1e-9)
    assert torch.all(draw(shape, torch.float16, method=method, gain=1e9).isfinite())


# ---- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("shape", SHAPES)
def test_columns_are_orthogonal(shape, dtype, method):
    assert orthogonality(draw(shape, dtype, method=method)) < tolerance(dtype)


@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_accuracy_does_not_depend_on_the_size(size):
    """Norms in float32 would give 2e-6 at 1024 already."""
    assert orthogonality(draw((size, size))) < 1.1e-6
    assert orthogonality(draw((size, size // 2))) < 1.1e-6


def test_accuracy_of_float64_in_blocks():
    assert orthogonality(draw((1024, 1024), torch.float64)) < 4e-15


# ---- batches and lists ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 6), (40, 3, 2), (150, 20), (180, 190)])
def test_matrices_of_a_batch_are_orthogonal_and_differ(shape, dtype, method):
    batch = draw((2, 3, *shape), dtype, batch_dims=2, method=method)
    flat = batch.reshape(6, shape[0], -1)
    bound = 2e-2 if dtype.itemsize == 2 else tolerance(dtype)
    assert orthogonality(flat) < bound
    assert len({tuple(m.flatten()[:4].tolist()) for m in flat}) == 6


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("shape", [(5, 6), (6, 5), (130, 40), (140, 150)])
def test_a_matrix_of_a_batch_comes_from_its_part_of_the_gaussian(shape, dtype):
    """Row-major index in the whole tensor, whatever else is made with it."""
    gaussian = fastinit.normal_(torch.empty(4, *shape, dtype=dtype), key=1)
    batch = draw((4, *shape), dtype, batch_dims=1)
    for matrix, its_gaussian in zip(batch, gaussian, strict=True):
        OPS.orthogonal_from_(its_gaussian)
        torch.testing.assert_close(matrix, its_gaussian, atol=1e-5, rtol=0)
    assert torch.equal(batch[:1], draw((1, *shape), dtype, batch_dims=1)) or shape[0] > 128
    torch.testing.assert_close(batch[0], draw(shape, dtype), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(5, 6), (140, 150)])
def test_layouts_of_batches(shape):
    expected = draw((2, 3, *shape), batch_dims=2)
    permuted = torch.empty(3, 2, *shape[::-1]).permute(1, 0, 3, 2)
    sliced = torch.empty(2, 6, *shape)[:, ::2]
    for tensor in (permuted, sliced):
        fastinit.orthogonal_(tensor, key=1, batch_dims=2)
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=0)


def list_of_tensors() -> list[torch.Tensor]:
    shapes = [(9, 7), (150, 140), (9, 7), (7, 9), (150, 140), (9, 7), (0, 3), (3, 0), (20, 3, 3)]
    tensors = [torch.empty(shape) for shape in shapes]
    more = [torch.empty(9, 7, dtype=d) for d in (torch.float64, torch.bfloat16, torch.complex64)]
    return [*tensors, *more, torch.empty(7, 9).t(), torch.empty(4, 9, 7)[2]]


@pytest.mark.parametrize("method", ["householder", "qr"])
def test_lists(method):
    tensors, alone = list_of_tensors(), list_of_tensors()
    keys = [Key(3).fold_in(k) for k in range(len(tensors))]
    gains = [1.0 + k for k in range(len(tensors))]
    result = fastinit.orthogonal_many_(tensors, gains, keys=keys, method=method)
    assert all(a is b for a, b in zip(result, tensors, strict=True))
    for tensor, one, key, gain in zip(tensors, alone, keys, gains, strict=True):
        fastinit.orthogonal_(one, gain, key=key, method=method)
        torch.testing.assert_close(tensor, one, atol=2e-4, rtol=0)


def test_lists_draw_keys_in_order():
    tensors, alone = list_of_tensors(), list_of_tensors()
    fastinit.orthogonal_many_(tensors, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for tensor, one in zip(tensors, alone, strict=True):
        fastinit.orthogonal_(one, generator=generator)
        torch.testing.assert_close(tensor, one, atol=1e-5, rtol=0)
    torch.manual_seed(5)
    again = fastinit.orthogonal_many_(list_of_tensors())
    for tensor, one in zip(tensors, again, strict=True):
        assert same_bits(tensor, one)


def test_a_tensor_twice_in_a_list_keeps_the_last():
    tensor = torch.empty(9, 7)
    fastinit.orthogonal_many_([tensor, torch.empty(9, 7), tensor], keys=[1, 2, 3])
    assert same_bits(tensor, fastinit.orthogonal_(torch.empty(9, 7), key=3))


def test_lists_are_checked_before_anything_is_filled():
    tensors = [torch.zeros(4, 4), torch.zeros(4)]
    with untouched(tensors[0]), pytest.raises(ValueError, match="at least 2 dimensions"):
        fastinit.orthogonal_many_(tensors)
    good = tensors[:1]
    with untouched(good[0]):
        for bad in ({"keys": [1, 2]}, {"gain": [1.0, 2.0]}):
            with pytest.raises(ValueError, match="2 values for 1 tensors"):
                fastinit.orthogonal_many_(good, **bad)
        with pytest.raises(ValueError, match="exclude each other"):
            fastinit.orthogonal_many_(good, generator=torch.Generator(), keys=[1])
        with pytest.raises(TypeError):
            fastinit.orthogonal_many_(good, keys=["a"])
    assert fastinit.orthogonal_many_([]) == []


# ---- in the middle of a convolution --------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(3,), (4,), (3, 5), (2, 1), (3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_delta_orthogonal(kernel, dtype):
    tensor = torch.full((7, 5, *kernel), math.nan, dtype=dtype)
    assert fastinit.delta_orthogonal_(tensor, 2.0, key=3) is tensor
    middle = (slice(None), slice(None), *((k - 1) // 2 for k in kernel))
    expected = torch.zeros(7, 5, *kernel, dtype=dtype)
    expected[middle] = fastinit.orthogonal_(torch.empty(7, 5, dtype=dtype), 2.0, key=3)
    assert torch.equal(tensor, expected)


def test_delta_orthogonal_refuses():
    for shape, message in (((4, 4), "3, 4 or 5"), ((2, 3, 3), "as many outputs as inputs")):
        tensor = torch.zeros(shape)
        with untouched(tensor), pytest.raises(ValueError, match=message):
            fastinit.delta_orthogonal_(tensor)
    tensor = torch.zeros(3, 2, 3)
    with untouched(tensor), pytest.raises(ValueError, match="exclude each other"):
        fastinit.delta_orthogonal_(tensor, key=1, generator=torch.Generator())
    with untouched(tensor), pytest.raises(TypeError, match="gain"):
        fastinit.delta_orthogonal_(tensor, "1")
    with no_randomness():
        fastinit.delta_orthogonal_(torch.empty(3, 2, 3, device="meta"))
        fastinit.delta_orthogonal_(torch.empty(0, 0, 3))


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


def test_arguments_that_torch_does_not_have(monkeypatch):
    """On a tensor that goes to torch they are refused, not ignored."""
    monkeypatch.setattr("fastinit.haar.handled", lambda tensor, dtypes: False)
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(20, 31), (150, 131)])
def test_memory_around_stays_as_it_was(layout, shape):
    tensor = LAYOUTS[layout](*shape, dtype=torch.float32)
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
    tensor = LAYOUTS[layout](*shape, dtype=dtype)
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
