"""A model as fastinit builds it, beside those that torch has drawn from different seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from scipy import special
from torch import nn

# Of a test: there are about 10^6 of them in the whole zoo, so that all together give a false alarm
# once in a thousand runs.
IMPROBABLE = 1e-9
SPREAD = 7.0  # standard errors between logarithms of standard deviations: less likely still
_FURTHEST = float(special.kolmogi(IMPROBABLE))
DISTRIBUTION = re.compile("std .* for ")  # a difference of this sort
SAMPLE = 1 << 13  # elements of a parameter that are compared, evenly spaced

Tensors = dict[str, torch.Tensor]
Measure = Callable[[torch.Tensor, torch.Tensor], float]


def tensors(model: nn.Module) -> Tensors:
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def ties(found: Mapping[str, torch.Tensor]) -> set[frozenset[str]]:
    """Group names by object, and by memory: a tie may be one of `.data` alone."""
    groups: dict[object, list[str]] = {}
    for name, tensor in found.items():
        groups.setdefault(id(tensor), []).append(name)
        if tensor.numel():
            place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
            groups.setdefault(place, []).append(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements as integers, one row each."""
    plain = tensor.detach().contiguous().reshape(-1)
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    size = plain.element_size()
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    return plain.view(kind).reshape(tensor.numel(), tensor.element_size() // size)


def same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Which elements have the same bits; those that are no numbers may have any."""
    equal = bits(a) == bits(b)
    equal = equal[:, 0] if equal.shape[1] == 1 else equal.all(dim=1)
    if a.is_floating_point() and not bool(equal.all()):
        equal |= a.detach().reshape(-1).isnan() & b.detach().reshape(-1).isnan()
    return equal


def _kind(tensor: torch.Tensor) -> tuple[object, ...]:
    return (
        type(tensor).__name__,
        tuple(tensor.shape),
        tensor.dtype,
        tensor.device.type,
        tensor.requires_grad,
        tensor.stride(),
    )


class Reference:
    """Models that torch has drawn from three seeds, for others to be compared with.

    What the three agree on has to be equal, everything else has to have the distribution of theirs.
    """

    def __init__(self, theirs: Sequence[Tensors]) -> None:
        self.theirs = theirs
        self._expected: dict[str, _Expected | None] = {}

    def differences(self, mine: Tensors) -> Iterator[tuple[str, str]]:
        """Give names and what differs."""
        one = self.theirs[0]
        if [*mine] != [*one]:
            yield "", f"names: {sorted(set(mine) ^ set(one)) or 'order'}"
            return
        if ties(mine) != ties(one):
            yield "", f"ties: {sorted(map(sorted, ties(mine) ^ ties(one)))}"
        for name, tensor in mine.items():
            if name not in self._expected:
                self._expected[name] = _expected([each[name] for each in self.theirs])
            expected = self._expected[name]
            if expected is None:
                continue
            if _kind(tensor) != _kind(one[name]):
                yield name, f"{_kind(tensor)} for {_kind(one[name])}"
                continue
            for text in expected.differences(tensor):
                yield name, text


class _Expected:
    """What a tensor has to be like."""

    def __init__(self, seeds: Sequence[torch.Tensor], constant: torch.Tensor) -> None:
        self.native = seeds[0]
        self.constant = constant
        self.constants = int(constant.sum())
        self.drawn: torch.Tensor | None = None  # where
        if self.constants < constant.numel():
            self.drawn = (~constant).nonzero().view(-1)
            self.drawn = self.drawn[:: -(-self.drawn.numel() // SAMPLE)].clone()
            self.draws = [_take(seed, self.drawn) for seed in seeds]
            self.sorted = torch.cat(self.draws).sort().values

    def differences(self, tensor: torch.Tensor) -> Iterator[str]:
        if self.constants:
            wrong = self.constant & ~same(tensor, self.native)
            if bool(wrong.any()):
                where = wrong.nonzero()[0]
                found = " for ".join(f"{_take(t, where)[0]:.4g}" for t in (tensor, self.native))
                yield f"{int(wrong.sum())} of {self.constants} constants, such as {found}"
        if self.drawn is not None:
            yield from self._drawn(_take(tensor, self.drawn))

    def _drawn(self, a: torch.Tensor) -> Iterator[str]:
        b = self.sorted
        if not bool(a.isfinite().all()):
            if bool(b.isfinite().all()):
                yield "not finite"
            return
        b = b[b.isfinite()]
        repeated = any(bool((draws == draws[0]).all()) for draws in self.draws)
        if a.numel() > 1 and bool((a == a[0]).all()) and not repeated:
            yield f"all {float(a[0]):.4g}, which is drawn"
        elif a.numel() >= 32:
            spread = a.numel() >= 128 and self._is_far(_z_of_spread, a, b, SPREAD, 2.6)
            if spread or self._is_far(_distance, a, b, _FURTHEST, 1.6):
                yield f"std {float(a.std()):.3g} for {float(b.std()):.3g}"
        elif a.numel() > 1 and not (1 / 50 < float(a.abs().max() / b.abs().max()) < 50):
            yield f"up to {float(a.abs().max()):.3g} for {float(b.abs().max()):.3g}"

    def _is_far(
        self, measure: Measure, a: torch.Tensor, b: torch.Tensor, most: float, own: float
    ) -> bool:
        """Whether draws are further apart than `most`; torch's are mostly less than `own`."""
        apart = abs(measure(a, b))
        if apart <= most:
            return False
        # Some models draw few numbers and make many elements of each (angles, of which they take
        # sines): then torch's own three draws lie apart as well.
        draws = [draw for draw in self.draws if bool(draw.isfinite().all())]
        theirs = [own]
        for draw in draws if len(draws) > 1 else ():
            others = torch.cat([other for other in draws if other is not draw])
            theirs.append(abs(measure(draw, others)))
        return apart > most * max(theirs) / own


def _take(tensor: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    found = tensor.detach().reshape(-1)[where]
    return (torch.view_as_real(found).reshape(-1) if found.is_complex() else found).double()


def _expected(seeds: Sequence[torch.Tensor]) -> _Expected | None:
    """Find the elements that are no draws: of equal bits in three models.

    Two draws of the same number are not that rare; three are, unless there are few numbers to draw,
    which shows in the same number standing where the models differ. None: a size that is drawn.
    """
    native, *others = seeds
    if any(_kind(native) != _kind(other) for other in others):
        return None
    constant = torch.stack([same(native, other) for other in others]).all(dim=0)
    if bool(constant.any()) and not bool(constant.all()) and not native.is_complex():
        numbers = bits(native)[:, 0]
        constant &= ~torch.isin(numbers, numbers[~constant])
    return _Expected(seeds, constant)


def _z_of_spread(a: torch.Tensor, b: torch.Tensor) -> float:
    """How many standard errors lie between two logarithms of standard deviations.

    Sees a change of scale long before Kolmogorov and Smirnov's test does.
    """
    deviation = b - b.mean()
    kurtosis = float((deviation**4).mean() / (deviation**2).mean() ** 2)
    error = ((max(kurtosis, 1.5) - 1) / 4 * (1 / a.numel() + 1 / b.numel())) ** 0.5
    return float((a.std() / b.std()).log()) / error


def probability(a: torch.Tensor, b: torch.Tensor) -> float:
    """Give the p-value of Kolmogorov and Smirnov's test, in the limit of many."""
    return float(special.kolmogorov(_distance(a, b)))


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Give the statistic of that test: how far distributions are apart, over its standard error."""
    a, b = a.sort().values, b.sort().values
    both = torch.cat([a, b])
    below = [torch.searchsorted(x, both, right=True).double() / x.numel() for x in (a, b)]
    effective = a.numel() * b.numel() / (a.numel() + b.numel())
    return effective**0.5 * float((below[0] - below[1]).abs().max())


def unequal(a: Tensors, b: Tensors) -> list[str]:
    """Name the tensors that two models do not share bit for bit."""
    return [
        n for n in a if n not in b or a[n].shape != b[n].shape or not bool(same(a[n], b[n]).all())
    ]
