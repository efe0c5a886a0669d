"""The groups of processes with which initialisers communicate, as those of a rank do not say."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch


def _c10d() -> Any:
    return sys.modules.get("torch.distributed.distributed_c10d")


def _count_of_groups() -> int:
    """Say how many groups have been made, which is alike on all ranks, members or not."""
    module = _c10d()
    return 0 if module is None else int(module._world.group_count)


class Groups:
    """Groups of processes that have been spoken with since this was made."""

    def __init__(self) -> None:
        self._ranks: set[tuple[int, ...]] = set()
        self._count = _count_of_groups()

    def note(self, arguments: Iterable[Any]) -> None:
        """Note the group among the arguments of an operator that communicates."""
        for given in arguments:
            group: Any = None
            with suppress(Exception):  # another object of torch's, or the name of something else
                if isinstance(given, torch.ScriptObject):
                    group = torch.distributed.ProcessGroup.unbox(given)
                elif isinstance(given, str):
                    group = _c10d()._resolve_process_group(given)
            if group is not None:
                self._ranks.add(_ranks_of(group))

    @property
    def any(self) -> bool:
        """Whether there are some, the making of groups included."""
        return bool(self._ranks) or _count_of_groups() > self._count

    @property
    def largest(self) -> tuple[int, ...] | None:
        """The ranks of the one that has those of all; None if there is none."""
        found = {*self._ranks}
        if _count_of_groups() > self._count:  # all ranks make all groups
            found.add(_ranks_of(torch.distributed.group.WORLD))
        every = set[int]().union(*found)
        return next((ranks for ranks in found if every.issubset(ranks)), None)


def _ranks_of(group: Any) -> tuple[int, ...]:
    return tuple(torch.distributed.get_process_group_ranks(group))
