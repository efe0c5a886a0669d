"""Huge pages behind large memory, where the machine has them at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from fastinit._compiled import extension

_LEAST = 4 << 20  # bytes, from which huge pages are worth asking for
_ALL = 1 << 62
_PROC, _SYS = Path("/proc"), Path("/sys")
# Small pages take 0.4 ns a byte, a huge one that is at hand 0.1, one that is not 0.9 and more: what
# is between, others who are busy make of the second.
_SLOW = 0.45  # nanoseconds a byte
_TRUSTED = 1 << 25  # bytes, which do not take long if they turn out to be slow


def _number(path: Path) -> int:
    return int(path.read_text())


class AtHand(NamedTuple):
    """What huge pages there are.

    Attributes:
        nbytes: behind how much memory they are worth asking for.
        page: bytes of one, if each may take long; 0 if not.
    """

    nbytes: int
    page: int = 0


def _is_handed_back(order: int) -> bool:
    """Whether the host of a virtual machine takes back free blocks of this order.

    It is told of them some seconds later ("free page reporting") and has to provide them anew when
    they are touched, which takes several times as long as huge pages save; small blocks it leaves.
    """
    try:
        least = _number(_SYS / "module/page_reporting/parameters/page_reporting_order")
    except OSError:  # a kernel that cannot
        return False
    return 0 <= least <= order  # -1: no hypervisor wants to know


def _free(order: int) -> int:
    """Count the pages in free blocks of at least this order."""
    pages = 0
    for line in (_PROC / "buddyinfo").read_text().splitlines():
        _, zone, counts = line.partition("zone")
        name, *blocks = counts.split()
        if zone and name != "DMA":  # which is kept for devices
            pages += sum(int(n) << k for k, n in enumerate(blocks) if k >= order)
    return pages


def at_hand() -> AtHand:
    """Say what huge pages there are.

    Beyond what is free the kernel would put memory together first ("compaction"), which takes
    longer than huge pages save. Where it does not say what there is, none are asked for, as nobody
    would who does not know.
    """
    wish = os.environ.get("FASTINIT_HUGE_PAGES")
    if wish in ("0", "1"):
        return AtHand(0 if wish == "0" else _ALL)
    try:
        if "[madvise]" not in (_SYS / "kernel/mm/transparent_hugepage/enabled").read_text():
            return AtHand(0)  # there are none, or they come unasked
        size = _number(_SYS / "kernel/mm/transparent_hugepage/hpage_pmd_size")
        page = os.sysconf("SC_PAGE_SIZE")
        order = (size // page).bit_length() - 1
        return AtHand(page * _free(order), size if _is_handed_back(order) else 0)
    except (OSError, ValueError):
        return AtHand(0)


class HugePages:
    """Asks for huge pages behind memory that nothing has touched yet, for as much as there are.

    Where each may take long, those that were freed last come first and are fast. So memory is
    touched piece by piece, the first pages of each are timed, and none are wanted once they are
    slow.

    Attributes:
        is_timed: whether that is so: memory is to be touched soon after it is announced.
    """

    def __init__(self) -> None:
        # By address of the storage, what is free as long as it is not touched: address, bytes.
        self._promised: dict[int, tuple[int, int]] = {}
        self._left: int | None = None  # None: to be looked up
        self._page = 0
        self._fast = 0  # bytes behind fast ones
        self._slow = False

    @property
    def is_timed(self) -> bool:
        return self._page > 0 and not self._slow

    @property
    def trusted(self) -> int:
        """Bytes that may be touched before more pages are timed: as many as were fast."""
        return max(_TRUSTED, self._fast)

    def ask(self, untyped: torch.UntypedStorage) -> None:
        """Ask for them behind a storage, or as much of its beginning as there are left."""
        size = untyped.nbytes()
        if size < _LEAST or untyped.device.type != "cpu" or self._slow:
            return
        if self._left is None:
            there, self._page = at_hand()
            self._left = there - sum(size for _, size in self._promised.values())
        size = min(size, self._left)
        if size >= _LEAST:
            extension.advise_huge_pages(untyped.data_ptr(), size)
            self._left -= size
            self._promised[untyped._cdata] = untyped.data_ptr(), size

    def end(self) -> None:
        """Note that nothing of what has been announced is written any more."""
        self._promised.clear()

    def touched(self, address: int, alive: Callable[[], torch.UntypedStorage | None]) -> None:
        """Note that a storage is gone, or is written from now on, and nothing guards it any more.

        Args:
            address: of the storage.
            alive: gives it, if there is one still.
        """
        promised = self._promised.pop(address, None) if self._promised else None
        if promised is None:
            return
        self._left = None
        untyped = alive() if self.is_timed else None
        begin, size = promised
        if untyped is None or untyped.data_ptr() != begin or untyped.nbytes() < size:
            return  # it has been resized
        first = -begin % self._page
        # A single one may be slow for other reasons.
        pages = range(begin + first, begin + size - self._page + 1, self._page)[:2]
        if pages and all(extension.touch_page(page) > _SLOW * self._page for page in pages):
            self._slow = True
            for begin, size in (promised, *self._promised.values()):
                extension.advise_huge_pages(begin, size, False)
            self._promised.clear()
            return
        trusted = self.trusted
        self._fast += min(size, trusted)
        if size > trusted:
            extension.advise_huge_pages(begin + trusted, size - trusted, False)
