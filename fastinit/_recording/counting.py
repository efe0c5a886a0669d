"""Versions of tensors, by which autograd knows what has been written to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def counting(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Have a writing to each of a list counted, once.

    Of torch's operators on lists some count in their kernels, on some devices, and some leave it to
    the operators that they call, which do not under a mode.
    """
    written = [tensor for tensor in tensors if not tensor.is_inference()]
    versions = [tensor._version for tensor in written]
    yield
    uncounted = [t for t, version in zip(written, versions, strict=True) if t._version == version]
    torch.autograd.graph.increment_version(uncounted)
