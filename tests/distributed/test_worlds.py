"""Models of several shapes, sharded in several ways, by 1, 2, 3, 4 and 6 processes over gloo.

Of each: `materialize` from the meta device and, after a step of training and in the unsharded state
of FSDP2, `initialize_` give what one process gives, bit for bit, without communication; what is
written is counted, and stays when FSDP2 shards again. What the processes do is in
support/world_models.py.
"""

from __future__ import annotations

import pytest
from support.world_models import CASES
from support.worlds import SIZES, Found, check, found_in


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return found_in(tmp_path_factory.mktemp("worlds"), "world_models", SIZES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, size: int, found: Found) -> None:
    check(found, size, name)
