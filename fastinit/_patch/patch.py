"""`fastinit.patch()`: fastinit for code that one does not own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, SupportsIndex, TypeVar

from fastinit._patch.entered import EnteredScope
from fastinit._patch.scope import entered_by
from fastinit.key import Key, key_argument

_F = TypeVar("_F", bound=Callable[..., Any])


class patch:
    """Run fastinit in place of torch's random initialisation, in code that one does not own.

    A context manager and a decorator. In the thread and task that enter it, it reaches

    - the random functions of `torch.nn.init` under whatever name they were imported, the deprecated
      aliases and the dictionary in `transformers.initialization`; so also torch's own modules;
    - the truncated normals of an imported timm, and what is made of them;
    - `Tensor.normal_` and `Tensor.uniform_`;
    - `torch.rand`, `torch.randn`, `torch.normal`, `torch.rand_like` and `torch.randn_like`.

    A DTensor gets on every rank its part of what these write into the full tensor (its own `rand`
    and `randn` are reached, too), or NotImplementedError if its placements do not say which part
    that is. Functions that draw nothing (`constant_`, `ones_`, …) stay torch's, but for `eye_` and
    `dirac_` of DTensors, where torch has none that work. Everything is as before on
    leaving, also after an exception. Patches nest: the inner one's key (or lack of one) applies
    inside it, the outer one's afterwards. Threads that enter no patch run torch, and so do tasks of
    asyncio, but for those that are started inside: they belong to it until it ends.

    Torch's own code runs as ever where a method is called on a tensor that requires grad while grad
    is enabled (a RuntimeError for a leaf, recorded otherwise), for a dtype, layout or tensor
    subclass that fastinit does not support, and, without a key, for such a device or while a CUDA
    graph is captured or `torch.jit.trace` records (torch's draws are new in every replay and call).
    So it does for the methods inside torch.func's transforms; of the functions vmap is known, see
    `fastinit.init`. Code compiled by `torch.compile` may or may not be reached.

    Args:
        key: if None, draws take their keys from torch's generators as fastinit's functions do, so
            `torch.manual_seed` decides and the generators advance. If a `Key` or an int, the n-th
            draw uses `Key(key).fold_in(n)`, and torch's default generators are left as they were.
            The count starts at 0 in every `with` block and every call of a decorated function.
        batch: whether the fills inside wait for each other and run together, see `fastinit.batch`.

    Under a key:
        - The values depend on the order of construction: a layer added in the middle changes those
          after it. `fold_in` the name of a parameter yourself where that matters.
        - Every draw that fastinit handles counts once, on any device, the meta device and tensors
          without elements included.
        - A draw with a `generator=` of its own uses that generator, and does not count.
        - A draw that fastinit does not handle (`torch.randint`, dropout, an integer or sparse
          tensor, a subclass), or a call of fastinit's own functions without `key=`, comes from
          torch's default generators, the CPU's and, once CUDA is initialised, those of its devices.
          They are seeded from the key on entry and put back on leaving, and so are Python's and
          NumPy's own. They are global, so keyed patches of two threads or tasks at once disturb
          each other there (and only there).

    Raises:
        TypeError: if `key` is of another type, or if what is decorated is a class, a generator
            function or a coroutine function.
        ValueError: if `key` is an int outside [-2**63, 2**64).
        RuntimeError: if it is left on a thread that has not entered it.

    Examples:
        >>> with fastinit.patch():
        ...     model = AutoModel.from_config(config)
        >>> @fastinit.patch(key=0)
        ... def build():
        ...     return timm.create_model("vit_base_patch16_224")
    """

    def __init__(self, key: Key | SupportsIndex | None = None, *, batch: bool = False) -> None:
        if callable(key):
            raise TypeError("patch() takes a key, not the function: write @fastinit.patch()")
        word = key_argument(key, None, "patch")
        self._key = None if word is None else Key(word)
        self._batch = batch

    def __enter__(self) -> patch:
        EnteredScope(self, self._key, batch=self._batch)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = entered_by(self)
        if not isinstance(scope, EnteredScope):
            raise RuntimeError("patch() was left on a thread that has not entered it")
        scope.end()

    def __call__(self, function: _F) -> _F:
        """Wrap `function` so that each call runs in a patch of its own."""
        if (
            inspect.isclass(function)
            or inspect.isgeneratorfunction(function)
            or inspect.iscoroutinefunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise TypeError(
                f"patch() cannot decorate {function!r}, only plain functions; "
                "write `with fastinit.patch():` inside it"
            )

        @functools.wraps(function)
        def patched(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return patched  # type: ignore[return-value]
