"""`docs/distributed.md`: every block runs, and does what the page says."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import distributed, nn

import fastinit

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2 * width)
        self.layers = nn.ModuleList([nn.Linear(width, width)])
        self.experts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.layer.weight, std=0.02)


def _after(block: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block; what modules by hand it makes are gone afterwards."""
    by_hand = "enumerate(model.experts)" in block or "rename=" in block
    before = names.get("model")
    if by_hand:
        names["model"] = Model(8)
    exec(compile(block.replace('"cuda"', '"cpu"'), "distributed.md", "exec"), names)
    weights = {
        name: getattr(p, "full_tensor", lambda p=p: p)().detach().clone()
        for name, p in names["model"].named_parameters()
    }
    state = {**names, "weights": weights}
    if by_hand:
        names["model"] = before
    return state


@pytest.fixture(scope="module")
def after() -> Iterator[list[dict[str, Any]]]:
    """What there is after each block, in a process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    names: dict[str, Any] = {
        "torch": torch,
        "fastinit": fastinit,
        "distributed": distributed,
        "Transformer": Model,
        "config": 8,
        "rank": 3,
        "re": re,
        "functools": functools,
        "key": fastinit.Key(5),
        "expert_parallel_group": None,
    }
    try:
        yield [_after(block, names) for block in BLOCKS]
    finally:
        distributed.destroy_process_group()


def test_models(after: list[dict[str, Any]]) -> None:
    for name, weight in fastinit.initialize_(Model(8), key=0).named_parameters():
        assert same_bits(after[0]["weights"][name], weight.detach()), name


def test_factory(after: list[dict[str, Any]]) -> None:
    for name, weight in fastinit.materialize(lambda: Model(8), key=0).named_parameters():
        assert same_bits(after[1]["weights"][name], weight.detach()), name


def test_rename(after: list[dict[str, Any]]) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(8))

    want = fastinit.initialize_(Whole(), key=5)
    for number in (0, 1):
        weight = want.experts[6 + number].weight.detach()
        assert same_bits(after[2]["weights"][f"experts.{number}.weight"], weight)


def test_dtensors(after: list[dict[str, Any]]) -> None:
    key = fastinit.Key(0).fold_in("layer.weight")
    want = fastinit.trunc_normal_(torch.empty(16, 8), std=0.02, key=key)
    assert same_bits(after[3]["weights"]["layer.weight"], want)


@pytest.mark.parametrize("block", [4, 5])
def test_patch(after: list[dict[str, Any]], block: int) -> None:
    assert "module=" in BLOCKS[block]
    key = fastinit.Key(0).fold_in("layer.weight").fold_in(0)
    want = fastinit.trunc_normal_(torch.empty(16, 8), std=0.02, key=key)
    assert same_bits(after[block]["weights"]["layer.weight"], want)


def test_shards_by_hand(after: list[dict[str, Any]]) -> None:
    names = SimpleNamespace(**after[6])
    full = fastinit.kaiming_uniform_(torch.empty(4096, 4096), key=names.key)
    assert same_bits(names.rows, full[3072:])
    assert same_bits(names.flat, full.flatten()[10_000_000:15_000_000])


def test_experts_by_hand(after: list[dict[str, Any]]) -> None:
    key = fastinit.Key(0).fold_in("experts.7.weight")
    want = fastinit.normal_(torch.empty(8, 8), std=0.02, key=key)
    assert same_bits(after[7]["weights"]["experts.1.weight"], want)


def test_orthogonal_together(after: list[dict[str, Any]]) -> None:
    key = fastinit.Key(0).fold_in("layer.weight").fold_in(0)
    want = fastinit.orthogonal_(torch.empty(16, 8), key=key)
    torch.testing.assert_close(after[10]["weights"]["layer.weight"], want, atol=1e-5, rtol=0)


def test_all_blocks_are_looked_at(after: list[dict[str, Any]]) -> None:
    assert len(after) == len(BLOCKS) == 11
    assert "check_ranks" in BLOCKS[8]
    assert "distinct=" in BLOCKS[9]
