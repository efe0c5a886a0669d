"""The guard on memory whose fills wait: put on and taken off, it leaves a storage as it was."""

from __future__ import annotations

import copy
import io
import pickle
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastinit import _C


def _lazy_clone() -> Tensor:
    kept = torch.arange(6.0)
    clone = torch._lazy_clone(kept)
    clone.kept = kept  # the memory stays shared as long as both live
    return clone


MAKERS: dict[str, Callable[[], Tensor]] = {
    "torch": lambda: torch.arange(6.0),
    "numpy": lambda: torch.from_numpy(np.arange(6, dtype=np.float32)),
    "buffer": lambda: torch.frombuffer(bytearray(np.arange(6, dtype="f4")), dtype=torch.float32),
    "shared": lambda: torch.arange(6.0).share_memory_(),
    "copied on write": _lazy_clone,
    "parameter": lambda: torch.nn.Parameter(torch.arange(6.0), requires_grad=False),
}


def _saved(tensor: Tensor) -> Any:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _resized_storage(tensor: Tensor) -> list[float] | None:
    if tensor.is_shared():  # torch 2.10 dies of it, guarded or not
        return None
    tensor.untyped_storage().resize_(48)
    return torch.empty(0).set_(tensor.untyped_storage())[:6].tolist()


# What is done to a tensor, and of the result what can be compared.
USES: dict[str, Callable[[Tensor], Any]] = {
    "address is that of numpy()": lambda t: t.data_ptr() == t.numpy().ctypes.data,
    "address of storage": lambda t: t.untyped_storage().data_ptr() == t.data_ptr(),
    "data_ptr twice": lambda t: t.data_ptr() - t.data_ptr(),
    "add_": lambda t: t.add_(1).tolist(),
    "resize_": lambda t: t.resize_(4 if t.is_shared() else 12)[:4].tolist(),
    "resize of the storage": _resized_storage,
    "set_ to it": lambda t: torch.empty(0).set_(t.untyped_storage(), 1, (5,)).tolist(),
    "set_ of it": lambda t: t.set_(torch.ones(2).untyped_storage()).tolist(),
    "share_memory_": lambda t: (t.share_memory_().is_shared(), t.tolist()),
    "is_shared": lambda t: t.is_shared(),
    "is_pinned": lambda t: t.is_pinned(),
    "pin_memory": lambda t: t.pin_memory().tolist(),
    "resizable": lambda t: t.untyped_storage().resizable(),
    "deepcopy": lambda t: copy.deepcopy(t.detach()).tolist(),
    "pickle": lambda t: pickle.loads(pickle.dumps(t)).tolist(),
    "save": lambda t: _saved(t).tolist(),
    "storage clone": lambda t: t.untyped_storage().clone().tolist(),
    "lazy clone": lambda t: torch._lazy_clone(t).add_(1).tolist() + t.tolist(),
}


@contextmanager
def _guarded(tensor: Tensor) -> Iterator[None]:
    address = tensor.untyped_storage()._cdata
    _C.guard_storage(address, True)
    try:
        yield
    finally:
        _C.guard_storage(address, False)


def _outcome(use: Callable[[Tensor], Any], tensor: Tensor) -> Any:
    try:
        return use(tensor)
    except Exception as error:  # some are refused, and have to be after the guard too
        return type(error), str(error)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_storage_that_was_guarded_is_as_it_was(maker: str, use: str) -> None:
    expected = _outcome(USES[use], MAKERS[maker]())
    tensor = MAKERS[maker]()
    for _ in range(2):
        with _guarded(tensor):
            pass
    assert _outcome(USES[use], tensor) == expected


@pytest.mark.parametrize("maker", MAKERS)
def test_its_memory_is_where_it_was(maker: str) -> None:
    tensor = MAKERS[maker]()
    address = tensor.untyped_storage().data_ptr() if maker != "copied on write" else None
    values = list(range(6))
    with _guarded(tensor):
        pass
    assert address in (None, tensor.untyped_storage().data_ptr())
    assert tensor.tolist() == values


@pytest.mark.parametrize("maker", MAKERS)
def test_what_the_guard_says(maker: str) -> None:
    tensor = MAKERS[maker]()
    uses: list[Callable[[], Any]] = [tensor.sum, tensor.zero_, tensor.data_ptr]
    if maker != "parameter":
        uses.append(tensor.untyped_storage().data_ptr)
    with _guarded(tensor):
        for use in uses:
            with pytest.raises(RuntimeError, match=r"fill pending: this memory is filled when"):
                use()
        assert tensor.shape == (6,)
        assert tensor[2:].storage_offset() == 2
    assert tensor.tolist() == list(range(6))


def test_taking_it_off_where_none_is_changes_nothing() -> None:
    tensor = torch.arange(6.0)
    _C.guard_storage(tensor.untyped_storage()._cdata, False)
    assert tensor.add_(1).tolist() == list(range(1, 7))


