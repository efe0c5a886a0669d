"""Prints a digest of every kind of fill, as JSON: test_promises_capability.py runs it under each
capability of the processor.
"""

from __future__ import annotations

import hashlib
import json

import torch

from fastinit import _C
from support.promise_cases import COMPLEX, REAL, Case, fill_many
from support.stream_cases import ALL_TRUNCATIONS, NORMALS, UNIFORMS

KEY = 0xFEEDFACECAFEBEEF
# First elements of shards: within a block, and around block 2³² of the 64-bit counter.
OFFSETS = (1, 2, 3, 6, 2**34 - 37, 2**40 + 3)
FULL = 2**60
MAGIC = 0x46494E49 ^ _C.STREAM_VERSION
MASK = 2


def all_cases() -> list[Case]:
    cases = [Case("int32", "words")]
    for dtype in REAL:
        cases += [Case(dtype, "uniform", args) for args in UNIFORMS]
        cases += [Case(dtype, "normal", args) for args in NORMALS]
        cases += [Case(dtype, "trunc_normal", args) for args in ALL_TRUNCATIONS]
    for dtype in COMPLEX:
        cases += [Case(dtype, "normal", args) for args in NORMALS]
    return cases


def digest(case: Case, device: str = "cpu") -> str:
    """Of lengths 0 … 70 from the first element and from each offset, and of larger tensors."""
    tensors = [case.empty(n, device=device) for n in range(71)]
    rows = [case.row()] * len(tensors)
    for k, offset in enumerate(OFFSETS):
        for n in range(k, 71, 3):
            tensors.append(case.empty(n, device=device))
            rows.append(case.row([FULL], [offset]))
    large = [case.empty(*shape, device=device) for shape in ((4999,), (45, 67), (19, 311))]
    tensors += [large[0], large[1].t(), large[2][:, 3:290]]
    rows += [case.row()] * 3
    fill_many(tensors, [case] * len(tensors), [KEY] * len(tensors), rows)
    # Joined first: from a device, one copy instead of hundreds.
    joined = torch.cat([t.contiguous().view(-1).view(torch.uint8) for t in tensors])
    return hashlib.sha256(joined.cpu().numpy().tobytes()).hexdigest()


def check_words() -> None:
    """Ties the words of the capability in use to the published vectors of `philox4x32`."""
    case = Case("int32", "words")
    for first in (0, 4 * (2**32 - 20)):
        got = case.fill_shard(case.empty(160), KEY, [FULL], [first])
        words = [word % 2**32 for word in got.tolist()]
        for k in range(40):
            counter = first // 4 + k
            block = _C.philox4x32(
                (counter % 2**32, counter >> 32, MASK, MAGIC), (KEY % 2**32, KEY >> 32)
            )
            assert words[4 * k : 4 * k + 4] == list(block), (first, k)


if __name__ == "__main__":
    torch.set_num_threads(1)
    check_words()
    print(json.dumps({"capability": _C.capability(), **{str(c): digest(c) for c in all_cases()}}))
