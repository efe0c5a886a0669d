"""Saying where an error arose, without changing what it is."""

from __future__ import annotations

import sys

_HAS_NOTES = sys.version_info >= (3, 11)


def note(error: BaseException, text: str) -> None:
    """Add a line to what a traceback says of an exception."""
    if _HAS_NOTES:
        error.add_note(text)  # type: ignore[attr-defined]
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{text}", *error.args[1:])
