"""Keeping torch.compile out, without loading the compiler for it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

_F = TypeVar("_F", bound=Callable[..., Any])


def untraced(function: _F, reason: str) -> _F:
    """Keep torch.compile out of a function, as torch.compiler.disable does, at no cost before.

    That loads the compiler, one to two seconds of work; nothing is traced until it is loaded.
    """
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            # The name is there from the start of its loading, which may run operators.
            if not hasattr(sys.modules.get("torch._dynamo"), "disable"):
                return function(*args, **kwargs)
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return disabled(*args, **kwargs)

    # As torch.compiler.disable marks functions: the graph breaks at the call, not somewhere inside.
    # Private, and only the message of fullgraph=True depends on it.
    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    run._torchdynamo_disable_msg = reason  # type: ignore[attr-defined]
    return cast(_F, run)


@contextmanager
def compiling_nothing() -> Iterator[None]:
    """Run as it was before what torch.compile has made, if its compiler is loaded at all."""
    if not hasattr(sys.modules.get("torch._dynamo"), "disable"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
