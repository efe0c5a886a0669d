"""Huge pages are asked for behind as much memory as the machine has them at hand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastinit import _C, batch, normal_
from fastinit._recording import huge_pages

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
# Of the orders 0 to 10: 3 blocks of 512 pages, 2 of 1024 in one zone, 1 of 1024 in another.
BUDDYINFO = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone   Normal  24770  12105  25156  30008  11460   5961   4396   2979    729      3      2
Node 1, zone   Normal      0      0      0      0      0      0      0      0      0      0      1
"""
PAGES = 3 * 512 + 3 * 1024

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Give what makes a machine of these files; None stands for one that there is not."""

    def make(
        enabled: str | None = "always [madvise] never",
        reporting: str | None = "-1",
        buddyinfo: str | None = BUDDYINFO,
    ) -> None:
        for name, text in {
            "sys/kernel/mm/transparent_hugepage/enabled": enabled,
            "sys/kernel/mm/transparent_hugepage/hpage_pmd_size": str(512 * PAGE),
            "sys/module/page_reporting/parameters/page_reporting_order": reporting,
            "proc/buddyinfo": buddyinfo,
        }.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)

    monkeypatch.setattr(huge_pages, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(huge_pages, "_SYS", tmp_path / "sys")
    monkeypatch.delenv("FASTINIT_HUGE_PAGES", raising=False)
    return make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the sizes that are asked for."""
    sizes: list[int] = []
    monkeypatch.setattr(_C, "advise_huge_pages", lambda begin, size: sizes.append(size))
    return sizes


def test_what_is_at_hand(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    assert huge_pages.at_hand() == PAGES * PAGE
    machine(reporting=None)  # a kernel that knows of no host
    assert huge_pages.at_hand() == PAGES * PAGE
    machine(reporting="10")  # blocks of 512 pages stay
    assert huge_pages.at_hand() == PAGES * PAGE
    machine(reporting="9")  # the host has them
    assert huge_pages.at_hand() == 0
    machine(enabled="[always] madvise never")  # they come unasked
    assert huge_pages.at_hand() == 0
    machine(enabled="always madvise [never]")
    assert huge_pages.at_hand() == 0
    machine(enabled=None)
    assert huge_pages.at_hand() == 0
    machine(buddyinfo=None)
    assert huge_pages.at_hand() == 0
    monkeypatch.setenv("FASTINIT_HUGE_PAGES", "1")
    assert huge_pages.at_hand() > 1 << 60
    machine()
    monkeypatch.setenv("FASTINIT_HUGE_PAGES", "0")
    assert huge_pages.at_hand() == 0


def test_no_more_than_there_is_until_it_is_used(
    asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    free, looked = 20 * MIB, []

    def at_hand() -> int:
        looked.append(free)
        return free

    monkeypatch.setattr(huge_pages, "at_hand", at_hand)

    def drawn(size: int) -> torch.Tensor:
        return normal_(torch.empty(size * MIB // 4), key=size)

    with batch():
        first = drawn(8)
        small = drawn(1)
        kept = [drawn(8), drawn(8), drawn(8)]
        assert asked == [8 * MIB, 8 * MIB, 4 * MIB]  # what is left is asked for behind a part
        small.sum()
        kept.append(drawn(8))
        assert looked == [20 * MIB]
        assert len(asked) == 3
        first.sum()  # is there now: the rest is free no longer than as promised
        free = 18 * MIB
        kept.append(drawn(8))
        assert asked[3:] == [6 * MIB]
        assert looked == [20 * MIB, 18 * MIB]
        kept.pop()
        free = 22 * MIB
        kept.append(drawn(8))  # in the place of what has gone
    assert len(looked) == 3
    assert sum(asked[4:]) == 8 * MIB


def test_a_real_machine() -> None:
    """A hint: it must only not fail."""
    assert huge_pages.at_hand() >= 0
    large = torch.empty(5 * MIB, dtype=torch.uint8)
    asks = huge_pages.HugePages()
    asks.ask(large.untyped_storage())
    asks.ask(large[:100].clone().untyped_storage())
    asks.touched(large.untyped_storage()._cdata)
    assert large.fill_(1).sum() == 5 * MIB
