"""Inputs with which a model of any library may be called, tried until one is taken."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from support.model_zoo import TORCH

Call = tuple[tuple[Any, ...], dict[str, Any]]


def _ramp(*shape: int) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


def _number(config: Any, *names: str, default: int) -> int:
    for holder in (config, *(getattr(config, n, None) for n in ("vision_config", "text_config"))):
        for name in names:
            value = getattr(holder, name, None)
            value = value[0] if isinstance(value, (tuple, list)) and value else value
            if type(value) is int:
                return value
    return default


def calls(source: str, family: str, model: nn.Module) -> Iterator[Call]:
    tokens = torch.arange(8)[None] + 3
    if source == "torch":
        yield TORCH[family][1](), {}
    elif source in ("timm", "torchvision"):
        size = getattr(model, "default_cfg", {}).get("input_size", (3, 64, 64))
        yield from (((_ramp(1, *shape),), {}) for shape in ((3, 64, 64), size, (3, 224, 224)))
        yield ([_ramp(3, 64, 64)],), {}
        yield (_ramp(1, 3, 4, 64, 64),), {}
        yield (_ramp(1, 3, 128, 128),) * 2, {}
    elif source == "lightning":
        for inputs in ((2, 32), (2, 784), (2, 1, 28, 28)):
            yield (_ramp(*inputs),), {}
        yield (tokens, tokens), {}
        yield (tokens,), {}
    elif source == "peft":
        yield (), {"input_ids": tokens}
        yield (_ramp(1, 3, 3, 3),), {}
    elif source == "transformers":
        yield from _transformers_calls(model, tokens)
    elif source == "diffusers":
        yield from _diffusers_calls(model)


def _transformers_calls(model: Any, tokens: torch.Tensor) -> Iterator[Call]:
    config = model.config
    size = _number(config, "image_size", default=64)
    if size > 512:
        size = 64
    channels = _number(config, "num_channels", "in_channels", default=3)
    mel = _number(config, "num_mel_bins", "feature_size", default=80)
    frames = 2 * _number(config, "max_source_positions", default=32)
    known = {
        "input_ids": tokens,
        "decoder_input_ids": tokens,
        "pixel_values": _ramp(1, channels, size, size),
        "input_values": _ramp(1, 8000),
        "input_features": _ramp(1, mel, min(frames, 3000)),
        "bbox": torch.zeros(1, 8, 4, dtype=torch.long),
    }
    accepted = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    for names in (
        [main],
        [main, "decoder_input_ids"],
        ["input_ids", "pixel_values"],
        ["input_ids", "bbox"],
        ["input_ids", "input_values"],
        ["input_ids", "input_features"],
    ):
        if all(name in accepted and name in known for name in names):
            yield (), {name: known[name] for name in names}
    if "pixel_values" in accepted:
        yield (), {"pixel_values": _ramp(1, 4, channels, size, size)}
    if "input_features" in accepted:
        yield (), {"input_features": _ramp(1, 32, mel)}


def _diffusers_calls(model: Any) -> Iterator[Call]:
    config = model.config
    channels = config.get("in_channels", config.get("latent_channels", 3)) or 3
    size = config.get("sample_size", 32)
    size = size if isinstance(size, int) and size <= 64 else 32
    wide = config.get("cross_attention_dim") or config.get("joint_attention_dim") or 32
    wide = wide if isinstance(wide, int) else 32
    step = torch.tensor([1])
    for shape in ((1, channels, size, size), (1, channels, 4, size, size), (1, channels, 1024)):
        yield (_ramp(*shape),), {}
        yield (_ramp(*shape), step), {}
        yield (_ramp(*shape), step, _ramp(1, 8, wide)), {}
    yield (
        (),
        {
            "hidden_states": _ramp(1, channels, size, size),
            "timestep": step,
            "encoder_hidden_states": _ramp(1, 8, wide),
        },
    )


def outputs(model: nn.Module, call: Call) -> list[torch.Tensor]:
    """Call a model in evaluation; give the tensors that come out."""
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        out = model(*call[0], **call[1])
    if hasattr(out, "items"):
        out = dict(out)
    elif hasattr(out, "__dict__") and not isinstance(out, torch.Tensor):
        out = vars(out)
    leaves = torch.utils._pytree.tree_leaves(out)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def first_accepted(source: str, family: str, model: nn.Module) -> Call | None:
    """Find a call that a model takes; None where we know of none."""
    for call in calls(source, family, model):
        with contextlib.suppress(Exception):
            if outputs(model, call):
                return call
    return None
