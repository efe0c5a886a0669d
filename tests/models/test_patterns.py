"""Names among patterns and rules: the same as patterns, however many, and one look each."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastinit import initialize_, materialize
from fastinit._models.patterns import Patterns

KEY = 5


def _constant(value: float) -> Callable[[Tensor], Tensor]:
    return partial(nn.init.constant_, val=value)


def _calls(run: Callable[[], object]) -> int:
    """Count the calls of functions that something takes."""
    count = 0

    def look(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def _layers(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(1, 1) for _ in range(count))


def _names(count: int) -> Iterator[str]:
    return (f"{k}.{name}" for k in range(count) for name in ("weight", "bias"))


def _skipped(count: int) -> Callable[[], object]:
    module = _layers(count)
    return lambda: initialize_(module, key=KEY, skip=_names(count - 1))


def _ruled(count: int) -> Callable[[], object]:
    module, rules = _layers(count), dict.fromkeys(_names(count), nn.init.ones_)
    return lambda: initialize_(module, rules, key=KEY)


def _ruled_of_classes(count: int) -> Callable[[], object]:
    module = _layers(count)
    rules = {(name, nn.Linear): nn.init.ones_ for name in _names(count)}
    return lambda: initialize_(module, rules, key=KEY)


def _ruled_in_vain(count: int) -> Callable[[], object]:
    module = nn.ModuleList(nn.BatchNorm1d(1) for _ in range(count))
    rules = dict.fromkeys((f"layer{name}" for name in _names(count)), nn.init.ones_)
    return lambda: initialize_(module, {**rules, "default": None}, key=KEY)


def _buffers_ruled(count: int) -> Callable[[], object]:
    module = nn.ModuleList(nn.BatchNorm1d(1) for _ in range(count))
    rules = {f"{k}.running_mean": nn.init.ones_ for k in range(count)}
    return lambda: initialize_(module, {**rules, "default": None}, key=KEY)


def _allowed(count: int) -> Callable[[], object]:
    module = _layers(count).to("meta")
    for layer in module:
        layer.reset_parameters = lambda: None
    return lambda: materialize(module, allow_uninitialized=[*_names(count)], key=KEY)


def _loaded_by_hooks(count: int) -> Callable[[], object]:
    module = _layers(count)
    state = {name.replace("bias", "b"): value for name, value in module.state_dict().items()}

    def rename(_: nn.Module, found: dict[str, Tensor], *rest: object) -> None:
        for name in [n for n in found if n.endswith(".b")]:
            found[name.replace(".b", ".bias")] = found.pop(name)

    module.to("meta").register_load_state_dict_pre_hook(rename)
    return lambda: materialize(module, state_dict=state, key=KEY)


def _lazy_and_loaded(count: int) -> Callable[[], object]:
    module = nn.Sequential(*_layers(count), nn.LazyLinear(1))
    initialize_(module, key=KEY)
    state = {name: torch.ones_like(module.get_parameter(name)) for name in _names(count)}
    module.load_state_dict(state, strict=False)
    return lambda: module(torch.ones(1, 1))


@pytest.mark.filterwarnings("ignore:.*matches no parameter")
@pytest.mark.parametrize(
    "prepare",
    [
        _skipped,
        _ruled,
        _ruled_of_classes,
        _ruled_in_vain,
        _buffers_ruled,
        _allowed,
        _loaded_by_hooks,
        _lazy_and_loaded,
    ],
)
def test_as_many_names_as_parameters_take_time_in_proportion(
    prepare: Callable[[int], Callable[[], object]],
) -> None:
    prepare(5)()  # what is done once
    few, many = _calls(prepare(60)), _calls(prepare(240))
    assert many < 6 * few


def test_renaming_looks_each_name_up() -> None:
    compared = 0

    class Counting(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = {Counting(name): f"whole.{name}" for name in _names(100)}
    initialize_(_layers(100), key=KEY, rename=names)
    assert compared < 20 * len(names)


def test_names_and_patterns_match_as_before() -> None:
    patterns = Patterns(["0.weight", "2.*", re.compile("3.b"), "[4]?bias"])
    assert [*filter(patterns.match, _names(6))] == [
        "0.weight",
        *("2.weight", "2.bias", "3.bias", "4.bias"),
    ]
    assert not Patterns("0.weight").match("10.weight")
    assert not Patterns("weight").match("0.weight")
    assert not Patterns() and not Patterns([]) and Patterns("")
    # Names are no globs, whatever is in them.
    assert Patterns.of_names(["a[0]"]).match("a[0]") and not Patterns.of_names(["a[0]"]).match("a0")
    assert Patterns("a[0]").match("a0") and not Patterns("a[0]").match("a[0]")


def test_a_glob_that_is_another_tensors_name_matches_nothing() -> None:
    module = nn.Module()
    module.register_parameter("a[0]", nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match=r"'a\[0\]' matches no parameter"):
        initialize_(module, {"*": nn.init.ones_}, key=KEY, skip="a[0]")
    initialize_(module, {"*": nn.init.zeros_}, key=KEY, skip="a[[]0]")
    assert module.get_parameter("a[0]").sum() == 2


def test_the_first_rule_wins_whether_it_is_a_name_or_not() -> None:
    rules = [
        ("1.weight", _constant(1)),
        ("1.*", _constant(2)),
        ("1.bias", _constant(3)),
        ("0.weight", _constant(4)),
        (("0.bias", nn.Conv1d), _constant(5)),
        ((nn.Linear, "0.bias"), _constant(6)),
        ("default", _constant(7)),
        ("2.bias", _constant(8)),
    ]
    module = _layers(3)
    with pytest.warns(UserWarning, match="earlier rules match all that '1.bias' does; .*'2.bias'"):
        initialize_(module, rules, key=KEY)
    values = [int(p.flatten()[0]) for p in module.parameters()]
    assert values == [4, 6, 1, 2, 7, 7]


def test_a_name_is_that_of_a_computed_weight_too() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    module = nn.Sequential(layer, nn.Linear(2, 2))
    part = "0.parametrizations.weight.original1"
    rules = {"0.weight": _constant(2), "default": nn.init.ones_}
    initialize_(module, rules, key=KEY)
    assert torch.allclose(module[0].weight, torch.full((2, 2), 2.0))
    rules = {part: _constant(3), "0.weight": _constant(2), "default": nn.init.ones_}
    initialize_(module, rules, key=KEY)
    assert torch.equal(module.get_parameter(part), torch.full((2, 2), 3.0))
    rules = {"0.weight": _constant(2), part: _constant(3), "default": nn.init.ones_}
    with pytest.warns(UserWarning, match=f"earlier rules match all that '{part}'"):
        initialize_(module, rules, key=KEY)
    assert torch.allclose(module[0].weight, torch.full((2, 2), 2.0))


def test_loaded_names_with_special_characters_stay() -> None:
    module = nn.Sequential()
    module.add_module("a[0]*", nn.Linear(2, 2))
    module.add_module("a0x", nn.Linear(2, 2))
    module.add_module("last", nn.LazyLinear(2))
    initialize_(module, key=KEY)
    held = nn.Linear(2, 2)
    module.load_state_dict({f"a[0]*.{n}": p for n, p in held.named_parameters()}, strict=False)
    module(torch.ones(1, 2))
    assert torch.equal(module[0].weight, held.weight)
    plain = nn.Sequential()
    plain.add_module("a0x", nn.Linear(2, 2))
    assert torch.equal(module[1].weight, initialize_(plain, key=KEY)[0].weight)
