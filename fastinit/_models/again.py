"""Running initialisers again that communicate: all ranks do, or none."""

from __future__ import annotations

from torch import distributed

from fastinit._distributed.store import Store, is_fake_group
from fastinit._recording.recorder import Recorder

_LONGEST = 60.0  # seconds to wait for a rank, which may have other things to do


def agreed(recorder: Recorder, again: bool, where: str) -> bool:
    """Whether to run initialisers again.

    Of ranks that communicate each may have read other values, and only it knows that it would like
    to. The others have to make the same calls again, so all are asked, through the store of the
    process group.

    Args:
        recorder: what has recorded them.
        again: whether this rank would like to.
        where: the function, for the meeting's name.
    """
    spoken = recorder.spoken
    if not (spoken.any and distributed.is_initialized()) or is_fake_group():
        return again  # all alone, or a group that was there for a while
    largest = spoken.largest
    if largest is None:  # there is nobody who knows all of them
        return False
    if len(largest) == 1:
        return again
    store = Store(f"{where}: again", _LONGEST, largest)
    try:
        store.publish("again", again)
        return any(store.collect("again", largest))
    except RuntimeError:  # one of them is not in an initialiser
        store.withdraw()
        return False
