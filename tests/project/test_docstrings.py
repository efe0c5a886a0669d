"""Every public docstring stands on its own under help(): parameters, result, errors."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
import torch

import fastinit
from fastinit.initializers.draw import INITIALIZERS

PUBLIC = {name: getattr(fastinit, name) for name in fastinit.__all__}
FUNCTIONS = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isfunction(value) and not hasattr(value, "__wrapped__") and name[0] != "_"
}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
RANDOM = {
    name: function
    for name, function in FUNCTIONS.items()
    if "generator" in inspect.signature(function).parameters
}


def section(text: str, name: str) -> str:
    found = re.search(rf"^{name}:\n((?:    .*\n|\n)+)", text + "\n", re.MULTILINE)
    return found.group(1) if found else ""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_are_described(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    described = re.findall(r"^    (\w+): ", section(text, "Args"), re.MULTILINE)
    assert described == list(inspect.signature(FUNCTIONS[name]).parameters)


@pytest.mark.parametrize("name", RANDOM)
def test_errors_are_described_where_they_are_raised(name: str) -> None:
    text = inspect.getdoc(RANDOM[name]) or ""
    assert "RuntimeError: " in section(text, "Raises")
    assert not re.search(r"said at|described there|dtypes as for", text)


@pytest.mark.parametrize("name", [n for n in RANDOM if RANDOM[n] in INITIALIZERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_the_dtypes_are_those_that_are_filled(name: str, dtype: torch.dtype) -> None:
    text = section(inspect.getdoc(RANDOM[name]) or "", "Args")
    for kind in INITIALIZERS[RANDOM[name]].dtypes:
        assert str(kind).removeprefix("torch.") in text
    complex_too = torch.complex64 in INITIALIZERS[RANDOM[name]].dtypes
    assert ("complex64" in text) == complex_too


@pytest.mark.parametrize("name", CLASSES)
def test_classes_say_what_they_hold(name: str) -> None:
    text = inspect.getdoc(CLASSES[name]) or ""
    assert text
    if dataclasses.is_dataclass(CLASSES[name]):
        named = re.findall(r"^    (\w+): ", section(text, "Attributes"), re.MULTILINE)
        assert named == [field.name for field in dataclasses.fields(CLASSES[name])]


def test_what_public_functions_return_is_public() -> None:
    report = fastinit.report(torch.nn.Linear(2, 2), torch.ones(1, 2))
    (row, *_), (layer,) = report.parameters, report.layers
    for value in (fastinit.show_config(), report, row, layer, row.measured):
        assert type(value) is PUBLIC[type(value).__name__]
