"""What an error in `initialize_` puts back: containers of any class, and what is tied."""

from __future__ import annotations

import logging
import random
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy
import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit
from fastinit import Key, initialize_, materialize
from fastinit._models.snapshot import Snapshot

KEY = Key(3)


class _Refuses:
    """Lets nobody copy, change or look through it by its own methods."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("refused")

    copy = clear = update = extend = add = append = _refuse
    items = keys = values = _refuse
    __setitem__ = __delitem__ = _refuse


class _Dict(_Refuses, dict):  # type: ignore[type-arg]
    pass


class _Ordered(_Refuses, OrderedDict):  # type: ignore[type-arg]
    def __init__(self, **items: Any) -> None:
        for key, value in items.items():
            OrderedDict.__setitem__(self, key, value)


class _List(_Refuses, list):  # type: ignore[type-arg]
    pass


class _Set(_Refuses, set):  # type: ignore[type-arg]
    pass


class _Deque(_Refuses, deque):  # type: ignore[type-arg]
    pass


class _Short(dict):  # type: ignore[type-arg]
    """Has a copy that is another thing, and takes other arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(a=first, b=second)

    def copy(self) -> Any:
        return {}


def _change(held: Any) -> None:
    kind = next(k for k in (OrderedDict, dict, list, set, deque) if isinstance(held, k))
    if issubclass(kind, dict):
        kind.__setitem__(held, "a", 9)
        kind.__setitem__(held, "z", 9)
        if kind is OrderedDict:
            OrderedDict.move_to_end(held, "a")
    else:
        (kind.add if kind is set else kind.append)(held, 9)


def _plain(held: Any) -> Any:
    for kind in (OrderedDict, dict):
        if isinstance(held, kind):
            return list(kind.items(held))
    return sorted(held)


class _Unwritten(nn.Module):
    """Changes what it holds, and writes too little."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held
        self.weight = nn.Parameter(torch.zeros(3))

    def reset_parameters(self) -> None:
        _change(self.held)


@pytest.mark.parametrize(
    ("held", "before"),
    [
        (Counter(a=1), [("a", 1)]),
        (defaultdict(list, a=1), [("a", 1)]),
        (OrderedDict(a=1, b=2), [("a", 1), ("b", 2)]),
        (_Dict(a=1), [("a", 1)]),
        (_Ordered(a=1, b=2), [("a", 1), ("b", 2)]),
        (_Short(1, 2), [("a", 1), ("b", 2)]),
        (_List([1, 2]), [1, 2]),
        (_Set([1, 2]), [1, 2]),
        (_Deque([1, 2]), [1, 2]),
        (deque([1, 2], maxlen=3), [1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_of_any_class_hold_what_they_held(held: Any, before: list[Any]) -> None:
    module = _Unwritten(held)
    with pytest.raises(ValueError, match=r"writes weight \(parameter\)"):
        initialize_(module, key=KEY)
    assert module.held is held
    assert _plain(held) == before


class _Tied(nn.Module):
    """Holds one tensor in two places, and fails, or writes too little, when initialised."""

    def __init__(self, error: type[Exception] | None, data: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(4, 3), nn.Linear(3, 4)
        if data:
            self.head.weight.data = self.embedding.weight.data
        else:
            self.head.weight = self.embedding.weight
        self.unwritten = nn.Parameter(torch.zeros(2))
        self.error = error

    def reset_parameters(self) -> None:
        self.embedding.weight.data.mul_(2)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("error", [None, KeyError])
def test_what_is_tied_is_so_after_an_error(error: type[Exception] | None, data: bool) -> None:
    module = _Tied(error, data)
    first, second = module.embedding.weight, module.head.weight
    values, memory = first.detach().clone(), first.data_ptr()
    with pytest.raises(error or ValueError):
        initialize_(module, key=KEY)
    assert module.embedding.weight is first
    assert module.head.weight is second
    assert first.data_ptr() == second.data_ptr() == memory
    assert same_bits(first.data, values)


@pytest.mark.parametrize("error", [None, KeyError])
def test_what_is_tied_on_the_meta_device_is_so_after_an_error(
    error: type[Exception] | None,
) -> None:
    with torch.device("meta"):
        module = _Tied(error, False)
    weight: Tensor = module.embedding.weight
    with pytest.raises(error or ValueError):
        materialize(module, key=KEY)
    assert module.embedding.weight is weight
    assert module.head.weight is weight
    assert weight.is_meta


class _Backend:
    def __init__(self) -> None:
        self.functional = torch.nn.functional


class _HoldsTheProcess(nn.Module):
    """Holds modules of Python's and a logger, from which one comes to all that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))
        self.numpy, self.backend, self.log = numpy, _Backend(), logging.getLogger(__name__)
        self.held = [torch.empty(2)]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        logging.getLogger(f"{__name__}.{id(self)}")
        nn.init.ones_(self.weight)
        nn.init.ones_(self.held[0])