@contextmanager
def _watched(tensor: Tensor, reached: bool = False) -> Iterator[None]:
    watch = _C.watch_storage(tensor.untyped_storage()._cdata)
    yield
    if watch is not None:
        assert _C.unwatch_storage(watch) is reached


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_storage_that_was_watched_is_as_it_was(maker: str, use: str) -> None:
    expected = _outcome(USES[use], MAKERS[maker]())
    tensor = MAKERS[maker]()
    lazy = torch._C._is_cow_tensor(tensor)
    for _ in range(2):
        with _watched(tensor):
            pass
    assert torch._C._is_cow_tensor(tensor) == lazy
    assert _outcome(USES[use], tensor) == expected


def test_who_watches_knows_of_pointers_to_write_with_alone() -> None:
    tensor = torch.arange(6.0)
    address = tensor.untyped_storage().data_ptr()
    with _watched(tensor):
        assert float(tensor.sum()) == 15
    with _watched(tensor, reached=True):
        tensor.add_(1)
    with _watched(tensor, reached=True), _watched(tensor, reached=True):
        torch.utils.dlpack.to_dlpack(tensor)
        assert _C.watch_storage(tensor.untyped_storage()._cdata) is None
    with _watched(tensor, reached=True):
        with _watched(tensor):
            pass
        tensor.zero_()
    assert tensor.untyped_storage().data_ptr() == address


@pytest.mark.parametrize("maker", ["numpy", "buffer", "shared", "copied on write"])
def test_memory_that_is_not_torchs_alone_cannot_be_watched(maker: str) -> None:
    tensor = MAKERS[maker]()
    lazy = torch._C._is_cow_tensor(tensor)
    assert _C.watch_storage(tensor.untyped_storage()._cdata) is None
    assert torch._C._is_cow_tensor(tensor) == lazy


def test_a_watch_ends_with_who_holds_it_or_the_memory() -> None:
    tensor = torch.arange(6.0)
    watch = _C.watch_storage(tensor.untyped_storage()._cdata)
    del watch
    assert not torch._C._is_cow_tensor(tensor)
    watch = _C.watch_storage(tensor.untyped_storage()._cdata)
    del tensor
    assert _C.unwatch_storage(watch) is False
    with pytest.raises(TypeError, match="once"):
        _C.unwatch_storage(watch)
    with pytest.raises(TypeError, match="address"):
        _C.watch_storage(None)


@pytest.mark.parametrize("maker", MAKERS)
def test_where_a_tensor_is(maker: str) -> None:
    tensor = MAKERS[maker]()
    for view in (tensor, tensor[2:], tensor.view(2, 3).t()):
        assert _C.storage_address(view) == view.untyped_storage()._cdata
        layout = tuple(view.shape), view.stride(), view.storage_offset(), view.dtype
        assert _C.layout_of(view) == layout


def test_what_has_no_storage_is_nowhere() -> None:
    assert _C.storage_address(torch.eye(2).to_sparse()) == 0
    assert _C.storage_address(3) == 0
    with pytest.raises(TypeError, match="expects a tensor"):
        _C.layout_of(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("maker", MAKERS)
def test_a_tensor_on_held_storage(maker: str) -> None:
    tensor = MAKERS[maker]()
    untyped = tensor.untyped_storage()
    hold, address, nbytes, resizable = _C.hold_storage(tensor)
    assert (address, nbytes, resizable) == (
        untyped._cdata,
        untyped.nbytes(),
        untyped.resizable(),
    )
    for view in (tensor, tensor[2:], tensor.view(2, 3).t(), tensor[:0]):
        other = _C.tensor_on(address, _C.layout_of(view))
        assert other is not None
        assert (other.shape, other.stride(), other.dtype) == (
            view.shape,
            view.stride(),
            view.dtype,
        )
        assert torch.equal(other, view)
        assert other.is_leaf
        assert not other.requires_grad
        with _guarded(tensor):  # makes no difference to who asks for no values
            assert _C.tensor_on(address, _C.layout_of(view)) is not None
    assert _C.tensor_on(address, ((7,), (1,), 0, torch.float32)) is None  # beyond its end
    assert _C.tensor_on(address, ((6,), (1,), 1, torch.float32)) is None
    with pytest.raises(ValueError, match="offset"):
        _C.tensor_on(address, ((2,), (1,), -1, torch.float32))
    del untyped, view, other
    kept = getattr(tensor, "kept", None)
    del tensor
    if kept is None:
        assert _C.tensor_on(address, ((1,), (1,), 0, torch.float32)) is None
    del hold


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
def test_what_held_a_storage_lets_its_address_go() -> None:
    def hold() -> None:
        for _ in range(200_000):  # each has more than 100 bytes
            _C.hold_storage(torch.empty(1))

    hold()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hold()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10 << 10


def test_which_layouts_are_ordinary() -> None:
    tensor = torch.zeros(2, 3, dtype=torch.complex64)
    assert _C.ordinary_layout(tensor[1:]) == _C.layout_of(tensor[1:])
    with torch.inference_mode():
        inference = torch.zeros(3)
    others = [
        tensor.conj(),
        torch._neg_view(tensor.real),
        torch.empty(3, device="meta"),
        torch.eye(2).to_sparse(),
        inference,
        None,
        3,
    ]
    assert [_C.ordinary_layout(other) for other in others] == [None] * len(others)
