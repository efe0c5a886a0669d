"""Where a warning is due: at the line outside of fastinit that it is about."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from torch.compiler import is_compiling

# Under a patch, torch's functions call ours.
_BETWEEN = ("fastinit.", "torch.nn.init")


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(_BETWEEN)


def outside() -> int:
    """Give the `stacklevel` at which the caller's warnings point to the code that called us."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_between(frame):
        depth, frame = depth + 1, frame.f_back
    return depth


def warn(message: str) -> None:
    """Warn of a call of ours."""
    warnings.warn(message, UserWarning, stacklevel=1 if is_compiling() else outside())
