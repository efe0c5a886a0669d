"""`fastinit.check_ranks()`: whether ranks that share tensors draw the same into them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn

from fastinit._distributed.fill import OBSERVERS
from fastinit._distributed.part import TensorShard

_LONGEST = 365 * 24 * 60 * 60  # seconds; clocks count no infinity
_uses = itertools.count()  # of this process; ranks count alike


class _Call(NamedTuple):
    """A draw, as texts that ranks compare."""

    function: str
    parameter: str
    shape: str
    dtype: str
    arguments: str
    key: str


# What it says that two calls differ in, and what that often comes from.
_REASONS = {
    "function": "the function",
    "parameter": "the parameter",
    "shape": "the shape",
    "dtype": "the dtype",
    "arguments": "the arguments",
    "key": "the key; were their generators seeded alike, and has each drawn as often?",
}


def _numbers(ranks: Sequence[int]) -> str:
    """Write ranks as text: "ranks 0-2, 5"."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and spans[-1][1] == rank - 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"


def _digest(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


class _Store:
    """torch.distributed's default store, with a time limit."""

    def __init__(self, timeout: float) -> None:
        from torch import distributed

        find: Any = distributed.distributed_c10d._get_default_store
        self._store: Any = find()
        self._timeout = timeout
        self._prefix = f"fastinit/check_ranks/{next(_uses)}"
        self.rank = int(distributed.get_rank())

    def publish(self, what: str, value: Any) -> None:
        self._store.set(f"{self._prefix}/{what}/{self.rank}", json.dumps(value))

    def collect(self, what: str, ranks: Sequence[int]) -> list[Any]:
        """Read what these ranks have published.

        Raises:
            RuntimeError: if it is not all there within the time limit.
        """
        keys = [f"{self._prefix}/{what}/{rank}" for rank in ranks]
        try:
            self._store.wait(keys, timedelta(seconds=self._timeout))
            return [json.loads(value) for value in self._store.multi_get(keys)]
        except RuntimeError as error:  # also torch's DistError
            try:
                absent = [r for r, key in zip(ranks, keys, strict=True) if not self._there(key)]
            except RuntimeError:
                absent = []
            if not absent:
                raise RuntimeError(
                    f"fastinit.check_ranks: the store of the process group fails: {error}"
                ) from error
        raise RuntimeError(
            f"fastinit.check_ranks: {_numbers(absent)} did not come to this check, number "
            f"{self._prefix.rpartition('/')[2]}, within {self._timeout:g} s"
        )

    def _there(self, key: str) -> bool:
        return bool(self._store.check([key]))


class check_ranks:
    """Check that ranks which share tensors draw the same into them: a tool for debugging.

    A context manager, entered on every rank. It notes every draw of fastinit's into a DTensor
    inside (under `patch()` torch's, too; those of `initialize_` and `materialize` when their values
    are computed) and on leaving compares what the ranks of each mesh have noted: function,
    parameter, shape, dtype, arguments and key, in order. It goes through the store
    of the default process group, not through collectives, and waits no longer than its time limit,
    so it never hangs. Without a process group there is nothing to compare.

    What `fastinit.shard` describes is not compared: nothing says which ranks share it.

    Args:
        module: whose names its parameters have in messages; without it they have shapes alone.
        timeout: how many seconds to wait for other ranks.

    Raises:
        TypeError: if `module` is no module, or `timeout` no number.
        ValueError: if `timeout` is not positive, or more than a year.
        RuntimeError: on leaving, if ranks disagree; it names them, the call, the parameter and what
            differs. Also if a rank has not come there within the time limit, or has left with an
            exception; it is named, too. An exception from inside comes through as it is.

    Examples:
        >>> with fastinit.patch(), fastinit.check_ranks(model):
        ...     model.init_weights()
    """

    def __init__(self, module: nn.Module | None = None, *, timeout: float = 60.0) -> None:
        if module is not None and not isinstance(module, nn.Module):
            raise TypeError(
                "fastinit.check_ranks: argument 'module' must be a torch.nn.Module, got "
                f"{type(module).__name__}"
            )
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(
                f"fastinit.check_ranks: argument 'timeout' must be a number, got {timeout!r}"
            )
        if not 0 < timeout <= _LONGEST:
            raise ValueError(
                "fastinit.check_ranks: argument 'timeout' must be positive and at most "
                f"{_LONGEST} seconds, a year; got {timeout}"
            )
        named = [] if module is None else [*module.named_parameters(), *module.named_buffers()]
        self._names = {id(tensor): name for name, tensor in named}
        self._timeout = float(timeout)
        # By the ranks of a mesh.
        self._calls: dict[tuple[int, ...], list[_Call]] = {}

    def _note(self, tensor: Any, name: str, numbers: tuple[Any, ...], key: int) -> None:
        if isinstance(tensor, TensorShard):
            return
        ranks = tuple(sorted(tensor.device_mesh.mesh.flatten().tolist()))
        call = _Call(
            name,
            self._names.get(id(tensor), ""),
            str(tuple(tensor.shape)),
            str(tensor.dtype),
            str(numbers),
            _digest(key),
        )
        self._calls.setdefault(ranks, []).append(call)

    def __enter__(self) -> check_ranks:
        self._calls.clear()
        OBSERVERS.append(self._note)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        OBSERVERS.remove(self._note)
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        store = _Store(self._timeout)
        if exc_value is not None:
            store.publish("seen", {"error": f"{type(exc_value).__name__}: {exc_value}"[:500]})
            return
        seen = {_digest(ranks): _digest(calls) for ranks, calls in self._calls.items()}
        store.publish("seen", {"meshes": seen})
        for ranks, calls in self._calls.items():
            self._compare(store, ranks, calls)

    def _compare(self, store: _Store, ranks: tuple[int, ...], calls: list[_Call]) -> None:
        mesh = _digest(ranks)
        others = store.collect("seen", ranks)
        for rank, other in zip(ranks, others, strict=True):
            if "error" in other:
                raise RuntimeError(
                    f"fastinit.check_ranks: rank {rank} has left with {other['error']}"
                )
        if len({other["meshes"].get(mesh) for other in others}) == 1:
            return
        # Those that made no call on this mesh do not know of it, and will not be asked.
        known = [r for r, other in zip(ranks, others, strict=True) if mesh in other["meshes"]]
        store.publish(mesh, calls)
        lists: dict[int, list[_Call]] = {rank: [] for rank in ranks}
        for rank, theirs in zip(known, store.collect(mesh, known), strict=True):
            lists[rank] = [_Call(*call) for call in theirs]
        raise RuntimeError(_difference(lists))


def _difference(lists: dict[int, list[_Call]]) -> str:
    """Describe the first call in which ranks differ, the fewer ranks against the others."""
    number = next(
        k
        for k in itertools.count()
        if len({tuple(calls[k : k + 1]) for calls in lists.values()}) > 1
    )
    groups: dict[_Call | None, list[int]] = {}
    for rank, calls in lists.items():
        groups.setdefault(calls[number] if number < len(calls) else None, []).append(rank)
    common, *different = sorted(groups, key=lambda call: (-len(groups[call]), groups[call][0]))
    odd = [rank for call in different for rank in groups[call]]
    lines = [
        f"fastinit.check_ranks: {_numbers(odd)} and {_numbers(groups[common])} differ in draw "
        f"{number} into the tensors that they share"
    ]
    for call in (common, *different):
        what = "no such call"
        if call is not None:
            of = f"'{call.parameter}', " if call.parameter else ""
            what = (
                f"{call.function}{call.arguments} of {of}shape {call.shape}, {call.dtype}, under "
                f"the key of hash {call.key}"
            )
        lines.append(f"  {_numbers(groups[call])}: {what}")
    if common is not None and different[0] is not None:
        pairs = zip(_Call._fields, common, different[0], strict=True)
        lines.append(f"  not the same: {', '.join(_REASONS[f] for f, a, b in pairs if a != b)}")
    return "\n".join(lines)
