"""What `check_ranks()` refuses before it notes anything; what it finds is in support/ranks.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import fastinit
from fastinit._distributed.fill import OBSERVERS

WRONG: list[tuple[type[Exception], str, tuple[Any, ...], Any]] = [
    (TypeError, "'module' must be a torch.nn.Module, got int", (3,), 60.0),
    (TypeError, "'module' must be a torch.nn.Module, got type", (torch.nn.Linear,), 60.0),
    (TypeError, "'timeout' must be a number, got '9'", (), "9"),
    (TypeError, "'timeout' must be a number, got None", (), None),
    (TypeError, "'timeout' must be a number, got True", (), True),
    (ValueError, "'timeout' must be positive", (), 0),
    (ValueError, "'timeout' must be positive", (), math.nan),
    (ValueError, "'timeout' must be .* at most 31536000 seconds, a year; got inf", (), math.inf),
]


@pytest.mark.parametrize(("error", "message", "arguments", "timeout"), WRONG)
def test_wrong_arguments(
    error: type[Exception], message: str, arguments: tuple[Any, ...], timeout: Any
) -> None:
    with pytest.raises(error, match=f"fastinit.check_ranks: argument {message}"):
        fastinit.check_ranks(*arguments, timeout=timeout)
    assert not OBSERVERS
