"""What constructors do to weights, told from their instructions; Python's versions have others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastinit._models.bytecode import SETS, uses
from fastinit._models.bytecode_values import ANY


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

    def copies_in_pairs(self) -> None:
        for a, b in zip(self.x.parameters(), self.y.parameters(), strict=True):
            b.data.copy_(a.data)
            b.requires_grad = False

    def changes_all(self) -> None:
        for _, p in self.x.named_parameters():
            p.data.mul_(0.5).clamp_(-1)
            p.data = p.data * 2

    def changes_some(self) -> None:
        for k, head in enumerate(self.x.heads):
            head.weight.fill_(k)
        for p in list(self.x.parameters()):
            if p.dim() == 1:
                p.zero_()

    def sets_parameters(self) -> None:
        self.x.weight = torch.nn.Parameter(torch.randn(4, 4) * 30)
        for head in self.x.heads:
            head.bias = torch.nn.Parameter(torch.full((3,), -4.6), requires_grad=False)

    def makes_parameters(self) -> None:
        self.weight = torch.nn.Parameter(torch.randn(4))
        self.x.weight = torch.nn.Parameter(self.x.y.weight.data)
        self.x.weight = self.x.y.weight
        self.x.bias = torch.nn.Parameter(torch.empty(4))

    def changes_what_it_makes(self) -> None:
        mask = torch.empty(4, 4)
        mask.fill_(float("-inf")).triu_(1)
        table = torch.arange(4.0).view(2, 2)
        table.mul_(2).fill_(1)
        table[0].zero_()
        self.x.weight.new_zeros(3).fill_(2)

    def changes_views(self) -> None:
        self.x.weight.T[:3].copy_(self.x)
        self.x.bias.data.view(2, 2)[0].fill_(1)

    def changes_copies(self) -> None:
        self.x.weight.clone().mul_(2)
        self.x.weight.data.float().fill_(3)

    def changes_what_it_is_given(self, z: Any) -> None:
        z.fill_(1)
        z.mul_(2)

    def changes_a_local(self) -> None:
        weight = self.x.weight.data
        weight *= 0.5

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
        (_Does.reads, {"table.copy_", "y[...]"}),
        (_Does.copies_in_pairs, {".copy_"}),
        (_Does.changes_all, {".mul_", ".data"}),
        (_Does.changes_some, {"weight.fill_", ".zero_"}),
        (_Does.sets_parameters, {"weight=", "bias="}),
        (_Does.makes_parameters, set()),
        (_Does.changes_what_it_makes, set()),
        (_Does.changes_views, {"weight.copy_", "bias.fill_"}),
        (_Does.changes_copies, set()),
        (_Does.changes_what_it_is_given, {"?.fill_"}),
        (_Does.changes_a_local, {"weight.data"}),
    ],
)
def test_changes_to_weights(method: Callable[..., Any], changes: set[str]) -> None:
    found = {
        f"{of}{how}" if how in SETS else f"{of}.{how}"
        for of, how in uses(method.__code__).changes
        if of != ANY or how in ("fill_", "zero_")
    }
    assert found == changes
