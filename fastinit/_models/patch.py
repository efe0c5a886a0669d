"""`fastinit.patch()`: fastinit for code that one does not own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, SupportsIndex, TypeVar

from torch import nn

from fastinit._models.checks import checked_parts
from fastinit._models.named_draws import NamedDraws
from fastinit._models.renaming import Rename, Renaming
from fastinit._patch.entered import EnteredScope
from fastinit._patch.naming import NamingMode
from fastinit._patch.scope import entered_by
from fastinit.key import Key, key_argument, reserve_key

_F = TypeVar("_F", bound=Callable[..., Any])

# Functions that have done nothing yet when their call returns.
_UNFINISHED = (
    inspect.isgeneratorfunction,
    inspect.iscoroutinefunction,
    inspect.isasyncgenfunction,
)


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
    that is. What initialisers write to a slice of a DTensor stays, although torch makes a copy of
    it. Functions that draw nothing (`constant_`, `ones_`, …) stay torch's, but for `eye_` and
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

    Build models inside, train them outside: what `backward` runs is not reached, so activation
    checkpointing, which draws in the forward pass and again in `backward`, would draw two things.

    Args:
        key: if None, draws take their keys from torch's generators as fastinit's functions do, so
            `torch.manual_seed` decides and the generators advance. If a `Key` or an int, the n-th
            draw uses `Key(key).fold_in(n)`, and torch's default generators are left as they were.
            The count starts at 0 in every `with` block and every call of a decorated function.
            With `module`, None draws one from torch's default generator on entering.
        batch: whether the fills inside wait for each other and run together, see `fastinit.batch`.
        module: a module, or the parts of one that are here (pipeline stages), each with the names
            of the whole. Draws into its parameters and buffers get keys by their names, see below.
        rename: from names in `module` to those in the whole model, as in `initialize_`: a mapping
            (names that it has not stay) or a callable.

    Under a key, with `module`:
        - A draw into a parameter or buffer, or into a view of one, uses
          `Key(key).fold_in(name).fold_in(n)`, as in `initialize_`, whatever was drawn before: the
          same weights for every division into pipeline stages, and for a layer more. `n` is the
          least number that no other draw under this name has whose values are still in `module`;
          they are gone when one later draw has written over them all, and with their parameter.
          So what is drawn anew as a whole gets the same numbers anew, also if something was copied
          from it before, which nobody follows here.
        - Names are without what wrappers add, and a tied parameter has the first of its names, as
          in `initialize_`. What becomes a parameter inside is found when something is drawn into
          it.
        - torch's own draws into these tensors (`bernoulli_`, `out=`, dropout in place, a dtype that
          fastinit does not support) are keyed in the same way, but for those into DTensors; so are
          calls of fastinit's own functions without `key=` or `generator=`, but for
          `delta_orthogonal_`, which counts for itself.
        - Draws into other memory (`torch.rand`, a buffer that is copied into a parameter later)
          count for themselves, as below. `initialize_` can say what they are for, a patch cannot.
        - A draw into a slice of a DTensor, which is a copy, raises NotImplementedError.

    Under a key, without `module`:
        - The values depend on the order of construction: a layer added in the middle changes those
          after it. `fold_in` the name of a parameter yourself where that matters.
        - Every draw that fastinit handles counts once, on any device, the meta device and tensors
          without elements included.
        - A draw with a `generator=` of its own uses that generator, and does not count.
        - In workers of a DataLoader that are forked inside, draws use torch's generator, as without
          a key: each has a seed of its own there, which follows from the key.
        - A draw that fastinit does not handle (`torch.randint`, dropout, an integer or sparse
          tensor, a subclass), or a call of fastinit's own functions without `key=`, comes from
          torch's default generators, the CPU's and, once CUDA is initialised, those of its devices.
          They are seeded from the key on entry and put back on leaving, and so are Python's and
          NumPy's own. They are global, so keyed patches of two threads or tasks at once disturb
          each other there (and only there).

    Warns:
        UserWarning: on entering, if two parts have other tensors under one name: these get the same
            numbers, as replicas should.

    Raises:
        TypeError: if `key`, `module` or `rename` is of another type, or if what is decorated cannot
            be called, or is a class, a generator function or a coroutine function.
        ValueError: if `key` is an int outside [-2**63, 2**64), or `rename` is given without
            `module`. On entering, if `rename` gives two the same name or knows one that there is
            not, or if two tensors of one part have one name without what wrappers add.
        NotImplementedError: on entering, if `module` holds parts of parameters that do not say
            where in them they lie (FSDP1, DeepSpeed's ZeRO-3).
        RuntimeError: if it is left on a thread that has not entered it.

    Examples:
        >>> with fastinit.patch():
        ...     model = AutoModel.from_config(config)
        >>> @fastinit.patch(key=0)
        ... def build():
        ...     return timm.create_model("vit_base_patch16_224")
        >>> with fastinit.patch(0, module=model), torch.no_grad():
        ...     model.init_weights()
    """

    def __init__(
        self,
        key: Key | SupportsIndex | None = None,
        *,
        batch: bool = False,
        module: nn.Module | Sequence[nn.Module] | None = None,
        rename: Rename | None = None,
    ) -> None:
        if callable(key):
            raise TypeError("patch() takes a key, not the function: write @fastinit.patch()")
        word = key_argument(key, None, "patch")
        self._key = None if word is None else Key(word)
        self._batch = batch
        self._parts = None if module is None else checked_parts(module, "patch")
        self._renaming = Renaming(rename, "patch")
        if rename is not None and module is None:
            raise ValueError(
                "fastinit.patch: argument 'rename' is about names in 'module'; pass that, too"
            )

    def __enter__(self) -> patch:
        if self._parts is None:
            EnteredScope(self, self._key, batch=self._batch)
            return self
        key = self._key or reserve_key("cpu")
        named = NamedDraws(key, self._parts, self._renaming)
        try:
            EnteredScope(self, key, batch=self._batch, named=named, mode=NamingMode)
        except BaseException:
            named.close()
            raise
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
        named = scope.named
        try:
            scope.end()
        finally:
            if isinstance(named, NamedDraws):
                named.close()

    def __call__(self, function: _F) -> _F:
        """Wrap `function` so that each call runs in a patch of its own."""
        if not callable(function):
            raise TypeError(
                f"patch() decorates functions, got {type(function).__name__}; @classmethod and "
                "@property go above it"
            )
        # An object that is called runs its class's method.
        called = (function, type(function).__call__)
        if inspect.isclass(function) or any(is_one(c) for is_one in _UNFINISHED for c in called):
            raise TypeError(
                f"patch() cannot decorate {function!r}, only plain functions; "
                "write `with fastinit.patch():` inside it"
            )

        @functools.wraps(function)
        def patched(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return patched  # type: ignore[return-value]
