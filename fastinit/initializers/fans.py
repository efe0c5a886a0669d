"""How many inputs and outputs a weight connects, by what its module does with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd


class Fans(NamedTuple):
    """The fans of one weight.

    Attributes:
        fan_in: how many inputs each output is a sum over.
        fan_out: how many outputs each input reaches.
    """

    fan_in: int
    fan_out: int


def _of_convolution(module: _ConvNd) -> Iterator[tuple[str, Fans]]:
    field = math.prod(module.kernel_size)
    ins, outs = module.in_channels // module.groups, module.out_channels // module.groups
    yield "weight", Fans(ins * field, outs * field)


def _of_attention(module: nn.MultiheadAttention) -> Iterator[tuple[str, Fans]]:
    # Three projections to embed_dim each, packed one above the other where their inputs allow.
    size = module.embed_dim
    if module.in_proj_weight is not None:
        yield "in_proj_weight", Fans(size, size)
    else:
        yield "q_proj_weight", Fans(size, size)
        yield "k_proj_weight", Fans(module.kdim, size)
        yield "v_proj_weight", Fans(module.vdim, size)


def _of_recurrence(module: nn.RNNBase | nn.RNNCellBase) -> Iterator[tuple[str, Fans]]:
    # The gates' weights are stacked: each gate has hidden_size outputs of its own.
    for name, weight in module.named_parameters(recurse=False):
        if name.startswith(("weight_ih", "weight_hh")):
            yield name, Fans(weight.shape[1], module.hidden_size)
        elif name.startswith("weight_hr"):  # the projection of an LSTM's output
            yield name, Fans(weight.shape[1], weight.shape[0])


def _own(module: nn.Module) -> Iterator[tuple[str, Fans]]:
    if isinstance(module, nn.Linear):
        yield "weight", Fans(module.in_features, module.out_features)
    elif isinstance(module, nn.Bilinear):
        # Every output is a sum over pairs of inputs.
        yield "weight", Fans(module.in1_features * module.in2_features, module.out_features)
    elif isinstance(module, _ConvNd):
        yield from _of_convolution(module)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        # A row is looked up, which is a product with a vector that has a single 1.
        yield "weight", Fans(1, module.embedding_dim)
    elif isinstance(module, nn.MultiheadAttention):
        yield from _of_attention(module)
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        yield from _of_recurrence(module)


def fans(module: nn.Module) -> dict[str, Fans]:
    """Count what each weight of a module connects: how many inputs and outputs.

    The shape alone does not say it, and torch's initialisers take every weight for (out, in,
    *kernel). Here:

    - Linear: in_features and out_features.
    - Conv1d to Conv3d: channels per group times the kernel's size. The weight of a transposed one
      is (in, out, *kernel). Strides, dilation and what padding cuts off are not counted.
    - Embedding, EmbeddingBag: 1 and embedding_dim, since one row at a time is read.
    - MultiheadAttention: each of the three projections for itself, also where they are packed in
      `in_proj_weight`.
    - RNN, LSTM, GRU and their cells: each gate of the stack for itself.
    - Bilinear: in1_features * in2_features and out_features.

    Args:
        module: one of these, a subclass, or any module that contains some.

    Returns:
        The fans of every such weight by its qualified name, as in `module.named_parameters()`.
        Biases and the weights of other modules are left out.

    Examples:
        >>> fastinit.fans(torch.nn.Linear(3, 5))
        {'weight': Fans(fan_in=3, fan_out=5)}
    """
    found: dict[str, Fans] = {}
    for prefix, part in module.named_modules():
        for name, value in _own(part):
            found[f"{prefix}.{name}" if prefix else name] = value
    return found
