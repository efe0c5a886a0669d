"""Checks that every parameter of a GPT-2 has the mean and standard deviation of its scheme."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import report
import torch

# Seeds are fixed, so a run does not fail by chance; were they not, 400 figures would pass this
# limit about once in 4000 runs.
Z_LIMIT = 5.0
CHUNK = 2**20


@dataclass
class Moments:
    """Count, Σx and Σx² of samples, from fp32 sums over chunks added up in double."""

    n: int = 0
    sum1: float = 0.0
    sum2: float = 0.0

    def add(self, n: int, sum1: float, sum2: float) -> None:
        self.n, self.sum1, self.sum2 = self.n + n, self.sum1 + sum1, self.sum2 + sum2

    @property
    def mean(self) -> float:
        return self.sum1 / self.n

    @property
    def std(self) -> float:
        return math.sqrt(max(self.sum2 / self.n - self.mean**2, 0.0))

    def z_scores(self, std: float) -> tuple[float, float]:
        """Standard errors that the mean lies from 0 and the standard deviation from ``std``."""
        return (
            self.mean / (std / math.sqrt(self.n)),
            (self.std / std - 1.0) * math.sqrt(2.0 * self.n),
        )


def of(parameter: torch.Tensor) -> Moments:
    moments = Moments()
    for chunk in torch.split(parameter.detach().view(-1), CHUNK):
        moments.add(chunk.numel(), chunk.sum().item(), torch.dot(chunk, chunk).item())
    return moments


def scheme(name: str, config: Any) -> tuple[float, float]:
    """The (mean, std) that GPT-2's scheme gives a parameter; std 0 means exactly the mean."""
    module, kind = name.split(".")[-2:]
    if kind == "bias":
        return 0.0, 0.0
    if module.startswith("ln_"):
        return 1.0, 0.0
    if module == "c_proj":  # the residual path, shrunk by its depth
        return 0.0, config.initializer_range / math.sqrt(2 * config.n_layer)
    if module in ("wte", "wpe", "c_attn", "c_fc"):
        return 0.0, config.initializer_range
    raise ValueError(f"no rule says how GPT-2 initialises the parameter {name!r}")


@dataclass
class Check:
    """The verdict on one model: the worst z-scores, and one line for everything wrong."""

    what: str
    random: int = 0
    constant: int = 0
    worst: dict[str, float] = field(default_factory=lambda: {"mean": 0.0, "std": 0.0})
    pooled: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def score(self, name: str, z_mean: float, z_std: float, found: str) -> None:
        for kind, z in (("mean", z_mean), ("std", z_std)):
            if not abs(z) <= Z_LIMIT:  # NaN fails too
                self.failures.append(f"{self.what}: {name}: {kind} is {z:+.1f} sigma off: {found}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"z_limit": Z_LIMIT}


def check(what: str, model: Any) -> Check:
    """Compare every parameter with its scheme, one by one and all pooled.

    Pooling standardised values sees an error in the standard deviation of 1e-4 that no single
    tensor shows. Tensors that begin with the same values have drawn the same random words.
    """
    result = Check(what)
    pooled = Moments()
    beginnings: dict[tuple[float, ...], str] = {}
    for name, parameter in model.named_parameters():
        mean, std = scheme(name, model.config)
        if std == 0.0:
            result.constant += 1
            if not bool((parameter == mean).all()):
                result.failures.append(f"{what}: {name}: not {mean:g} throughout")
            continue
        result.random += 1
        found = of(parameter)
        z_mean, z_std = found.z_scores(std)
        detail = f"mean {found.mean:.3e}, std {found.std:.6f} for {std:.6f}"
        result.score(name, z_mean, z_std, detail)
        result.worst["mean"] = max(result.worst["mean"], abs(z_mean))
        result.worst["std"] = max(result.worst["std"], abs(z_std))
        pooled.add(found.n, found.sum1 / std, found.sum2 / std**2)
        beginning = tuple(round(v / std, 3) for v in parameter.detach().view(-1)[:8].tolist())
        if beginning in beginnings:
            result.failures.append(f"{what}: {name} begins as {beginnings[beginning]} does")
        beginnings[beginning] = name
    z_mean, z_std = pooled.z_scores(1.0)
    result.pooled = {"mean": z_mean, "std": z_std}
    result.score("all weights pooled", z_mean, z_std, f"std/intended {pooled.std:.6f}")
    if model.lm_head.weight is not model.transformer.wte.weight:
        result.failures.append(f"{what}: lm_head.weight is not tied to wte.weight")
    return result


def table(checks: list[Check]) -> report.Table:
    header = ["model", "weights", "worst |z| mean", "worst |z| std", "pooled z mean"]
    header += ["pooled z std", "constants", "verdict"]
    rows = [
        [
            c.what,
            str(c.random),
            *(f"{c.worst[kind]:.2f}" for kind in ("mean", "std")),
            *(f"{c.pooled[kind]:.2f}" for kind in ("mean", "std")),
            str(c.constant),
            "WRONG" if c.failures else "as intended",
        ]
        for c in checks
    ]
    notes = [
        "intended: std 0.02 (c_proj 0.02/sqrt(2 n_layer)), mean 0; LayerNorm weights 1, biases 0, "
        "exactly.",
        f"z: distance in standard errors, per tensor and over all weights pooled; the limit is "
        f"{Z_LIMIT:g}.",
    ]
    return report.Table("does every parameter have the intended mean and std?", header, rows, notes)
