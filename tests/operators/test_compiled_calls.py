"""Under torch.compile without a graph break: every random function, and keys derived inside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.common import no_randomness, same_bits
from torch import Tensor, nn

import fastinit
from fastinit import Key
from fastinit.key import DERIVES_IN_GRAPHS

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "uniform_": fastinit.uniform_,
    "normal_": fastinit.normal_,
    "trunc_normal_": fastinit.trunc_normal_,
    "xavier_uniform_": fastinit.xavier_uniform_,
    "xavier_normal_": fastinit.xavier_normal_,
    "kaiming_uniform_": fastinit.kaiming_uniform_,
    "kaiming_normal_": fastinit.kaiming_normal_,
    "orthogonal_": fastinit.orthogonal_,
    "sparse_": lambda tensor, **given: fastinit.sparse_(tensor, 0.5, **given),
    "trunc_normal_tf_": fastinit.trunc_normal_tf_,
    "variance_scaling_": fastinit.variance_scaling_,
    "lecun_uniform_": fastinit.lecun_uniform_,
    "lecun_normal_": fastinit.lecun_normal_,
    "in_dims": lambda tensor, **given: fastinit.variance_scaling_(
        tensor, 2.0, "fan_avg", "normal", in_dims=[0], out_dims=-1, **given
    ),
}
KEY = Key(2**63 + 5)
NAMED = KEY.fold_in("name")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def drawn(key: Any) -> Tensor:
    return fastinit.normal_(torch.empty(9), key=key)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("given", [{}, {"key": 7}])
def test_functions(name: str, given: dict[str, int]) -> None:
    def fill(tensor: Tensor) -> Tensor:
        return FUNCTIONS[name](tensor, **given)

    compiled = torch.compile(fill, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    want = fill(torch.empty(8, 6))
    torch.manual_seed(0)
    assert same_bits(compiled(torch.empty(8, 6)), want)


@pytest.mark.parametrize("name", ["variance_scaling_", "lecun_uniform_", "in_dims"])
def test_variance_scaling_with_dynamic_shapes(name: str) -> None:
    function = FUNCTIONS[name]
    compiled = torch.compile(
        lambda t: function(t, key=1), fullgraph=True, dynamic=True, backend="eager"
    )
    for rows in (3, 5, 8):
        assert same_bits(
            compiled(torch.zeros(rows, rows + 1)), function(torch.zeros(rows, rows + 1), key=1)
        )


DERIVATIONS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "constant name": (lambda _: KEY.fold_in("name"), [0]),
    "keyword": (lambda _: KEY.fold_in(data="name"), [0]),
    "made inside": (lambda _: Key(7).fold_in("a").fold_in(2), [0]),
    "name in the code": (lambda _: KEY.fold_in(f"layer.{3}.weight"), [0]),
    "split": (lambda _: KEY.split(3)[1], [0]),
    "unpacked": (lambda _: [second for _, second in [KEY.split()]].pop(), [0]),
    "as a number": (lambda _: int(KEY.fold_in("a")) >> 1, [0]),
    "compared": (lambda _: 1 if KEY.fold_in("name") == NAMED else 2, [0]),
    # What comes from outside is guarded: another value is another graph.
    "name": (lambda name: KEY.fold_in(name), ["a", "b", "", "a", "ß"]),
    "number": (lambda n: KEY.fold_in(n), [1, 2, 3, 2**63, -1, 2**64 - 1, 1]),
    "seed": (lambda n: Key(n), [1, 2, 3, 2**63 + 5, -1, 1]),
    "number as key": (lambda n: n, [1, 2, 3, -1, 2**63 - 1, 1]),
    "key": (lambda key: key, [Key(1), Key(2), Key(1), Key(2**64 - 1), Key(2**63)]),
    "key and name": (lambda key: key.fold_in("a"), [Key(1), Key(2), Key(1), Key(2**64 - 1)]),
    "key, split": (lambda key: key.split()[0], [Key(1), Key(2), Key(1), Key(2**64 - 1)]),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("derivation", DERIVATIONS)
def test_derived_keys(derivation: str, backend: str) -> None:
    if derivation == "as a number" and torch.__version__ < "2.12":  # two digits since 2.10
        pytest.skip("the compiler of this torch takes int() of no object")
    derive, values = DERIVATIONS[derivation]
    compiled = torch.compile(
        lambda tensor, value: fastinit.normal_(tensor, key=derive(value)),
        fullgraph=DERIVES_IN_GRAPHS,
        backend=backend,
    )
    with no_randomness():
        for value in values:
            assert same_bits(compiled(torch.zeros(9), value), drawn(derive(value)))


@pytest.mark.parametrize("number", [np.int64(5), np.int64(2**40)], ids=str)
def test_numbers_of_numpy(number: Any) -> None:
    def fill(i: Any) -> Tensor:
        return fastinit.normal_(torch.empty(8), key=KEY.fold_in(i))

    assert same_bits(torch.compile(fill, backend="aot_eager")(number), fill(number))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_key_of_a_module_that_changes(backend: str) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key, self.name = Key(3), "a"

        def forward(self, x: Tensor) -> Tensor:
            return fastinit.normal_(torch.empty_like(x), key=self.key.fold_in(self.name))

    module = Noisy()
    compiled = torch.compile(module, fullgraph=DERIVES_IN_GRAPHS, backend=backend)
    for _ in range(3):
        assert same_bits(compiled(torch.zeros(9)), drawn(module.key.fold_in(module.name)))
        module.name += "b"
        assert same_bits(compiled(torch.zeros(9)), drawn(module.key.fold_in(module.name)))
        module.key = module.key.fold_in(1)


def test_key_that_is_rebound() -> None:
    global KEY
    before = KEY
    compiled = torch.compile(
        lambda t: fastinit.normal_(t, key=KEY.fold_in("x")),
        fullgraph=DERIVES_IN_GRAPHS,
        backend="eager",
    )
    try:
        for seed in (1, 2, 2**64 - 1):
            KEY = Key(seed)
            assert same_bits(compiled(torch.zeros(9)), drawn(Key(seed).fold_in("x")))
    finally:
        KEY = before


def test_many_keys_without_fullgraph() -> None:
    compiled = torch.compile(lambda t, n: fastinit.normal_(t, key=KEY.fold_in(n)), backend="eager")
    for n in range(12):  # more than the compiler makes graphs for
        assert same_bits(compiled(torch.zeros(9), n), drawn(KEY.fold_in(n)))


def test_loops_are_unrolled() -> None:
    def fill(tensor: Tensor) -> Tensor:
        for i in range(4):
            fastinit.normal_(tensor[i], key=KEY.fold_in(i))
        return tensor

    compiled = torch.compile(fill, fullgraph=DERIVES_IN_GRAPHS, backend="aot_eager")
    assert same_bits(compiled(torch.zeros(4, 9)), fill(torch.zeros(4, 9)))


def test_a_torch_without_opaque_types_derives_keys_all_the_same() -> None:
    code = (
        "import sys, torch._dynamo; sys.modules['torch._library.opaque_object'] = None\n"
        "import fastinit\n"
        "print(int(fastinit.Key(3).fold_in('a').fold_in(1).split()[1]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert int(output) == int(Key(3).fold_in("a").fold_in(1).split()[1])


def test_by_inductor() -> None:
    compiled = torch.compile(
        lambda t, name: fastinit.normal_(t, key=KEY.fold_in(name)).mul(2.0),
        fullgraph=DERIVES_IN_GRAPHS,
    )
    for name in ("a", "b", "a"):
        assert same_bits(compiled(torch.zeros(9), name), drawn(KEY.fold_in(name)).mul(2.0))


def test_what_goes_to_complex_tensors_by_a_copy():
    """The way round what torch's compiler does not take; see fastinit/init.py."""

    def fill(z: Tensor) -> Tensor:
        z.real.copy_(fastinit.normal_(torch.empty(z.shape), key=KEY))
        return z

    z = torch.full((3, 4), 1 + 2j, dtype=torch.complex64)
    compiled = torch.compile(fill, backend="inductor", fullgraph=True)(z.clone())
    assert same_bits(compiled.real, fastinit.normal_(torch.empty(3, 4), key=KEY))
    assert (compiled.imag == 2).all()
