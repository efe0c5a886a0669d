"""The function mode of a patch that names draws: those of torch's own and of fastinit's, too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch._ops import OpOverload, OpOverloadPacket

from fastinit._compiled import orthogonal_many_op
from fastinit._distributed.fill import OBSERVERS, tell_observers
from fastinit._fills.operators import OVERWRITING, refuse_lists_early, written_places
from fastinit._patch.methods import TORCH_DRAWS, PatchMode
from fastinit._patch.scope import (
    NamedDraw,
    current,
    drawn_by_torch,
    is_ours,
    is_transformed,
)
from fastinit._patch.slices import is_dtensor
from fastinit.key import key_argument, reserve_word

# What draws into `out=`, if it is given.
_INTO_OUT = frozenset(
    {torch.bernoulli, torch.multinomial, torch.randint, torch.randint_like, torch.randperm}
)
# What multiplies its first argument by a draw: always, or with `inplace=True`; their arguments.
_DROPPING = ("input", "p", "training", "inplace")
_CHANGES: Mapping[Any, Sequence[str]] = {
    torch.alpha_dropout_: ("input", "p", "train"),
    torch.dropout_: ("input", "p", "train"),
    torch.feature_alpha_dropout_: ("input", "p", "train"),
    torch.feature_dropout_: ("input", "p", "train"),
    torch.rrelu_: ("input", "lower", "upper", "training"),
}
_CHANGES_IN_PLACE: Mapping[Any, Sequence[str]] = {
    F.alpha_dropout: _DROPPING,
    F.dropout: _DROPPING,
    F.dropout1d: _DROPPING,
    F.dropout2d: _DROPPING,
    F.dropout3d: _DROPPING,
    F.feature_alpha_dropout: _DROPPING,
    F.rrelu: ("input", "lower", "upper", "training", "inplace"),
}
_DEFAULTS: Mapping[Any, Mapping[str, Any]] = {
    func: {
        name: parameter.default
        for name, parameter in inspect.signature(func).parameters.items()
        if parameter.default is not parameter.empty
    }
    for func in _CHANGES_IN_PLACE
}
_LOOKED_AT = TORCH_DRAWS | _INTO_OUT | _CHANGES.keys() | _CHANGES_IN_PLACE.keys()


class _Drawn(NamedTuple):
    """What a call draws into, and whether what was there is written over."""

    tensor: Any
    over: bool


def _overloads(operator: Any) -> list[Any]:
    """List an operator, or a family of them."""
    if not isinstance(operator, OpOverloadPacket):
        return [operator]
    return [getattr(operator, name) for name in operator.overloads()]  # type: ignore[no-untyped-call]


@functools.cache
def _draws(operator: Any) -> bool:
    """Whether an operator, or one of a family, draws into its first argument."""
    return any(
        torch.Tag.nondeterministic_seeded in one.tags and written_places(one)[0][0] == 0
        for one in _overloads(operator)
        if written_places(one)
    )


@functools.cache
def _overwrites(operator: Any) -> bool:
    return any(one in OVERWRITING for one in _overloads(operator))


def _is_ours(operator: Any) -> bool:
    return all(one.namespace == "fastinit" for one in _overloads(operator))


def _changes(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether one of `_CHANGES` changes its first argument by a draw."""
    names = _CHANGES.get(func) or _CHANGES_IN_PLACE[func]
    given = {**_DEFAULTS.get(func, {}), **dict(zip(names, args, strict=False)), **kwargs}
    in_place = func in _CHANGES or given.get("inplace")
    draws = given.get("training", given.get("train"))
    return bool(in_place and draws and given.get("p") not in (0, 1))


def _drawn_into(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Drawn | None:
    """Say what a call draws into that is there already; None: nothing, or it is not known."""
    first = args[0] if args else kwargs.get("input")
    if func in TORCH_DRAWS:
        return _Drawn(first, over=True)
    if func in _INTO_OUT:
        return _Drawn(kwargs.get("out"), over=True)
    if func in _CHANGES or func in _CHANGES_IN_PLACE:
        return _Drawn(first, over=False) if _changes(func, args, kwargs) else None
    if _draws(func):
        return _Drawn(first, over=_is_ours(func) or _overwrites(func))
    return None


class NamingMode(PatchMode):
    """A patch whose scope names draws: those of torch's own into what has a name, too.

    So are those of fastinit's functions that are given neither a key nor a generator.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        operator = isinstance(func, (OpOverload, OpOverloadPacket))
        pass_on = functools.partial(super().__torch_function__, func, types)
        looked_at = operator or func in _LOOKED_AT
        if not looked_at or current() is not self._scope or is_transformed():
            return pass_on(args, kwargs)
        given = kwargs or {}
        if given.get("generator") is not None or given.get("key") is not None:
            return pass_on(args, kwargs)
        if func is orthogonal_many_op and given.get("keys") is None:
            with torch._C.DisableTorchFunction():
                refuse_lists_early(func, args[0], args[1:], given)
            return pass_on(args, {**given, "keys": self._keys_of_many(args)})
        drawn = _drawn_into(func, args, given)
        named = None if drawn is None else self._named(*drawn)
        if drawn is None or named is None:
            return pass_on(args, kwargs)
        key = int(named.key)
        if OBSERVERS and not is_dtensor(drawn.tensor):  # of those into shards others tell
            numbers = [x for x in (*args[1:], *given.values()) if isinstance(x, (int, float))]
            name = func.__name__.partition(".")[0]
            tell_observers(drawn.tensor, name, tuple(numbers), key)
        if operator and _is_ours(func):
            result = pass_on(args, {**given, "key": _word(named)})
            named.made()
            return result
        return drawn_by_torch(named, functools.partial(pass_on, args, kwargs))

    def _named(self, tensor: Any, over: bool) -> NamedDraw | None:
        """Say what a draw into a tensor is by name, if it has one."""
        scope = self._scope
        if scope.named is None or not is_ours(tensor):
            return None
        scope.slices.refuse_to_name(tensor)
        with torch._C.DisableTorchFunction():
            return scope.named(tensor, over)

    def _keys_of_many(self, args: tuple[Any, ...]) -> list[int]:
        """Give each of several tensors the key of its name, or one as it would draw itself."""
        keys = []
        for tensor in args[0]:
            named = self._named(tensor, True)
            if named is not None:
                named.made()
                keys.append(_word(named))
            else:
                keys.append(reserve_word(tensor.device, None))
        return keys


def _word(named: NamedDraw) -> int:
    """Give the key of a draw as operators take it."""
    word = key_argument(named.key, None, "patch")
    assert word is not None
    return word
