"""Huge pages are asked for behind as much memory as the machine has them at hand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastinit import _C, batch, materialize, normal_
from fastinit._recording import huge_pages, memory

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

    def advise(begin: int, size: int, wanted: bool = True) -> None:
        sizes.append(size if wanted else -size)

    monkeypatch.setattr(_C, "advise_huge_pages", advise)
    return sizes


def test_what_is_at_hand(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    assert huge_pages.at_hand() == (PAGES * PAGE, 0)
    machine(reporting=None)  # a kernel that knows of no host
    assert huge_pages.at_hand() == (PAGES * PAGE, 0)
    machine(reporting="10")  # blocks of 512 pages stay
    assert huge_pages.at_hand() == (PAGES * PAGE, 0)
    machine(reporting="9")  # the host may have them
    assert huge_pages.at_hand() == (PAGES * PAGE, 512 * PAGE)
    machine(enabled="[always] madvise never")  # they come unasked
    assert huge_pages.at_hand() == (0, 0)
    machine(enabled="always madvise [never]")
    assert huge_pages.at_hand() == (0, 0)
    machine(enabled=None)
    assert huge_pages.at_hand() == (0, 0)
    machine(buddyinfo=None)
    assert huge_pages.at_hand() == (0, 0)
    monkeypatch.setenv("FASTINIT_HUGE_PAGES", "1")
    assert huge_pages.at_hand() == (1 << 62, 0)
    machine()
    monkeypatch.setenv("FASTINIT_HUGE_PAGES", "0")
    assert huge_pages.at_hand() == (0, 0)


def test_no_more_than_there_is_until_it_is_used(
    asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    free, looked = 20 * MIB, []

    def at_hand() -> huge_pages.AtHand:
        looked.append(free)
        return huge_pages.AtHand(free)

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


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[int, bool]:
    """Make a machine with enough free, of which the host may have all.

    By number, which touch is slow; the others are fast. -1 counts them.
    """
    found = {-1: 0}
    monkeypatch.setattr(huge_pages, "at_hand", lambda: huge_pages.AtHand(1 << 40, 2 * MIB))

    def touch(address: int) -> int:
        assert address % (2 * MIB) == 0
        number = found[-1]
        found[-1] += 1
        return 1_500_000 if found.get(number) else 300_000

    monkeypatch.setattr(_C, "touch_page", touch)
    return found


def _announced(asks: huge_pages.HugePages, sizes: list[int]) -> list[torch.UntypedStorage]:
    storages = [torch.empty(size * MIB, dtype=torch.uint8).untyped_storage() for size in sizes]
    for storage in storages:
        asks.ask(storage)
    return storages


def _touch(asks: huge_pages.HugePages, storage: torch.UntypedStorage) -> None:
    asks.touched(storage._cdata, lambda: storage)


def test_slow_ones_are_wanted_no_more(asked: list[int], slow: dict[int, bool]) -> None:
    slow |= {1: True, 3: True, 4: True}
    asks = huge_pages.HugePages()
    storages = _announced(asks, [8, 9, 10, 11, 12, 13])
    del asked[:]
    _touch(asks, storages[0])
    assert slow[-1] == 1  # fast: there is no need to look at another
    _touch(asks, storages[1])
    assert slow[-1] == 3  # it was slow, and the next was not
    asks.touched(storages[2]._cdata, lambda: None)  # it has gone
    assert slow[-1] == 3
    assert asks.is_timed
    assert not asked
    _touch(asks, storages[3])
    assert slow[-1] == 5
    assert not asks.is_timed
    assert sorted(asked) == [-13 * MIB, -12 * MIB, -11 * MIB]
    _touch(asks, storages[4])
    _announced(asks, [14])
    assert slow[-1] == 5
    assert len(asked) == 3


def test_fast_ones_earn_trust(asked: list[int], slow: dict[int, bool]) -> None:
    asks = huge_pages.HugePages()
    storages = _announced(asks, [100, 1000, 1000])
    del asked[:]
    for storage in storages:
        _touch(asks, storage)
    # 32 MiB at first; then as much as there has been.
    assert asked == [-68 * MIB, -968 * MIB, -936 * MIB]


def test_memory_that_has_moved_or_gone_is_not_touched(
    asked: list[int], slow: dict[int, bool]
) -> None:
    asks = huge_pages.HugePages()
    storages = _announced(asks, [8, 8, 8])
    storages[0].resize_(64 * MIB)
    storages[1].resize_(0)
    _touch(asks, storages[0])
    _touch(asks, storages[1])
    asks.touched(storages[2]._cdata, lambda: None)
    assert slow[-1] == 0
    with batch():
        drawn = normal_(torch.empty(8 * MIB // 4), key=1)
        drawn.resize_(64 * MIB // 4)
        normal_(drawn, key=2)
    assert torch.equal(drawn, normal_(torch.empty(64 * MIB // 4), key=2))


def test_pages_are_timed_when_what_came_before_is_written(
    asked: list[int], slow: dict[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    touch, launch = _C.touch_page, memory.run_fills
    monkeypatch.setattr(_C, "touch_page", lambda at: order.append("touch") or touch(at))
    monkeypatch.setattr(memory, "run_fills", lambda fills: order.append("fill") or launch(fills))
    with batch():
        drawn = [normal_(torch.empty(size * MIB // 4), key=size) for size in (20, 20, 30, 30, 30)]
    assert order == ["touch", "touch", "fill", "touch", "touch", "fill", "touch", "fill"]
    for tensor in drawn:
        expected = normal_(torch.empty(tensor.numel()), key=tensor.nbytes // MIB)
        assert torch.equal(tensor, expected)
    order.clear()
    kept = []

    def factory() -> torch.nn.Module:
        kept.append(normal_(torch.empty(300 * MIB // 4)))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        materialize(factory, key=0)
    assert kept
    assert not order  # so much is not written after an error


def test_a_real_machine() -> None:
    """A hint: it must only not fail."""
    assert huge_pages.at_hand().nbytes >= 0
    large = torch.empty(5 * MIB, dtype=torch.uint8)
    large[7] = 3
    assert _C.touch_page(large.data_ptr() + 7) >= 0
    assert large[7] == 3
    asks = huge_pages.HugePages()
    asks.ask(large.untyped_storage())
    asks.ask(large[:100].clone().untyped_storage())
    _touch(asks, large.untyped_storage())
    assert large.fill_(1).sum() == 5 * MIB
