"""What hangs on a tensor beside its values: attributes, hooks, whether it wants a gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_OWN = "_is_param"  # how torch tells parameters of other classes
_NOTHING = object()


class Marks:
    """What initialisers hang on a tensor that stands in for another, which is to have it.

    Until it is handed over the stand-in alone has it, so that after an error nobody does.

    Args:
        stand_in: gets the attributes that the other has.
        other: the other.
    """

    __slots__ = ("_before", "_grad", "stand_in")

    def __init__(self, stand_in: Tensor, other: Tensor) -> None:
        self.stand_in = stand_in
        self._grad = stand_in.requires_grad
        self._before: dict[str, Any] | None = None
        marks = vars(other)
        if len(marks) > (_OWN in marks):
            self._before = {k: v for k, v in marks.items() if k != _OWN}
            vars(stand_in).update(self._before)

    def hand_over(self, other: Tensor, grad: bool | None = None) -> None:
        """Hang on a tensor what has been hung on the stand-in.

        Args:
            other: the tensor.
            grad: whether it is to want a gradient; None: as the stand-in does, if that has changed.
        """
        stand_in = self.stand_in
        now, before = vars(stand_in), self._before or {}
        if len(now) > (_OWN in now) or before:
            marks = vars(other)
            for name in before.keys() - now.keys():
                marks.pop(name, None)
            marks.update(
                {n: v for n, v in now.items() if n != _OWN and before.get(n, _NOTHING) is not v}
            )
        if stand_in._backward_hooks:
            other._backward_hooks = _joined(other._backward_hooks, stand_in._backward_hooks)
        after: Any = getattr(stand_in, _AFTER)
        if after:
            setattr(other, _AFTER, _joined(getattr(other, _AFTER), after))
        grad = stand_in.requires_grad if grad is None else grad
        if grad is not self._grad:
            other.requires_grad_(grad)


_AFTER = "_post_accumulate_grad_hooks"


def _joined(hooks: Any, more: Any) -> Any:
    """Join tables of hooks: the one of before, which its handles know, unless there is none."""
    if not hooks:
        return more
    hooks.update(more)
    return hooks
