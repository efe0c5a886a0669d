"""What the promise tests share: fills of every kind and type, and memory that is watched.

The values themselves are compared with an independent implementation elsewhere
(test_reference.py). The promises say what must not change them, so here fastinit is compared
with itself, most often with the same fill of a contiguous tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from fastinit import _compiled
from support.common import bits
from support.exact_arithmetic import Array
from support.stream_cases import INF, KINDS, OPS, TRUNCATIONS, signed

REAL = ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
COMPLEX = ("complex64", "complex128")
# One of each kind of transform, clamped or not, and of each branch of the truncated normal.
KIND_ARGS: list[tuple[str, tuple[float, ...]]] = [
    ("uniform", (-0.3, 0.7)),
    ("normal", (0.5, 3.0)),
    ("normal", (0.0, 200.0)),
    *(("trunc_normal", cases[0]) for cases in TRUNCATIONS.values()),
    ("trunc_normal", (0.0, 1.0, -INF, INF)),
]


@dataclass(frozen=True)
class Case:
    """A fill: what of, and of which type."""

    dtype: str
    dist: str
    args: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.dtype} {self.dist} {self.args}"

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def empty(self, *shape: int, device: str = "cpu") -> torch.Tensor:
        return torch.empty(shape, dtype=self.torch_dtype, device=device)

    def fill(self, tensor: torch.Tensor, key: int) -> torch.Tensor:
        """Fills a tensor through the op of one tensor."""
        if self.dist == "words":
            torch.ops.fastinit_testing.random_words_(tensor, key=signed(key))
        else:
            OPS[self.dist](tensor, *self.args, key=signed(key))
        return tensor

    def row(self, full: Sequence[int] = (), offset: Sequence[int] = ()) -> list[int]:
        """The row of fill_many_'s plan for a whole tensor, or for a shard of a larger one."""
        return [KINDS[self.dist], len(full), *full, *offset]

    @property
    def four(self) -> list[float]:
        """The arguments as fill_many_ takes them."""
        return [*self.args, 0.0, 0.0, 0.0, 0.0][:4]

    def fill_shard(
        self, tensor: torch.Tensor, key: int, full: Sequence[int], offset: Sequence[int]
    ) -> torch.Tensor:
        """Fills a tensor as the part at `offset` of one of size `full`."""
        _compiled.fill_many_op([tensor], self.row(full, offset), self.four, [signed(key)])
        return tensor

    def whole(self, key: int, *shape: int) -> Array:
        """The bit patterns of a contiguous tensor filled under this key."""
        return bits(self.fill(self.empty(*shape), key))


ONE_OF_EACH = [Case(dtype, dist, args) for dtype in REAL for dist, args in KIND_ARGS]
ONE_OF_EACH += [Case(dtype, "normal", (0.25, 1.5)) for dtype in COMPLEX]
ONE_OF_EACH += [Case("int32", "words")]
# Each item size in memory, the fast kinds only: where only the layout matters.
ONE_OF_EACH_SIZE = [
    Case("float8_e5m2", "normal", (0.0, 1.0)),
    Case("bfloat16", "uniform", (-1.0, 1.0)),
    Case("float32", "normal", (0.0, 1.0)),
    Case("float32", "trunc_normal", (0.0, 1.0, -2.0, 2.0)),
    Case("float64", "normal", (0.0, 1.0)),
    Case("complex64", "normal", (0.0, 1.0)),
    Case("complex128", "normal", (0.0, 1.0)),
    Case("int32", "words"),
]


def fill_many(
    tensors: Sequence[torch.Tensor],
    cases: Sequence[Case],
    keys: Sequence[int],
    rows: Sequence[list[int]] | None = None,
) -> None:
    """All tensors in one call; without `rows` each is whole."""
    rows = [case.row() for case in cases] if rows is None else rows
    _compiled.fill_many_op(
        list(tensors),
        [number for row in rows for number in row],
        [number for case in cases for number in case.four],
        [signed(key) for key in keys],
    )


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Canvas:
    """A strided tensor in the middle of memory of which every byte is known.

    Args:
        case: gives the type.
        shape: of the tensor.
        strides: of the tensor, in elements.
        start: its first element in the memory.
        device: where the memory is.
    """

    def __init__(
        self,
        case: Case,
        shape: Sequence[int],
        strides: Sequence[int],
        start: int = 5,
        device: str = "cpu",
    ) -> None:
        self.shape, self.strides, self.start = tuple(shape), tuple(strides), start
        element = case.empty(1)
        self.parts = 2 if element.is_complex() else 1
        span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n > 0)
        draws = np.random.default_rng(len(shape) + span)
        count = (start + span + 7) * element.element_size()
        self.before = torch.from_numpy(draws.integers(0, 256, count, dtype=np.uint8))
        self.memory = self.before.to(device, copy=True)
        self.item = element.element_size() // self.parts
        self.tensor = self.memory.view(case.torch_dtype).as_strided(shape, strides, start)

    def expect(self, patterns: Array) -> None:
        """Asserts that the tensor holds these bit patterns and nothing around it has changed."""
        want = self.before.clone()
        shape, strides = self.shape, tuple(s * self.parts for s in self.strides)
        if self.parts == 2:
            shape, strides = (*shape, 2), (*strides, 1)
        inside = want.view(_INTEGERS[self.item]).as_strided(shape, strides, self.start * self.parts)
        kind = f"{'u' if self.item == 1 else ''}int{8 * self.item}"
        inside.copy_(torch.from_numpy(patterns.view(kind)).reshape(shape))
        got = self.memory.cpu()
        if not torch.equal(got, want):
            wrong = torch.nonzero(got != want).ravel()
            outside = torch.nonzero((got != want) & (want == self.before)).ravel()
            raise AssertionError(
                f"{len(wrong)} of {len(want)} bytes differ, first {wrong[:4].tolist()}; of those "
                f"outside of the tensor or unexpectedly new {outside[:4].tolist()}"
            )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch's number of threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
