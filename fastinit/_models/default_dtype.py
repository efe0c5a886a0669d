"""torch's default dtype, which is one for all threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_free = threading.Condition()
_users = 0
_dtype: torch.dtype | None = None
_here = threading.local()


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Set torch's default dtype, or, with None, see that nobody else here does meanwhile.

    Threads that want another one wait for each other.
    """
    global _users, _dtype
    inside = getattr(_here, "inside", False)
    if not inside:
        with _free:
            while _users and _dtype is not dtype:
                _free.wait()
            _users += 1
            _dtype = dtype
            before = torch.get_default_dtype()
            if dtype is not None and _users == 1:
                _outside[0] = before
                torch.set_default_dtype(dtype)
        _here.inside = True
        try:
            yield
        finally:
            _here.inside = False
            with _free:
                _users -= 1
                if _users == 0:
                    if dtype is not None:
                        torch.set_default_dtype(_outside[0])
                    _free.notify_all()
        return
    before = torch.get_default_dtype()
    if dtype is not None:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_outside = [torch.float32]
