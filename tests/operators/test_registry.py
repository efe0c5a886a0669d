"""Every operator has a kernel of fastinit's, or a refusal, for every key it can be dispatched to.

Torch's fallbacks for lazy views and batches expect an operator to return what it writes; ours
return nothing, and memory was corrupted where one of them was left to a fallback.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.common import operator

import fastinit
from fastinit import _C, _compiled

OPS = torch.ops.fastinit
TESTING = torch.ops.fastinit_testing
SHAPE = (6, 5)
# A tensor that one of SHAPE is a part of: its size, and the one box.
FULL, BOXES = [9, 8], [0, 0, *SHAPE, 2, 3]
Fill = Callable[[torch.Tensor], object]


def reflectors(dtype: torch.dtype) -> torch.Tensor:
    """What parts of a matrix of size FULL have in common."""
    common = torch.zeros(10, 8, dtype=dtype)
    OPS.orthogonal_sums_(common, FULL, 0, 0, 9, key=1)
    OPS.orthogonal_reflect_(common, 1.0, FULL, 0, key=1)
    return common


# All operators that write tensors, keyed or drawing nothing.
FILLS: dict[str, Fill] = {
    "uniform_": lambda t: OPS.uniform_(t, -1.0, 2.0, key=1),
    "normal_": lambda t: OPS.normal_(t, 1.0, 2.0, key=1),
    "trunc_normal_": lambda t: OPS.trunc_normal_(t, key=1),
    "random_words_": lambda t: TESTING.random_words_(t, key=1),
    "fill_many_": lambda t: OPS.fill_many_([t], [1, 0], [0.0, 1.0, 0.0, 0.0], [1]),
    "orthogonal_": lambda t: OPS.orthogonal_(t, key=1),
    "orthogonal_many_": lambda t: OPS.orthogonal_many_([t], [1.0], keys=[1]),
    "orthogonal_from_": lambda t: TESTING.orthogonal_from_(t),
    "sparse_": lambda t: OPS.sparse_(t, 0.5, key=1),
    "fill_shard_": lambda t: OPS.fill_shard_(t, "normal_", [0.0, 1.0], FULL, BOXES, key=1),
    "sparse_shard_": lambda t: OPS.sparse_shard_(t, 0.5, 1.0, FULL, BOXES, key=1),
    "orthogonal_shard_": lambda t: OPS.orthogonal_shard_(t, 1.0, FULL, BOXES, key=1),
    "orthogonal_sums_": lambda t: OPS.orthogonal_sums_(t[:, :4], (9, 4), 0, 2, 7, key=1),
    "orthogonal_reflect_": lambda t: OPS.orthogonal_reflect_(t[:, :4], 1.0, (9, 4), 0, key=1),
    "orthogonal_of_reflectors_": lambda t: OPS.orthogonal_of_reflectors_(
        t, reflectors(t.dtype), 1.0, FULL, BOXES, 0, 0, key=1
    ),
    "orthogonal_by_rows_": lambda t: TESTING.orthogonal_by_rows_(t, 1.0, FULL, BOXES, key=1),
    "zero_smallest_": lambda t: TESTING.zero_smallest_(t, 2, 1),
}
NOT_COMPLEX = ("trunc_normal_", "random_words_")
LISTS = ("fill_many_", "orthogonal_many_")
ANYWHERE = ("reserve_key", "last_fill_threads", "fill_waves")
# Of the library for tests alone.
FOR_TESTS = (
    "random_words_",
    "orthogonal_by_rows_",
    "orthogonal_from_",
    "zero_smallest_",
    "last_fill_threads",
    "fill_waves",
)


def names() -> list[str]:
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeExplicitAutograd")
    registered += torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    return sorted({name for name in registered if re.match("fastinit(_testing)?::", name)})


def full_name(name: str) -> str:
    return f"fastinit_testing::{name}" if name in FOR_TESTS else f"fastinit::{name}"


def has(name: str, key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(full_name(name), key))


def test_all_operators_are_listed_here() -> None:
    assert names() == sorted(map(full_name, [*FILLS, *ANYWHERE]))


def devices() -> list[str]:
    return ["CPU", "CUDA"] if _compiled.HAS_CUDA else ["CPU"]


@pytest.mark.parametrize("key", [*devices(), "Meta", "Conjugate", "Negative", "FuncTorchBatched"])
@pytest.mark.parametrize("name", FILLS)
def test_every_operator_has_a_kernel_for_every_key(name: str, key: str) -> None:
    assert has(name, key)


# What takes no numbers that have gradients, and what is sliced by torch before it is called.
NOT_PARTS = ("random_words_", "orthogonal_sums_", "orthogonal_reflect_")
SPLITS: dict[str, Callable[[torch.Tensor], tuple[torch.Tensor, ...]]] = {
    "unbind": lambda t: t.view(2, *SHAPE).unbind(),
    "chunk": lambda t: t.chunk(2),
    "split": lambda t: t.split(SHAPE[0]),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [name for name in FILLS if name not in NOT_PARTS])
def test_views_that_one_call_makes_are_written_one_after_another(name: str, split: str) -> None:
    # Torch asks what goes to an operator that autograd does not know for its history, which these
    # views refuse once their base has changed.
    base = torch.nn.Parameter(fastinit.normal_(torch.empty(2 * SHAPE[0], SHAPE[1]), key=2))
    before = base.detach().clone()
    for view in SPLITS[split](base):
        FILLS[name](view)
    written = (base.detach() != before).view(2, -1)
    assert bool(written.any(1).all())
    assert base.is_leaf


@pytest.mark.skipif(_compiled.HAS_CUDA, reason="of builds without CUDA")
@pytest.mark.parametrize("name", FILLS)
def test_without_cuda_there_is_no_kernel_for_it(name: str) -> None:
    assert not has(name, "CUDA")


@pytest.mark.parametrize("name", FILLS)
def test_schemas_write_one_argument_and_return_nothing(name: str) -> None:
    schema = operator(name).default._schema
    written = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    assert [a.name for a in written] == ["tensors" if name in LISTS else "self"]
    assert not schema.returns


def test_operators_are_made_of_the_table_of_distributions() -> None:
    table = _C.distributions()
    assert [row["code"] for row in table] == list(range(len(table)))
    for row in table:
        if not row["random"]:
            assert full_name(row["name"]) not in names()  # the constant is torch's fill_
            continue
        arguments = operator(row["name"]).default._schema.arguments
        assert arguments[0].name == "self"
        assert [a.name for a in arguments][-2:] == ["key", "generator"]
        given = {a.name: a.default_value for a in arguments[1:-2]}
        assert list(given.items()) == list(row["arguments"].items())


def test_codes_that_are_not_there() -> None:
    known = ", ".join(f"{row['code']} ({row['name']})" for row in _C.distributions())
    for code in (-1, len(_C.distributions())):
        said = re.escape(f"distribution {code} for tensor 0; known are {known}")
        with pytest.raises(RuntimeError, match=said):
            OPS.fill_many_([torch.zeros(3)], [code, 0], [0.0] * 4, [1])


# ---- lazy views ---------------------------------------------------------------------------------


def conjugate(dtype: torch.dtype, strided: bool) -> torch.Tensor:
    base = torch.full((9, 7), 3 + 4j, dtype=dtype)
    return (base[1:7, :5] if strided else base[:6, :5].clone()).conj()


def negative(dtype: torch.dtype, strided: bool) -> torch.Tensor:
    return conjugate(dtype, strided).imag


VIEWS = {"conjugate": conjugate, "negative": negative}


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", FILLS)
def test_lazy_views_get_what_plain_tensors_get(
    name: str, view: str, dtype: torch.dtype, strided: bool
) -> None:
    lazy = VIEWS[view](dtype, strided)
    if name in NOT_COMPLEX and (lazy.is_complex() or name == "random_words_"):
        before = lazy.clone()
        with pytest.raises(NotImplementedError):
            FILLS[name](lazy)
        assert torch.equal(lazy, before)
        return
    plain, version = lazy.clone(), lazy._version
    assert lazy.is_conj() or lazy.is_neg()
    assert not plain.is_conj() and not plain.is_neg()
    FILLS[name](lazy)
    FILLS[name](plain)
    assert torch.equal(lazy.resolve_conj().resolve_neg(), plain)
    assert lazy._version > version


@pytest.mark.parametrize("view", VIEWS)
def test_lists_with_lazy_views_are_written_in_order(view: str) -> None:
    def lazy(base: torch.Tensor) -> torch.Tensor:
        return base.conj() if view == "conjugate" else base.conj().imag

    at_once, in_turn = (torch.zeros(4, 6, dtype=torch.complex64) for _ in range(2))
    alone = torch.zeros(3)
    lists = [lazy(at_once), at_once[1:3], lazy(at_once)[2], alone]
    OPS.fill_many_(lists, [2, 0] * 4, [0.0, 1.0, 0.0, 0.0] * 4, [1, 2, 3, 4])
    for key, tensor in enumerate([lazy(in_turn), in_turn[1:3], lazy(in_turn)[2]], 1):
        OPS.normal_(tensor, key=key)
    assert torch.equal(at_once, in_turn)
    assert torch.equal(alone, fastinit.normal_(torch.zeros(3), key=4))


def test_lists_know_memory_that_storages_do_not() -> None:
    """Two tensors over one NumPy array have storages of their own."""
    array = np.zeros(8, np.complex64)
    one, other = torch.from_numpy(array), torch.from_numpy(array)
    OPS.fill_many_([one.conj(), other], [2, 0] * 2, [0.0, 1.0, 0.0, 0.0] * 2, [1, 2])
    want = torch.zeros(8, dtype=torch.complex64)
    OPS.normal_(want, key=2)
    assert torch.equal(one, want)


def test_lists_of_matrices_know_memory_that_storages_do_not() -> None:
    at_once, in_turn = np.zeros(30, np.float32), np.zeros(30, np.float32)

    def views(array: np.ndarray) -> list[torch.Tensor]:
        parts = [(0, 4), (4, 5), (8, 4)]
        return [torch.from_numpy(array[a : a + n * n]).view(n, n) for a, n in parts]

    OPS.orthogonal_many_(views(at_once), [1.0] * 3, keys=[1, 2, 3])
    for key, view in enumerate(views(in_turn), 1):
        OPS.orthogonal_(view, key=key)
    assert np.array_equal(at_once, in_turn)


def test_lazy_views_are_accepted_where_their_plain_twins_are() -> None:
    base = torch.zeros(1, 5, dtype=torch.complex64)
    constant = [0, 0], [2.5, 0.0, 0.0, 0.0], [0]
    OPS.fill_many_([base.conj().expand(6, 5)], *constant)
    assert torch.equal(base, torch.full((1, 5), 2.5, dtype=torch.complex64))
    meta = torch.empty(1, 5, dtype=torch.complex64, device="meta")
    OPS.normal_(meta.expand(6, 5).conj(), key=1)


def test_lazy_views_keep_dynamic_shapes() -> None:
    graphs = 0

    def counting(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return graph

    def fill(x: torch.Tensor) -> torch.Tensor:
        OPS.normal_(x.conj(), key=1)
        return x + 1

    compiled = torch.compile(fill, dynamic=True, backend=counting, fullgraph=True)
    for rows in (3, 5, 8):
        compiled(torch.zeros(rows, 4, dtype=torch.complex64))
    assert graphs == 1


@pytest.mark.parametrize("name", ["uniform_", "normal_", "orthogonal_", "sparse_"])
def test_lazy_views_that_overlap_are_refused(name: str) -> None:
    base = torch.zeros(1, 5, dtype=torch.complex64)
    with pytest.raises(RuntimeError, match="single memory location"):
        FILLS[name](base.conj().expand(6, 5))
    assert not base.any()


def test_public_functions_take_lazy_views() -> None:
    for function in (fastinit.uniform_, fastinit.normal_, fastinit.orthogonal_):
        lazy = conjugate(torch.complex64, True)
        plain = lazy.clone()
        function(lazy, key=1)
        assert torch.equal(lazy.resolve_conj(), function(plain, key=1))


# ---- refusals -----------------------------------------------------------------------------------

KINDS: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.zeros(SHAPE).to_sparse(),
    "sparse csr": lambda: torch.zeros(SHAPE).to_sparse_csr(),
    "mkldnn": lambda: torch.zeros(SHAPE).to_mkldnn(),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(SHAPE), 0.1, 0, torch.qint8),
    "zero tensor": lambda: torch._efficientzerotensor(SHAPE),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(SHAPE), torch.zeros(SHAPE)]),
    "integers": lambda: torch.zeros(SHAPE, dtype=torch.int64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in FILLS if name != "zero_smallest_"])
def test_other_kinds_of_tensors_are_refused(name: str, kind: str) -> None:
    """A list of them was taken for an empty one, and nothing was written, without a word."""
    with pytest.raises((NotImplementedError, RuntimeError)) as caught:
        FILLS[name](KINDS[kind]())
    assert not re.search("internal assert", str(caught.value), re.IGNORECASE)


@pytest.mark.parametrize("name", LISTS)
def test_refusals_name_the_tensor(name: str) -> None:
    tensors = [torch.zeros(SHAPE), torch.zeros(SHAPE).to_sparse()]
    arguments: tuple[Any, ...] = ([1.0, 1.0],)
    given: dict[str, Any] = {"keys": [1, 2]}
    if name == "fill_many_":
        arguments, given = ([1, 0] * 2, [0.0, 1.0, 0.0, 0.0] * 2, [1, 2]), {}
    with pytest.raises(NotImplementedError, match=r"tensor 1, .*Sparse|layout Sparse"):
        getattr(OPS, name)(tensors, *arguments, **given)
    assert not tensors[0].any()


def test_zeros_of_unusual_tensors() -> None:
    TESTING.zero_smallest_(torch.empty(3, 0), 1, 1)
    for shape, count in (((0, 5), 1), ((4, 5), 0), ((4, 5), 5), ((4,), 1)):
        with pytest.raises(ValueError, match="zero_smallest_"):
            TESTING.zero_smallest_(torch.ones(shape), count, 1)
    with pytest.raises(RuntimeError, match="single memory location"):
        TESTING.zero_smallest_(torch.ones(10).unfold(0, 4, 1), 1, 1)
    leaf = torch.ones(4, 5, requires_grad=True)
    TESTING.zero_smallest_(leaf, 2, 1)
    assert (leaf == 0).sum() == 10


@pytest.mark.parametrize("name", FILLS)
def test_batches_are_refused_by_name(name: str) -> None:
    def fill(t: torch.Tensor) -> torch.Tensor:
        FILLS[name](t)
        return t

    with pytest.raises(NotImplementedError, match=f"{name}: not inside torch.vmap"):
        torch.vmap(fill, randomness="different")(torch.zeros(3, *SHAPE))


def test_empty_lists_are_fine() -> None:
    OPS.fill_many_([], [], [], [])
    OPS.orthogonal_many_([], [])
    assert fastinit.orthogonal_many_([]) == []


# ---- what orthogonal_ made of unusual arguments -------------------------------------------------


@pytest.mark.parametrize("gain", [math.nan, math.inf, -math.inf])
def test_gains_that_are_no_numbers(gain: float) -> None:
    tensors = [torch.zeros(4, 4) for _ in range(3)]
    state = torch.get_rng_state()
    for call in (
        lambda: OPS.orthogonal_many_(tensors, [1.0, gain, 2.0]),
        lambda: fastinit.orthogonal_(tensors[0], gain),
        lambda: fastinit.orthogonal_many_(tensors, [2.0, 1.0, gain]),
        lambda: fastinit.delta_orthogonal_(tensors[0].view(4, 4, 1), gain),
        lambda: fastinit.orthogonal_(fastinit.shard(tensors[0], (8, 4), (4, 0)), gain),
    ):
        with pytest.raises(RuntimeError, match="argument 'gain' must be finite, but got"):
            call()
    assert not any(tensor.any() for tensor in tensors)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("shape", [(5, 6), (150, 140)])
def test_complex_memory_aligned_to_its_parts(shape: tuple[int, int], method: str) -> None:
    """NumPy aligns complex128 to 8 bytes."""
    count = math.prod(shape)
    doubles = torch.zeros(2 * count + 2, dtype=torch.float64)
    start = (doubles.data_ptr() // 8 + 1) % 2
    memory = doubles.numpy()[start : start + 2 * count].view("complex128").reshape(shape)
    tensor = torch.from_numpy(memory)
    assert tensor.data_ptr() % 16 == 8
    options: dict[str, Any] = {"key": 1, "method": method}
    fastinit.orthogonal_(tensor, **options)
    want = fastinit.orthogonal_(torch.empty(shape, dtype=torch.complex128), **options)
    torch.testing.assert_close(tensor.clone(), want, atol=1e-13, rtol=0)
