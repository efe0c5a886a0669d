"""How a tensor may lie in memory: what the tests of layouts run through, on every device."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


# A matrix of the given shape within memory that is made by `make`: torch.zeros, say.
MATRIX_LAYOUTS: dict[str, Callable[..., torch.Tensor]] = {
    "contiguous": lambda rows, columns, make, **kw: make(rows, columns, **kw),
    "transposed": lambda rows, columns, make, **kw: make(columns, rows, **kw).t(),
    "sliced": lambda rows, columns, make, **kw: make(2 * rows + 3, columns + 5, **kw)[
        3::2, 2 : columns + 2
    ],
    "last of three": lambda rows, columns, make, **kw: make(rows, columns, 3, **kw)[..., 1],
    "offset": lambda rows, columns, make, **kw: make(rows * columns + 1, **kw)[1:].view(
        rows, columns
    ),
}


def laid_out(layout: str, rows: int, columns: int, **kwargs: Any) -> torch.Tensor:
    """A matrix of zeros that lies in memory as `MATRIX_LAYOUTS` says."""
    return MATRIX_LAYOUTS[layout](rows, columns, torch.zeros, **kwargs)


def shuffled(seed: int, *sizes: int) -> torch.Tensor:
    """Dimensions in another order than memory, every third with a step of two."""
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    view = meta(*sizes).permute(order)
    for dim in range(0, len(sizes), 3):
        view = view[(slice(None),) * dim + (slice(None, None, 2),)]
    return view


LAYOUTS = {
    **{name: make(37, 53, meta) for name, make in MATRIX_LAYOUTS.items()},
    "no dimensions": meta(),
    "empty": meta(3, 0, 4).transpose(0, 2),
    "transposed in batches": meta(4, 33, 65).transpose(1, 2),
    "permuted": meta(5, 7, 11, 3).permute(2, 0, 3, 1),
    "channels last": meta(6, 5, 7, 9).to(memory_format=torch.channels_last),
    "channels last, wide": meta(3, 300, 3, 3).to(memory_format=torch.channels_last),
    "channels last, 3d": meta(3, 5, 4, 7, 6).to(memory_format=torch.channels_last_3d),
    "stepped": meta(40, 90)[::3, 1::7],
    "every second": meta(9001)[::2],
    "two columns": meta(300, 40)[:, 3:5],
    "one column": meta(300, 40)[:, 7],
    "columns": meta(40, 700)[:, 5:605],
    "columns of a transposed": meta(700, 40).t()[:, 5:605],
    "rows": meta(90, 30)[10:70],
    "gaps": meta(1).as_strided((17, 23), (29, 1)),
    "gaps, transposed": meta(1).as_strided((17, 23), (1, 19)),
    "gaps everywhere": meta(1).as_strided((9, 8, 7), (3, 500, 31)),
    "strides of size one": meta(1).as_strided((1, 5, 1, 3, 1), (1000, 3, 77, 1, 0)),
    "twelve dimensions": shuffled(1, 3, 2, 2, 3, 1, 2, 2, 3, 2, 2, 1, 2),
    "sixteen dimensions": shuffled(2, *([2, 3, 1, 2] * 4)),
    "nine dimensions": shuffled(3, 2, 3, 2, 3, 2, 3, 2, 3, 2),
    "large, transposed": meta(701, 407).t(),
    "large, transposed, 8 columns": meta(8, 40_001).t(),
}


@st.composite
def strided(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape and strides without overlap: dimensions in any order of memory, gaps between."""
    ndim = draw(st.integers(0, 11))
    most = 2 if ndim > 7 else 4 if ndim > 5 else 40
    shape = draw(st.lists(st.integers(1, most), min_size=ndim, max_size=ndim))
    while math.prod(shape) > 20_000:
        shape[shape.index(max(shape))] //= 2
    strides, step = [0] * ndim, draw(st.integers(1, 3))
    for dim in draw(st.permutations(range(ndim))):
        strides[dim] = step
        step = step * shape[dim] + draw(st.sampled_from([0, 0, 0, 1, 2, 13]))
    return tuple(shape), tuple(strides)
