"""What initialisers make and somebody keeps beside the module: in a cache, for the next layer.

If they run again, or end in an error, it has values all the same, or says that it has none.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.common import same_bits
from torch import Tensor, nn

import fastinit
from fastinit._models import session

Table = Callable[[int], Tensor]

MAKERS: dict[str, Table] = {
    "constant": lambda n: torch.empty(n).fill_(0.5),
    "zeros": lambda n: torch.zeros(n),
    "draw": lambda n: torch.randn(n),
    "draw_in_place": lambda n: nn.init.normal_(torch.empty(n)),
    "scaled": lambda n: torch.randn(n).mul_(2),
    "view": lambda n: torch.randn(2 * n)[::2],
    "parameter": lambda n: nn.Parameter(torch.randn(n), requires_grad=False),
    "linear": lambda n: nn.Linear(1, n).bias.detach(),
    "torchs": lambda n: torch.empty(n).exponential_(),
}


@pytest.fixture(params=MAKERS)
def table(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield functools.lru_cache(maxsize=None)(MAKERS[request.param])


def reading(weight: Tensor) -> None:
    """Have initialisers run twice: what they read is drawn under another key the first time."""
    with torch.no_grad():
        drawn = torch.randn(3, 3)
        weight.copy_(drawn / drawn.norm().item())


def module_of(table: Table) -> type[nn.Module]:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 3))
            self.slopes = nn.Parameter(torch.zeros(6))
            if not self.weight.is_meta:
                self.reset_parameters()

        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.slopes.copy_(table(6))
            reading(self.weight)

    return Holds


def is_value(tensor: Tensor) -> bool:
    """Whether this is not what unwritten memory holds: tiny, or huge, or no number."""
    size = tensor.abs()
    return bool(((size == 0) | ((size > 1e-6) & (size < 100))).all())


@pytest.mark.parametrize("door", ["initialize_", "materialize", "meta"])
def test_initialisers_that_run_again(table: Any, door: str) -> None:
    made: Any = module_of(table)
    if door == "initialize_":
        module = made()
        table.cache_clear()
        fastinit.initialize_(module, key=3)
    elif door == "materialize":
        module = fastinit.materialize(made, key=3)
    else:
        with torch.device("meta"):
            module = made()
        table.cache_clear()
        fastinit.materialize(module, key=3)
    kept = table(6)
    assert is_value(kept)
    assert same_bits(module.slopes.detach(), kept.detach())
    assert fastinit.report(module).flags == {}
    again = made()  # by torch, with what is in the cache
    assert same_bits(again.slopes.detach(), kept.detach())


def test_it_has_the_key_of_its_name() -> None:
    table = functools.cache(lambda: torch.randn(6))
    module: Any = fastinit.materialize(module_of(lambda _: table()), key=3)
    want = torch.empty(6)
    fastinit.normal_(want, key=fastinit.Key(3).fold_in("slopes").fold_in(0))
    assert same_bits(module.slopes.detach(), want)
    weight = torch.empty(3, 3)
    fastinit.normal_(weight, key=fastinit.Key(3).fold_in("weight").fold_in(0))
    assert same_bits(module.weight.detach(), weight / weight.norm().item())


def test_a_buffer_that_is_in_the_cache() -> None:
    table = functools.cache(lambda: torch.randn(6))

    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 3))
            self.register_buffer("slopes", table())
            reading(self.weight)

    module: Any = fastinit.materialize(Holds, key=3)
    assert module.slopes is table()
    want = torch.empty(6)
    fastinit.normal_(want, key=fastinit.Key(3).fold_in("slopes").fold_in(0))
    assert same_bits(module.slopes, want)


def test_initialisers_that_run_again_without_waiting(table: Any) -> None:
    """What reaches memory past the dispatcher ends the run in which draws wait."""

    class Holds(module_of(table)):  # type: ignore[misc]
        def reset_parameters(self) -> None:
            super().reset_parameters()
            torch.Tensor.data_ptr(self.slopes)

    module: Any = fastinit.materialize(Holds, key=3)
    assert is_value(table(6))
    assert same_bits(module.slopes.detach(), table(6).detach())


@pytest.mark.parametrize("door", ["initialize_", "materialize"])
def test_after_an_error(table: Any, door: str) -> None:
    fails = False

    class Holds(module_of(table)):  # type: ignore[misc]
        def reset_parameters(self) -> None:
            super().reset_parameters()
            if fails:
                raise KeyError("planted")

    module = Holds()
    table.cache_clear()
    fails = True
    with pytest.raises(KeyError, match="planted"):
        if door == "initialize_":
            fastinit.initialize_(module, key=3)
        else:
            fastinit.materialize(Holds, key=3)
    kept = table(6)
    assert is_value(kept)
    fails = False
    other: Any = fastinit.materialize(Holds, key=4)
    assert same_bits(other.slopes.detach(), kept.detach())


def test_after_an_error_of_ours(table: Any) -> None:
    class Lacks(module_of(table)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lacking = nn.Parameter(torch.empty(2))

    with pytest.raises(ValueError, match="lacking"):
        fastinit.materialize(Lacks, key=3)
    kept = table(6)
    assert is_value(kept)
    rules = {"lacking": nn.init.zeros_, "default": None}
    module: Any = fastinit.materialize(Lacks, rules=rules, key=3)
    assert same_bits(module.slopes.detach(), kept.detach())


def test_much_is_not_computed_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MOST_LEFT", 4096)
    kept: list[Tensor] = []

    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kept.extend((torch.randn(2000), torch.randn(500), torch.randn(500)))
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        fastinit.materialize(Fails, key=3)
    has = [is_value(tensor) for tensor in kept[1:]]
    assert has == [True, True]
    with pytest.raises(RuntimeError, match=r"fill pending: .* ended in an error .* Make it anew"):
        kept[0].sum()
    with pytest.raises(RuntimeError, match="fill pending"):
        kept[0].numpy()


def test_what_only_holds_itself_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []

    class Knot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large = nn.Linear(300, 300)
            self.small = nn.Parameter(torch.zeros(3, 3))
            self.itself = [self]
            reading(self.small)

    run = session.Recorder.run
    monkeypatch.setattr(
        session.Recorder,
        "run",
        lambda self, ops, written=None: (
            filled.extend(op.writes[0].region.numel for op in ops),
            run(self, ops, written),
        )[1],
    )
    gc.collect()
    fastinit.materialize(Knot, key=3)
    assert filled.count(300 * 300) == 1


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_what_takes_long_is_not_computed_after_an_error(error: type[BaseException]) -> None:
    kept: dict[str, Tensor] = {}

    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kept["orthogonal"] = nn.init.orthogonal_(torch.empty(2000, 2000))
            kept["table"] = torch.randn(100)
            kept["large"] = torch.randn(1 << 19)
            raise error

    with pytest.raises(error):
        fastinit.materialize(Fails, key=3)
    assert is_value(kept["table"])
    with pytest.raises(RuntimeError, match="fill pending"):
        kept["orthogonal"].sum()
    if error is KeyError:
        assert 0.9 < float(kept["large"].std()) < 1.1
    else:
        with pytest.raises(RuntimeError, match="fill pending"):
            kept["large"].sum()
