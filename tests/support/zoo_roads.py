"""Build a model family on every road of fastinit, and judge what comes out."""

from __future__ import annotations

import re
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import fastinit
from support.zoo_compare import DISTRIBUTION, Reference, Tensors, probability, tensors, unequal
from support.zoo_inputs import Call, first_accepted, outputs
from support.zoo_native import is_written, poison, reset
from support.zoo_sources import Factory, check_size, factory_of

# A road's verdict.
RIGHT = "right"
CONSTRUCTOR = "constructor-level"  # what modules define is not all that the constructor does
REFUSED = "refused"  # an error names what no module initialises
NO_META = "not on meta"  # the constructor itself does not run on the meta device
SEEDED = "own seed"  # draws from a seed that the model sets itself: other numbers for any key
WRONG = "wrong"
KEY = 7
QUICKLY = 1_000_000  # parameters from which models that are overwritten are built with patch()


def _patched(factory: Factory, key: int) -> nn.Module:
    with fastinit.patch(key=key):
        return factory()


def _meta(factory: Factory, key: int) -> nn.Module:
    with torch.device("meta"):
        model = factory()
    return fastinit.materialize(model, device="cpu", key=key)


ROADS: dict[str, Callable[[Factory, int], nn.Module]] = {
    "patch": _patched,
    "materialize(factory)": lambda factory, key: fastinit.materialize(factory, key=key),
    "materialize(meta)": _meta,
    "initialize_": lambda factory, key: fastinit.initialize_(factory(), key=key),
}
# These know only what modules define.
OWN = ("materialize(meta)", "initialize_")


def soil(found: Tensors) -> None:
    """Leave NaNs in memory of the sizes that a model is about to ask for."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in found.values()]
    waste = [torch.full((size,), 255, dtype=torch.uint8) for size in sizes * 2 if size < 1 << 25]
    del waste


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put buffers back, which a forward pass may write."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _common(shapes: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Give the sizes in which outputs agree, and None for the others."""
    return [
        tuple(m if m == n else None for m, n in zip(a, b, strict=True)) if len(a) == len(b) else ()
        for a, b in zip(shapes, others, strict=False)
    ]


