"""Tensors that modules compute from their parameters: parametrised, normalised or pruned weights.

A weight-normalised layer has no parameter `weight`, but a norm and a direction. Who initialises
`weight` means what the layer multiplies by. So initialisers get a parameter of that name for the
time being, and what they make of it goes back through the parametrization's `right_inverse`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._models.notes import note
from fastinit._models.tree import entry_in

Place = tuple[nn.Module, str]

_ITERATIONS = 15  # of the power method, as in the constructor of torch's spectral norm
_SpectralNorm: Any = parametrizations._SpectralNorm
# What they compute looks like the last of their parameters.
_ALIKE: Any = (_SpectralNorm, parametrizations._WeightNorm, parametrizations._Orthogonal)
# Functions of these names hide the modules.
_OldWeightNorm: Any = sys.modules["torch.nn.utils.weight_norm"].WeightNorm
_OldSpectralNorm: Any = sys.modules["torch.nn.utils.spectral_norm"].SpectralNorm


class Parametrized(ABC):
    """One such tensor.

    Attributes:
        module: the module that computes it.
        attribute: what the module calls it.
        what: how it is computed, for messages.
    """

    def __init__(self, module: nn.Module, attribute: str, what: str) -> None:
        self.module = module
        self.attribute = attribute
        self.what = what

    @property
    @abstractmethod
    def sources(self) -> list[Place]:
        """The parameters that it is computed from."""

    @abstractmethod
    def example(self) -> Tensor:
        """Give a tensor on the meta device that looks like it."""

    @abstractmethod
    def store(self, value: Tensor, leave: Collection[Place] = ()) -> None:
        """Give the parameters, but those to `leave`, the values from which `value` is computed."""

    @abstractmethod
    def follow(self) -> None:
        """Bring up to date what follows the parameters, which have been written themselves."""

    def stand_in(self) -> nn.Parameter:
        """Make a parameter to be initialised in its place."""
        owner, attribute = self.sources[0]
        source: Any = owner._parameters[attribute]
        like = self.example()
        with torch.inference_mode(False):  # inference tensors do not count what is written
            memory = torch.empty(like.shape, dtype=like.dtype, device=source.device)
            return nn.Parameter(memory, source.requires_grad)

    def _put(self, place: Place, value: Tensor, leave: Collection[Place]) -> None:
        owner, attribute = place
        if place in leave:
            return
        target = entry_in(owner._parameters, attribute)
        if target is None:  # computed itself: a pruned direction of a weight norm, say
            inner = next((p for p in parametrized(owner) if p.attribute == attribute), None)
            if inner is not None:
                inner.store(value, leave)
            return
        if value.shape != target.shape or value.dtype != target.dtype:
            raise ValueError(
                f"{self.what}, the parametrization of {self.attribute!r}: what its right_inverse "
                f"gives for {attribute!r} has shape {tuple(value.shape)} and {value.dtype}, the "
                f"parameter has shape {tuple(target.shape)} and {target.dtype}"
            )
        target.copy_(value)


def sources_of(attribute: str) -> list[str]:
    """List what a tensor may be called, within its module, that one is computed from."""
    originals = ("original", "original0", "original1")
    return [
        *(f"parametrizations.{attribute}.{original}" for original in originals),
        *(f"{attribute}_{suffix}" for suffix in ("g", "v", "orig")),
    ]


@contextmanager
def _same_buffers(module: nn.Module) -> Iterator[None]:
    """Write into buffers what takes their place."""
    before = [
        (m, name, b) for m in module.modules() for name, b in m._buffers.items() if b is not None
    ]
    yield
    for owner, name, buffer in before:
        now = entry_in(owner._buffers, name)
        if now is not None and now is not buffer and now.shape == buffer.shape:
            buffer.copy_(now)
            owner._buffers[name] = buffer


def _estimate(matrix: Tensor, u: Tensor, v: Tensor, eps: float) -> None:
    """Estimate the first singular vectors, from fresh ones: nothing of before shall matter."""

    def unit(vector: Tensor) -> Tensor:
        return functional.normalize(vector, dim=0, eps=eps)

    left, right = (unit(torch.empty_like(vector).normal_()) for vector in (u, v))
    for _ in range(_ITERATIONS):
        left = unit(torch.mv(matrix, right))
        right = unit(torch.mv(matrix.mH, left))
    u.copy_(left)
    v.copy_(right)


class _ByList(Parametrized):
    """What `torch.nn.utils.parametrize` has registered."""

    def __init__(self, module: nn.Module, attribute: str, steps: ParametrizationList) -> None:
        names = [type(step).__name__.removeprefix("_") for step in self._modules(steps)]
        super().__init__(module, attribute, ", ".join(names))
        self._steps = steps

    @staticmethod
    def _modules(steps: ParametrizationList) -> list[Any]:
        return [step for name, step in steps._modules.items() if name.isdigit()]

    @property
    def _originals(self) -> list[str]:
        count = self._steps.ntensors
        return ["original"] if self._steps.is_tensor else [f"original{k}" for k in range(count)]

    @property
    def sources(self) -> list[Place]:
        steps: nn.Module = self._steps
        held = steps._parameters
        return [(steps, name) for name in self._originals if entry_in(held, name) is not None]

    def example(self) -> Tensor:
        tensors: dict[str, Any] = {
            **dict(self._steps.named_parameters()),
            **dict(self._steps.named_buffers()),
        }
        with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
            made = tensors[self._originals[-1]]
            if not all(isinstance(step, _ALIKE) for step in self._modules(self._steps)):
                copies = {n: torch.empty_like(t, device="meta") for n, t in tensors.items()}
                with suppress(Exception):  # it does not work there, or lacks what is not there yet
                    made = torch.func.functional_call(self._steps, copies, ())
            return torch.empty(made.shape, dtype=made.dtype, device="meta")

    def store(self, value: Tensor, leave: Collection[Place] = ()) -> None:
        made: Any = value
        for step in reversed(self._modules(self._steps)):
            if not hasattr(step, "right_inverse"):
                raise RuntimeError(
                    f"{type(step).__name__}, a parametrization of {self.attribute!r} in "
                    f"{type(self.module).__name__}, has no right_inverse, so what an initialiser "
                    "makes of the tensor cannot be brought back; define one, or give its "
                    'parameters rules of their own ("*parametrizations.*"), or skip them'
                )
            _estimate_step(step, made)
            try:
                with _same_buffers(step):
                    made = step.right_inverse(made)
            except Exception as error:
                what = f"{type(step).__name__}, a parametrization of {self.attribute!r}"
                note(error, f"in right_inverse of {what} in {type(self.module).__name__}")
                raise
        values = [made] if isinstance(made, Tensor) else list(made)
        if len(values) != len(self._originals):
            raise ValueError(
                f"{self.what}, the parametrization of {self.attribute!r}: its right_inverse gives "
                f"{len(values)} tensors for {len(self._originals)} parameters"
            )
        for name, tensor in zip(self._originals, values, strict=True):
            if entry_in(self._steps._parameters, name) is not None:
                self._put((self._steps, name), tensor, leave)

    def follow(self) -> None:
        steps = self._modules(self._steps)
        spectral = [k for k, step in enumerate(steps) if isinstance(step, _SpectralNorm)]
        made: Any = [entry_in(self._steps._parameters, name) for name in self._originals]
        if not spectral or any(tensor is None for tensor in made):
            return
        for step in steps[: spectral[-1]]:
            _estimate_step(step, made[0])
            made = [step(*made)]
        _estimate_step(steps[spectral[-1]], made[0])


def _estimate_step(step: Any, weight: Tensor | None) -> None:
    if isinstance(step, _SpectralNorm) and "_u" in step._buffers:
        _estimate(step._reshape_weight_to_matrix(weight), step._u, step._v, step.eps)


class _ByHook(Parametrized):
    """What a hook computes before each call, as torch's older functions and pruning have it."""

    def __init__(self, module: nn.Module, attribute: str, what: str, *suffixes: str) -> None:
        super().__init__(module, attribute, what)
        self._names = [attribute + suffix for suffix in suffixes]

    @property
    def sources(self) -> list[Place]:
        held = self.module._parameters
        return [(self.module, name) for name in self._names if entry_in(held, name) is not None]

    def _original(self) -> Tensor:
        """Give the tensor that looks like the one that is computed."""
        tensor: Tensor = getattr(self.module, self._names[-1])
        return tensor

    def example(self) -> Tensor:
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return torch.empty_like(self._original(), device="meta", requires_grad=False)

    @abstractmethod
    def _computed(self) -> Tensor:
        """Compute the tensor, as the hook does, changing nothing."""

    def follow(self) -> None:
        """Write the tensor that the hook has left in the module, until it is called again."""
        last: Any = vars(self.module).get(self.attribute)
        original = self._original()
        if not issubclass(type(last), Tensor) or last.shape != original.shape:
            return
        with torch._C.DisableTorchFunction():
            same = last.untyped_storage()._cdata == original.untyped_storage()._cdata
            nowhere = last.is_meta and not same
        if nowhere:
            vars(self.module)[self.attribute] = self._computed()
        elif not same and (torch.is_inference_mode_enabled() or not last.is_inference()):
            last.detach().copy_(self._computed())


