"""What `check_ranks()` refuses before it notes anything; what it finds is in support/ranks.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.fake_ranks import as_rank, as_rank_of
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit
from fastinit._distributed import store as store_of_ranks
from fastinit._distributed.fill import OBSERVERS
from fastinit._distributed.part import TensorShard
from fastinit._models.noted import Call, Named, mismatch

CALL = Call("normal_", "weight", "(2, 3)", "torch.float32", "(0.0, 1.0)", "of a key")

WRONG: list[tuple[type[Exception], str, tuple[Any, ...], Any]] = [
    (TypeError, "'module' must be a torch.nn.Module or a sequence of them, got int", (3,), 60.0),
    (
        TypeError,
        "'module' must be a torch.nn.Module or a sequence of them, got type",
        (torch.nn.Linear,),
        60.0,
    ),
    (TypeError, "'timeout' must be a number, got '9'", (), "9"),
    (TypeError, "'timeout' must be a number, got None", (), None),
    (TypeError, "'timeout' must be a number, got True", (), True),
    (ValueError, "'timeout' must be positive", (), 0),
    (ValueError, "'timeout' must be positive", (), math.nan),
    (ValueError, "'timeout' must be .* at most 31536000 seconds, a year; got inf", (), math.inf),
]


@pytest.mark.parametrize(("error", "message", "arguments", "timeout"), WRONG)
def test_wrong_arguments(
    error: type[Exception], message: str, arguments: tuple[Any, ...], timeout: Any
) -> None:
    with pytest.raises(error, match=f"fastinit.check_ranks: argument {message}"):
        fastinit.check_ranks(*arguments, timeout=timeout)
    assert not OBSERVERS


@pytest.mark.parametrize(
    ("error", "message", "distinct"),
    [
        (TypeError, "must be a mapping from patterns to process groups, got str", "experts.*"),
        (TypeError, "takes globs and compiled regular expressions, got 3", {3: None}),
        (TypeError, r"must give process groups, got list for 'a\*'", {"a*": [0, 1]}),
    ],
)
def test_wrong_distinct(error: type[Exception], message: str, distinct: Any) -> None:
    with pytest.raises(error, match=f"fastinit.check_ranks: argument 'distinct' {message}"):
        fastinit.check_ranks(torch.nn.Linear(2, 2), distinct=distinct)


def test_distinct_is_about_a_module() -> None:
    with pytest.raises(ValueError, match="argument 'distinct' is about names in 'module'"):
        fastinit.check_ranks(distinct={"*": None})


def test_without_a_process_group_there_is_nothing_to_compare() -> None:
    layer = torch.nn.Linear(2, 2)
    with fastinit.check_ranks(layer, distinct={"nothing": None}):
        fastinit.initialize_(layer, key=0)
    assert not OBSERVERS


def test_with_the_fake_process_group_there_is_nothing_to_compare() -> None:
    with as_rank_of((2,), 1) as mesh:
        layer = fully_shard(torch.nn.Linear(2, 2), mesh=mesh)
        with fastinit.check_ranks(layer, distinct={"nothing": None}):
            fastinit.initialize_(layer, key=0)
        with pytest.raises(
            RuntimeError, match=r"fastinit.report: the process group is .* fake one"
        ):
            fastinit.report(layer, distributed=True)


def test_one_cannot_be_entered_twice_at_once() -> None:
    check = fastinit.check_ranks()
    for _ in range(2):
        with check, pytest.raises(RuntimeError, match="is entered already; make another"), check:
            pass
    assert not OBSERVERS


def drawn(*calls: Call) -> list[Named]:
    return [Named("", call) for call in calls]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("function", "uniform_"),
        ("shape", "(3, 3)"),
        ("dtype", "torch.bfloat16"),
        ("arguments", "(0.0, 0.5)"),
    ],
)
def test_what_is_not_the_same_under_one_key(field: str, value: str) -> None:
    other = CALL._replace(**{field: value})
    for calls in ((other,), (CALL, other), (other, CALL)):
        for first, second in ((drawn(CALL), drawn(*calls)), (drawn(*calls), drawn(CALL))):
            said = mismatch([first, first, second])
            assert said is not None
            assert said.startswith("ranks 0 and 2 draw under one key what is not the same")
            assert f"not the same: the {field};" in said
            assert str(CALL) in said and str(other) in said


def test_what_one_key_may_be_for() -> None:
    tied, again = CALL._replace(parameter="head.weight"), (CALL, CALL)
    other = CALL._replace(key="of another", function="zeros_")
    assert mismatch([drawn(CALL), drawn(tied), drawn(*again), drawn(other), drawn()]) is None


# ---- what it is told of --------------------------------------------------------------------------


@contextmanager
def told() -> Iterator[list[tuple[tuple[int, ...], str, tuple[Any, ...], int]]]:
    """List draws: into what shape, by which function, its numbers and key."""
    found: list[tuple[tuple[int, ...], str, tuple[Any, ...], int]] = []

    def note(tensor: Any, name: str, numbers: tuple[Any, ...], key: int) -> None:
        if not isinstance(tensor, TensorShard):  # as `check_ranks` does
            found.append((tuple(tensor.shape), name, numbers, key))

    OBSERVERS.append(note)
    try:
        yield found
    finally:
        OBSERVERS.remove(note)


@pytest.fixture(params=["plain", "sharded"])
def layer(request: pytest.FixtureRequest) -> Iterator[torch.nn.Module]:
    made = torch.nn.Linear(4, 6)
    with as_rank(1, 2):
        if request.param == "sharded":
            made = fully_shard(made, mesh=init_device_mesh("cpu", (2,)))
        yield made


def test_what_is_skipped_is_not_drawn(layer: torch.nn.Module) -> None:
    for skipped, drawn_there in (("bias", (6, 4)), ("weight", (6,))):
        with told() as found:
            fastinit.initialize_(layer, key=0, skip=skipped)
        assert [shape for shape, *_ in found] == [drawn_there]


def test_what_is_loaded_is_not_drawn(layer: torch.nn.Module) -> None:
    with told() as found:
        fastinit.materialize(layer.to("meta"), key=0, state_dict={"bias": torch.ones(6)})
    assert [shape for shape, *_ in found] == [(6, 4)]


def test_rules_are_told_by_what_they_draw_by(layer: torch.nn.Module) -> None:
    rules: dict[str, Callable[..., Any]] = {
        "normal_": lambda w: fastinit.normal_(w),
        "uniform_": lambda w: fastinit.uniform_(w),
        "bernoulli_": lambda w: w.bernoulli_(),
        "exponential_": lambda w: w.exponential_(),
        "orthogonal_": lambda w: fastinit.orthogonal_(w),
    }
    for function, rule in rules.items():
        with told() as found:
            fastinit.initialize_(layer, {"weight": rule, "default": None}, key=0, skip="bias")
        assert [name for _, name, *_ in found] == [function]


def test_torchs_own_draws_into_dtensors_are_told_of() -> None:
    keys = []
    for rank, seed in ((0, 0), (1, 0), (1, 5)):
        with as_rank_of((2,), rank) as mesh:
            made = fully_shard(torch.nn.Linear(4, 6), mesh=mesh)
            torch.manual_seed(seed)
            with told() as found, fastinit.patch(), torch.no_grad():
                made.weight.bernoulli_(0.25)
                made.weight.exponential_()
            assert [(name, numbers) for _, name, numbers, _ in found] == [
                ("bernoulli_", (0.25,)),
                ("exponential_", ()),
            ]
            keys.append([key for *_, key in found])
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])
    assert len(set(keys[0])) == 2


def test_torchs_own_draws_by_name_are_told_of() -> None:
    made = torch.nn.Linear(4, 6)
    with told() as found, fastinit.patch(key=3, module=made), torch.no_grad():
        made.weight.bernoulli_(0.25)
    key = fastinit.Key(3).fold_in("weight").fold_in(0)
    assert found == [((6, 4), "bernoulli_", (0.25,), int(key))]


FLOWS: dict[str, Callable[[Any], object]] = {
    "cat": lambda w: w.copy_(torch.cat([torch.randn(2, 4), torch.randn(4, 4)])),
    "stack": lambda w: w.copy_(torch.stack([torch.randn(4) for _ in range(6)])),
    "transposed": lambda w: w.copy_(torch.randn(4, 6).t()),
    "sum": lambda w: w.copy_(torch.randn(6, 4) + torch.randn(6, 4)),
    "product": lambda w: w.copy_(torch.randn(6, 3) @ torch.randn(3, 4)),
    "qr": lambda w: w.copy_(torch.linalg.qr(torch.randn(6, 4)).Q),
    "scaled": lambda w: w.copy_(torch.randn(6, 4) * 0.02),
    "read": lambda w: w.copy_(drawn_and_read()),
}


def drawn_and_read() -> Any:
    found = torch.randn(6, 4)
    return found / float(found.norm())


@pytest.mark.parametrize("how", FLOWS)
def test_draws_are_told_of_that_values_come_from(how: str, layer: torch.nn.Module) -> None:
    """Under the name of what they flow into, and with the key that this gives them."""
    with told() as found:
        fastinit.initialize_(layer, {"weight": FLOWS[how], "default": None}, key=0, skip="bias")
    count = {"cat": 2, "stack": 6, "sum": 2, "product": 2}.get(how, 1)
    word = fastinit.Key(0).fold_in("weight")
    assert [key % 2**64 for *_, key in found] == [int(word.fold_in(n)) for n in range(count)]
    assert {shape for shape, *_ in found} == {(6, 4)}
    assert {name for _, name, *_ in found} == {"normal_"}


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "orthogonal"])
def test_draws_are_told_of_for_what_modules_compute(how: str) -> None:
    made = getattr(torch.nn.utils.parametrizations, how)(torch.nn.Linear(4, 6))
    with told() as found:
        fastinit.initialize_(made, key=0, skip="bias")
    key = int(fastinit.Key(0).fold_in("weight").fold_in(0))
    assert key in {key % 2**64 for *_, key in found}


# ---- what it asks --------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one rank."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_what_is_large_is_said_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Counting:
        def __init__(self, store: Any) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def set(self, key: str, value: str) -> None:
            nonlocal largest
            largest = max(largest, len(value))
            self._store.set(key, value)

    inner = distributed.distributed_c10d._get_default_store()
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: Counting(inner))
    monkeypatch.setattr(store_of_ranks, "_MOST", 100)
    values = [[], "a", {"names": [f"layer.{k}.é" for k in range(2000)]}]
    for value in values:
        store = store_of_ranks.Store("test", 5.0)
        store.publish("seen", value)
        assert store.collect("seen", [0]) == [value]
        assert store.collect_shared([store.share(value)]) == [value]
    assert largest == 100


@pytest.mark.usefixtures("alone")
def test_a_store_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def set(self, key: str, value: str) -> None:
            raise distributed.DistNetworkError("Broken pipe")

    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", Failing)
    failure = pytest.raises(RuntimeError, match=r"check_ranks: the store .* fails: Broken pipe")
    with failure, fastinit.check_ranks():
        pass
    # What is raised inside comes through as it is.
    with pytest.raises(KeyError, match="planted"), fastinit.check_ranks():
        raise KeyError("planted")
