"""Every initialiser as the tests of shards call it, with full sizes that it takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

import fastinit
from support.common import COMPLEX_DTYPES, REAL_DTYPES, same_bits

KEY = fastinit.Key(0x5EED)
Fill = Callable[..., torch.Tensor]
# Every initialiser, with arguments; those of `fill(tensor, key=...)` draw.
DRAWN: dict[str, Fill] = {
    "uniform_": lambda t, **kw: fastinit.uniform_(t, -1.0, 2.0, **kw),
    "normal_": lambda t, **kw: fastinit.normal_(t, 0.5, 3.0, **kw),
    "trunc_normal_": lambda t, **kw: fastinit.trunc_normal_(t, std=0.02, a=-0.04, b=0.04, **kw),
    "trunc_normal_tf_": lambda t, **kw: fastinit.trunc_normal_tf_(t, std=0.02, **kw),
    "xavier_uniform_": lambda t, **kw: fastinit.xavier_uniform_(t, 1.5, **kw),
    "xavier_normal_": lambda t, **kw: fastinit.xavier_normal_(t, **kw),
    "kaiming_uniform_": lambda t, **kw: fastinit.kaiming_uniform_(t, math.sqrt(5), **kw),
    "kaiming_normal_": lambda t, **kw: fastinit.kaiming_normal_(t, mode="fan_out", **kw),
    "kaiming of experts": lambda t, **kw: fastinit.kaiming_normal_(t, batch_dims=1, **kw),
    "variance_scaling_": lambda t, **kw: fastinit.variance_scaling_(t, 2.0, "fan_avg", **kw),
    "lecun_uniform_": lambda t, **kw: fastinit.lecun_uniform_(t, **kw),
    "lecun_normal_": lambda t, **kw: fastinit.lecun_normal_(t, **kw),
    "orthogonal_": lambda t, **kw: fastinit.orthogonal_(t, 2.0, **kw),
    "orthogonal experts": lambda t, **kw: fastinit.orthogonal_(t, batch_dims=1, **kw),
    "orthogonal by qr": lambda t, **kw: fastinit.orthogonal_(t, method="qr", **kw),
    "sparse_": lambda t, **kw: fastinit.sparse_(t, 0.3, 1.0, **kw),
    "delta_orthogonal_": lambda t, **kw: fastinit.delta_orthogonal_(t, 0.5, **kw),
}
CONSTANT: dict[str, Fill] = {
    "constant_": lambda t: fastinit.constant_(t, 2.5),
    "ones_": fastinit.ones_,
    "zeros_": fastinit.zeros_,
    "eye_": fastinit.eye_,
    "dirac_": lambda t: fastinit.dirac_(t, 3),
}
REAL_ONLY = ("trunc_normal_", "trunc_normal_tf_")
BY_PRODUCTS = ("orthogonal_", "orthogonal experts", "orthogonal by qr", "delta_orthogonal_")


def shapes_of(name: str) -> list[tuple[int, ...]]:
    """Full sizes that an initialiser takes."""
    if name in ("sparse_", "eye_"):
        return [(13, 9), (5, 12)]
    if name in ("delta_orthogonal_", "dirac_"):
        return [(12, 4, 3), (9, 5, 3, 2)]
    if name in ("kaiming of experts", "orthogonal experts"):
        return [(4, 6, 5), (3, 2, 8)]
    return [(13, 9), (6, 5, 3, 2)]


def whole(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    return DRAWN[name](tensor, key=KEY) if name in DRAWN else CONSTANT[name](tensor)


def fill(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return DRAWN[name](tensor, key=KEY) if name in DRAWN else CONSTANT[name](tensor)


def same(name: str, got: torch.Tensor, want: torch.Tensor) -> bool:
    # Conjugates and products of several panels agree to rounding; at these sizes all others do.
    if name in BY_PRODUCTS and want.is_complex():
        return torch.allclose(got, want, atol=1e-5, rtol=1e-5)
    return same_bits(got.contiguous(), want.contiguous())


def dtypes_of(name: str) -> list[torch.dtype]:
    return REAL_DTYPES if name in REAL_ONLY else [*REAL_DTYPES, *COMPLEX_DTYPES]