class Family:
    """A model family as torch builds it, from three seeds."""

    def __init__(self, source: str, family: str) -> None:
        self.factory = factory_of(source, family)
        self.seeds = [self._native(seed) for seed in (101, 20_002, 3_000_003)]
        self.theirs = [tensors(model) for model in self.seeds]
        first = self.seeds[0]
        check_size(first)  # which may be known of a model that is not built on meta only now
        self.parameters = sum(p.numel() for p in first.parameters())
        with _buffers_kept(first):
            self.call: Call | None = first_accepted(source, family, first)
            self.outputs = [] if self.call is None else outputs(first, self.call)
        self.shapes = [tuple(t.shape) for t in self.outputs]
        for other in self.seeds[1:] if self.call is not None else ():
            with _buffers_kept(other):
                shapes = [tuple(t.shape) for t in outputs(other, self.call)]
            # How many points are found, or how long a word takes, depends on the values.
            self.shapes = _common(self.shapes, shapes)
        self.reference = Reference(self.theirs)
        self._own: dict[bool, list[Tensors]] = {}
        self._merged: dict[bool, Reference] = {}

    def _native(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.factory()

    def _to_reset(self) -> nn.Module:
        """Build a model whose parameters are written anew: quickly, where it is large."""
        return self.factory() if self.parameters < QUICKLY else _patched(self.factory, 0)

    def own(self, buffers: bool) -> list[Tensors]:
        """Give what modules initialise themselves, NaN elsewhere: natively, from three seeds."""
        if buffers not in self._own:
            models = []
            for seed in (11, 2_222, 333_333):
                torch.manual_seed(seed)
                model = self._to_reset()
                poison(model, buffers)
                models.append(tensors(reset(model)))
            self._own[buffers] = models
        return self._own[buffers]

    def build(self, road: str, seed: int, key: int = KEY) -> nn.Module:
        """Build on a road, in memory that holds NaNs."""
        # What initialize_ is given is torch's, with buffers that may be drawn.
        torch.manual_seed(5 if road == "initialize_" else seed)
        soil(self.theirs[0])
        return ROADS[road](self._to_reset if road == "initialize_" else self.factory, key)

    def judge(self, road: str) -> dict[str, Any]:
        """Build on a road; say whether it is right, and what differs."""
        try:
            model = self.build(road, 1)
            mine = tensors(model)
            found = self._differences(mine, road)
            verdict = WRONG if found else RIGHT
            if found and road in OWN:
                verdict, found = self._judge_own(mine, road, found)
            elif found and self._is_seeded(mine, road, {name for name, _ in found}):
                verdict = SEEDED
            for name in unequal(mine, tensors(self.build(road, 2)))[:3]:
                verdict = WRONG
                found.insert(0, (name, "another value in a second run with the same key"))
            if left := on_meta(model):
                verdict = WRONG
                found.insert(0, (left[0], f"on the meta device, one of {len(left)} plain tensors"))
            elif problem := self._forward(model, sizes=verdict != CONSTRUCTOR):
                verdict = WRONG
                found.insert(0, ("forward", problem))
        except Exception as error:
            verdict, found = self._judge_error(error, road)
        texts = [f"{name}: {text}" if name else text for name, text in found]
        return {"verdict": verdict, "differences": texts[:12], "count": len(texts)}

    def _differences(self, mine: Tensors, road: str) -> list[tuple[str, str]]:
        """Give what differs from torch's; in distribution with each of three keys.

        Where a model draws few numbers and makes many elements of each, they may lie far from those
        that torch has drawn for once.
        """
        found = list(self.reference.differences(mine))
        for key in (KEY + 1, KEY + 2):
            if not any(DISTRIBUTION.match(text) for _, text in found):
                break
            again = dict(self.reference.differences(tensors(self.build(road, 1, key))))
            found = [
                (name, text)
                for name, text in found
                if not DISTRIBUTION.match(text) or DISTRIBUTION.match(again.get(name, ""))
            ]
        return found

    def _judge_own(
        self, mine: Tensors, road: str, found: list[tuple[str, str]]
    ) -> tuple[str, list[tuple[str, str]]]:
        """Whether all that differs is what modules themselves draw, which their parents change."""
        buffers = road == "materialize(meta)"
        if buffers not in self._merged:
            merged = [
                {n: t if is_written(t) else eager[n] for n, t in each.items()}
                for each, eager in zip(self.own(buffers), self.theirs, strict=True)
            ]
            self._merged[buffers] = Reference(merged)
        left = list(self._merged[buffers].differences(mine))
        return (WRONG, left) if left else (CONSTRUCTOR, found)

    def _is_seeded(self, mine: Tensors, road: str, names: set[str]) -> bool:
        """Whether what differs is drawn as torch draws it, from a seed that is the model's own."""
        if "" in names:
            return False
        again = tensors(self.build(road, 3, KEY + 1))
        theirs = self.theirs[0]
        return not unequal({n: mine[n] for n in names}, again) and all(
            not unequal({n: theirs[n]}, self.theirs[1])
            and min(theirs[n].unique().numel(), mine[n].unique().numel()) > 15
            and probability(_flat(mine[n]), _flat(theirs[n])) > 1e-3
            for n in names
        )

    def _judge_error(self, error: Exception, road: str) -> tuple[str, list[tuple[str, str]]]:
        text = f"{type(error).__name__}: {error}"
        if road == "materialize(meta)":
            try:
                with torch.device("meta"):
                    self.factory()
            except Exception:
                return NO_META, [("", text)]
        if road in OWN and isinstance(error, ValueError) and "nothing that" in text:
            unwritten = self._unwritten(road == "materialize(meta)")
            named = re.findall(r"(\S+) \((?:parameter|buffer|attribute)\)", text)
            if named and all(any(_inside(n, holder) for holder in unwritten) for n in named):
                return REFUSED, [("", text)]
        return WRONG, [("", text)]

    def _unwritten(self, buffers: bool) -> set[str]:
        """Name what no module writes, not even in another place that it is tied to."""
        model = self._to_reset()
        poison(model, buffers)
        written = tensors(reset(model, apart=False))
        found = {name for name, tensor in written.items() if not is_written(tensor)}
        if buffers:
            with torch.device("meta"):
                found.update(on_meta(self.factory()))
        return found

    def _forward(self, model: nn.Module, sizes: bool) -> str | None:
        """Say what is wrong with a forward pass; its sizes may depend on what weights are like."""
        if self.call is None:
            return None
        mine = outputs(model, self.call)
        shapes = [tuple(t.shape) for t in mine]
        wrong = [*map(len, shapes)] != [*map(len, self.shapes)]
        if wrong or (sizes and _common(self.shapes, shapes) != self.shapes):
            return f"{shapes}"
        for ours, theirs in zip(mine, self.outputs, strict=True):
            if is_written(theirs) and not is_written(ours):
                return "not finite"
        return None


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1)[: 1 << 13].double().sort().values


def _inside(name: str, holder: str) -> bool:
    """Whether a name is that of an attribute, or of something in it."""
    return name == holder or name.startswith((f"{holder}.", f"{holder}["))


def on_meta(model: nn.Module) -> list[str]:
    """Name what modules hold besides parameters and buffers that is on the meta device."""
    found: list[str] = []
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = list(model.named_modules())
    while waiting:
        prefix, holder = waiting.pop()
        for name, value in vars(holder).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            path = f"{prefix}.{name}" if prefix else name
            leaves = torch.utils._pytree.tree_leaves(value)
            if any(isinstance(leaf, torch.Tensor) and leaf.is_meta for leaf in leaves):
                found.append(path)
            for leaf in leaves:  # objects, such as a schedule of noise
                closed = isinstance(leaf, (torch.Tensor, nn.Module, type, types.ModuleType))
                if not closed and hasattr(leaf, "__dict__") and id(leaf) not in seen:
                    seen.add(id(leaf))
                    waiting.append((path, leaf))
    return sorted(found)


def examine(source: str, family: str) -> dict[str, Any]:
    """Judge a family on every road; or say why it was not built."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            built = Family(source, family)
        except Exception as error:
            return {"not built": f"{type(error).__name__}: {error}"[:300]}
        row: dict[str, Any] = {"parameters": built.parameters, "forward": built.call is not None}
        for road in ROADS:
            row[road] = built.judge(road)
        return row | {"seconds": round(time.process_time() - start, 2)}
