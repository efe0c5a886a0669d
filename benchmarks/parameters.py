"""The parameters of well-known models as lists: name, shape, and how the model draws them.

Written down from the published architectures, so that no model library is needed to ask what it
takes to initialise one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

CONSTANT, UNIFORM, NORMAL = 0, 1, 2  # as in the plan of fill_many_


@dataclass(frozen=True)
class Parameter:
    """One parameter; `args` are (value), (a, b) or (mean, std)."""

    name: str
    shape: tuple[int, ...]
    kind: int
    args: tuple[float, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def _constant(name: str, size: int, value: float) -> Parameter:
    return Parameter(name, (size,), CONSTANT, (value,))


def _norm(name: str, size: int, bias: bool = True) -> Iterator[Parameter]:
    yield _constant(f"{name}.weight", size, 1.0)
    if bias:
        yield _constant(f"{name}.bias", size, 0.0)


def _normal(name: str, shape: tuple[int, ...], std: float) -> Parameter:
    return Parameter(name, shape, NORMAL, (0.0, std))


def _conv(name: str, outputs: int, inputs: int, kernel: int) -> Parameter:
    """He et al. 2015, by the fan-out, as residual networks are drawn."""
    std = math.sqrt(2 / (outputs * kernel * kernel))
    return _normal(f"{name}.weight", (outputs, inputs, kernel, kernel), std)


def resnet50() -> list[Parameter]:
    """He et al., "Deep residual learning for image recognition" (2016): bottlenecks 3, 4, 6, 3."""
    found = [_conv("conv1", 64, 3, 7), *_norm("bn1", 64)]
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            sizes = ((inputs, width, 1), (width, width, 3), (width, 4 * width, 1))
            for k, (before, after, kernel) in enumerate(sizes, 1):
                found.append(_conv(f"{at}.conv{k}", after, before, kernel))
                found += _norm(f"{at}.bn{k}", after)
            if block == 0:
                found.append(_conv(f"{at}.downsample.0", 4 * width, inputs, 1))
                found += _norm(f"{at}.downsample.1", 4 * width)
            inputs = 4 * width
    bound = 1 / math.sqrt(inputs)
    found.append(Parameter("fc.weight", (1000, inputs), UNIFORM, (-bound, bound)))
    found.append(Parameter("fc.bias", (1000,), UNIFORM, (-bound, bound)))
    return found


def vit_large() -> list[Parameter]:
    """Dosovitskiy et al., "An image is worth 16x16 words" (2021): ViT-L/16 at 224 x 224."""
    width, depth, hidden, tokens = 1024, 24, 4096, 14 * 14 + 1
    found = [
        _constant("cls_token", width, 0.0),
        _normal("pos_embed", (1, tokens, width), 0.02),
        _normal("patch_embed.weight", (width, 3, 16, 16), 0.02),
        _constant("patch_embed.bias", width, 0.0),
    ]
    linears = (
        ("attn.qkv", 3 * width, width),
        ("attn.proj", width, width),
        ("mlp.fc1", hidden, width),
        ("mlp.fc2", width, hidden),
    )
    for block in range(depth):
        at = f"blocks.{block}"
        found += [*_norm(f"{at}.norm1", width), *_norm(f"{at}.norm2", width)]
        for name, outputs, inputs in linears:
            found.append(_normal(f"{at}.{name}.weight", (outputs, inputs), 0.02))
            found.append(_constant(f"{at}.{name}.bias", outputs, 0.0))
    found += _norm("norm", width)
    return [*found, _normal("head.weight", (1000, width), 0.02), _constant("head.bias", 1000, 0.0)]


def llama3_8b() -> list[Parameter]:
    """Dubey et al., "The Llama 3 herd of models" (2024): 32 layers, 8 key-value heads of 128."""
    width, depth, hidden, kv, vocabulary = 4096, 32, 14336, 1024, 128256
    found = [_normal("embed_tokens.weight", (vocabulary, width), 0.02)]
    linears = (
        ("self_attn.q_proj", width, width),
        ("self_attn.k_proj", kv, width),
        ("self_attn.v_proj", kv, width),
        ("self_attn.o_proj", width, width),
        ("mlp.gate_proj", hidden, width),
        ("mlp.up_proj", hidden, width),
        ("mlp.down_proj", width, hidden),
    )
    for layer in range(depth):
        at = f"layers.{layer}"
        for name, outputs, inputs in linears:
            found.append(_normal(f"{at}.{name}.weight", (outputs, inputs), 0.02))
        found += _norm(f"{at}.input_layernorm", width, bias=False)
        found += _norm(f"{at}.post_attention_layernorm", width, bias=False)
    found += _norm("norm", width, bias=False)
    return [*found, _normal("lm_head.weight", (vocabulary, width), 0.02)]
