"""What `initialize_` and `materialize` say about arguments and initialisers that go wrong."""

from __future__ import annotations

import dataclasses
import functools
import re
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import same_bits
from support.initialize_helpers import NORMAL, Block, Model, assert_same, values
from torch import nn

import fastinit
from fastinit import initialize_, materialize
from fastinit._models import notes


def _on_meta() -> Model:
    with torch.device("meta"):
        return Model()


# Each takes the rules and keyword arguments of both functions.
ROADS: dict[str, Callable[..., nn.Module]] = {
    "initialize_": lambda rules=None, **k: initialize_(Model(), rules, key=3, **k),
    "factory": lambda rules=None, **k: materialize(Model, rules=rules, key=3, **k),
    "meta": lambda rules=None, **k: materialize(_on_meta(), rules=rules, key=3, **k),
}


def said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def refuse(tensor: torch.Tensor) -> None:
    raise KeyError("mine", tensor.dim())


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    ("selector", "initialiser", "name", "error", "text"),
    [
        (1, fastinit.xavier_uniform_, "layers.0.first.bias", ValueError, "xavier_uniform_()"),
        (
            "*.second.*",
            functools.partial(fastinit.normal_, std=-1.0),
            "layers.0.second.weight",
            RuntimeError,
            "normal_(std=-1.0)",
        ),
        (nn.Embedding, refuse, "embed.weight", KeyError, "refuse()"),
    ],
)
def test_an_error_in_a_rule_names_parameter_and_rule(
    road: str, selector: Any, initialiser: Any, name: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        ROADS[road]({selector: initialiser, "default": NORMAL})
    message = said(caught.value)
    assert type(caught.value) is error
    for part in (name, text, "(20, 8)" if name == "embed.weight" else name):
        assert part in message


class Refuses(Block):
    def reset_parameters(self) -> None:
        raise KeyError("mine")


def test_an_error_of_a_module_s_own_names_the_module_and_the_method() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Refuses()))
    with pytest.raises(KeyError) as caught:
        initialize_(module, key=3, prefix="whole")
    assert "Refuses.reset_parameters" in said(caught.value)
    assert "'1.0'" in said(caught.value)


