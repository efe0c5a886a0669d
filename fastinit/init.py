"""The functions of `torch.nn.init`: same names, parameters and defaults, and `key=` if random.

All of them fill in place without recording the write for autograd (its version counter moves on,
though) and return the tensor they were given. What they write depends on the key, the shape and the
arguments only: not on threads, processor, memory layout or device, and on the dtype only by
rounding.

Randomness comes from one of three places:

- nothing given: a key is drawn from the default generator of the tensor's device, so
  `torch.manual_seed` governs it;
- `generator=`: a key is drawn from that generator;
- `key=`: a `Key` or an int in [-2**63, 2**64); no generator is touched. Giving both is a
  ValueError.

Inside `torch.vmap` with randomness="different" member i of the batch gets what `key.fold_in(i)`
gives outside (with chunk_size=, i counts within the chunk); with "same" all get what `key` gives.
Of a generator one key is drawn. Other transforms of torch.func do not take a `key=`, and
torch.compile(fullgraph=True) does not take fills inside vmap. As of all custom operators that
write, its graphs take no fills of real views of complex tensors (`.real`, `.imag`,
`torch.view_as_real`), and its default backend, inductor, none of complex tensors at all; fill a
real tensor and copy it there.

Meta tensors and tensors without elements draw nothing. Without `key=`, tensors that fastinit does
not handle (see `show_config`) go to `torch.nn.init`. With it, an unsupported device is filled from
the CPU, and an unsupported dtype, layout or subclass is a NotImplementedError. Random fills also
raise, before anything is written or drawn:

- RuntimeError: a scalar that is NaN, or infinite where that means nothing; a lower bound above the
  upper one; a negative standard deviation; a range the dtype cannot hold; a tensor several of whose
  elements share memory, or whose storage was freed or is too short; an inference tensor outside of
  inference mode; a draw from a generator while a CUDA graph is captured (with `key=` a fill can be
  captured, and every replay writes the same).
- TypeError: a scalar, key or generator of the wrong type.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fastinit.initializers.elementwise import (
    constant_,
    normal_,
    ones_,
    trunc_normal_,
    uniform_,
    zeros_,
)
from fastinit.initializers.fans import (
    _calculate_correct_fan as _calculate_correct_fan,  # code imports it from torch.nn.init, too
)
from fastinit.initializers.fans import (
    _calculate_fan_in_and_fan_out as _calculate_fan_in_and_fan_out,
)
from fastinit.initializers.kaiming import kaiming_normal_, kaiming_uniform_
from fastinit.initializers.orthogonal import orthogonal_
from fastinit.initializers.structured import dirac_, eye_, sparse_
from fastinit.initializers.variance_scaling import calculate_gain
from fastinit.initializers.xavier import xavier_normal_, xavier_uniform_

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _deprecated_alias(function: Callable[_P, _R]) -> Callable[_P, _R]:
    new = function.__name__
    old = new.removesuffix("_")

    @functools.wraps(function)
    def alias(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        warnings.warn(
            f"`fastinit.{old}` is deprecated in favor of `fastinit.{new}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old
    alias.__doc__ = f"Deprecated name of `{new}`, which see."
    return alias


uniform = _deprecated_alias(uniform_)
normal = _deprecated_alias(normal_)
constant = _deprecated_alias(constant_)
eye = _deprecated_alias(eye_)
dirac = _deprecated_alias(dirac_)
xavier_uniform = _deprecated_alias(xavier_uniform_)
xavier_normal = _deprecated_alias(xavier_normal_)
kaiming_uniform = _deprecated_alias(kaiming_uniform_)
kaiming_normal = _deprecated_alias(kaiming_normal_)
orthogonal = _deprecated_alias(orthogonal_)
sparse = _deprecated_alias(sparse_)
