"""What orthogonal_ draws is Haar distributed, and the checks of that notice when it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.haar_checks import Findings, check_entries, check_real, check_unitary, entry_cdf

import fastinit

DRAWS = 20000
METHODS = ["householder", "qr"]


def drawn(*shape: int, dtype: torch.dtype = torch.float64, **kwargs) -> np.ndarray:
    tensor = torch.empty(shape, dtype=dtype)
    return fastinit.orthogonal_(tensor, key=6, batch_dims=1, **kwargs).numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8])
def test_real(n, method):
    assert check_real(drawn(DRAWS, n, n, method=method)) == []


@pytest.mark.parametrize("n", [2, 5])
def test_real_in_float32(n):
    assert check_real(drawn(DRAWS, n, n, dtype=torch.float32).astype(np.float64)) == []


@pytest.mark.parametrize("method", METHODS)
def test_unitary(method):
    assert check_unitary(drawn(DRAWS, 3, 3, dtype=torch.complex128, method=method)) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (7, 1), (1, 4), (5, 4)])
def test_tall_and_wide(shape, method):
    found = Findings()
    check_entries(found, drawn(DRAWS, *shape, method=method))
    assert found.names == []


def test_signs_of_one_element():
    found = Findings()
    found.mean("sign", drawn(DRAWS, 1, 1).reshape(-1), 0)
    assert found.names == []


@pytest.mark.parametrize("method", METHODS)
def test_first_entries_of_64_columns(method):
    q = drawn(2000 if method == "householder" else 100, 64, 64, dtype=torch.float32, method=method)
    found = Findings()
    for column in range(64):
        found.ks(f"column {column}", q[:, 0, column], entry_cdf(64))
        found.ks(f"row {column}", q[:, column, 63], entry_cdf(64))
    assert found.names == []


def test_matrices_of_a_batch_are_independent():
    found = Findings()
    q = drawn(DRAWS, 3, 3)
    for lag in (1, 2, 4):
        product = (q[lag:] * q[:-lag]).sum((1, 2))
        found.mean(f"lag {lag}", product, 0)
        found.mean(f"lag {lag}, squares", product**2, 1)
    assert found.names == []


# ---- planted defects -----------------------------------------------------------------------------


def gaussian(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(DRAWS, n, n))


def raw_factorisation(n: int) -> np.ndarray:
    """Q as LAPACK gives it, R's signs left alone."""
    return np.linalg.qr(gaussian(n))[0]


def only_rotations(n: int) -> np.ndarray:
    q = drawn(DRAWS, n, n).copy()
    q[:, :, -1] *= np.sign(np.linalg.det(q))[:, None]
    return q


def last_column_always_down(n: int) -> np.ndarray:
    q = drawn(DRAWS, n, n).copy()
    q[:, :, -1] *= np.sign(q[:, -1, -1])[:, None]
    return q


def uniform_in_place_of_normal(n: int) -> np.ndarray:
    x = np.random.default_rng(1).uniform(-1, 1, size=(DRAWS, n, n))
    q, r = np.linalg.qr(x)
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def one_reflection_missing(n: int) -> np.ndarray:
    """All but the last but one vector reflect."""
    x = np.tril(gaussian(n))
    q = np.broadcast_to(np.eye(n), x.shape).copy()
    for k in range(n - 1, -1, -1):
        v = x[:, :, k].copy()
        sign = np.sign(v[:, k])
        v[:, k] += sign * np.linalg.norm(v, axis=1)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        if k != n - 2:
            q -= 2 * v[:, :, None] * np.einsum("bi,bij->bj", v, q)[:, None, :]
        q[:, :, k] *= -sign[:, None]
    return q


DEFECTS = [
    raw_factorisation,
    only_rotations,
    last_column_always_down,
    uniform_in_place_of_normal,
    one_reflection_missing,
]


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("defect", DEFECTS)
def test_checks_notice(defect, n):
    assert check_real(defect(n)) != []


def test_checks_of_unitary_matrices_notice():
    parts = np.random.default_rng(1).normal(size=(2, DRAWS, 3, 3))
    q = np.linalg.qr(parts[0] + 1j * parts[1])[0]  # R's diagonal is real: its phases are not fixed
    assert check_unitary(q) != []
    assert check_unitary(drawn(DRAWS, 3, 3).astype(complex)) != []
