"""Known answers: Random123's published vectors, and recorded outputs of stream version 1 (P6)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support import reference_stream as reference
from support.common import bits
from support.make_vectors import lines
from support.stream_cases import filled, filled_shard, signed

import fastinit
from fastinit import _C

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
RECORDED = (VECTORS / "stream_v1.txt").read_text(encoding="utf-8").splitlines()


def rows(*kinds: str) -> list[str]:
    return [line for line in RECORDED if line.split(" ", 1)[0] in kinds]


def random123() -> Iterator[tuple[list[int], list[int], list[int]]]:
    for line in (VECTORS / "philox4x32_10.txt").read_text().splitlines():
        if not line.startswith("#"):
            words = [int(word, 16) for word in line.split()]
            yield words[:4], words[4:6], words[6:]


def test_random123_vectors() -> None:
    known = list(random123())
    assert len(known) == 3
    for counter, key, result in known:
        assert list(fastinit.philox4x32(counter, key)) == result
        assert [int(word) for word in reference.philox4x32(counter, key)] == result


def test_philox_against_the_reference() -> None:
    rng = np.random.default_rng(5)
    for words in rng.integers(0, 2**32, (200, 6)).tolist():
        want = [int(word) for word in reference.philox4x32(words[:4], words[4:])]
        assert list(fastinit.philox4x32(words[:4], words[4:])) == want


def test_stream_version() -> None:
    """A new version needs new vectors: write them beside these, do not edit these."""
    assert fastinit.STREAM_VERSION == _C.STREAM_VERSION == reference.STREAM_VERSION == 1


def test_the_file_is_what_the_reference_writes() -> None:
    assert list(lines()) == RECORDED


@pytest.mark.parametrize("row", rows("fold_in", "fold_in_name", "split"))
def test_keys(row: str) -> None:
    kind, key_text, rest = row.split(" ", 2)
    data, result = rest.rsplit(" ", 1)
    key = fastinit.Key(int(key_text, 16))
    if kind == "fold_in":
        derived = key.fold_in(int(data, 16))
    elif kind == "fold_in_name":
        derived = key.fold_in(ast.literal_eval(data))
    else:
        derived = key.split(int(data, 16) + 1)[-1]
    assert int(derived) == int(result, 16)


def test_keys_against_the_reference() -> None:
    rng = np.random.default_rng(6)
    for word in rng.integers(0, 2**64, 50, dtype=np.uint64).tolist():
        key = fastinit.Key(word)
        for data in (0, 7, -1, -(2**63), 2**63, word, str(word), "weight", "ü" * 70):
            assert int(key.fold_in(data)) == reference.fold_in(word, data)
        assert [int(k) for k in key.split(4)] == reference.split(word, 4)
        assert key.split(9)[:4] == key.split(4)


def test_reserved_keys() -> None:
    """A key from a CPU generator is the hash of its next 64 random bits."""
    for seed in (0, 1, 2**40 + 3):
        generator = torch.Generator().manual_seed(seed)
        # the full 64-bit range makes torch return random64() itself
        drawn = torch.empty(3, dtype=torch.int64).random_(-(2**63), None, generator=generator)
        generator.manual_seed(seed)
        for r in drawn.tolist():
            block = reference.philox(0, r % 2**64, reference.GEN_CPU)
            want = int(block[0]) + (int(block[1]) << 32)
            assert int(fastinit.reserve_key("cpu", generator)) == want
        generator.manual_seed(seed)
        by_generator = fastinit.normal_(torch.empty(9), generator=generator)
        block = reference.philox(0, int(drawn[0]) % 2**64, reference.GEN_CPU)
        key = int(block[0]) + (int(block[1]) << 32)
        want_bits = reference.fill("normal", 9, key, "float32", 0.0, 1.0)
        assert np.array_equal(bits(by_generator), want_bits)


@pytest.mark.parametrize("row", rows("uniform", "normal", "trunc_normal", "words"))
def test_recorded_fills(row: str) -> None:
    left, right = row.split(" = ")
    dist, dtype, key_text, start_text, *arg_texts = left.split()
    key, start = int(key_text, 16), int(start_text, 16)
    args = [float.fromhex(text) for text in arg_texts]
    want = [int(word, 16) for word in right.split()]
    n = len(want) // 2 if dtype.startswith("complex") else len(want)
    got = filled_shard(dist, 2**40, start, n, key, dtype, *args)
    assert [int(v) for v in got.ravel()] == want
    if start == 0 and dist != "words":
        assert [int(v) for v in filled(dist, n, key, dtype, *args).ravel()] == want


def test_signed_keys_wrap() -> None:
    assert signed(2**64 - 1) == -1 and signed(2**63 - 1) == 2**63 - 1
