"""Models whose layers may be lazy, for comparison with the same whose shapes are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

X = torch.linspace(-1, 1, 20).view(4, 5)


def linear(lazy: bool, inputs: int, outputs: int) -> nn.Module:
    return nn.LazyLinear(outputs) if lazy else nn.Linear(inputs, outputs)


class Trainer(nn.Module):
    """Which may call its net, and never itself."""

    def __init__(self, lazy: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(linear(lazy, 5, 8), nn.ReLU(), linear(lazy, 8, 2))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)
