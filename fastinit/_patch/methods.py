"""The function mode of a patch, for draws by tensor methods and factory functions.

A mode sees every torch call of its thread, so the way past it is one dictionary look-up. A handler
takes what it understands completely; any other call goes to torch's function, which then also words
the complaint, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import fastinit.init as fast
from fastinit._patch.dtensors import draw_whole
from fastinit._patch.scope import (
    Scope,
    current,
    draw,
    is_ours,
    is_plain_tensor,
    is_transformed,
)
from fastinit._patch.slices import SLICING, is_dtensor
from fastinit._tensors import PLAIN_TYPES

# Bound here, as other libraries exchange torch's attributes.
_empty, _empty_like = torch.empty, torch.empty_like

_OPTIONS = frozenset(("dtype", "layout", "device", "pin_memory", "memory_format"))
_FACTORY_KEYWORDS = (_OPTIONS - {"memory_format"}) | {"size", "generator", "requires_grad", "out"}
_LIKE_KEYWORDS = _OPTIONS | {"input", "requires_grad"}
# Newer than the oldest torch supported.
if "generator" in torch.ops.aten.rand_like.overloads():  # type: ignore[no-untyped-call]
    _LIKE_KEYWORDS |= {"generator"}
_NORMAL_KEYWORDS = _FACTORY_KEYWORDS | {"mean", "std"}
_NOT_GIVEN: Any = object()


class _Call:
    """One call that a handler looks at."""

    __slots__ = ("args", "func", "kwargs", "scope")

    def __init__(
        self, scope: Scope, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.scope = scope
        self.func = func
        self.args = args
        self.kwargs = kwargs

    def original(self) -> Any:
        """Make the call as it was. The mode is off the stack meanwhile, so torch itself runs."""
        return self.func(*self.args, **self.kwargs)

    def bind(self, *names: str) -> list[Any] | None:
        """Return the values of `names` (or _NOT_GIVEN); None where torch would refuse the call."""
        given = len(self.args)
        if given > len(names) or any(name in self.kwargs for name in names[:given]):
            return None
        return [*self.args, *(self.kwargs.get(name, _NOT_GIVEN) for name in names[given:])]

    def draw(
        self,
        fill: Callable[..., Any],
        tensor: torch.Tensor,
        numbers: tuple[Any, ...],
        goal: torch.Tensor | None = None,
        is_new: bool = False,
    ) -> Any:
        """Draw into `tensor` and return it, or else return what torch's function did.

        With `goal` it is for that tensor, whose name it has; one that `is_new` has none.
        """
        generator, original = self.kwargs.get("generator"), self.original
        return draw(self.scope, fill, original, tensor, numbers, generator, goal, is_new=is_new)

    def draw_new(
        self,
        fill: Callable[..., Any],
        numbers: tuple[Any, ...],
        create: Callable[..., torch.Tensor],
        *size: Any,
    ) -> Any:
        """Draw into a tensor of that size, made (or `out=` resized) by `create`, as torch does."""
        options = {k: v for k, v in self.kwargs.items() if k in _OPTIONS}
        if options.get("layout") not in (None, torch.strided):
            return self.original()
        out = self.kwargs.get("out")
        if out is not None:
            if _grad_matters(out) or not is_ours(out):
                return self.original()
            # A DTensor is not resized; nor, by torch.normal, a parameter of that size.
            if is_dtensor(out) or (out.requires_grad and create is _empty_where_torch_would):
                fits = self._fits(out) and out.shape == self._shape(create, *size)
                return self.draw(fill, out, numbers) if fits else self.original()
            options["out"] = out
        try:
            tensor = create(*size, **options)
        except Exception:  # wrong sizes or options: torch shall say so of the function called
            return self.original()
        if not is_ours(tensor):
            return self.original()
        result = self.draw(fill, tensor, numbers, is_new=out is None)
        if result is tensor and self.kwargs.get("requires_grad"):
            tensor.requires_grad_()
        return result

    def _fits(self, out: torch.Tensor) -> bool:
        """Whether nothing else is asked for than what `out` is."""
        dtype, layout = self.kwargs.get("dtype"), self.kwargs.get("layout")
        device = self.kwargs.get("device")
        fits = dtype in (None, out.dtype) and layout in (None, torch.strided)
        return fits and device is None and not self.kwargs.get("pin_memory")

    def _shape(self, create: Callable[..., torch.Tensor], *size: Any) -> torch.Size | None:
        """Give the shape that is asked for; None if torch has something to say of that."""
        try:
            return create(*size, device="meta").shape
        except Exception:  # torch shall say it
            return None


def _grad_matters(*values: object) -> bool:
    """Whether autograd would refuse or record the call, which is then torch's to make."""
    return torch.is_grad_enabled() and any(
        isinstance(value, torch.Tensor) and value.requires_grad for value in values
    )


