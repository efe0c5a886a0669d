"""Whole models from transformers' constructors, built on a CUDA device: torch against fastinit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import device as on_device
import models
import report
import torch
from timing import Contender, Race

import fastinit
from fastinit._models.default_dtype import default_dtype

SIDES = ("native", "patch", "materialize", "initialize_", "memset")
HEADER = [
    "model",
    "dtype",
    "parameters",
    "native ms",
    "patch ms",
    "materialize ms",
    "initialize_ ms",
    "memset ms",
    "native/materialize",
]
NOTES = [
    "Wall time until the device is done, by transformers' constructor: with torch.device(...), so "
    "that all is made there; the same inside fastinit.patch();",
    "fastinit.materialize(constructor, device), which runs it on memory of the CPU that nobody "
    "touches; fastinit.initialize_ of the model that is there.",
    "memset: one cudaMemsetAsync over as many bytes as the parameters have.",
]


def _gpt2_xl() -> Any:
    from transformers import GPT2Config

    return GPT2Config(**models.PUBLISHED["gpt2-xl"])


def _llama_8b() -> Any:
    """The published hyper-parameters of Llama 3 8B."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )


def _small() -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_embd=64, n_layer=2, n_head=2)


MODELS: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
    "GPT-2 xl": (_gpt2_xl, torch.float32),
    "Llama-3-8B": (_llama_8b, torch.bfloat16),
}
QUICK: dict[str, tuple[Callable[[], Any], torch.dtype]] = {"small": (_small, torch.float32)}


class Built:
    """One model at a time, made in several ways."""

    def __init__(self, config: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.dtype, self.device = config, dtype, device
        self.model: Any = None
        self.flat: torch.Tensor | None = None

    def _done(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def let_go(self) -> None:
        """Give the memory back to torch, not to the driver: all ways find it there."""
        self.model = None
        gc.collect()
        self._done()

    def _there(self) -> Any:
        with default_dtype(self.dtype), torch.device(self.device):
            return models.build(self.config)

    def native(self) -> None:
        self.model = self._there()
        self._done()

    def patch(self) -> None:
        with fastinit.patch():
            self.model = self._there()
        self._done()

    def materialize(self) -> None:
        self.model = fastinit.materialize(
            lambda: models.build(self.config), self.device, self.dtype
        )
        self._done()

    def initialize_(self) -> None:
        fastinit.initialize_(self.model)
        self._done()

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


@dataclass
class WholeRow:
    """What each way of building a model took."""

    title: str
    dtype: torch.dtype
    parameters: int
    race: Race

    def cells(self) -> list[str]:
        times = [report.figures(1e3 * self.race[name].median) for name in SIDES]
        ratio = self.race.ratio("native", "materialize")
        dtype = report.dtype_name(self.dtype)
        return [self.title, dtype, str(self.parameters), *times, f"{ratio:.1f}x"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.title,
            "dtype": report.dtype_name(self.dtype),
            "parameters": self.parameters,
            "ratio": self.race.ratio("native", "materialize"),
            "contenders": {name: c.as_dict() for name, c in self.race.contenders.items()},
        }


def row(title: str, quick: bool, device: torch.device, rounds: int, late: Any) -> WholeRow:
    """Build a model in all ways, in turns."""
    make, dtype = (QUICK if quick else MODELS)[title]
    built = Built(make(), dtype, device)
    contenders = {
        name: Contender("f()", f=getattr(built, name)) for name in SIDES if name != "memset"
    }
    built.native()
    count = built.parameters
    flat = torch.empty(count * dtype.itemsize, dtype=torch.uint8, device=device)
    contenders["memset"] = Contender("f()", f=on_device.memset(flat), keep=flat)
    race = Race(contenders, SIDES)
    for turn in range(rounds + 1):  # the first one warms up
        for name in SIDES:
            if name not in ("initialize_", "memset"):
                built.let_go()
            contenders[name].sample()
            if turn == 0:
                contenders[name].samples.clear()
        if turn and late():
            break
    built.let_go()
    return WholeRow(title, dtype, count, race)


def table(rows: list[WholeRow]) -> report.Table:
    return report.Table("building a whole model", HEADER, [r.cells() for r in rows], NOTES)
