"""Mean, standard deviation and bounds: what fills should give, and what tensors have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastinit._fills.fill import CONSTANT
from fastinit._models.history import Write

_AT_ONCE = 1 << 22  # elements converted to double


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation and bounds: of a tensor, or of what it is expected to be.

    Attributes:
        mean: the mean; of a complex tensor, of its real and imaginary parts taken together.
        std: the standard deviation, likewise.
        low: the least value, or a lower bound; None where there is none.
        high: the greatest value, or an upper bound; None where there is none.
    """

    mean: float
    std: float
    low: float | None
    high: float | None


class Summary(NamedTuple):
    """What is known of values after one pass: enough for the moments, and to be merged.

    Attributes:
        n: how many there are; a complex one counts as two.
        mean: their mean.
        squares: the sum of the squares of what they are off it.
        low: the least; NaN if one is.
        high: the greatest, likewise.
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def __or__(self, other: Summary) -> Summary:
        """Merge two: Chan, Golub and LeVeque (1979)."""
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        off = other.mean - self.mean
        lows, highs = (self.low, other.low), (self.high, other.high)
        return Summary(
            n,
            self.mean + off * other.n / n,
            self.squares + other.squares + off * off * self.n * other.n / n,
            math.nan if any(map(math.isnan, lows)) else min(lows),
            math.nan if any(map(math.isnan, highs)) else max(highs),
        )

    @property
    def moments(self) -> Moments | None:
        """The moments; None without values."""
        if not self.n:
            return None
        return Moments(self.mean, math.sqrt(self.squares / self.n), self.low, self.high)


def _flat(tensor: Tensor) -> Tensor:
    """Give a tensor's values in one dimension: parts of complex ones, zeros of sparse ones."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.reshape(-1)


def summarise(tensor: Tensor) -> Summary:
    """Go through a tensor in double precision, a part at a time.

    Nothing is found where there are no values, or of a dtype that torch cannot convert.
    """
    found = Summary()
    if tensor.is_meta or tensor.numel() == 0:
        return found
    for part in torch.split(_flat(tensor.detach()), _AT_ONCE):
        try:
            values = part.double()
        except NotImplementedError:  # two numbers to a byte, say
            return found
        spread, middle = (float(x) for x in torch.var_mean(values, correction=0))
        least, most = (float(x) for x in torch.aminmax(values))
        n = values.numel()
        found |= Summary(n, middle, spread * n, least, most)
    return found


def measure(tensor: Tensor) -> Moments | None:
    """Measure a tensor; None if it has no values."""
    return summarise(tensor).moments


def _truncated(mean: float, std: float, low: float, high: float) -> tuple[Moments, float]:
    """Integrate the truncated normal's moments by Simpson's rule; and the fourth central one."""
    if std == 0:
        value = min(max(mean, low), high)
        return Moments(value, 0.0, value, value), 0.0
    alpha, beta = (low - mean) / std, (high - mean) / std
    if beta < 0:  # mirrored, as what follows begins where the density is greatest
        found, fourth = _truncated(-mean, std, -high, -low)
        return Moments(-found.mean, found.std, low, high), fourth
    peak = min(max(0.0, alpha), beta)  # where the density is greatest
    # Beyond these it is below e**-50 of that.
    start = max(alpha, -math.sqrt(peak * peak + 100)) if peak >= 0 else alpha
    start = max(start, peak - 12 - abs(peak))
    stop = min(beta, math.sqrt(peak * peak + 100))
    steps = 2000
    width = (stop - start) / steps
    if width <= 0:
        return Moments(low, 0.0, low, high), 0.0
    total = first = second = third = fourth = 0.0
    for k in range(steps + 1):
        x = start + k * width
        weight = (1 if k in (0, steps) else 4 if k % 2 else 2) * math.exp((peak**2 - x * x) / 2)
        total += weight
        first += weight * (x - start)
        second += weight * (x - start) ** 2
        third += weight * (x - start) ** 3
        fourth += weight * (x - start) ** 4
    shift, square = first / total, second / total
    spread = math.sqrt(max(square - shift * shift, 0.0))
    around = fourth / total - 4 * shift * third / total + 6 * shift**2 * square - 3 * shift**4
    moments = Moments(mean + std * (start + shift), std * spread, low, high)
    return moments, max(around, 0.0) * std**4