_Handler = Callable[[_Call], Any]


def _method(
    fill: Callable[..., Any], names: tuple[str, str], defaults: tuple[float, float]
) -> _Handler:
    """Handle a tensor method of two numbers and a generator."""
    keywords = {*names, "generator"}

    def handler(call: _Call) -> Any:
        bound: Any = call.args
        if call.kwargs or len(bound) != 3:  # else both numbers by position: nothing to sort out
            bound = call.bind("self", *names)
            if bound is None or not call.kwargs.keys() <= keywords:
                return call.original()
        tensor, first, second = bound
        if not is_ours(tensor) or (tensor.requires_grad and torch.is_grad_enabled()):
            return call.original()
        if first is _NOT_GIVEN:
            first = defaults[0]
        if second is _NOT_GIVEN:
            second = defaults[1]
        return call.draw(fill, tensor, (first, second))

    return handler


def _factory(fill: Callable[..., Any], *numbers: float) -> _Handler:
    """Handle torch.rand and torch.randn."""

    def handler(call: _Call) -> Any:
        args, kwargs = call.args, call.kwargs
        if not kwargs.keys() <= _FACTORY_KEYWORDS or bool(args) == ("size" in kwargs):
            return call.original()
        return call.draw_new(fill, numbers, _empty, *(args or (kwargs["size"],)))

    return handler


def _like(fill: Callable[..., Any], *numbers: float) -> _Handler:
    """Handle torch.rand_like and torch.randn_like."""

    def handler(call: _Call) -> Any:
        bound = call.bind("input")
        if bound is None or not call.kwargs.keys() <= _LIKE_KEYWORDS or not is_ours(bound[0]):
            return call.original()
        return call.draw_new(fill, numbers, _empty_like, bound[0])

    return handler