def test_notes_where_exceptions_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.10 shows the message alone."""
    monkeypatch.setattr(notes, "_HAS_NOTES", False)
    error = ValueError("bad", 3)
    notes.note(error, "there")
    assert error.args == ("bad\nthere", 3)
    for without in (KeyError(3), ZeroDivisionError()):
        before = without.args
        notes.note(without, "there")
        assert without.args == before


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    why: str


@pytest.mark.parametrize("has_notes", [False, notes._HAS_NOTES])
def test_an_exception_that_is_frozen_has_notes(
    monkeypatch: pytest.MonkeyPatch, has_notes: bool
) -> None:
    monkeypatch.setattr(notes, "_HAS_NOTES", has_notes)
    error = Frozen("mine")
    notes.note(error, "here")
    notes.note(error, "there")
    assert said(error).strip().endswith("here\nthere")
    assert error.why == "mine"


class Wordless(nn.Module):
    """Has words for itself after it has been fitted, and names for nobody."""

    def __init__(self, initialiser: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        if initialiser is not None:
            self.reset_parameters = initialiser

    def reset_parameters(self) -> None:
        raise KeyError("mine")

    def extra_repr(self) -> str:
        raise RuntimeError("not fitted")

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no names")


class Calls:
    def __call__(self) -> None:
        raise KeyError("mine")

    def __repr__(self) -> str:
        raise RuntimeError("not fitted")


def fails(*_: Any, **__: Any) -> None:
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("initialiser", "text"),
    [
        (None, "Wordless.reset_parameters, called"),
        (Calls(), "Calls, called"),
        (functools.partial(fails), "fails, called"),
        (functools.partial(fails, 1, 2), "fails, called"),
    ],
)
def test_an_error_of_what_has_no_words_is_its_own(initialiser: Any, text: str) -> None:
    with pytest.raises(KeyError, match="mine") as caught:
        initialize_(nn.Sequential(Wordless(initialiser)), key=3)
    assert caught.value.__context__ is None
    assert f"in {text} for '0' of Sequential" in said(caught.value)


def test_an_error_of_a_rule_with_a_wordless_argument_is_its_own() -> None:
    rule = functools.partial(fails, module=Calls())
    with pytest.raises(KeyError, match="mine") as caught:
        initialize_(Model(), {"*": rule}, key=3)
    assert "fails(module=Calls)" in said(caught.value)


@pytest.mark.parametrize("pattern", ["layer.*", re.compile("nothing"), "lm_head"])
def test_a_skip_that_matches_nothing_is_an_error(pattern: Any) -> None:
    model = Model()
    before = values(model)
    for skip in (pattern, ["head.weight", pattern]):
        with pytest.raises(ValueError, match=r"'skip'.*matches no parameter") as caught:
            initialize_(model, key=3, skip=skip)
        assert repr(pattern) in str(caught.value)
    assert_same(values(model), before)
    initialize_(model, key=3, skip=["head.*", re.compile("embed"), "*.weight"])


def test_a_skip_of_a_tied_parameter_s_other_name_says_so() -> None:
    model = Model()
    model.head.weight = model.embed.weight
    with pytest.raises(ValueError, match=r"head\.weight is another name of embed\.weight"):
        initialize_(model, key=3, skip="head.*")


@pytest.mark.parametrize("road", ["factory", "meta"])
@pytest.mark.parametrize("pattern", ["layer.*", re.compile("nothing")])
def test_an_allowance_that_matches_nothing_is_an_error(road: str, pattern: Any) -> None:
    with pytest.raises(ValueError, match=r"'allow_uninitialized'.*matches no parameter or buffer"):
        ROADS[road](allow_uninitialized=[pattern, "head.weight"])
    ROADS[road](allow_uninitialized=["head.weight"])  # what has values may be named


def test_patterns_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="'skip'"):
        initialize_(Model(), key=3, skip=[3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="'allow_uninitialized'"):
        materialize(Model, key=3, allow_uninitialized=nn.Linear)  # type: ignore[call-overload]


@pytest.mark.parametrize("road", ROADS)
def test_a_name_in_a_rule_that_matches_nothing_is_warned_of(road: str) -> None:
    rules = {
        "layer.*": NORMAL,
        (nn.Embedding, re.compile("emb$")): NORMAL,
        "head.*": NORMAL,
        "default": NORMAL,
        "embed.weight": NORMAL,
    }
    with pytest.warns(UserWarning, match="argument 'rules'") as caught:
        ROADS[road](rules)
    (warning,) = caught
    assert warning.filename == __file__
    message = str(warning.message)
    assert "'layer.*' matches no parameter" in message
    assert "re.compile('emb$')) matches no parameter" in message
    assert "earlier rules match all that 'embed.weight' does" in message
    assert "head" not in message
    assert "default" not in message.replace("'rules'", "")


@pytest.mark.parametrize("road", ROADS)
def test_rules_for_any_model_are_not_warned_of(road: str) -> None:
    """Classes and numbers of dimensions cannot be misspelt, and sets of rules have them for all."""
    rules = {
        "*.bias": nn.init.zeros_,
        nn.Conv2d: NORMAL,
        (4, nn.Conv2d): NORMAL,
        3: NORMAL,
        2: NORMAL,
        1: nn.init.ones_,
        nn.LayerNorm: nn.init.ones_,
        "default": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ROADS[road](rules)


def test_names_of_what_is_skipped_or_real_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize_(Model(), {"head.*": NORMAL, "default": None}, key=3, skip="head.weight")
        model = _on_meta()
        model.head = nn.Linear(8, 20, bias=False)
        materialize(model, rules={"head.*": NORMAL, "default": None}, key=3)
        model.head = model.head.to("meta")
        materialize(model, rules={"head.*": NORMAL}, key=3)  # the others are real


@pytest.mark.parametrize("road", ["factory", "meta"])
@pytest.mark.parametrize("rules", [None, {"model.layers.*": NORMAL, "default": None}])
def test_prefix(road: str, rules: Any) -> None:
    whole = nn.Module()
    whole.model = Model()
    initialize_(whole, rules, key=3)
    part = ROADS[road](rules, prefix="model")
    for name, parameter in whole.model.named_parameters():
        assert same_bits(part.get_parameter(name).data, parameter.data), name
    with pytest.raises(ValueError, match="matches no parameter"):
        ROADS[road](prefix="model", allow_uninitialized="head.weight")
    ROADS[road](prefix="model", allow_uninitialized="model.head.weight")
