"""Random constructors and initialisers with all their tensors on a CUDA device."""

from __future__ import annotations

import random
import warnings

import pytest
from support.model_judge import check
from support.model_programs import DOORS, make_program

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("door", DOORS)
def test_programs_give_what_eager_torch_gives(door: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(60):
            check(make_program(random.Random(seed).choice, door), door, "cuda")
