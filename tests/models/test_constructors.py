"""Constructors that initialise more than `initialize_` does: which are named, and which are not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
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
from support.constructors_by_table import (
    TABLE,
    ByAnAlias,
    ByAnyOfATable,
    ByATable,
    ChoosesPretrained,
    FromPretrained,
    GivesAWeight,
    HandsOn,
    HandsOnTheSame,
    HandsOnWhatItMayHave,
    KeepsRunning,
    KeepsWhatItIsHanded,
    MadeInPlace,
    MakesAndDraws,
    MayBePretrained,
    MayReplace,
    Normalised,
    OfAllWeights,
    OfALocal,
    OwnRunning,
    Replaces,
    ReplacesByACall,
    ReplacesByAFunction,
    ReplacesByAGlobal,
    ReplacesOwn,
    ReturnsBeforeATable,
    Running,
    SetsAGlobal,
    SetsCopies,
    Tied,
    TiesInPairs,
    Trains,
    copied,
    frozen,
    trained_at_the_head,
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
        (FromPretrained, r"FromPretrained\(\) calls from_pretrained\."),
        (MadeInPlace, r"MadeInPlace\(\) calls from_pretrained\."),
        (lambda: ReturnsBeforeATable(TABLE * 1), r"ReturnsBeforeATable\(\) sets weight\."),
        (lambda: MayBePretrained(TABLE), r"MayBePretrained\(\) calls from_pretrained\."),
        (lambda: MayBePretrained(TABLE * 1, False), r"MayBePretrained\(\) calls from_pretrained"),
        (lambda: ChoosesPretrained(TABLE), r"ChoosesPretrained\(\) calls from_pretrained\."),
        (lambda: ReplacesByAFunction(TABLE * 1), r"ReplacesByAFunction\(\) sets weight\."),
        (lambda: GivesAWeight(TABLE * 1), r"GivesAWeight\(\) sets _weight\."),
        (Replaces, r"Replaces\(\) sets weight\."),
        (ReplacesByAGlobal, r"ReplacesByAGlobal\(\) sets weight\."),
        (SetsAGlobal, r"SetsAGlobal\(\) sets weight\."),
        (lambda: MayReplace(TABLE * 1), r"MayReplace\(\) sets weight\."),
        (ReplacesByACall, r"ReplacesByACall\(\) sets weight\."),
        (lambda: ReplacesOwn(torch.eye(4)), r"ReplacesOwn\(\) sets weight\."),
        (ByAnAlias, r"ByAnAlias\(\) calls xavier_uniform_\."),
        (ByATable, r"ByATable\(\) calls zeros_\."),
        (ByAnyOfATable, r"ByAnyOfATable\(\) calls ones_, zeros_\."),
        (HandsOn, r"HandsOn\(\) calls init_weights\(0\.001\)\."),
        (Running, r"Running\(\) calls running_var\.fill_\."),
        (OwnRunning, r"OwnRunning\(\) calls running_mean\.add_\."),
        (OfALocal, r"OfALocal\(\) calls zeros_\."),
        (Normalised, r"Normalised\(\) calls weight\.normal_\."),
        (SetsCopies, r"SetsCopies\(\) sets parameters\.data\."),
        (OfAllWeights, r"OfAllWeights\(\) calls parameters\.fill_\."),
        (Trains, r"Trains\(\) calls SGD\.step\."),
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
        MayBePretrained,
        ReturnsBeforeATable,
        ChoosesPretrained,
        ReplacesByAFunction,
        copied,
        frozen,
        trained_at_the_head,
        GivesAWeight,
        MayReplace,
        lambda: MayReplace(tied=True),
        HandsOnTheSame,
        HandsOnWhatItMayHave,
        KeepsRunning,
        TiesInPairs,
        Tied,
        KeepsWhatItIsHanded,
        MakesAndDraws,
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
