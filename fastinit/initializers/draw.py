"""How a random initialiser runs: the steps before its operator, once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from fastinit._distributed.fill import OBSERVERS, is_sharded, tell_observers
from fastinit._fallback import OVERRIDABLE, fallback, handled, shown_to_modes
from fastinit._tensors import DTYPES
from fastinit.key import NOTHING, Key, source

_F = TypeVar("_F", bound=Callable[..., Any])


def as_double(value: Any, name: str) -> float:
    """Convert a scalar argument: a number, a NumPy scalar or a one-element tensor.

    Raises:
        TypeError: if `value` is none of these.
    """
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return float(value)
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise TypeError(
                f"argument '{name}' must be a real number or a one-element real tensor, got "
                f"a {value.dtype} tensor of shape {tuple(value.shape)}"
            )
        return float(value.item())
    if isinstance(value, (str, bytes)):
        raise TypeError(f"argument '{name}' must be a real number, got {type(value).__name__}")
    try:
        return float(value)
    except TypeError:
        raise TypeError(
            f"argument '{name}' must be a real number, got {type(value).__name__}"
        ) from None


class Initializer(NamedTuple):
    """How a random function fills a tensor that the operators take.

    Attributes:
        op: the operator.
        names: the function's parameters between the tensor and the generator.
        dtypes: those that it supports.
        numbers: `numbers(tensor, *arguments, **beyond)` gives what `op` takes besides the tensor,
            or None where nothing is to be filled; without it, `arguments` as doubles.
    """

    op: Callable[..., Any]
    names: tuple[str, ...]
    dtypes: frozenset[torch.dtype] = DTYPES
    numbers: Callable[..., Sequence[Any] | None] | None = None

    def values(
        self, tensor: Tensor, arguments: tuple[Any, ...], beyond: dict[str, Any]
    ) -> Sequence[Any] | None:
        """Turn the function's arguments into the operator's; None: there is nothing to fill."""
        if self.numbers is not None:
            return self.numbers(tensor, *arguments, **beyond)
        return tuple(map(as_double, arguments, self.names))


INITIALIZERS: dict[Callable[..., Any], Initializer] = {}


def initializer(
    op: Callable[..., Any],
    names: tuple[str, ...],
    dtypes: frozenset[torch.dtype] = DTYPES,
    numbers: Callable[..., Sequence[Any] | None] | None = None,
) -> Callable[[_F], _F]:
    """Note in `INITIALIZERS` how a function fills; see `Initializer`."""

    def note(function: _F) -> _F:
        INITIALIZERS[function] = Initializer(op, names, dtypes, numbers)
        return function

    return note


def _offer(
    function: Callable[..., Tensor],
    tensor: Tensor,
    arguments: tuple[Any, ...],
    generator: Generator | None,
    key: Key | int | None,
    beyond: dict[str, Any],
) -> Tensor:
    """Offer a call to function modes; each comes off their stack before it calls on."""
    by_name = dict(zip(INITIALIZERS[function].names, arguments, strict=True))
    own: dict[str, Any] = {} if key is None else {"key": key}  # which torch has not
    result: Tensor = handle_torch_function(
        function, (tensor,), tensor=tensor, **by_name, generator=generator, **own, **beyond
    )
    return result


def draw(
    function: Callable[..., Tensor],
    tensor: Tensor,
    arguments: tuple[Any, ...],
    generator: Generator | None,
    key: Key | int | None,
    beyond: dict[str, Any] = NOTHING,
    where: str = "",
) -> Tensor:
    """Fill as `INITIALIZERS` says, or by whatever else `function` means for a tensor of its kind.

    Every call of a random function comes through here, so it is short.

    Args:
        function: the public function, of torch's name if torch has it.
        tensor: what to fill.
        arguments: what was given between the tensor and the generator.
        generator: as it was given.
        key: as it was given.
        beyond: further arguments that were given, which torch's function does not have.
        where: the function that was called, for messages, if it is another.
    """
    given = NOTHING
    if key is not None or generator is not None:
        given = source(key, generator, where or function.__name__)
    if has_torch_function_unary(tensor) and function.__name__ in OVERRIDABLE and shown_to_modes():
        return _offer(function, tensor, arguments, generator, key, beyond)
    op, names, dtypes, numbers = INITIALIZERS[function]
    if not handled(tensor, dtypes) and not is_sharded(tensor):
        by_name = dict(zip(names, arguments, strict=True))
        return fallback(function, tensor, by_name, given, dtypes, beyond, where)
    values: Sequence[Any] | None = arguments
    if numbers is not None:  # as `Initializer.values`, without its call
        values = numbers(tensor, *arguments, **beyond)
    else:
        for value in arguments:
            if type(value) is not float:
                values = tuple(map(as_double, arguments, names))
                break
    if values is not None:
        if given:
            op(tensor, *values, **given)
            if OBSERVERS:
                _tell_observers(op, tensor, values, given)
        else:
            op(tensor, *values)
    return tensor


def _tell_observers(op: Any, tensor: Tensor, values: Sequence[Any], given: dict[str, Any]) -> None:
    """Tell of a keyed draw; of those into shards the operator has told."""
    if not (is_compiling() or is_sharded(tensor)) and "key" in given:
        name = op._schema.name.rpartition("::")[2]
        tell_observers(tensor, name, tuple(values), given["key"])
