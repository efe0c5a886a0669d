"""Keys as values, what is derived from them, and where a fill's key comes from."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.common import ELEMENTWISE, RANDOM, fill, no_randomness, same_bits, untouched
from support.reference_stream import FOLD_INT, FOLD_STR, GEN_CPU, SPLIT, philox

import fastinit
from fastinit import Key
from fastinit._compiled import extension
from fastinit.key import key_of

WORD = st.integers(0, 2**64 - 1)


def derived(key: int, data: int, purpose: int) -> int:
    """The first two words of a block, by the independent implementation."""
    block = philox(key, data, purpose)
    return int(block[0]) | int(block[1]) << 32


@pytest.mark.parametrize(
    ("seed", "word"),
    [
        (0, 0),
        (2**64 - 1, 2**64 - 1),
        (-1, 2**64 - 1),
        (-(2**63), 2**63),
        (np.int64(-1), 2**64 - 1),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.uint8(7), 7),
        (torch.tensor(5), 5),
    ],
)
def test_seed_is_taken_modulo_2_64(seed, word):
    assert int(Key(seed)) == word
    assert Key(seed) == Key(word)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=r"'seed' must be in \[-2\*\*63, 2\*\*64\), got"):
        Key(seed)


@pytest.mark.parametrize("seed", [True, False, np.True_, 1.0, "1", None, b"1", Key(1), 1j])
def test_seed_of_the_wrong_type(seed):
    with pytest.raises(TypeError, match="'seed' must be an integer"):
        Key(seed)


def test_key_is_a_value():
    key = Key(3)
    assert key == Key(3)
    assert hash(key) == hash(Key(3))
    assert key != Key(4)
    assert key != 3
    assert {Key(3): "x"}[key] == "x"
    assert repr(Key(255)) == "Key(0x00000000000000ff)"
    assert eval(repr(key)) == key
    for same in (pickle.loads(pickle.dumps(key)), copy.copy(key), copy.deepcopy(key)):
        assert same == key


def test_key_is_immutable():
    key = Key(3)
    with pytest.raises(AttributeError, match="immutable"):
        key._signed = 4
    with pytest.raises(AttributeError, match="immutable"):
        key.name = "x"
    with pytest.raises(AttributeError, match="immutable"):
        del key._signed
    assert int(key) == 3


@given(WORD, st.integers(-(2**70), 2**70))
def test_fold_in_of_a_number(word, data):
    assert int(Key(word).fold_in(data)) == derived(word, data % 2**64, FOLD_INT)


@given(WORD, st.text())
def test_fold_in_of_a_name(word, name):
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
        with pytest.raises(UnicodeEncodeError):
            Key(word).fold_in(name)
        return
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    assert int(Key(word).fold_in(name)) == derived(word, int.from_bytes(digest, "little"), FOLD_STR)


@given(WORD, st.integers(0, 20))
def test_split(word, n):
    keys = Key(word).split(n)
    assert isinstance(keys, tuple)
    assert [int(k) for k in keys] == [derived(word, i, SPLIT) for i in range(n)]


def test_split_does_not_depend_on_the_number():
    assert Key(1).split(9)[:4] == Key(1).split(4)
    assert Key(1).split() == Key(1).split(2)


def test_derived_keys_do_not_meet():
    key = Key(0)
    derivations = {key, *key.split(100), *(key.fold_in(i) for i in range(100))}
    derivations |= {key.fold_in(str(i)) for i in range(100)}
    assert len(derivations) == 301


@given(WORD, st.text(), st.integers(0, 2**64 - 1))
def test_the_keys_of_a_name_s_draws(word, name, count):
    try:
        expected = Key(word).fold_in(name).fold_in(count)
    except UnicodeEncodeError:
        return
    assert key_of(word, name, count) % 2**64 == int(expected)
    assert -(2**63) <= key_of(word, name, count) < 2**63


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((1, 2), TypeError),
        ((1, 2, "int", 3), TypeError),
        ((1, 2, "of"), ValueError),
        ((1, 2, "int", 3, None), ValueError),
        ((1, -2, "int"), OverflowError),
        ((1, 2, "int", 2**64, "int"), OverflowError),
        ((1.5, 2, "int"), TypeError),
    ],
)
def test_what_the_extension_folds(arguments, error):
    with pytest.raises(error):
        extension.fold(*arguments)


@pytest.mark.parametrize("data", [True, 1.5, None, b"name", ("a",), Key(0)])
def test_fold_in_of_the_wrong_type(data):
    with pytest.raises(TypeError, match="'data'"):
        Key(0).fold_in(data)


def test_split_of_a_bad_number():
    with pytest.raises(TypeError, match="'n'"):
        Key(0).split(2.0)
    with pytest.raises(TypeError, match="'n'"):
        Key(0).split(True)
    with pytest.raises(ValueError, match="'n' must not be negative, got -1"):
        Key(0).split(-1)


def test_names_are_hashed_alike_in_every_process():
    code = "import fastinit; print(int(fastinit.Key(7).fold_in('layers.0.weight')))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{int(Key(7).fold_in('layers.0.weight'))}\n"}


@pytest.mark.parametrize("name", RANDOM)
def test_key_gives_the_same_values_and_draws_nothing(name):
    with no_randomness():
        first = fill(name, torch.empty(7, 5), key=Key(11))
        assert same_bits(first, fill(name, torch.empty(7, 5), key=Key(11)))
        assert same_bits(first, fill(name, torch.empty(7, 5), key=11))
        assert not same_bits(first, fill(name, torch.empty(7, 5), key=Key(12)))


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("word", [2**64 - 1, 2**63, 2**63 - 1, 0])
def test_every_key_passes_the_schema(name, word):
    """Keys cross the ops as signed integers."""
    signed = word - 2**64 if word >= 2**63 else word
    value = fill(name, torch.empty(4, 3), key=Key(word))
    assert same_bits(value, fill(name, torch.empty(4, 3), key=word))
    assert same_bits(value, fill(name, torch.empty(4, 3), key=signed))
    assert same_bits(value, fill(name, torch.empty(4, 3), key=np.int64(signed)))
    assert not same_bits(value, fill(name, torch.empty(4, 3), key=word ^ 2**63))  # all bits count


@pytest.mark.parametrize("name", RANDOM)
def test_key_and_generator_exclude_each_other(name):
    tensor, generator = torch.zeros(4, 3), torch.Generator()
    with untouched(tensor, generator), pytest.raises(ValueError, match="'key' and 'generator'"):
        fill(name, tensor, key=Key(0), generator=generator)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize(
    ("key", "error"),
    [(True, TypeError), (0.0, TypeError), ("0", TypeError), (2**64, ValueError)],
)
def test_key_of_the_wrong_kind(name, key, error):
    tensor = torch.zeros(4, 3)
    with untouched(tensor), pytest.raises(error, match=rf"fastinit\.{name}: argument 'key'"):
        fill(name, tensor, key=key)


@pytest.mark.parametrize("name", RANDOM)
def test_generator_of_the_wrong_type(name):
    tensor = torch.zeros(4, 3)
    with untouched(tensor), pytest.raises(TypeError, match="'generator' must be a torch"):
        fill(name, tensor, generator=42)


@pytest.mark.parametrize("name", RANDOM)
def test_key_is_keyword_only(name):
    with pytest.raises(TypeError):
        getattr(fastinit, name)(torch.empty(4, 3), *[0.5] * 20)


@pytest.mark.parametrize("name", RANDOM)
def test_reserved_key_does_what_the_generator_would_have_done(name):
    torch.manual_seed(5)
    key = fastinit.reserve_key("cpu")
    after_reserving = torch.get_rng_state()
    torch.manual_seed(5)
    drawn = fill(name, torch.empty(6, 5))
    assert torch.equal(torch.get_rng_state(), after_reserving)
    assert isinstance(key, Key)
    assert same_bits(drawn, fill(name, torch.empty(6, 5), key=key))


def test_reserve_key_from_a_generator():
    generator = torch.Generator().manual_seed(9)
    with no_randomness():
        first = fastinit.reserve_key(torch.device("cpu"), generator)
        second = fastinit.reserve_key("cpu", generator=generator)
    assert first != second
    generator.manual_seed(9)
    assert fastinit.reserve_key("cpu", generator) == first


def test_reserved_key_is_specified():
    """docs/stream.md: one random64 of the generator, hashed under key 0 and its own purpose."""
    torch.manual_seed(1)
    draw = int(torch.empty(1, dtype=torch.int64).random_(-(2**63), None).item()) % 2**64
    torch.manual_seed(1)
    assert int(fastinit.reserve_key("cpu")) == derived(0, draw, GEN_CPU)


def test_reserve_key_errors():
    with pytest.raises(TypeError, match="generator"):
        fastinit.reserve_key("cpu", 3)
    with no_randomness(), pytest.raises((RuntimeError, NotImplementedError)):
        fastinit.reserve_key("meta")


def test_philox_checks_its_arguments():
    for words in ((0, 0, 0), (0, 0, 0, 2**32), (-1, 0, 0, 0)):
        with pytest.raises(ValueError, match="'counter' must be 4 words"):
            fastinit.philox4x32(words, (0, 0))
    with pytest.raises(ValueError, match="'key' must be 2 words"):
        fastinit.philox4x32((0, 0, 0, 0), (0,))
    with pytest.raises(TypeError, match="'key'"):
        fastinit.philox4x32((0, 0, 0, 0), (0, 1.0))
    words = fastinit.philox4x32([np.uint32(2**32 - 1)] * 4, np.array([1, 2]))
    assert words == fastinit.philox4x32((2**32 - 1,) * 4, (1, 2))


@pytest.mark.parametrize("truth", [True, torch.tensor(True), np.bool_(True)])
def test_truth_is_no_integer(truth: object) -> None:
    with pytest.raises(TypeError, match="must be an integer"):
        Key(truth)
    with pytest.raises(TypeError):
        fastinit.normal_(torch.zeros(3), key=truth)
