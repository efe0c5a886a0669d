"""Random programs for `fastinit.batch()`: what they do, and how they are made and compared.

A program is a list of steps over a few tensors, some made before the batch and some inside it. It
is run twice, with and without `batch()`, and everything it saw must agree: what each read gave, the
final bytes and version of each tensor, the generator, the exception.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import fastinit
from support.patch_helpers import in_thread

SHAPES = [(4, 6), (3, 5), (24,), (2, 3, 4)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
FILLS = {
    "uniform": lambda t: fastinit.uniform_(t, -1.0, 3.0),
    "normal": lambda t: fastinit.normal_(t, 0.5, 2.0),
    "trunc": lambda t: fastinit.trunc_normal_(t),
    "keyed": lambda t: fastinit.normal_(t, key=7),
    "constant": lambda t: torch.nn.init.constant_(t, 2.5),
    "zero": lambda t: t.zero_(),
    "patched": lambda t: torch.nn.init.xavier_uniform_(t.view(t.shape[0], -1)),
    "torch": lambda t: t.random_(0, 9),
    "refused": lambda t: fastinit.normal_(t, std=-1.0),
}
VIEWS = {
    "all": lambda t: t,
    "first": lambda t: t[0],
    "tail": lambda t: t[1:],
    "steps": lambda t: t[::2],
    "turned": lambda t: t.movedim(0, -1),
    "flat": lambda t: t.view(-1),
    "last": lambda t: t.flatten()[-1],
    "none": lambda t: t[:0],
    "bits": lambda t: t.view(torch.uint8),
}
CHANGES = {
    "mul": lambda t: t.mul_(2),
    "add": lambda t: t.add_(1),
    "roll": lambda t: t.copy_(t.roll(1, 0)),
    "index": lambda t: t.index_fill_(0, torch.tensor([0]), 4.0) if t.numel() else t,
}
# Ways to read that a mode of the thread sees: they must give the eager result.
READS = {
    "sum": lambda t: t.double().sum().item(),
    "tolist": lambda t: t.tolist(),
    "repr": repr,
    "clone": lambda t: t.clone().tolist(),
    "bool": lambda t: bool((t > 0).any()),
    "numpy": lambda t: t.float().numpy().copy().tolist(),
    "stack": lambda t: torch.stack([t, t]).tolist(),
}
# Ways that may raise "fill pending" instead.
HIDDEN = {
    "thread": lambda t: in_thread(lambda: t.tolist()),
    "capsule": lambda t: torch.from_dlpack(torch.utils.dlpack.to_dlpack(t)).tolist(),
}
# What somebody may hold on to, and how to read it later.
ALIASES = {
    "numpy": (lambda t: t.view(torch.uint8).numpy(), lambda a: a.tolist()),
    "dlpack": (lambda t: np.from_dlpack(t.view(torch.uint8)), lambda a: a.tolist()),
    "storage": (lambda t: t.untyped_storage(), lambda a: bytes(a).hex()),
    "pointer": (
        lambda t: (t.data_ptr(), t.numel() * t.element_size(), t),
        lambda a: ctypes.string_at(a[0], a[1]).hex(),
    ),
    "capsule": (
        lambda t: torch.from_dlpack(torch.utils.dlpack.to_dlpack(t.view(torch.uint8))),
        lambda a: a.tolist(),
    ),
}

_tensor = st.integers(0, 3)
STEP = st.one_of(
    st.tuples(st.just("new"), _tensor, st.sampled_from(SHAPES), st.sampled_from(DTYPES)),
    st.tuples(st.just("fill"), _tensor, st.sampled_from(list(VIEWS)), st.sampled_from(list(FILLS))),
    st.tuples(st.just("fill"), _tensor, st.just("all"), st.sampled_from(["uniform", "constant"])),
    st.tuples(
        st.just("change"), _tensor, st.sampled_from(list(VIEWS)), st.sampled_from([*CHANGES])
    ),
    st.tuples(st.just("read"), _tensor, st.sampled_from(list(VIEWS)), st.sampled_from(list(READS))),
    st.tuples(st.just("hidden"), _tensor, st.just("all"), st.sampled_from(list(HIDDEN))),
    st.tuples(st.just("alias"), _tensor, st.just("all"), st.sampled_from(list(ALIASES))),
    st.tuples(st.just("look"), st.integers(0, 5)),
    st.tuples(st.just("copy"), _tensor, _tensor),
    st.tuples(st.just("parameter"), _tensor),
    st.tuples(st.just("detached"), _tensor),
    st.tuples(st.just("drop"), _tensor),
    st.tuples(st.just("raise"), st.just(0)),
)
# Steps before the batch, and steps inside it.
PROGRAM = st.tuples(st.lists(STEP, max_size=3), st.lists(STEP, min_size=1, max_size=14))
# A part of a tensor filled after the whole: order and cover matter, and chance finds it slowly.
_NEW = ("new", 0, (4, 6), torch.float32)
PARTS = ([], [_NEW, ("fill", 0, "first", "constant"), ("fill", 0, "steps", "normal")])


class Stop(Exception):
    """What a program raises."""


class Machine:
    """Runs the steps of one program."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = [torch.zeros(2, 3) for _ in range(4)]
        self.aliases: list[tuple[str, Any]] = []
        self.seen: list[Any] = []

    def _tried(self, what: Any, hidden: bool) -> Any:
        """Do something that may fail; "fill pending" is an answer only where it is `hidden`."""
        try:
            return what()
        except Exception as error:
            if "fill pending" in str(error):
                assert hidden, f"a guard met where the batch should have filled: {error}"
                return "pending"
            return type(error).__name__

    def step(self, kind: str, which: int, *rest: Any) -> None:
        tensor = self.tensors[which % 4]
        if kind == "new":
            # Filled at once: what is in fresh memory is not the same twice. Flat, so that the fill
            # goes to one view and later ones to others.
            fresh = torch.empty(rest[0], dtype=rest[1])
            fastinit.uniform_(fresh.view(-1))
            self.tensors[which] = fresh
        elif kind == "fill":
            self._note(lambda: FILLS[rest[1]](VIEWS[rest[0]](tensor.detach())) is not None)
        elif kind == "change":
            self._note(lambda: CHANGES[rest[1]](VIEWS[rest[0]](tensor.detach())) is not None)
        elif kind == "read":
            self._note(lambda: READS[rest[1]](VIEWS[rest[0]](tensor.detach())))
        elif kind == "hidden":
            self._note(lambda: HIDDEN[rest[1]](tensor.detach()), hidden=True)
        elif kind == "alias":
            make = ALIASES[rest[1]][0]
            hidden = rest[1] == "capsule"
            self.aliases.append((rest[1], self._tried(lambda: make(tensor.detach()), hidden)))
        elif kind == "look" and which < len(self.aliases):
            name, alias = self.aliases[which]
            if not isinstance(alias, str):
                self._note(lambda: ALIASES[name][1](alias))
            else:
                self.seen.append(alias)
        elif kind == "copy":
            source = self.tensors[rest[0]]
            self._note(lambda: tensor.detach().copy_(source.detach()) is not None)
        elif kind == "parameter":
            self.tensors[which] = torch.nn.Parameter(tensor.detach(), requires_grad=False)
        elif kind == "detached":
            self.tensors[which] = tensor.data
        elif kind == "drop":
            self.tensors[which] = torch.zeros(2, 3)
        elif kind == "raise":
            raise Stop

    def _note(self, what: Any, hidden: bool = False) -> None:
        self.seen.append(self._tried(what, hidden))


def outcome(program: Any, scope: Any) -> tuple[list[Any], list[Any]]:
    """Run a program, and give what it saw and what it left."""
    before, inside = program
    torch.manual_seed(5)
    machine = Machine()
    with contextlib.suppress(Stop):
        for step in before:
            machine.step(*step)
    with contextlib.suppress(Stop), scope, fastinit.patch():
        for step in inside:
            machine.step(*step)
    left: list[Any] = [
        (t.dtype, tuple(t.shape), t._version, t.detach().contiguous().view(torch.uint8).tolist())
        for t in machine.tensors
    ]
    left += [a if isinstance(a, str) else ALIASES[n][1](a) for n, a in machine.aliases]
    left.append(torch.get_rng_state().tolist())
    return machine.seen, left


def check(program: Any) -> None:
    """Assert that a program gives with `batch()` what it gives without, or "fill pending"."""
    expected, left = outcome(program, contextlib.nullcontext())
    seen, left_by_batch = outcome(program, fastinit.batch())
    for ours, eager in zip(seen + left_by_batch, expected + left, strict=True):
        assert ours == "pending" or repr(ours) == repr(eager)
