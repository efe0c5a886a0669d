"""Writes vectors/stream_v1.txt from the NumPy reference (not from fastinit).

The file is checked in and must not change while the stream version stays the same. Run this by
hand, and only together with a new stream version or to add lines:

    PYTHONPATH=.:tests python tests/support/make_vectors.py > tests/vectors/stream_v1.txt
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from support.exact_arithmetic import FORMATS
from support.reference_stream import STREAM_VERSION, fill, fold_in, mask, split
from support.stream_cases import TRUNCATIONS

KEYS = (0, 0x0123456789ABCDEF, 2**64 - 1)
COUNT = 8
FAR_START = 2**34 - 3  # elements on both sides of block 2**32


def lines() -> Iterator[str]:
    """The lines of the file."""
    yield f"# Stream version {STREAM_VERSION}, written by make_vectors.py from the reference."
    yield "# fold_in KEY DATA RESULT / fold_in_name KEY NAME RESULT / split KEY i RESULT"
    yield f"# DIST DTYPE KEY FIRST_ELEMENT ARGS = bit patterns of {COUNT} elements; numbers in hex"
    for key in KEYS:
        for data in (0, 1, 2**32, 2**64 - 1):
            yield f"fold_in {key:016x} {data:016x} {fold_in(key, data):016x}"
        for name in ("", "0", "layer.0.weight", "größe"):
            yield f"fold_in_name {key:016x} {name!r} {fold_in(key, name):016x}"
        for i, result in enumerate(split(key, 3)):
            yield f"split {key:016x} {i:016x} {result:016x}"
    fills: list[tuple[str, tuple[float, ...]]] = [
        ("uniform", (0.0, 1.0)),
        ("uniform", (-0.3, 0.7)),
        ("normal", (0.0, 1.0)),
        ("normal", (0.5, 0.02)),
    ]
    for cases in TRUNCATIONS.values():
        fills.append(("trunc_normal", cases[0]))
    for key in KEYS:
        for start in (0, FAR_START):
            index = np.arange(start, start + COUNT, dtype=np.uint64)
            for dist, args in fills:
                for dtype in (*FORMATS, "complex64", "complex128"):
                    if dtype.startswith("complex") and dist != "normal":
                        continue
                    patterns = fill(dist, index, key, dtype, *args)
                    width = 2 * patterns.itemsize
                    values = " ".join(f"{int(v):0{width}x}" for v in patterns.ravel())
                    where = f"{key:016x} {start:x} {' '.join(a.hex() for a in args)}"
                    yield f"{dist} {dtype} {where} = {values}"
            values = " ".join(f"{int(v):08x}" for v in mask(index, key))
            yield f"words int32 {key:016x} {start:x} = {values}"


if __name__ == "__main__":
    print("\n".join(lines()))
