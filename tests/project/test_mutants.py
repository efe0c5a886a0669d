"""The defects that `make mutants` plants in the sources still have a place there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

from cuda_mutants import CUDA_MUTANTS  # noqa: E402
from model_mutants import MODEL_MUTANTS  # noqa: E402
from source_mutants import MUTANTS as CORE_MUTANTS  # noqa: E402
from source_mutants import Mutant  # noqa: E402

MUTANTS = [*CORE_MUTANTS, *CUDA_MUTANTS, *MODEL_MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_defect_can_be_planted(mutant: Mutant) -> None:
    text = (ROOT / mutant.path).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, "adapt tools/source_mutants.py to the changed source"
    assert mutant.old != mutant.new
    for word in mutant.tests:
        assert not word.startswith("tests/") or (ROOT / word).exists()


def test_defects_are_distinct() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
