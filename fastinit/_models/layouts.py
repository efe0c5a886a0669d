"""Weights as rules that scale by fans should see them: (*batch, out, in, *kernel).

By its shape alone, a packed, grouped or transposed weight has fans that are not what it connects.
`fastinit.fans` counts those; here the same is said as a view, from whose shape they follow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastinit._models.names import Named
from fastinit.initializers.kaiming import kaiming_normal_, kaiming_uniform_
from fastinit.initializers.variance_scaling import lecun_normal_, lecun_uniform_, variance_scaling_
from fastinit.initializers.xavier import xavier_normal_, xavier_uniform_

_BY_TORCH = (xavier_uniform_, xavier_normal_, kaiming_uniform_, kaiming_normal_)
# What scales by fans, torch's functions and ours, and what does it here, which has `batch_dims`.
_FAN_SCALED: dict[Any, Callable[..., Tensor]] = {
    function: function
    for function in (*_BY_TORCH, lecun_uniform_, lecun_normal_, variance_scaling_)
} | {getattr(torch.nn.init, function.__name__): function for function in _BY_TORCH}
_DIMENSIONS = {"batch_dims", "in_dims", "out_dims"}


def _of_convolution(module: _ConvNd, weight: Tensor) -> Tensor | None:
    groups, ins, outs = module.groups, module.in_channels, module.out_channels
    first, second = (ins, outs) if module.transposed else (outs, ins)
    if weight.shape[:2] != (first, second // groups):
        return None
    each = weight.view(groups, -1, *weight.shape[1:])
    return each.transpose(1, 2) if module.transposed else each


def _weights(module: nn.Module, attribute: str, tensor: Tensor) -> Tensor | None:
    """View a parameter as (batch, out, in, *kernel), if its own shape is not that but for `batch`.

    None also for a shard, whose shape is not what the module says.
    """
    if isinstance(module, _ConvNd) and attribute == "weight":
        return _of_convolution(module, tensor)
    if isinstance(module, nn.MultiheadAttention) and attribute == "in_proj_weight":
        size = module.embed_dim
        return tensor.view(3, size, -1) if len(tensor) == 3 * size else None
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and attribute.startswith("weight_"):
        size = module.hidden_size
        stacked = attribute.startswith(("weight_ih", "weight_hh")) and len(tensor) % size == 0
        return tensor.view(-1, size, tensor.shape[1]) if stacked else None
    if isinstance(module, nn.Bilinear) and attribute == "weight":
        return tensor.view(1, len(tensor), -1)
    return None


def with_fans(initialiser: Callable[..., Any], named: Named) -> Callable[[Tensor], Any]:
    """Make an initialiser that scales by fans use what the module connects; leave others alone."""
    function, keywords = initialiser, {}
    if isinstance(initialiser, functools.partial) and not initialiser.args:
        function, keywords = initialiser.func, initialiser.keywords
    try:
        scaled = _FAN_SCALED.get(function)
    except TypeError:  # not hashable
        scaled = None
    if scaled is None or keywords.keys() & _DIMENSIONS:
        return initialiser
    for owner, attribute in named.places:
        weights = _weights(owner, attribute, named.tensor)
        if weights is not None:
            return lambda tensor: scaled(weights, **keywords, batch_dims=1)
    return initialiser
