"""What can be reached from a module: what it is, what is one object, what shares memory."""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from support.model_unwritten import offsets


class Failure(NamedTuple):
    """How a program went wrong: the class of it, and where."""

    kind: str
    detail: str


@dataclass
class Entry:
    """Something that is reached from a module under a path.

    Attributes:
        what: what it is, without values.
        values: its bytes, one row an element; None where there are none to see.
        nan: which elements are NaN.
        tensor: itself, if it is a tensor.
    """

    path: str
    what: dict[str, Any]
    values: np.ndarray | None = None
    nan: np.ndarray | None = None
    tensor: Tensor | None = None


# What modules and optimizers hold that says nothing.
_SKIPPED = {"_zero_grad_profile_name", "_warned_capturable_if_run_uncaptured"}


class _Walk:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._objects: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        self._held: list[Any] = []

    def _number(self, value: Any) -> tuple[int, bool]:
        known = id(value) in self._objects
        self._held.append(value)
        return self._objects.setdefault(id(value), len(self._objects)), known

    def visit(self, path: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._tensor(path, value)
        elif isinstance(value, np.ndarray):
            flat = np.ascontiguousarray(value).reshape(-1)
            rows = flat.view(np.uint8).reshape(flat.size, -1)
            what = {"type": "ndarray", "shape": value.shape, "dtype": str(value.dtype)}
            self.entries.append(Entry(path, what, rows, np.isnan(flat)))
        elif isinstance(value, (str, int, float, bool, type(None), torch.dtype, torch.device)):
            self.entries.append(Entry(path, {"value": repr(value)}))
        elif isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
            return
        else:
            number, known = self._number(value)
            self.entries.append(Entry(path, {"type": type(value).__name__, "object": number}))
            if not known:
                for name, item in _items(value):
                    self.visit(f"{path}{name}", item)

    def _tensor(self, path: str, tensor: Tensor) -> None:
        number, known = self._number(tensor)
        what: dict[str, Any] = {"type": type(tensor).__name__, "object": number}
        if known:
            self.entries.append(Entry(path, what))
            return
        what |= {
            "device": str(tensor.device),
            "dtype": str(tensor.dtype),
            "shape": tuple(tensor.shape),
            "stride": tensor.stride(),
            "offset": tensor.storage_offset(),
            "requires_grad": tensor.requires_grad,
            "is_leaf": _is_leaf(tensor),
            "inference": tensor.is_inference(),
            "hooks": len(tensor._backward_hooks or ()),
            "post hooks": len(getattr(tensor, "_post_accumulate_grad_hooks", None) or ()),
            "marks": sorted(k for k in vars(tensor) if not k.startswith("_")),
        }
        entry = Entry(path, what, tensor=tensor)
        self.entries.append(entry)
        if not tensor.is_meta:
            if tensor.numel():
                address = tensor.untyped_storage()._cdata
                what["storage"] = self._storages.setdefault(address, len(self._storages))
            plain = tensor.detach().as_subclass(Tensor).contiguous().reshape(-1)
            plain = plain.cpu()
            entry.nan = torch.isnan(plain).numpy()
            entry.values = plain.view(torch.uint8).reshape(plain.numel(), -1).numpy().copy()
        if what["is_leaf"] is True and tensor.grad is not None:
            self.visit(f"{path}.grad", tensor.grad)


def _is_leaf(tensor: Tensor) -> bool | str:
    try:
        return tensor.is_leaf
    except RuntimeError as error:  # a view whose base has been changed since
        return str(error)[:40]


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in list(value.items()):
            # Optimizers keep their state by parameter.
            yield f"[{key!r}]" if not isinstance(key, Tensor) else "[tensor]", item
    elif isinstance(value, (list, tuple, set)):
        for k, item in enumerate(value):
            yield f"[{k}]", item
    elif isinstance(value, weakref.ref):
        yield "()", value()
    elif isinstance(value, types.FunctionType):
        for k, item in enumerate(value.__defaults__ or ()):
            yield f".__defaults__[{k}]", item
        for k, cell in enumerate(value.__closure__ or ()):
            yield f".__closure__[{k}]", cell.cell_contents
    elif isinstance(value, nn.Module):
        for table in ("_parameters", "_buffers", "_modules"):
            for name, item in getattr(value, table).items():
                yield f".{name}", item
        yield from _attributes(value, {"_parameters", "_buffers", "_modules"})
    elif hasattr(value, "__dict__"):
        yield from _attributes(value, set())


def _attributes(value: Any, without: set[str]) -> Iterator[tuple[str, Any]]:
    for name, item in list(vars(value).items()):
        held = not callable(item) or isinstance(item, (types.FunctionType, weakref.ref, nn.Module))
        if held and name not in without and name not in _SKIPPED:
            yield f".{name}", item


def snapshot(module: Any) -> list[Entry]:
    """Describe what a module holds, in an order that depends on its structure alone."""
    walk = _Walk()
    with torch._C.DisableTorchFunction(), torch.no_grad():
        walk.visit("", module)
    return walk.entries


def differences(
    expected: list[Entry], found: list[Entry], taint: set[tuple[int, int]], seen: bool
) -> Iterator[Failure]:
    """Compare two snapshots; with `seen` false, not what the program read."""
    there = {entry.path: entry for entry in expected}
    here = {entry.path: entry for entry in found}
    for path in [*there, *(p for p in here if p not in there)]:
        if not seen and path.startswith(".seen"):
            continue
        if path not in here or path not in there:
            yield Failure("structure", f"{path}: {'missing' if path in there else 'more'}")
            continue
        one, other = there[path], here[path]
        if other.what.get("device") == "meta" and one.what.get("device") != "meta":
            yield Failure("left on meta", path)
            continue
        wrong = {k: (v, other.what.get(k)) for k, v in one.what.items() if other.what.get(k) != v}
        if set(wrong) == {"value"} and path.startswith(".seen"):
            expected_value, found_value = wrong["value"]
            kind = "garbage" if "nan" in found_value else "wrong value"
            yield Failure(kind, f"{path}: {found_value} for {expected_value}")
        elif wrong:
            yield Failure("structure", f"{path}: {wrong}")
        elif one.values is not None and other.values is not None:
            yield from _values(one, other, taint, seen)


def _values(one: Entry, other: Entry, taint: set[tuple[int, int]], seen: bool) -> Iterator[Failure]:
    assert one.values is not None and other.values is not None
    differ = (one.values != other.values).any(axis=1)
    if one.tensor is None and not seen:
        return
    if one.tensor is not None and taint:
        differ &= ~np.array(_mask(one.tensor, taint), dtype=bool)
    if not differ.any():
        return
    garbage = other.nan is not None and one.nan is not None and (other.nan & ~one.nan & differ)
    if garbage is not False and garbage.any():
        yield Failure("garbage", one.path)
    else:
        yield Failure("wrong value", f"{one.path}: {int(differ.sum())} elements")


def _mask(tensor: Tensor, taint: set[tuple[int, int]]) -> list[bool]:
    storage = tensor.untyped_storage()._cdata
    return [(storage, o) in taint for o in offsets(tensor)]
