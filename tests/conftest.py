"""Settings for every test."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# Other work on the machine must not fail a test.
settings.register_profile("fastinit", deadline=None)
settings.load_profile("fastinit")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same draws in every run and in any order of the tests."""
    torch.manual_seed(20240229)