def test_what_is_the_whole_process_s_is_not_the_module_s(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _HoldsTheProcess()
    state = Snapshot(module)
    assert {id(tensor) for tensor in state.tensors} == {id(module.weight), id(module.held[0])}
    made = materialize(_HoldsTheProcess, key=KEY)
    assert same_bits(made.held[0], torch.ones(2))
    assert same_bits(initialize_(module, key=KEY).weight, torch.ones(3))

    def fails(self: Any) -> None:
        nn.init.ones_(self.weight)
        logging.getLogger(f"{__name__}.fails")
        raise KeyError

    monkeypatch.setattr(_HoldsTheProcess, "reset_parameters", fails)
    with pytest.raises(KeyError):
        initialize_(module, key=KEY)
    assert f"{__name__}.fails" in logging.root.manager.loggerDict


class _Generates(nn.Module):
    """Holds a generator, or takes everybody's; reads what it draws, so that all runs again."""

    def __init__(self, generator: torch.Generator | None = None, stops: bool = False) -> None:
        super().__init__()
        self.generator = generator or torch.Generator().manual_seed(7)
        self.stops = stops
        self.weight, self.bias = nn.Parameter(torch.empty(8)), nn.Parameter(torch.empty(8))
        self.register_buffer("order", torch.empty(8, dtype=torch.long))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        drawn = torch.randn(8)
        self.weight.copy_(drawn / drawn.norm().item())
        nn.init.normal_(self.bias, generator=self.generator)
        self.get_buffer("order").copy_(torch.randperm(8, generator=self.generator))
        if self.stops:
            raise ZeroDivisionError


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_generators_are_drawn_from_once_if_initialisers_run_again() -> None:
    shared, after, bias = _generator(), _generator(), torch.empty(8)
    fastinit.normal_(bias, generator=after)
    order = torch.randperm(8, generator=after)
    module = _Generates()
    module.generator.manual_seed(7)
    initialize_(module, key=KEY)
    made = materialize(lambda: _Generates(shared), key=KEY)
    for one, generator in ((module, module.generator), (made, shared)):
        assert same_bits(one.bias.detach(), bias)
        assert torch.equal(one.get_buffer("order"), order)
        assert torch.equal(generator.get_state(), after.get_state())


class _Rolls(nn.Module):
    """Holds generators that are not torch's; its initialiser seeds one, and runs again."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.dice = random.Random(3), numpy.random.RandomState(3), numpy.random.default_rng(3)
        self.bits, self.system = numpy.random.MT19937(3), random.SystemRandom()
        self.seeded = torch.Generator()
        self.stops = False

    def rolled(self) -> list[float]:
        return [*(one.random() for one in self.dice), int(self.bits.random_raw())]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        drawn = torch.randn(8)
        self.weight.copy_(drawn / drawn.norm().item())
        self.values = self.rolled()
        self.seeded.manual_seed(3)
        if self.stops:
            raise ZeroDivisionError


def test_generators_of_others_that_a_module_holds_are_put_back() -> None:
    rolled = _Rolls().rolled()
    module = _Rolls()
    assert initialize_(module, key=KEY).values == rolled
    module = _Rolls()
    module.stops, before = True, module.seeded.initial_seed()
    with pytest.raises(ZeroDivisionError):
        initialize_(module, key=KEY)
    assert module.rolled() == rolled
    assert module.seeded.initial_seed() == before


def test_an_error_puts_generators_back() -> None:
    module = _Generates()
    module.stops, before = True, module.generator.get_state()
    with pytest.raises(ZeroDivisionError):
        initialize_(module, key=KEY)
    assert torch.equal(module.generator.get_state(), before)
    shared = _generator()
    with pytest.raises(ZeroDivisionError):
        materialize(lambda: _Generates(shared, stops=True), key=KEY)
    assert torch.equal(shared.get_state(), _generator().get_state())
