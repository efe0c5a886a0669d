"""What `torch.tensor` is given: sequences and numbers whose own code draws, and reads."""

from __future__ import annotations

import array
from collections import UserList, deque, namedtuple
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit


class _Sequence:
    """Three numbers, each drawn when it is asked for."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int) -> Any:
        if place > 2:
            raise IndexError
        return self.one()

    def one(self) -> Any:
        return float(torch.rand(()))


class _Iterable(_Sequence):
    def __iter__(self) -> Iterator[Any]:
        return iter([self.one() for _ in range(3)])


class _Tensors(_Sequence):
    def one(self) -> Any:
        return torch.rand(())


class _TorchsOwn(_Sequence):
    def one(self) -> Any:
        return float(torch.empty(()).exponential_())


class _List(list[float]):
    def __iter__(self) -> Iterator[float]:
        return iter([float(torch.rand(())) for _ in range(3)])


class _Number:
    def __float__(self) -> float:
        return float(torch.rand(()))


class _Index:
    def __index__(self) -> int:
        return int(torch.randint(1 << 20, ()))


class _Complex:
    def __complex__(self) -> complex:
        return complex(torch.rand((), dtype=torch.complex64))


_F32 = torch.float32
DRAWN: dict[str, Callable[[], Tensor]] = {
    "tensor": lambda: torch.tensor(_Sequence()),
    "by_name": lambda: torch.tensor(data=_Sequence(), dtype=_F32),
    "as_tensor": lambda: torch.as_tensor(_Iterable()),
    "asarray": lambda: torch.asarray(obj=_Sequence()),
    "new_tensor": lambda: torch.ones(1).new_tensor(_Tensors()),
    "new": lambda: torch.ones(1).new(_Sequence()),
    "torchs_own": lambda: torch.tensor(_TorchsOwn()),
    "nested": lambda: torch.tensor([(1.0, 2.0, 3.0), _Sequence()]),
    "list": lambda: torch.tensor(_List([1.0, 2.0, 3.0])),
    "number": lambda: torch.tensor([_Number(), 1.0], dtype=_F32),
    "number_alone": lambda: torch.ones(1).new_tensor(_Number()),
    "index": lambda: torch.tensor([_Index()], dtype=torch.int64).float(),
    "complex": lambda: torch.view_as_real(torch.tensor([_Complex()], dtype=torch.complex64)),
    "sparse": lambda: torch.sparse_coo_tensor([[0, 1, 2]], _Sequence(), (3,)).to_dense(),
    "constructor": lambda: torch.Tensor(_Sequence()),
    "typed_constructor": lambda: torch.FloatTensor(_Tensors()),
}


class _Layer(nn.Module):
    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.make = make
        self.weight = nn.Parameter(make())

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(self.make())


@pytest.mark.parametrize("name", DRAWN)
def test_what_their_code_draws_has_a_key(name: str) -> None:
    make, state = DRAWN[name], torch.get_rng_state()
    built = [fastinit.materialize(lambda: _Layer(make), key=0).weight for _ in range(2)]
    assert same_bits(*built)
    assert same_bits(fastinit.initialize_(_Layer(make), key=0).weight, built[0])
    assert not same_bits(fastinit.materialize(lambda: _Layer(make), key=1).weight, built[0])
    torch.set_rng_state(state)


@pytest.mark.parametrize("kind", [_Sequence, _Iterable, _Tensors])
def test_it_is_what_the_same_code_draws_elsewhere(kind: type[_Sequence]) -> None:
    mine = fastinit.materialize(lambda: _Layer(lambda: torch.tensor(kind())), key=0)
    other = fastinit.materialize(
        lambda: _Layer(lambda: torch.tensor([float(torch.rand(())) for _ in range(3)])), key=0
    )
    assert same_bits(mine.weight, other.weight)


def test_they_read_what_waits() -> None:
    class View(_Sequence):
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def __getitem__(self, place: int) -> float:
            return float(self.tensor[place])

    def factory() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.randn(3))
        module.copy = nn.Parameter(torch.tensor(View(module.weight)))
        return module

    made = fastinit.materialize(factory, key=0)
    assert same_bits(made.copy, made.weight)


_Pair = namedtuple("_Pair", "first second")


class _Wrong(_Sequence):
    def __iter__(self) -> Iterator[float]:
        return iter([1.0])


class _Endless:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> _Endless:
        return self


class _Array:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.ones(2)


_halves = array.array("f", [0.5, 1.5])
GIVEN: dict[str, Any] = {
    "number": 1.5,
    "list": [1, 2.5],
    "nested": [[1, 2], (3, 4)],
    "empty": [],
    "range": range(3),
    "deque": deque([1.0, 2.0]),
    "user_list": UserList([1, 2]),
    "empty_user_list": UserList([]),
    "user_lists": [UserList([1, 2]), UserList([True, False])],
    "named_tuple": _Pair(1.0, UserList([2.0])),
    "pair": _Pair(1, 2),
    "bytes": bytearray(b"ab"),
    "text": "ab",
    "texts": ["a"],
    "dict": {0: 1.0},
    "array": _halves,
    "numpy": np.arange(3),
    "numpys": [np.ones(2, dtype=np.float32), np.zeros(2, dtype=np.float32)],
    "numpy_numbers": [np.float64(1), np.float64(2)],
    "numpy_objects": np.array([1.0, 2.0], dtype=object),
    "tensors": [torch.ones(()), torch.zeros(())],
    "decimals": [Decimal("0.5"), Decimal(3)],
    "ragged": [UserList([1, 2]), UserList([1])],
    "wrong": _Wrong(),
    "endless": _Endless(),
    "array_method": _Array(),
    "nothing": None,
    "object": object(),
    "complex": [1j, UserList([1])],
}


def _result(make: Callable[[], Tensor]) -> Any:
    try:
        made = make()
    except Exception as error:
        return type(error), str(error)
    return made.dtype, made.tolist()


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list")
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.int64, torch.complex64])
@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor, torch.asarray])
def test_torch_makes_of_anything_what_it_does_elsewhere(
    given: str, dtype: torch.dtype | None, make: Callable[..., Tensor]
) -> None:
    found = []

    def factory() -> nn.Module:
        found.append(_result(lambda: make(GIVEN[given], dtype=dtype)))
        return nn.Linear(1, 1)

    fastinit.materialize(factory, key=0)
    assert found == [_result(lambda: make(GIVEN[given], dtype=dtype))]
