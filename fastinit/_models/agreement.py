"""`fastinit.check_ranks()`: whether ranks draw the same where they should, and only there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch import nn

from fastinit._distributed.fill import OBSERVERS, is_sharded
from fastinit._distributed.part import TensorShard
from fastinit._distributed.store import Store, digest, is_fake_group
from fastinit._models.checks import checked_parts
from fastinit._models.named_memory import NamedMemory
from fastinit._models.noted import Call, Named, collision, difference, mismatch
from fastinit._models.patterns import Pattern
from fastinit._models.places import memory_of

_LONGEST = 365 * 24 * 60 * 60  # seconds; clocks count no infinity
# From patterns of names to the process group (None: of all ranks) on whose ranks they are distinct.
Distinct = Mapping[Pattern, Any]


class check_ranks:
    """Check that ranks draw the same where they should, and only there: a tool for debugging.

    A context manager, entered on every rank. It notes the draws of fastinit's inside (under
    `patch()` torch's, too; those of `initialize_` and `materialize` when their values are computed)
    and on leaving compares

    - those into DTensors, between the ranks of each mesh: function, parameter, shape, dtype,
      arguments and key, in order;
    - with `module`, those under keys into its parameters and buffers, between all ranks: what has
      one key on two has to have one shape, dtype and distribution there as well;
    - with `distinct`, those into what is not the same weight on every rank: experts or pipeline
      stages that are shared out by hand, of which each rank calls its first `...0`. Ranks that
      hold other weights under one name have to draw them under other keys (see `rename=` of
      `initialize_` and `patch`). Without it nothing tells them from replicas, on which they are the
      same on purpose.

    It goes through the store of the default process group, not through collectives, and waits no
    longer than its time limit, so it never hangs. Without a process group, or with torch's fake
    one, there is nothing to compare. All ranks have to come equally often: once one has stayed
    away, its later calls meet earlier ones of the others. What `fastinit.shard` describes is not
    compared: nothing says which ranks share it. Nor are draws without a key into tensors of one
    rank, those in graphs of torch.compile, and constants.

    Args:
        module: the module, or its parts that are here. Without it DTensors have shapes alone in
            messages.
        timeout: how many seconds to wait for other ranks.
        distinct: by globs or compiled regular expressions on the names of parameters here, the
            process group on whose ranks these are other weights: that of expert parallelism, say,
            not that of their replicas. None stands for all ranks.

    Raises:
        TypeError: if `module` is no module or sequence of them, `timeout` no number, or `distinct`
            no mapping from patterns to process groups.
        ValueError: if `timeout` is not positive, or more than a year; if `distinct` is given
            without `module`.
        RuntimeError: on entering, if it is entered already. On leaving, if ranks disagree, or agree
            where they should not; it names them, the call, the parameter and what differs. Also if
            a rank has not come there within the time limit, or has left with an exception, which
            are named, too; and if nothing was drawn that a pattern of `distinct` matches. An
            exception from inside comes through as it is.

    Examples:
        >>> with fastinit.patch(), fastinit.check_ranks(model):
        ...     model.init_weights()
        >>> with fastinit.check_ranks(model, distinct={"*.experts.*": expert_parallel_group}):
        ...     fastinit.initialize_(model, key=0, rename=globally)
    """

    def __init__(
        self,
        module: nn.Module | Sequence[nn.Module] | None = None,
        *,
        timeout: float = 60.0,
        distinct: Distinct | None = None,
    ) -> None:
        parts = None if module is None else checked_parts(module, "check_ranks")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(
                f"fastinit.check_ranks: argument 'timeout' must be a number, got {timeout!r}"
            )
        if not 0 < timeout <= _LONGEST:
            raise ValueError(
                "fastinit.check_ranks: argument 'timeout' must be positive and at most "
                f"{_LONGEST} seconds, a year; got {timeout}"
            )
        self._distinct = _checked(distinct)
        if self._distinct and parts is None:
            raise ValueError(
                "fastinit.check_ranks: argument 'distinct' is about names in 'module'; pass that, "
                "too"
            )
        self._parts = parts
        self._memory: NamedMemory | None = None
        self._timeout = float(timeout)
        # By the ranks of a mesh.
        self._calls: dict[tuple[int, ...], list[Call]] = {}
        self._named: list[Named] = []

    def _note(self, tensor: Any, name: str, numbers: tuple[Any, ...], key: int) -> None:
        if isinstance(tensor, TensorShard):
            return
        memory = memory_of(tensor)
        found = None
        if self._memory is not None and memory is not None:
            found = self._memory.find(memory)
        call = Call(
            name,
            "" if found is None else found[1],
            str(tuple(tensor.shape)),
            str(tensor.dtype),
            str(numbers),
            digest(key),
        )
        mesh = ""
        if is_sharded(tensor):
            ranks = tuple(sorted(tensor.device_mesh.mesh.flatten().tolist()))
            self._calls.setdefault(ranks, []).append(call)
            mesh = digest(ranks)
        if found is not None:
            self._named.append(Named(mesh, call))

    def __enter__(self) -> check_ranks:
        if self._note in OBSERVERS:
            raise RuntimeError(
                "fastinit.check_ranks: this one is entered already; make another one to check "
                "inside of it"
            )
        self._calls.clear()
        self._named.clear()
        self._memory = None if self._parts is None else NamedMemory(self._parts)
        OBSERVERS.append(self._note)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        OBSERVERS.remove(self._note)
        if self._memory is not None:
            self._memory.close()
        self._memory = None
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        if is_fake_group():
            return
        store = Store("check_ranks", self._timeout)
        if exc_value is not None:
            with suppress(RuntimeError):  # the store may be what has failed
                store.publish("seen", {"error": f"{type(exc_value).__name__}: {exc_value}"[:500]})
            return
        seen = {digest(ranks): digest(calls) for ranks, calls in self._calls.items()}
        store.publish("seen", {"meshes": seen, "named": store.share(self._named)})
        for ranks, calls in self._calls.items():
            self._compare(store, ranks, calls)
        if self._parts is not None:  # others may have drawn, or have left with an exception
            self._compare_named(store)

    @staticmethod
    def _seen(store: Store, ranks: Sequence[int]) -> list[Any]:
        """Read what ranks have seen, if they have left as they should."""
        others = store.collect("seen", ranks)
        for rank, other in zip(ranks, others, strict=True):
            if "error" in other:
                raise RuntimeError(
                    f"fastinit.check_ranks: rank {rank} has left with {other['error']}"
                )
        return others

    def _compare(self, store: Store, ranks: tuple[int, ...], calls: list[Call]) -> None:
        """Compare draws into DTensors on one mesh."""
        mesh = digest(ranks)
        others = self._seen(store, ranks)
        if len({other["meshes"].get(mesh) for other in others}) == 1:
            return
        # Those that made no call on this mesh do not know of it, and will not be asked.
        known = [r for r, other in zip(ranks, others, strict=True) if mesh in other["meshes"]]
        store.publish(mesh, calls)
        lists: dict[int, list[Call]] = {rank: [] for rank in ranks}
        for rank, theirs in zip(known, store.collect(mesh, known), strict=True):
            lists[rank] = [Call(*call) for call in theirs]
        raise RuntimeError(difference(lists))

    def _compare_named(self, store: Store) -> None:
        """Compare draws into what has names."""
        all_ranks = range(torch.distributed.get_world_size())
        digests = [other["named"] for other in self._seen(store, all_ranks)]
        different = list(dict.fromkeys(digests))
        if len(different) == 1 and not self._distinct:
            return
        lists = [
            [Named(mesh, Call(*call)) for mesh, call in found]
            for found in store.collect_shared(different)
        ]
        drawn = [lists[different.index(text)] for text in digests]
        said = mismatch(drawn)
        for pattern, group in self._distinct.items():
            ranks = _ranks_of(group, all_ranks)
            if said is None and store.rank in ranks:
                said = collision(drawn, ranks, pattern)
        if said is not None:
            raise RuntimeError(f"fastinit.check_ranks: {said}")


def _is_outside(group: Any) -> bool:
    """Whether this is what ranks get for a group that they are not in."""
    return group is torch.distributed.GroupMember.NON_GROUP_MEMBER


def _ranks_of(group: Any, all_ranks: Sequence[int]) -> Sequence[int]:
    if group is None:
        return all_ranks
    if _is_outside(group):
        return ()
    ranks: list[int] = torch.distributed.get_process_group_ranks(group)
    return ranks


def _checked(distinct: Any) -> Distinct:
    """Check the argument.

    Raises:
        TypeError: if it is no mapping from patterns to process groups.
    """
    if distinct is None:
        return {}
    if not isinstance(distinct, Mapping):
        raise TypeError(
            "fastinit.check_ranks: argument 'distinct' must be a mapping from patterns to process "
            f"groups, got {type(distinct).__name__}"
        )
    for pattern, group in distinct.items():
        if not isinstance(pattern, (str, re.Pattern)):
            raise TypeError(
                "fastinit.check_ranks: argument 'distinct' takes globs and compiled regular "
                f"expressions, got {pattern!r}"
            )
        there = torch.distributed.is_available()
        if group is not None and not (
            there and (isinstance(group, torch.distributed.ProcessGroup) or _is_outside(group))
        ):
            raise TypeError(
                f"fastinit.check_ranks: argument 'distinct' must give process groups, got "
                f"{type(group).__name__} for {pattern!r}"
            )
    return distinct
