"""Huge pages behind large memory, where the machine has them at hand."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fastinit._compiled import extension

_LEAST = 4 << 20  # bytes, from which huge pages are worth asking for
_ALL = 1 << 62
_PROC, _SYS = Path("/proc"), Path("/sys")


def _number(path: Path) -> int:
    return int(path.read_text())


def _is_handed_back(order: int) -> bool:
    """Whether the host of a virtual machine takes back free blocks of this order.

    It is told of them ("free page reporting") and has to provide them anew when they are touched,
    which takes several times as long as huge pages save; small blocks it leaves.
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


def at_hand() -> int:
    """Say behind how many bytes huge pages are worth asking for.

    Beyond what is free the kernel would put memory together first ("compaction"), which takes
    longer than huge pages save. Where it does not say what there is, none are asked for, as nobody
    would who does not know.
    """
    wish = os.environ.get("FASTINIT_HUGE_PAGES")
    if wish in ("0", "1"):
        return 0 if wish == "0" else _ALL
    try:
        if "[madvise]" not in (_SYS / "kernel/mm/transparent_hugepage/enabled").read_text():
            return 0  # there are none, or they come unasked
        size = _number(_SYS / "kernel/mm/transparent_hugepage/hpage_pmd_size")
        page = os.sysconf("SC_PAGE_SIZE")
        order = (size // page).bit_length() - 1
        return 0 if _is_handed_back(order) else page * _free(order)
    except (OSError, ValueError):
        return 0


class HugePages:
    """Asks for huge pages behind memory that nothing has touched yet, for as much as there are."""

    def __init__(self) -> None:
        self._promised: dict[int, int] = {}  # what is free as long as it is not touched
        self._left: int | None = None  # None: to be looked up

    def ask(self, untyped: torch.UntypedStorage) -> None:
        """Ask for them behind a storage, or as much of its beginning as there are left."""
        size = untyped.nbytes()
        if size < _LEAST or untyped.device.type != "cpu":
            return
        if self._left is None:
            self._left = at_hand() - sum(self._promised.values())
        size = min(size, self._left)
        if size >= _LEAST:
            extension.advise_huge_pages(untyped.data_ptr(), size)
            self._left -= size
            self._promised[untyped._cdata] = size

    def touched(self, address: int) -> None:
        """Note that a storage may be written now, or is gone."""
        if self._promised and self._promised.pop(address, None) is not None:
            self._left = None