def _of_write(write: Write, shape: Sequence[int]) -> Moments | None:
    numbers = write.arguments
    half = 2**-0.5 if write.complex else 1.0  # of a std, for each part of complex draws
    if write.fill == CONSTANT:
        value = numbers[0]
        if write.complex:  # and as many zeros
            return Moments(value / 2, abs(value) / 2, min(value, 0.0), max(value, 0.0))
        return Moments(value, 0.0, value, value)
    if write.fill == "uniform_":
        a, b = numbers
        return Moments((a + b) / 2, (b - a) / math.sqrt(12), a, b)
    if write.fill == "normal_":
        return Moments(numbers[0], half * numbers[1], None, None)
    if write.fill == "trunc_normal_":
        return _truncated(*numbers)[0]
    batched = any(number != 0 for number in numbers[1:])
    if write.function == "orthogonal_" and write.whole and len(shape) > 1 and not batched:
        # The shorter side's vectors have length `gain`, so its square is spread over the longer.
        gain = numbers[0] if numbers else 1.0
        longer = max(shape[0], math.prod(shape[1:]))
        return Moments(0.0, half * abs(gain) / math.sqrt(longer), -abs(gain), abs(gain))
    if write.function == "sparse_" and write.whole and numbers:
        zeros = math.ceil(numbers[0] * shape[0]) / shape[0]
        std = numbers[1] if len(numbers) > 1 else 0.01
        return Moments(0.0, half * std * math.sqrt(max(1 - zeros, 0.0)), None, None)
    return None


def _fourth(write: Write, moments: Moments, shape: Sequence[int]) -> float:
    """Give the fourth central moment, or a bound: that of a normal."""
    if write.fill == CONSTANT:
        return moments.std**4
    if write.fill == "trunc_normal_":
        return _truncated(*write.arguments)[1]
    if write.function == "sparse_" and write.whole and write.arguments:  # most of it is zero
        kept = 1 - min(math.ceil(write.arguments[0] * shape[0]) / shape[0], 1.0)
        return 3 * moments.std**4 / kept if kept > 0 else 0.0
    return (1.8 if write.fill == "uniform_" else 3.0) * moments.std**4


class Expected(NamedTuple):
    """What a tensor is expected to be.

    Attributes:
        moments: the moments.
        fourth: the fourth central moment, or a bound: it tells how far a std is off by chance.
    """

    moments: Moments
    fourth: float

    def std_error(self, n: int) -> float:
        """Give the standard error of the std of so many elements."""
        variance = self.moments.std**2
        if variance == 0:
            return 0.0
        return math.sqrt(max(self.fourth - variance**2, 0.0) / n) / (2 * self.moments.std)


def expected(writes: Sequence[Write], tensor: Tensor) -> Expected | None:
    """Combine what was written, whole and in parts; None where not all has a known distribution.

    As `measure` does, it takes a complex tensor for its real and imaginary parts.

    Two parts count as if they did not overlap: gates and padding rows, which this is for, do not.
    """
    numel = tensor.numel() * (2 if tensor.is_complex() else 1)
    parts: list[tuple[float, Moments, float]] = []
    for write in writes:
        moments = _of_write(write, tensor.shape)
        if moments is None:
            return None
        fourth = _fourth(write, moments, tensor.shape)
        if write.whole:
            parts = [(numel, moments, fourth)]
            continue
        if sum(count for count, *_ in parts) + write.numel > numel:
            # It takes the place of a part of the oldest that is large enough.
            for k, (count, old, of_old) in enumerate(parts):
                if count >= write.numel:
                    parts[k] = (count - write.numel, old, of_old)
                    break
        parts.append((write.numel, moments, fourth))
    total = sum(count for count, *_ in parts)
    if total == 0 or total < numel:  # the rest is as it was made, by torch.zeros(n), say
        return None
    mean = sum(count * m.mean for count, m, _ in parts) / total
    square = fourth = 0.0
    for count, m, own in parts:
        off = (m.mean - mean) ** 2
        square += count / total * (m.std**2 + off)
        fourth += count / total * (own + 6 * off * m.std**2 + off**2)
    kept = [m for count, m, _ in parts if count]
    lows, highs = [m.low for m in kept], [m.high for m in kept]
    moments = Moments(
        mean,
        math.sqrt(square),
        None if None in lows else min(x for x in lows if x is not None),
        None if None in highs else max(x for x in highs if x is not None),
    )
    return Expected(moments, fourth)
