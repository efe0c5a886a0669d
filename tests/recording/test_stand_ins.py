"""Whose generator a draw may take: its tensor's device's, or any where memory only stands in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastinit import Key, materialize
from fastinit._recording import waiting

KEY = Key(3)


def test_what_is_made_of_memory_that_stands_in_stands_in_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A module on meta may go to any device, and its initialisers may draw from that one's."""
    seen = []

    def source(tensor: Tensor, ref: Any, generator: torch.Generator) -> torch.device:
        seen.append(ref.storage.stands_in)
        return tensor.device

    class Draws(nn.Module):
        def __init__(self, device: str) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 3, device=device))
            self.other = nn.Parameter(torch.empty(4, 3, device=device))
            if device != "meta":
                self.reset_parameters()

        @torch.no_grad()
        def reset_parameters(self) -> None:
            generator = torch.Generator().manual_seed(5)
            nn.init.zeros_(self.weight)
            for like in (
                self.weight.mul(2),
                torch.empty_like(self.weight),
                self.weight.new_empty(4, 3),
                self.weight,
            ):
                like.normal_(generator=generator)
            nn.init.trunc_normal_(self.other, generator=generator)

    monkeypatch.setattr(waiting, "_source", source)
    materialize(Draws("meta"), key=KEY)
    assert seen == [True] * 5
    seen.clear()
    materialize(lambda: Draws("cpu"), key=KEY)
    assert seen == [False] * 5


def test_a_draw_s_generator_is_of_the_tensor_s_device_unless_that_stands_in() -> None:
    tensor, generator = torch.empty(3), torch.Generator()
    elsewhere: Any = SimpleNamespace(device=torch.device("cuda:1"))
    for stands_in in (False, True):
        ref: Any = SimpleNamespace(storage=SimpleNamespace(stands_in=stands_in))
        assert waiting._source(tensor, ref, None) == torch.device("cpu")
        assert waiting._source(tensor, ref, generator) == torch.device("cpu")
        found = waiting._source(tensor, ref, elsewhere)
        assert found == torch.device("cuda:1" if stands_in else "cpu")
