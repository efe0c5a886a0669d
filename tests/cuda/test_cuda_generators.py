"""Keys from CUDA generators: what users of torch.manual_seed expect, and torch's draws unharmed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from support.common import ELEMENTWISE, RANDOM, fill, same_bits
from support.cuda_helpers import default_generator, no_cuda_randomness, offset_of

import fastinit
from fastinit import _C, Key

pytestmark = pytest.mark.cuda

GEN_CUDA = 7
MAGIC = 0x46494E49 ^ _C.STREAM_VERSION
# One draw of a key each.
SIMPLE = [name for name in RANDOM if name not in ("orthogonal_", "sparse_")]


def empty(*shape: int, **kwargs: Any) -> torch.Tensor:
    return torch.zeros(*shape, device="cuda", **kwargs)


def key_of(seed: int, offset: int) -> Key:
    """The key that docs/stream.md derives from a generator's seed and offset."""
    counter = (offset % 2**32, offset >> 32, GEN_CUDA, MAGIC)
    words = fastinit.philox4x32(counter, (seed % 2**32, seed >> 32))
    return Key(words[0] | words[1] << 32)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_manual_seed_decides(name: str) -> None:
    torch.manual_seed(3)
    first, second = fill(name, empty(30, 20)), fill(name, empty(30, 20))
    torch.manual_seed(3)
    again = fill(name, empty(30, 20))
    assert not same_bits(first, second)
    assert same_bits(first, again)


@pytest.mark.parametrize("name", SIMPLE)
def test_the_key_is_the_documented_one(name: str) -> None:
    seed = 0x0123_4567_89AB_CDEF
    generator = torch.Generator("cuda").manual_seed(seed)
    generator.set_offset(2**34 + 8)
    got = fill(name, empty(30, 20), generator=generator)
    assert same_bits(got, fill(name, empty(30, 20), key=key_of(seed, 2**34 + 8)))
    assert offset_of(generator) == 2**34 + 12


@pytest.mark.parametrize("name", RANDOM)
def test_the_offset_moves_by_four(name: str) -> None:
    generator = torch.Generator("cuda").manual_seed(3)
    with no_cuda_randomness():
        for calls in range(1, 4):
            fill(name, empty(30, 20), generator=generator)
            assert offset_of(generator) == 4 * calls
    before = offset_of(default_generator())
    fill(name, empty(30, 20))
    assert offset_of(default_generator()) == before + 4


def test_torchs_own_draws_continue() -> None:
    torch.cuda.manual_seed(11)
    torch.rand(1000, device="cuda")
    start = offset_of(default_generator())
    fastinit.normal_(empty(100_003))
    after = torch.randn(1000, device="cuda")
    default_generator().set_offset(start + 4)
    assert torch.equal(after, torch.randn(1000, device="cuda"))


def test_states_are_put_back() -> None:
    fill("normal_", empty(3))
    state = torch.cuda.get_rng_state()
    first = fill("normal_", empty(100))
    with torch.random.fork_rng():
        fill("normal_", empty(100))
    second = fill("normal_", empty(100))
    torch.cuda.set_rng_state(state)
    assert same_bits(fill("normal_", empty(100)), first)
    assert same_bits(fill("normal_", empty(100)), second)


def test_the_cpu_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    fill("normal_", empty(100))
    assert torch.equal(torch.get_rng_state(), before)
    moved = torch.cuda.get_rng_state()
    fill("normal_", torch.zeros(100))
    assert torch.equal(torch.cuda.get_rng_state(), moved)


@pytest.mark.parametrize("name", RANDOM)
def test_what_draws_nothing(name: str) -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    with no_cuda_randomness():
        fill(name, empty(30, 20), key=5)
        fill(name, empty(0, 20))
        fill(name, torch.empty(30, 20, device="meta"), generator=generator)
        tensor = empty(30, 20)
        with pytest.raises(ValueError, match="exclude each other"):
            fill(name, tensor, generator=generator, key=1)
        with pytest.raises(RuntimeError):
            fastinit.normal_(tensor, std=-1.0)
        with pytest.raises(RuntimeError, match="single memory location"):
            fastinit.normal_(empty(4, 1).expand(4, 3))
        assert not tensor.any()
    assert offset_of(generator) == 0


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_of_the_cpu(name: str) -> None:
    tensor = empty(30, 20)
    with no_cuda_randomness(), pytest.raises(RuntimeError, match="generator"):
        fill(name, tensor, generator=torch.Generator())
    assert not tensor.any()


def test_reserved_keys() -> None:
    torch.cuda.manual_seed(5)
    key = fastinit.reserve_key("cuda")
    later = fastinit.normal_(empty(1000))
    torch.cuda.manual_seed(5)
    assert same_bits(fastinit.normal_(empty(1000)), fastinit.normal_(empty(1000), key=key))
    assert same_bits(fastinit.normal_(empty(1000)), later)
    for device in ("cuda:0", torch.device("cuda", 0), 0):
        torch.cuda.manual_seed_all(5)
        assert fastinit.reserve_key(device) == key
    generator = torch.Generator("cuda").manual_seed(5)
    assert fastinit.reserve_key("cuda", generator) == key


def test_no_key_is_drawn_twice() -> None:
    """Threads that share a generator wait for each other."""
    generator = torch.Generator("cuda").manual_seed(0)
    keys: list[Key] = []

    def draw() -> None:
        for _ in range(100):
            keys.append(fastinit.reserve_key("cuda", generator))

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 800
    assert offset_of(generator) == 4 * 800


def test_dtypes_and_devices_of_the_configuration() -> None:
    config = fastinit.show_config()
    assert config.cuda
    assert "cuda" in config.devices
    assert _C.build_info()["cuda"].startswith(str(torch.version.cuda).split(".")[0])
