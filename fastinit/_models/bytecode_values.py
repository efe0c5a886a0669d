"""What the interpreter holds, as far as instructions tell, and what calls and attributes give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Path = tuple[str, ...]  # names from where they begin: SELF, ANY, or a global

SELF, ANY = "", "?"  # a function's first argument, and what is not known

# What gives the memory of a tensor; of one made just now it gives what has been made.
_VIEWS = frozenset(
    {"T", "detach", "expand", "expand_as", "flatten", "mT", "narrow", "numpy", "permute"}
    | {"reshape", "squeeze", "t", "transpose", "unsqueeze", "view", "view_as"}
)
# What gives its values in other memory, in another type or layout.
_COPIES = frozenset(
    {"bfloat16", "clone", "contiguous", "cpu", "cuda", "double", "float", "half", "to", "type"}
)
_EMPTY = frozenset(  # what makes no values
    {"empty", "empty_like", "empty_strided", "new", "new_empty"}
    | {"Tensor", "FloatTensor", "DoubleTensor", "HalfTensor"}
)
_OF_PARAMETERS = frozenset({"parameters", "named_parameters", "_parameters", "state_dict"})
_ITERATING = frozenset(
    {"enumerate", "filter", "iter", "list", "map", "reversed", "sorted", "tuple", "zip"}
    | {"chain", "items", "values", "named_modules", "modules", "children", "named_children"}
)
_ARRAYS = ("torch", "np", "numpy")  # modules whose functions make tensors and arrays
SOME = "getattr(nn.init, ...)"  # one of torch's initialisers, whichever


class Value(NamedTuple):
    """Something on the interpreter's stack.

    Attributes:
        kind: "name" of the attribute that `path` leads to; "view" of its memory; "copy" of its
            values; "made" for values made here, "empty" for memory made here without; "parameters"
            for several of them, "parameter" for one; "new" for a parameter made here of values.
            Beside these "dict" for one made here, "initialiser" for one of torch's, "constant".
        path: as above.
        value: that of a constant.
    """

    kind: str
    path: Path = ()
    value: Any = None


MADE, NONE_YET = Value("made"), Value("empty")
PARAMETERS, PARAMETER, NEW = Value("parameters"), Value("parameter"), Value("new")
DICT, INITIALISER = Value("dict"), Value("initialiser")
SELF_VALUE = Value("name", (SELF,))
Held = Value | None  # None: nothing is known of it
TIED = ("name", "view", "copy", "empty")  # what a weight may be set to without being changed


def known(value: Held) -> Held:
    """Give what is known of something beside that it is a constant."""
    return None if value is not None and value.kind == "constant" else value


def constants(
    given: Sequence[Held], names: Sequence[str]
) -> frozenset[tuple[int | str, Any]] | None:
    """Give constants by place or name; None if there are others among them."""
    values = [one.value for one in given if one is not None and one.kind == "constant"]
    if len(values) < len(given):
        return None
    keys = (*range(len(given) - len(names)), *names)
    return frozenset(zip(keys, values, strict=True))


def attribute_of(of: Held, name: str) -> Held:
    """Say what an attribute is, or the method that gives it."""
    if name in _OF_PARAMETERS:
        return PARAMETERS
    if of is None or of in (DICT, INITIALISER):
        return PARAMETER if name == "data" else Value("name", (ANY, name))
    if of == PARAMETERS:
        return of
    if of == PARAMETER:
        if name in _COPIES:
            return Value("copy")
        return of if name in _VIEWS or name == "data" else None
    if of.kind in ("made", "new"):
        return MADE
    if of == NONE_YET:
        return of if name in _VIEWS or name in _COPIES else MADE
    if name in _VIEWS or name == "data":
        return Value("view" if of.kind == "name" else of.kind, of.path)
    if name in _COPIES:
        return Value("copy", of.path)
    return Value("name", (*of.path, name)) if of.kind != "copy" else None


def item_of(of: Held) -> Held:
    """Say what an element or a slice is."""
    if of is None or of == DICT:
        return None
    if of.kind not in ("name", "parameters"):
        return of
    return PARAMETER if of == PARAMETERS else Value("view", of.path)


def each_of(of: Held) -> Held:
    """Say what is met by going through something."""
    if of == DICT:
        return None
    return PARAMETER if of == PARAMETERS else of


def result_of(function: Held, arguments: Sequence[Held]) -> Held:
    """Say what a call gives."""
    if function is None or function.kind != "name":
        return function
    path, first = function.path, next(iter(arguments), None)
    last = path[-1]
    if path == ("getattr",) and first is not None and first.path in _INIT:
        return INITIALISER
    if path == ("super",):
        return SELF_VALUE
    if last in _EMPTY:
        return NONE_YET
    if last in ("Parameter", "Buffer"):
        if first is None:
            return None
        if first.kind in ("name", "view", "copy"):
            return Value("copy", first.path)
        return NONE_YET if first == NONE_YET else NEW
    if last in _ITERATING:
        known = [one for one in (*arguments, function) if one is not None]
        iterated = next((one for one in known if one == PARAMETERS), None)
        if iterated is None and len(path) > 1:  # `self.layers.children()`
            return Value("name", path[:-1])
        return iterated or next((one for one in known if one is not function), None)
    if last.startswith("new_"):
        return MADE
    if path[0] in _ARRAYS and len(path) > 1 and (path[1] != "nn"):
        if last in _VIEWS and first is not None:
            return attribute_of(first, last)
        return MADE if last[0].islower() else None
    return None


_INIT = (("init",), ("nn", "init"), ("torch", "nn", "init"))
