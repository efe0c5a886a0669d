"""What the extension says of objects that say that they are tensors, and are not."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from torch import Tensor

from fastinit._compiled import extension


class _Proxy:
    __class__: Any = Tensor


class _NoClass:
    __class__: Any = property(lambda self: 1 / 0)  # type: ignore[assignment]


def _no_tensors() -> list[Any]:
    return [mock.Mock(spec=Tensor), _Proxy(), _NoClass(), Tensor, None]


_REFUSES = ("hold_storage", "layout_of", "tensor_state")


@pytest.mark.parametrize("name", _REFUSES)
def test_what_is_no_tensor_is_refused_as_one(name: str) -> None:
    for value in _no_tensors():
        with pytest.raises(TypeError, match=f"{name}: expects a tensor"):
            getattr(extension, name)(value)
        with pytest.raises(TypeError, match="set_version: expects a tensor"):
            extension.set_version(value, 1)


@pytest.mark.parametrize("name", ["handled_dtype", "ordinary_layout", "storage_fault"])
def test_nothing_is_said_of_what_is_no_tensor(name: str) -> None:
    assert [getattr(extension, name)(value) for value in _no_tensors()] == [None] * 5


def test_what_is_no_tensor_has_no_storage() -> None:
    assert [extension.storage_address(value) for value in _no_tensors()] == [0] * 5