class _WeightNorm(_ByHook):
    def __init__(self, module: nn.Module, hook: Any) -> None:
        super().__init__(module, hook.name, "weight_norm", "_g", "_v")
        self._hook = hook

    def _computed(self) -> Tensor:
        made: Tensor = self._hook.compute_weight(self.module)
        return made

    def store(self, value: Tensor, leave: Collection[Place] = ()) -> None:
        norm = torch.norm_except_dim(value, 2, self._hook.dim)
        for name, tensor in zip(self._names, (norm, value), strict=True):
            self._put((self.module, name), tensor, leave)
        self.follow()


class _Spectral(_ByHook):
    def __init__(self, module: nn.Module, hook: Any) -> None:
        super().__init__(module, hook.name, "spectral_norm", "_orig")
        self._hook = hook

    def _computed(self) -> Tensor:
        made: Tensor = self._hook.compute_weight(self.module, do_power_iteration=False)
        return made

    def store(self, value: Tensor, leave: Collection[Place] = ()) -> None:
        self._put((self.module, self._names[0]), value, leave)
        self.follow()

    def follow(self) -> None:
        u, v = (getattr(self.module, self.attribute + suffix) for suffix in ("_u", "_v"))
        matrix = self._hook.reshape_weight_to_matrix(self._original().detach())
        _estimate(matrix, u, v, self._hook.eps)
        super().follow()


