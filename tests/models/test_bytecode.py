"""What constructors do to weights, told from their instructions; Python's versions have others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastinit._models.bytecode import changes_in


class _Does:
    """Constructors by what is done, which nobody runs."""

    x: Any

    def sets_what_it_is_given(self, table: Any) -> None:
        self.x.weight.data = table

    def sets_a_table(self, table: Any = None) -> None:
        rows = torch.eye(4).float()
        self.x.weight.data = rows
        self.x.bias.data = torch.ones(4) if table is None else table

    def sets_what_it_calls(self) -> None:
        self.x.weight.data = self.x.make(3, key=[1, 2])

    def sets_a_view_of_what_it_makes(self) -> None:
        self.x.weight.data = torch.arange(8.0).view(4, 2)
        self.x.bias.data = torch.eye(2).T

    def sets_what_it_computes(self) -> None:
        self.x.bias.data = self.x.table * 2 + 1

    def multiplies(self) -> None:
        self.x.weight.data *= 3

    def sets_an_element(self) -> None:
        self.x.weight[0] = 0

    def sets_elements(self, k: int) -> None:
        self.x.weight.data[self.x.k, k + 1] = self.x.y

    def sets_a_slice(self) -> None:
        for head in self.x.heads:
            head.bias.data[1:3] = self.x.down.weight

    def calls(self) -> None:
        self.x.up.weight.data.copy_(self.x).mul_(3)
        self.x.heads.bias.div_(3)

    def either(self, a: Any, b: Any) -> None:
        if a:
            a.bias.data = a.bias.data if b else b(a)

    def within(self) -> None:
        try:
            self.x.weight.data = self.x(self)
        except ValueError:
            with self.x as held:
                self.x.bias[0] = held

    def fills_empty_memory(self) -> None:
        self.x.weight.data = torch.empty(3).normal_()

    def ties(self) -> None:
        self.x.up.weight.data = self.x.down.weight.data
        self.x.up.bias.data = self.x.down.bias
        self.x.up.weight.data = self.x.down.weight.data.transpose(0, 1)
        self.x.up.weight.data = self.x.down.weight.T
        w = self.x.up.weight
        self.x.down.weight.data = w
        self.x.down.weight.data = w.data[:4]

    def converts(self) -> None:
        self.x.weight.data = self.x.weight.data.to(torch.bfloat16)
        self.x.weight.data = self.x.weight.contiguous(memory_format=torch.channels_last)

    def makes_memory(self) -> None:
        self.x.weight.data = torch.empty(3, self.x[0].shape[-1], device=self.x.device())
        self.x.bias.data = self.x.weight.new_empty(3)
        self.x.weight.data = torch.Tensor(4, 4)

    def reads(self, z: Any) -> Any:
        self.x.y[self.x.weight] = 3
        z[0] = self.x.weight
        z[0] = self.x.bias.data + 1
        self.x.table.data = self.x.weight[0]
        self.x.table.copy_(self.x.bias).mul_(3)
        return [lambda m=m: m.weight[0] for m in z], {"weight": 3}[self.x.bias]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (_Does.sets_what_it_is_given, {"weight.data"}),
        (_Does.sets_a_table, {"weight.data", "bias.data"}),
        (_Does.sets_what_it_calls, {"weight.data"}),
        (_Does.sets_a_view_of_what_it_makes, {"weight.data", "bias.data"}),
        (_Does.sets_what_it_computes, {"bias.data"}),
        (_Does.multiplies, {"weight.data"}),
        (_Does.sets_an_element, {"weight[...]"}),
        (_Does.sets_elements, {"weight[...]"}),
        (_Does.sets_a_slice, {"bias[...]"}),
        (_Does.calls, {"weight.copy_", "bias.div_"}),
        (_Does.either, {"bias.data"}),
        (_Does.within, {"weight.data", "bias[...]"}),
        (_Does.fills_empty_memory, {"weight.data"}),
        (_Does.ties, set()),
        (_Does.converts, set()),
        (_Does.makes_memory, set()),
        (_Does.reads, set()),
    ],
)
def test_changes_to_weights(method: Callable[..., Any], changes: set[str]) -> None:
    assert changes_in(method.__code__) == changes
