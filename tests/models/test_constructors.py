"""Constructors that initialise more than `initialize_` does: which are named, and which are not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from support.constructors import (
    Adapter,
    AsksInputs,
    Average,
    Block,
    ByApply,
    ByDefault,
    ByFunction,
    ByMethod,
    ByModule,
    Clips,
    Converts,
    Copies,
    Counts,
    Features,
    ForAll,
    ForAPart,
    Head,
    Inherits,
    Masks,
    Momentum,
    NeedsArguments,
    OfAChild,
    OfChildren,
    OfItsBase,
    OfItsParent,
    Optional,
    Runs,
    RunsApplied,
    Sets,
    SetsOthers,
    Tables,
    Target,
)
from support.constructors_by_value import (
    ByALocalName,
    ByAName,
    ByNumpy,
    ByPrivate,
    GivesWhatItIsGiven,
    LoadsADict,
    NamesOthers,
    OtherDefault,
    OtherKeyword,
    RunsBoth,
    SameDefault,
    SetsByName,
    SpreadsWhatItIsGiven,
)
from torch import nn

import fastinit
from fastinit._models.constructors import lost
from fastinit._models.tree import Tree


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (OfItsBase, r"OfItsBase\(\) calls weight\.normal_"),
        (Momentum, r"Momentum\(\) calls parameters\.copy_"),
        (Target, r"Target\(\) calls load_state_dict"),
        (ByModule, r"ByModule\(\) calls orthogonal_"),
        (Features, r"Features\(\) sets weight"),
        (OfAChild, r"OfAChild\(\) calls constant_"),
        (OfChildren, r"OfChildren\(\) calls constant_"),
        (ByDefault, r"ByDefault\(\) calls ones_"),
        (ForAPart, r"ForAPart\(\) calls _init_weights for parts alone"),
        (Block, r"Block\(\) calls uniform_, zeros_"),
        (ByFunction, r"ByFunction\(\) calls trunc_normal_"),
        (ByApply, r"ByApply\(\) calls trunc_normal_"),
        (ByMethod, r"ByMethod\(\) calls weight\.normal_"),
        (Inherits, r"Inherits\(\) calls weight\.normal_"),
        (NeedsArguments, r"NeedsArguments\(\) calls normal_"),
        (Adapter, r"Adapter\.reset_adapter_parameters needs arguments"),
        (Copies, r"Copies\(\) calls bias.mul_, weight.copy_"),
        (Sets, r"Sets\(\) sets bias\[\.\.\.\], weight.data\. Values"),
        (ByAName, r"ByAName\(\) calls getattr\(nn\.init, \.\.\.\)\. Values"),
        (ByALocalName, r"ByALocalName\(\) calls getattr\(nn\.init, "),
        (ByPrivate, r"ByPrivate\(\) calls _no_grad_fill_\."),
        (ByNumpy, r"ByNumpy\(\) sets weight\[\.\.\.\]"),
        (LoadsADict, r"LoadsADict\(\) calls load_state_dict"),
        (SetsByName, r"SetsByName\(\) sets bias\."),
        (OtherDefault, r"OtherDefault\(\) calls reset_parameters\(0\.0\)\."),
        (OtherKeyword, r"OtherKeyword\(\) calls init_weights\(std=0\.5\)\."),
        (lambda: nn.Sequential(nn.Linear(2, 2), Block()), r"Block\(\) calls uniform_, zeros_"),
    ],
)
def test_constructors_that_initialise_are_named(make: Any, text: str) -> None:
    with pytest.warns(UserWarning, match=text) as found:
        fastinit.initialize_(make(), key=3)
    assert len(found) == 1
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    "make",
    [
        Runs,
        RunsApplied,
        OfItsParent,
        Tables,
        SetsOthers,
        Masks,
        Optional,
        Converts,
        Average,
        Clips,
        Counts,
        Head,
        ForAll,
        AsksInputs,
        SameDefault,
        GivesWhatItIsGiven,
        SpreadsWhatItIsGiven,
        RunsBoth,
        NamesOthers,
        lambda: nn.Transformer(8, 2, 1, 1, 8),
        lambda: nn.LSTM(3, 3),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
    ],
)
def test_what_is_run_again_is_not(make: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make()
    assert lost(Tree(module)) == []


def test_each_class_once_and_not_too_many() -> None:
    kinds = [type(f"Block{k}", (Block,), {}) for k in range(8)]
    module = nn.Sequential(*(kind() for kind in kinds for _ in range(2)))
    with pytest.warns(UserWarning, match=r"Block4\(\).*and 3 more") as found:
        fastinit.initialize_(module, key=3)
    assert str(found[0].message).count("Block") == 5
