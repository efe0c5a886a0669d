"""Small fills of every kind on a CUDA device, compared with the CPU: for compute-sanitizer.

``python tests/cuda_small_cases.py`` exits with 1 if a bit differs. It asks for no pytest, starts no
threads, and is over in seconds without the sanitizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import numpy as np  # noqa: E402
from layout_cases import LAYOUTS, meta  # noqa: E402
from promise_cases import ONE_OF_EACH, ONE_OF_EACH_SIZE, Canvas, Case, fill_many  # noqa: E402

KEY = 0x5A17_1234_0000_0007


def canvases(device: str) -> list[tuple[Case, Canvas]]:
    """Every kind, in odd lengths and places; every size of element, in every layout."""
    views = [(case, meta(n), n % 7) for case in ONE_OF_EACH for n in (0, 1, 5, 67, 1031)]
    views += [(case, meta(33), start) for case in ONE_OF_EACH_SIZE for start in range(9)]
    views += [(case, view, 5) for case in ONE_OF_EACH_SIZE for view in LAYOUTS.values()]
    return [
        (case, Canvas(case, view.shape, view.stride(), start, device=device))
        for case, view, start in views
    ]


def main(device: str) -> int:
    checked = 0
    for at_once in (False, True):
        watched = canvases(device)
        keys = [KEY + k for k in range(len(watched))]
        if at_once:
            tensors = [canvas.tensor for _, canvas in watched]
            fill_many(tensors, [case for case, _ in watched], keys)
        else:
            for (case, canvas), key in zip(watched, keys, strict=True):
                case.fill(canvas.tensor, key)
        for (case, canvas), key in zip(watched, keys, strict=True):
            canvas.expect(case.whole(key, *canvas.shape))
            checked += 1
    for case in ONE_OF_EACH:
        canvas = Canvas(case, (21, 57), (61, 1), device=device)
        case.fill_shard(canvas.tensor, KEY, (41, 77), (9, 13))
        canvas.expect(np.ascontiguousarray(case.whole(KEY, 41, 77)[9:30, 13:70]))
        checked += 1
    print(f"{checked} fills, all as on the CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["cuda"]))
