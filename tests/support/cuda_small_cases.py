"""Small fills of every kind on a CUDA device, compared with the CPU: for compute-sanitizer.

``python tests/support/cuda_small_cases.py [smallest|all] [DEVICE]`` exits with 1 if a bit differs
(or an orthogonal matrix, by more than rounding). It asks for no pytest, starts no threads, and is
over in seconds without the sanitizer; ``smallest`` runs every kernel on few lengths and layouts.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import numpy as np  # noqa: E402
import torch  # noqa: E402

import fastinit  # noqa: E402
from support.layout_cases import LAYOUTS, meta  # noqa: E402
from support.promise_cases import ONE_OF_EACH, ONE_OF_EACH_SIZE, Canvas, Case, fill_many  # noqa: E402

KEY = 0x5A17_1234_0000_0007


FEW_LAYOUTS = (
    *("contiguous", "transposed", "channels last, wide", "stepped", "columns"),
    "nine dimensions",
)
ORTHOGONAL = ((3, 5, 6), (2, 64, 64), (2, 33, 128), (1, 140, 130))


def canvases(device: str, smallest: bool) -> list[tuple[Case, Canvas]]:
    """Every kind, in odd lengths and places; every size of element, in every layout."""
    lengths = (67, 4133) if smallest else (0, 1, 5, 67, 1031, 4133)
    starts = (0, 5) if smallest else range(9)
    layouts = FEW_LAYOUTS if smallest else LAYOUTS
    views = [(case, meta(n), n % 7) for case in ONE_OF_EACH for n in lengths]
    views += [(case, meta(33), start) for case in ONE_OF_EACH_SIZE for start in starts]
    views += [(case, LAYOUTS[name], 5) for case in ONE_OF_EACH_SIZE for name in layouts]
    return [
        (case, Canvas(case, view.shape, view.stride(), start, device=device))
        for case, view, start in views
    ]


def check_matrices(device: str) -> int:
    """Orthogonal ones, small and not, and sparse ones."""
    checked = 0
    for dtype in (torch.float32, torch.float64):
        for shape in ORTHOGONAL:
            want = torch.empty(shape, dtype=dtype)
            got = want.to(device)
            fastinit.orthogonal_(got, key=KEY, batch_dims=1)
            fastinit.orthogonal_(want, key=KEY, batch_dims=1)
            torch.testing.assert_close(got.cpu(), want, atol=2e-5, rtol=0)
            checked += 1
        want = torch.empty(70, 9, dtype=dtype)
        got = want.to(device)
        fastinit.sparse_(got, 0.3, key=KEY)
        assert torch.equal(got.cpu(), fastinit.sparse_(want, 0.3, key=KEY))
        checked += 1
    return checked


def main(which: str = "all", device: str = "cuda") -> int:
    checked = check_matrices(device)
    for at_once in (False, True):
        watched = canvases(device, which == "smallest")
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
    sys.exit(main(*sys.argv[1:]))
