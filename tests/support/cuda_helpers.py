"""What the tests on a CUDA device share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from support.promise_cases import Canvas, Case

KEY = 0xC0DA_C0DA_0BAD_F00D
F32 = Case("float32", "normal", (0.0, 1.0))


def check(case: Case, view: torch.Tensor, start: int = 5, key: int = KEY) -> None:
    """Fills a CUDA tensor of this shape and these strides: the CPU's bits, and nothing beside."""
    canvas = Canvas(case, view.shape, view.stride(), start, device="cuda")
    case.fill(canvas.tensor, key)
    canvas.expect(case.whole(key, *view.shape))


def needs_memory(gibibytes: float) -> None:
    """Skips a test for which the device has too little free memory."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < gibibytes * 2**30:
        pytest.skip(
            f"needs {gibibytes:g} GiB of free memory on the device, there is {free / 2**30:.1f}"
        )


def offset_of(generator: torch.Generator) -> int:
    return int(generator.get_offset())


def default_generator() -> torch.Generator:
    torch.cuda.init()
    generator: torch.Generator = torch.cuda.default_generators[torch.cuda.current_device()]
    return generator


@contextmanager
def no_cuda_randomness() -> Iterator[None]:
    """Asserts that neither default generator moves."""
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    yield
    assert torch.equal(torch.cuda.get_rng_state(), before[0]), "the CUDA generator moved"
    assert torch.equal(torch.get_rng_state(), before[1]), "the CPU generator moved"


def keep_busy(cycles: int = 400_000_000) -> None:
    """Makes the current stream wait, a fifth of a second or so."""
    torch.cuda._sleep(cycles)
