"""Saying where an error arose, without changing what it is, and where a warning is due."""

from __future__ import annotations

import sys

_HAS_NOTES = sys.version_info >= (3, 11)


def note(error: BaseException, text: str) -> None:
    """Add a line to what a traceback says of an exception."""
    if _HAS_NOTES:
        error.add_note(text)  # type: ignore[attr-defined]
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{text}", *error.args[1:])


def outside() -> int:
    """Give the `stacklevel` at which the caller's warnings point to the code that called us."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("fastinit."):
        depth, frame = depth + 1, frame.f_back
    return depth