class _Pruned(_ByHook):
    def __init__(self, module: nn.Module, hook: Any) -> None:
        super().__init__(module, hook._tensor_name, "pruning", "_orig")
        self._hook = hook

    def _computed(self) -> Tensor:
        made: Tensor = self._hook.apply_mask(self.module)
        return made

    def store(self, value: Tensor, leave: Collection[Place] = ()) -> None:
        self._put((self.module, self._names[0]), value, leave)
        self.follow()


def _of_hook(module: nn.Module, hook: Any) -> Parametrized | None:
    kind = type(hook)  # its own: a hook may be anything that can be called
    if issubclass(kind, _OldWeightNorm):
        return _WeightNorm(module, hook)
    if issubclass(kind, _OldSpectralNorm):
        return _Spectral(module, hook)
    prune = sys.modules.get("torch.nn.utils.prune")  # importing torch does not
    if prune is not None and issubclass(kind, prune.BasePruningMethod):
        return _Pruned(module, hook)
    return None


def parametrized(module: nn.Module) -> list[Parametrized]:
    """List the tensors that a module itself computes from parameters."""
    found: list[Parametrized] = []
    modules = module._modules
    # The tables of scripted modules are of another class, and have no get().
    if type(modules) is dict and "parametrizations" not in modules:
        lists = None
        if not module._forward_pre_hooks:
            return found
    else:
        lists = getattr(module, "parametrizations", None)
    if lists is not None:
        found += [
            _ByList(module, name, steps)
            for name, steps in lists._modules.items()
            if isinstance(steps, ParametrizationList)
        ]
    if module._forward_pre_hooks:
        made = (_of_hook(module, hook) for hook in module._forward_pre_hooks.values())
        found += [one for one in made if one is not None]
    return [one for one in found if one.sources]


class Opened:
    """A module whose tensors of this kind are ordinary parameters, to be initialised.

    Args:
        module: the module.
        tensors: what stands in for each of them, by what the module calls it.
    """

    def __init__(self, module: nn.Module, tensors: dict[str, nn.Parameter]) -> None:
        self._module = module
        self._tensors = tensors
        self._kind = type(module)
        self._opened_kind = self._kind
        properties = [n for n in tensors if isinstance(_in_class(self._kind, n), property)]
        if properties:  # torch's parametrize has made them
            self._opened_kind = _with_parameters(self._kind, properties)
        self._hidden: dict[str, Any] = {}
        self._open = False

    def tensor(self, attribute: str) -> Tensor:
        """Give what stands in for one; initialisers may have put another in its place."""
        held = entry_in(self._module._parameters, attribute) if self._open else None
        return self._tensors[attribute] if held is None else held

    def open(self) -> None:
        """Put the parameters in."""
        module = self._module
        if self._open:
            return
        if self._opened_kind is not self._kind:
            object.__setattr__(module, "__class__", self._opened_kind)  # its own may refuse
        self._hidden = {n: vars(module).pop(n) for n in self._tensors if n in vars(module)}
        module._parameters.update(self._tensors)
        self._open = True

    def close(self) -> None:
        """Take them out again."""
        module = self._module
        if not self._open:
            return
        for name in self._tensors:
            held = module._parameters.pop(name, None)
            if held is not None:
                self._tensors[name] = held
        if self._opened_kind is not self._kind:
            object.__setattr__(module, "__class__", self._kind)
        vars(module).update(self._hidden)
        self._open = False


def _in_class(kind: type, name: str) -> Any:
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _with_parameters(kind: type[nn.Module], names: Collection[str]) -> type[nn.Module]:
    """Make a class that has parameters where `kind` has properties."""

    def assign(self: nn.Module, name: str, value: Any) -> None:
        if name in names and isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            held: Any = self._parameters[name]
            with torch.no_grad():  # torch takes it, and brings it back
                held.copy_(value)
        else:
            super(made, self).__setattr__(name, value)

    def getter(name: str) -> Any:
        return property(lambda self: self._parameters[name])

    space: dict[str, Any] = {name: getter(name) for name in names}
    space |= {"__setattr__": assign, "__module__": kind.__module__}
    made: type[nn.Module] = type(kind.__name__, (kind,), space)
    return made
