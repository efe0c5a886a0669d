"""Fills through fastinit's ops as bit patterns, and the arguments that the stream tests share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from fastinit import _compiled
from support.common import bits
from support.exact_arithmetic import Array

INF = math.inf
KINDS = {"constant": 0, "uniform": 1, "normal": 2, "trunc_normal": 3, "words": 4}
OPS = {
    "uniform": torch.ops.fastinit.uniform_.default,
    "normal": torch.ops.fastinit.normal_.default,
    "trunc_normal": torch.ops.fastinit.trunc_normal_.default,
}
KEYS = (0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF)

# (mean, std, a, b): every branch, both mirrors, infinite bounds, seams between branches.
TRUNCATIONS: dict[str, list[tuple[float, float, float, float]]] = {
    "CENTRAL": [
        (0.0, 1.0, -2.0, 2.0), (0.0, 1.0, -6.0, 6.0), (0.0, 1.0, 0.0, INF),
        (0.0, 1.0, -INF, INF), (0.0, 1.0, 1.4, 6.0), (0.0, 1.0, -INF, 1.499),
        (0.0, 0.02, -2.0, 2.0), (0.5, 3.0, -1.0, 2.0), (-7.25, 0.125, -7.3, -7.0),
        (1e-30, 1e-30, -1e-30, 4e-30), (0.0, 1.0, 1.499, 1.66),
    ],
    "TAIL": [
        (0.0, 1.0, 3.0, 5.0), (0.0, 1.0, 8.0, 9.0), (0.0, 1.0, 20.0, INF),
        (0.0, 1.0, 1.5, 4.0), (0.0, 1.0, 30.0, INF), (-3.0, 0.5, 1.0, 2.0),
        (0.0, 1.0, 29.99, 30.0),
    ],
    "TAIL mirrored": [
        (0.0, 1.0, -5.0, -3.0), (0.0, 1.0, -INF, -1.5), (0.0, 2.0, -59.0, -50.0),
        (4.0, 1.0, -3.0, 0.0),
    ],
    "FAR": [
        (0.0, 1.0, 31.0, INF), (0.0, 1.0, 30.001, 30.02), (-10000.0, 1.0, 0.0, INF),
        (-9.0, 0.25, 0.0, 1.0), (0.0, 1.0, 400.0, INF), (-1e9, 1.0, 0.0, INF),
        (0.0, 1e-300, 1.0, 2.0), (0.0, 1e-310, 1.0, INF),
    ],
    "FAR mirrored": [
        (0.0, 1.0, -INF, -33.0), (7.0, 0.003, -1.0, 6.8), (1.0, 0.01, -INF, 0.5),
        (0.0, 1e-310, -3.0, -1.0),
    ],
    "NARROW": [
        (0.0, 1.0, -1e-9, 2e-9), (0.0, 1.0, -0.01, 0.02), (0.0, 1.0, 0.0, 0.25),
        (0.0, 1.0, -0.125, 0.125), (-100.0, 1.0, 0.0, 0.0024), (1000000.0, 1.0, 0.0, 2.4e-7),
        (0.0, 1e30, -1.0, 3.0), (2.0, 40.0, -1.0, 1.5),
    ],
}  # fmt: skip
ALL_TRUNCATIONS = [case for cases in TRUNCATIONS.values() for case in cases]
UNIFORMS = [(0.0, 1.0), (-0.3, 0.7), (-1e-3, 1e-3), (3.0, 3.0000005), (-200.0, 240.0), (0.1, 0.1)]
NORMALS = [
    (0.0, 1.0),
    (0.0, 0.02),
    (-3.7, 1e-3),
    (0.5, 3.0),
    (0.0, 0.0),
    (0.0, 1e-44),
    (50.0, 200.0),
]


def signed(key: int) -> int:
    """A key as it crosses the schema."""
    return key - 2**64 if key >= 2**63 else key


def filled(dist: str, n: int, key: int, dtype: str, *args: float) -> Array:
    """Bit patterns that fastinit writes into an n-element tensor."""
    tensor = torch.empty(n, dtype=getattr(torch, dtype))
    OPS[dist](tensor, *args, key=signed(key))
    return bits(tensor)


def filled_shard(
    dist: str, full: int, offset: int, n: int, key: int, dtype: str, *args: float
) -> Array:
    """Bit patterns of elements offset … offset + n − 1 of a `full`-element tensor."""
    tensor = torch.empty(n, dtype=getattr(torch, dtype))
    four = [*args, 0.0, 0.0, 0.0, 0.0][:4]
    _compiled.fill_many_op([tensor], [KINDS[dist], 1, full, offset], four, [signed(key)])
    return bits(tensor)


def differences(got: Array, want: Array) -> Any:
    """For messages: where two arrays of patterns differ first, and both patterns there."""
    bad = np.argwhere(got != want)
    if not len(bad):
        return None
    i = tuple(bad[0])
    return f"{len(bad)} of {got.size} differ, first at {i}: {got[i]:#x}, reference {want[i]:#x}"
