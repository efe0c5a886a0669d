"""The reference's own arithmetic against rationals and against torch's conversions."""

from __future__ import annotations

import random
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from support.exact_arithmetic import FORMATS, _round_fraction, fma

NASTY32 = [
    *(0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1 + 2.0**-23, 1 - 2.0**-24),
    *(3.4028234663852886e38, 2.0**-75, 1.5 * 2.0**-75, 2.0**127, 1 / 3, 0.1, -0.1),
    *(16777215.0, 16777216.0, 2.0**-24, 2.0**-25),
]
NASTY64 = [
    *(0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 2.0**-1022, 1 + 2.0**-52, 1 - 2.0**-53),
    *(1.7976931348623157e308, 2.0**1000, 2.0**-537, 1.5 * 2.0**-537, 2.0**511, 1 / 3, 0.1, -0.1),
    *(9007199254740991.0, 9007199254740992.0, 2.0**-53, 2.0**-54, 2.0**-106),
    *(1 + 2.0**-26, 1 + 2.0**-27, 2.0**-960, 2.0**996),
]


def _exact32(value: Fraction) -> float:
    """Nearest float32 of a rational, from integers alone."""
    if value == 0:
        return 0.0
    size = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent = max(-149, size - 24)
    while abs(value) >= Fraction(2) ** (exponent + 24):
        exponent += 1
    n = round(value / Fraction(2) ** exponent)  # ties to even
    result = n * Fraction(2) ** exponent
    if n == 0:
        return -0.0 if value < 0 else 0.0
    return (
        float(result)
        if abs(result) < Fraction(2) ** 128
        else float("inf") * (1 if value > 0 else -1)
    )


def _check(triples: list[tuple[float, float, float]], dtype: type) -> None:
    x, y, z = (np.array(column, dtype=dtype) for column in zip(*triples, strict=True))
    got = fma(x, y, z)
    for i, (a, b, c) in enumerate(triples):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        if exact == 0:  # the sign of zero follows IEEE addition of the product's and z's signs
            want = a * b + c if a == 0 or b == 0 else 0.0
        else:
            want = _round_fraction(exact) if dtype is np.float64 else _exact32(exact)
        wanted = np.array(want, dtype=dtype)
        assert got[i].tobytes() == wanted.tobytes(), (a.hex(), b.hex(), c.hex(), got[i], want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_on_nasty_values(dtype: type) -> None:
    values = NASTY32 if dtype is np.float32 else NASTY64
    values = [float(dtype(v)) for v in values]
    _check([(x, y, z) for x in values for y in values for z in values], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_on_random_values(dtype: type) -> None:
    rng = random.Random(1)
    triples = []
    for _ in range(8000):
        x = float(dtype(rng.uniform(-2, 2) * 2.0 ** rng.randint(-20, 20)))
        y = float(dtype(rng.uniform(-2, 2) * 2.0 ** rng.randint(-20, 20)))
        kind = rng.randrange(4)
        # z that cancels the product, lies half a unit from it, far below it or anywhere
        if kind == 0:
            z = -float(dtype(x * y))
        elif kind == 1:
            shift = rng.choice([2.0**24, 2.0**53, 2.0**54, 2.0**-24, 2.0**-53])
            z = float(dtype(x * y * shift * rng.choice([1, -1, 1.5])))
        elif kind == 2:
            z = float(dtype(rng.choice([1.0, 1 + 2.0**-23, 1.5]) * 2.0 ** rng.randint(-130, 90)))
        else:
            z = float(dtype(rng.uniform(-2, 2)))
        triples.append((x, y, z))
    # random bit patterns: every exponent
    width, code = (4, "<f") if dtype is np.float32 else (8, "<d")
    while len(triples) < 12000:
        x, y, z = (struct.unpack(code, rng.randbytes(width))[0] for _ in range(3))
        if all(np.isfinite([x, y, z])):
            triples.append((x, y, z))
    _check(triples, dtype)


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("float64", "float32")])
def test_formats_against_torch(name: str) -> None:
    """All finite values of the type, all midpoints of neighbours, and both floats beside those."""
    form, dtype = FORMATS[name], getattr(torch, name)
    integers = torch.int16 if form.bits == 16 else torch.uint8
    patterns = torch.arange(2**form.bits, dtype=torch.int32).to(integers)
    values = patterns.view(dtype).double().numpy()
    keep = np.isfinite(values)
    bits = np.arange(2**form.bits)
    assert np.array_equal(form.pack(values[keep]), bits[keep])
    ordered = np.unique(values[keep])
    assert ordered[-1] == form.largest
    middles = ((ordered[1:] + ordered[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
    probes = np.concatenate([middles, *beside])
    converted = torch.from_numpy(probes).to(dtype).view(patterns.dtype)
    packed = converted.numpy().astype(np.int64) % 2**form.bits
    assert np.array_equal(form.pack(form.nearest(probes)), packed)
    below, above = ordered[:-1], ordered[1:]
    assert np.array_equal([form.before(v) for v in above[:4096]], below[:4096])
    assert np.array_equal([form.floor(v) for v in middles[:4096].astype(float)], below[:4096])
    assert np.array_equal([form.ceil(v) for v in middles[:4096].astype(float)], above[:4096])
