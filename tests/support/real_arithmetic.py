"""The transforms in real arithmetic (mpmath), to measure the errors of what fastinit writes.

Quantiles are not inverted here: for a value x the probability below it is computed instead, and the
difference to u divided by the density, which is as exact and needs one function value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpmath import mp

from support.exact_arithmetic import Array
from support.truncation_constants import upper_tail

DIGITS = 50


def unit(w: int, low: int | None) -> Any:
    """The u of a word: the middle of its cell, or with a low word of that word's cell in it."""
    if low is None:
        return (mp.mpf(w) + 0.5) / 2**32
    return (mp.mpf(w) * 2**32 + low + 0.5) / mp.mpf(2) ** 64


def turns(t: int, low: int | None) -> Any:
    """The angle of a word in turns: the start of its cell."""
    return mp.mpf(t) / 2**32 + (mp.mpf(low) / mp.mpf(2) ** 64 if low is not None else 0)


def normal_pairs(w: Array, t: Array, low_w: Array | None, low_t: Array | None) -> tuple[Any, Any]:
    """Standard normals of word pairs, as two lists of mpf."""
    first, second = [], []
    with mp.workdps(DIGITS):
        for i in range(w.size):
            u = unit(int(w[i]), None if low_w is None else int(low_w[i]))
            angle = turns(int(t[i]), None if low_t is None else int(low_t[i]))
            r = mp.sqrt(-2 * mp.log(u))
            first.append(r * mp.cospi(2 * angle))
            second.append(r * mp.sinpi(2 * angle))
    return first, second


def truncation_errors(
    x: Array, u: Sequence[Any], mean: float, std: float, a: float, b: float
) -> tuple[Array, Array]:
    """Errors of truncated normals x against the quantiles at u, in units of std; and |z| of x."""
    errors, sizes = np.empty(len(u)), np.empty(len(u))
    with mp.workdps(DIGITS):
        m, s = mp.mpf(mean), mp.mpf(std)
        alpha, beta = (mp.mpf(a) - m) / s, (mp.mpf(b) - m) / s
        # Both tails at both ends: differences of the smaller one lose nothing.
        above = upper_tail(alpha), upper_tail(beta)
        below = upper_tail(-alpha), upper_tail(-beta)
        for i, v in enumerate(u):
            z = (mp.mpf(float(x[i])) - m) / s
            if z >= 0:
                tail, wanted = upper_tail(z), above[1] + (1 - v) * (above[0] - above[1])
            else:
                tail, wanted = upper_tail(-z), below[0] + v * (below[1] - below[0])
            errors[i] = abs(mp.log(wanted / tail)) * tail / mp.npdf(z)
            sizes[i] = abs(z)
    return errors, sizes
