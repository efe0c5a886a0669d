"""Telling which of some tensors initialisers have written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastinit._fills.operators import ESCAPES
from fastinit._tensors import version_of

_ANY: Any = torch.Tensor
_get_data, _set_data = _ANY.data.__get__, _ANY.data.__set__


class WriteWatch(TorchFunctionMode):
    """Knows from torch's version counters which of its tensors have been written.

    `.data` has a counter of its own, so it gives what `detach()` does meanwhile. What hands out
    memory counts as a write.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watched: dict[int, tuple[Tensor, int | None]] = {}
        self._handed: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if args and id(args[0]) in self._watched:
            if func == _get_data:
                return args[0].detach()
            if func == _set_data or func in ESCAPES:
                self._handed.add(id(args[0]))
        return func(*args, **(kwargs or {}))

    def watch(self, tensor: Tensor) -> None:
        """Look at a tensor; what was written before does not count, nor what its memory shared."""
        self._watched[id(tensor)] = (tensor, version_of(tensor))
        self._handed.discard(id(tensor))

    def wrote(self, tensor: Tensor) -> bool:
        """Whether it has been written since; so has what nobody looks at."""
        _, version = self._watched.get(id(tensor), (None, None))
        return version is None or version_of(tensor) != version or id(tensor) in self._handed
