"""Draws that ranks have noted, and what is wrong with those of several ranks together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastinit._distributed.store import ranks_as_text
from fastinit._models.patterns import Pattern, matches


class Call(NamedTuple):
    """A draw, as texts that ranks compare."""

    function: str
    parameter: str
    shape: str
    dtype: str
    arguments: str
    key: str

    def __str__(self) -> str:
        of = f"'{self.parameter}', " if self.parameter else ""
        return (
            f"{self.function}{self.arguments} of {of}shape {self.shape}, {self.dtype}, under the "
            f"key of hash {self.key}"
        )


class Named(NamedTuple):
    """A draw into a parameter or buffer that has a name.

    Attributes:
        mesh: which ranks share the tensor; empty for one of this rank's own.
        call: the draw.
    """

    mesh: str
    call: Call


# What it says that two calls differ in, and what that often comes from.
_REASONS = {
    "function": "the function",
    "parameter": "the parameter",
    "shape": "the shape",
    "dtype": "the dtype",
    "arguments": "the arguments",
    "key": "the key; were their generators seeded alike, and has each drawn as often?",
}


def _reasons(one: Call, other: Call, fields: Iterable[str] = Call._fields) -> str:
    return ", ".join(_REASONS[f] for f in fields if getattr(one, f) != getattr(other, f))


def difference(lists: dict[int, list[Call]]) -> str:
    """Describe the first call in which ranks differ, the fewer ranks against the others."""
    number = next(
        k
        for k in itertools.count()
        if len({tuple(calls[k : k + 1]) for calls in lists.values()}) > 1
    )
    groups: dict[Call | None, list[int]] = {}
    for rank, calls in lists.items():
        groups.setdefault(calls[number] if number < len(calls) else None, []).append(rank)
    common, *different = sorted(groups, key=lambda call: (-len(groups[call]), groups[call][0]))
    odd = [rank for call in different for rank in groups[call]]
    lines = [
        f"fastinit.check_ranks: {ranks_as_text(odd)} and {ranks_as_text(groups[common])} differ in "
        f"draw {number} into the tensors that they share"
    ]
    for call in (common, *different):
        lines.append(f"  {ranks_as_text(groups[call])}: {call or 'no such call'}")
    if common is not None and different[0] is not None:
        lines.append(f"  not the same: {_reasons(common, different[0])}")
    return "\n".join(lines)


# What has to be the same of what has one key.
_ALIKE = ("function", "shape", "dtype", "arguments")


def _kind(call: Call) -> tuple[str, ...]:
    return tuple(getattr(call, field) for field in _ALIKE)


def mismatch(drawn: Sequence[Sequence[Named]]) -> str | None:
    """Describe the first key under which two ranks draw what is not the same.

    Args:
        drawn: what each rank has drawn.
    """
    known: dict[str, tuple[int, Sequence[Call]]] = {}
    for rank, named in enumerate(drawn):
        mine: dict[str, list[Call]] = {}
        for _, call in named:
            mine.setdefault(call.key, []).append(call)
        for key, calls in mine.items():
            other, theirs = known.setdefault(key, (rank, calls))
            kinds = set(map(_kind, theirs)), set(map(_kind, calls))
            if kinds[0] != kinds[1]:
                one = next((call for call in theirs if _kind(call) not in kinds[1]), theirs[0])
                two = next((call for call in calls if _kind(call) not in kinds[0]), calls[0])
                return (
                    f"ranks {other} and {rank} draw under one key what is not the same\n"
                    f"  rank {other}: {one}\n"
                    f"  rank {rank}: {two}\n"
                    f"  not the same: {_reasons(one, two, _ALIKE)}; other weights need other names "
                    "(rename=) or keys, and parts of one weight fastinit.shard()"
                )
    return None


def collision(
    drawn: Sequence[Sequence[Named]], ranks: Sequence[int], pattern: Pattern
) -> str | None:
    """Describe the first key under which ranks draw into what should be distinct.

    Args:
        drawn: what each rank has drawn.
        ranks: those to be compared.
        pattern: which parameters are distinct there.
    """
    said = f"argument 'distinct': {pattern!r}"
    found = [
        (r, named) for r in ranks for named in drawn[r] if matches(named.call.parameter, pattern)
    ]
    if not found:
        return f"{said} matches nothing that was drawn on {ranks_as_text(ranks)}"
    by_key: dict[str, list[tuple[int, Named]]] = {}
    for rank, named in found:
        by_key.setdefault(named.call.key, []).append((rank, named))
    for same in by_key.values():
        # Those of a mesh hold parts of one weight.
        if len({named.mesh or rank for rank, named in same}) > 1:
            held: dict[str, list[int]] = {}
            for rank, named in same:
                held.setdefault(str(named.call), []).append(rank)
            wrong = ranks_as_text({rank for rank, _ in same})
            lines = [f"{wrong} draw the same numbers into what is distinct on each ({said})"]
            lines += [f"  {ranks_as_text(set(at))}: {call}" for call, at in held.items()]
            lines.append("  each needs a name of the whole model (rename=), or a key of its own")
            return "\n".join(lines)
    return None
