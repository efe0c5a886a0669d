"""What `check_ranks()` refuses before it notes anything; what it finds is in support/ranks.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import fastinit
from fastinit._distributed.fill import OBSERVERS
from fastinit._models.noted import Call, Named, mismatch

CALL = Call("normal_", "weight", "(2, 3)", "torch.float32", "(0.0, 1.0)", "of a key")

WRONG: list[tuple[type[Exception], str, tuple[Any, ...], Any]] = [
    (TypeError, "'module' must be a torch.nn.Module or a sequence of them, got int", (3,), 60.0),
    (
        TypeError,
        "'module' must be a torch.nn.Module or a sequence of them, got type",
        (torch.nn.Linear,),
        60.0,
    ),
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


@pytest.mark.parametrize(
    ("error", "message", "distinct"),
    [
        (TypeError, "must be a mapping from patterns to process groups, got str", "experts.*"),
        (TypeError, "takes globs and compiled regular expressions, got 3", {3: None}),
        (TypeError, r"must give process groups, got list for 'a\*'", {"a*": [0, 1]}),
    ],
)
def test_wrong_distinct(error: type[Exception], message: str, distinct: Any) -> None:
    with pytest.raises(error, match=f"fastinit.check_ranks: argument 'distinct' {message}"):
        fastinit.check_ranks(torch.nn.Linear(2, 2), distinct=distinct)


def test_distinct_is_about_a_module() -> None:
    with pytest.raises(ValueError, match="argument 'distinct' is about names in 'module'"):
        fastinit.check_ranks(distinct={"*": None})


def test_without_a_process_group_there_is_nothing_to_compare() -> None:
    layer = torch.nn.Linear(2, 2)
    with fastinit.check_ranks(layer, distinct={"nothing": None}):
        fastinit.initialize_(layer, key=0)
    assert not OBSERVERS


def drawn(*calls: Call) -> list[Named]:
    return [Named("", call) for call in calls]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("function", "uniform_"),
        ("shape", "(3, 3)"),
        ("dtype", "torch.bfloat16"),
        ("arguments", "(0.0, 0.5)"),
    ],
)
def test_what_is_not_the_same_under_one_key(field: str, value: str) -> None:
    other = CALL._replace(**{field: value})
    for calls in ((other,), (CALL, other), (other, CALL)):
        for first, second in ((drawn(CALL), drawn(*calls)), (drawn(*calls), drawn(CALL))):
            said = mismatch([first, first, second])
            assert said is not None
            assert said.startswith("ranks 0 and 2 draw under one key what is not the same")
            assert f"not the same: the {field};" in said
            assert str(CALL) in said and str(other) in said


def test_what_one_key_may_be_for() -> None:
    tied, again = CALL._replace(parameter="head.weight"), (CALL, CALL)
    other = CALL._replace(key="of another", function="zeros_")
    assert mismatch([drawn(CALL), drawn(tied), drawn(*again), drawn(other), drawn()]) is None