def _empty_where_torch_would(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Stand in for torch.empty where `with torch.device(...)` has no say, as in torch.normal."""
    with torch._C.DisableTorchFunction():
        return _empty(*args, **kwargs)


def _normal(call: _Call) -> Any:
    """Handle torch.normal: two numbers and a size, or tensors for one of the numbers or both."""
    bound = call.bind("mean", "std", "size")
    if bound is None or not call.kwargs.keys() <= _NORMAL_KEYWORDS:
        return call.original()
    mean, std, size = bound
    tensors = [value for value in (mean, std) if isinstance(value, torch.Tensor)]
    if mean is _NOT_GIVEN or _grad_matters(mean, std) or not all(map(is_plain_tensor, tensors)):
        return call.original()
    if size is _NOT_GIVEN and tensors:
        return _normal_of_tensors(call, mean, 1.0 if std is _NOT_GIVEN else std)
    if std is _NOT_GIVEN or not isinstance(size, (tuple, list)):
        return call.original()
    return call.draw_new(fast.normal_, (mean, std), _empty_where_torch_would, size)


def _normal_of_tensors(call: _Call, mean: Any, std: Any) -> Any:
    """Scale and shift a standard normal of the broadcast shape."""
    out = call.kwargs.get("out")
    # Decides the dtype of the result.
    reference = mean if isinstance(mean, torch.Tensor) else std
    shapes = [value.shape for value in (mean, std) if isinstance(value, torch.Tensor)]
    try:
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return call.original()
    if isinstance(std, torch.Tensor):
        no_values = std.is_meta or std.numel() == 0 or hasattr(std, "fake_mode")
        accepted = std.device == reference.device and not std.is_complex()
        accepted = accepted and (no_values or bool(std.detach().min() >= 0))
    else:
        accepted = std >= 0
    if (
        not accepted
        or call.kwargs.keys() & (_OPTIONS | {"requires_grad"})
        or (out is not None and (not is_ours(out) or _grad_matters(out)))
        or (out is not None and is_dtensor(out) and (out is mean or out is std))
        # Then torch broadcasts to the output, and refuses to resize it.
        or (out is not None and not isinstance(std, torch.Tensor) and out.shape != shape)
    ):
        return call.original()
    if out is not None and is_dtensor(out):
        return _into_shards(call, mean, std, out) if out.shape == shape else call.original()
    dtype = reference.dtype if out is None else out.dtype
    tensor = _empty(shape, dtype=dtype, device=reference.device)
    result = call.draw(fast.normal_, tensor, (0.0, 1.0), out, is_new=True)
    if result is not tensor:
        return result
    with torch.no_grad():
        # Not drawn into `out` directly, which may be the mean itself.
        return torch.add(tensor.mul_(std), mean, out=tensor if out is None else out)


def _into_shards(call: _Call, mean: Any, std: Any, out: torch.Tensor) -> Any:
    """Draw a standard normal into a DTensor, and scale and shift it there."""
    result = call.draw(fast.normal_, out, (0.0, 1.0))
    if result is out:
        with torch.no_grad():
            out.mul_(std).add_(mean)
    return result


HANDLERS: dict[Any, _Handler] = {
    torch.Tensor.uniform_: _method(fast.uniform_, ("from", "to"), (0.0, 1.0)),
    torch.Tensor.normal_: _method(fast.normal_, ("mean", "std"), (0.0, 1.0)),
    torch.rand: _factory(fast.uniform_, 0.0, 1.0),
    torch.randn: _factory(fast.normal_, 0.0, 1.0),
    torch.rand_like: _like(fast.uniform_, 0.0, 1.0),
    torch.randn_like: _like(fast.normal_, 0.0, 1.0),
    torch.normal: _normal,
}


# Draws that fastinit has no function for.
TORCH_DRAWS = frozenset(
    {
        torch.Tensor.bernoulli_,
        torch.Tensor.cauchy_,
        torch.Tensor.exponential_,
        torch.Tensor.geometric_,
        torch.Tensor.log_normal_,
        torch.Tensor.random_,
    }
)
_SEEN: set[Any] = HANDLERS.keys() | SLICING | TORCH_DRAWS | {torch.Tensor.__setitem__}


_METHODS = {name: getattr(torch.Tensor, name) for name in ("normal_", "uniform_")}
_wrapped: dict[str, Any] = {}  # what is there in the place of one


def _see_wrapped() -> None:
    """Handle what other libraries have put in the place of a method, as a profiler does.

    A mode is told of what stands there, and not of what that calls.
    """
    for name, method in _METHODS.items():
        now = getattr(torch.Tensor, name)
        if now is _wrapped.get(name, method):
            continue
        gone = _wrapped.pop(name, None)
        HANDLERS.pop(gone, None)
        _SEEN.discard(gone)
        if now != method:
            _wrapped[name], HANDLERS[now] = now, HANDLERS[method]
            _SEEN.add(now)


class PatchMode(TorchFunctionMode):
    """Sends draws to fastinit where its scope is the innermost one in force.

    Other tasks of the thread have the mode on their stack, too.
    """

    is_fastinits = True

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self._scope = scope
        _see_wrapped()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        scope = self._scope
        plain_view = func in SLICING and len(args) > 0 and type(args[0]) in PLAIN_TYPES
        if (func not in _SEEN or plain_view) and not scope.slices.copies:
            return func(*args, **kwargs) if kwargs else func(*args)
        if current() is not scope or is_transformed():
            return func(*args, **kwargs) if kwargs else func(*args)
        handler = HANDLERS.get(func)
        if handler is not None:
            return handler(_Call(scope, func, args, kwargs or {}))
        if func in SLICING:
            return scope.slices.slice(func, args, kwargs or {})
        if func is torch.Tensor.__setitem__ and is_dtensor(args[0]):
            return scope.slices.assign(*args)
        with scope.slices.writing_by(func, args, kwargs or {}):
            if func in TORCH_DRAWS and args and is_dtensor(args[0]) and not _grad_matters(args[0]):
                return draw_whole(func, args[0], args[1:], kwargs or {})
            return func(*args, **kwargs) if kwargs else func(*args)
