"""Settings for every test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings

from fastinit import _compiled, _fallback

# Other work on the machine must not fail a test.
settings.register_profile("fastinit", deadline=None)
settings.load_profile("fastinit")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same draws in every run and in any order of the tests."""
    torch.manual_seed(20240229)


@pytest.fixture
def original_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of torch's functions that fastinit calls."""
    calls: list[str] = []

    def recorded(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return call

    for name, function in list(_fallback.ORIGINALS.items()):
        monkeypatch.setitem(_fallback.ORIGINALS, name, recorded(name, function))
    return calls


def _why_no_cuda() -> str | None:
    if not _compiled.HAS_CUDA:
        return "fastinit is built without CUDA"
    return None if torch.cuda.is_available() else "there is no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _why_no_cuda()
    for item in items:
        if reason is not None and item.get_closest_marker("cuda") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
