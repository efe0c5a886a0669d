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
_OF_PARAMETERS = frozenset(
    {"parameters", "named_parameters", "_parameters", "state_dict"}
    | {"all_weights", "_flat_weights"}  # of nn.RNNBase
)
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
            for several of them, "parameter" for one; "new" for a parameter made here of values,
            "handed" for one made of values from elsewhere. Beside these "dict" for one made here,
            "initialiser" for one of torch's. And what counts as unknown but where it is asked for:
            "constant"; "given" for an argument, and its values in other memory; "object" for what
            something global gives.
        path: as above; of an object, that of what gives it; of what is handed in, that of its
            values, if they have one.
        value: that of a constant; the name of an argument, and of an element, if it has one; of an
            object, whether it may be made of a weight; of a parameter and its copies, which one it
            is of those met together; of what is handed in, whether it is certain that it is.
    """

    kind: str
    path: Path = ()
    value: Any = None


MADE, NONE_YET = Value("made"), Value("empty")
PARAMETERS, PARAMETER, NEW = Value("parameters"), Value("parameter"), Value("new")
DICT, INITIALISER = Value("dict"), Value("initialiser")
SELF_VALUE = Value("name", (SELF,))
Held = Value | None  # None: nothing is known of it
_UNKNOWN = ("constant", "given", "object")


def known(value: Held) -> Held:
    """Give what is known of something beside that it is a constant, say."""
    return None if value is not None and value.kind in _UNKNOWN else value


def is_tied(to: Held, of: Held) -> bool:
    """Whether a weight that is set to something is tied to it, converted, or gets no values."""
    if to is None or to.kind not in ("name", "view", "copy", "empty", "parameter", "handed"):
        return False
    if to.kind == "handed":
        return bool(to.path)
    if to.kind == "copy" and of is not None and of.kind == "parameter":
        return bool(to.path) or to.value == of.value  # of itself, and not of what it is met with
    return True


def from_elsewhere(to: Held) -> bool:
    """Whether values may be a table that somebody has handed in, and are no weight at hand."""
    return to is not None and bool(to.path) and to.path[0] != SELF


class Argument(NamedTuple):
    """What code is given as an argument, by its name.

    Attributes:
        name: what the code calls it.
    """

    name: str


def constants(
    given: Sequence[Held], names: Sequence[str]
) -> frozenset[tuple[int | str, Any]] | None:
    """Give constants and arguments by place or name; None if there are others among them."""
    values = [
        one.value if one.kind == "constant" else Argument(one.value)
        for one in given
        if one is not None and (one.kind == "constant" or (one.kind == "given" and one.value))
    ]
    if len(values) < len(given):
        return None
    keys = (*range(len(given) - len(names)), *names)
    return frozenset(zip(keys, values, strict=True))


def attribute_of(of: Held, name: str) -> Held:
    """Say what an attribute is, or the method that gives it."""
    if name in _OF_PARAMETERS:
        return PARAMETERS
    if of is not None and of.kind == "given" and (name in _VIEWS | _COPIES or name == "data"):
        return Value("given")
    of = known(of)
    if of is None or of in (DICT, INITIALISER):
        return PARAMETER if name == "data" else Value("name", (ANY, name))
    if of == PARAMETERS:
        return of
    if of.kind == "parameter":
        if name in _COPIES:
            return Value("copy", value=of.value)
        return of if name in _VIEWS or name == "data" else None
    if of.kind in ("made", "new", "handed"):
        return MADE
    if of == NONE_YET:
        return of if name in _VIEWS or name in _COPIES else MADE
    if name in _VIEWS or name == "data":
        return Value("view" if of.kind == "name" else of.kind, of.path)
    if name in _COPIES:
        return Value("copy", of.path)
    return Value("name", (*of.path, name)) if of.kind != "copy" else None


def item_of(of: Held, index: Held) -> Held:
    """Say what an element or a slice is."""
    if of is None or of == DICT:
        return None
    if of.kind not in ("name", "parameters"):
        return of
    if of == PARAMETERS:
        return PARAMETER
    name = index.value if index is not None and index.kind == "constant" else None
    return Value("view", of.path, name if isinstance(name, str) else None)


def each_of(of: Held, which: int | None = None) -> Held:
    """Say what is met by going through something, or which of several it is that are met."""
    if of == DICT:
        return None
    if of == PARAMETERS:
        return PARAMETER
    if of is not None and of.kind == "parameter" and which is not None:
        return Value("parameter", value=(*(of.value or ()), which))
    return of


def _parameter_of(first: Held) -> Held:
    """Say what a parameter is that is made of something."""
    if first == NONE_YET:
        return NONE_YET
    if first is None or first.kind == "object":
        converted = first is not None and first.value
        return None if converted else Value("handed", value=False)
    if first.kind == "given":
        return Value("handed", value=True)
    if first.kind in ("name", "view", "copy"):
        return Value("handed" if from_elsewhere(first) else "copy", first.path, True)
    return None if first.kind == "constant" else NEW


def is_weight(value: Held) -> bool:
    """Whether something is a weight, for all that its name tells."""
    if value is None:
        return False
    named = bool(value.path) and value.path[-1].endswith(("weight", "bias"))
    return value.kind in ("parameter", "parameters") or named


def result_of(function: Held, given: Sequence[Held]) -> Held:
    """Say what a call gives."""
    if function is None or function.kind != "name":
        return function
    arguments = [*map(known, given)]
    path, first = function.path, next(iter(arguments), None)
    last = path[-1]
    if path == ("getattr",) and first is not None and first.path in _INIT:
        return INITIALISER
    if path == ("super",):
        return SELF_VALUE
    if last in _EMPTY:
        return NONE_YET
    if last in ("Parameter", "Buffer"):
        made = _parameter_of(given[0]) if given else None
        if last == "Buffer" and made is not None and made.kind == "handed":
            return Value("copy", made.path) if made.path else None
        return made
    if last in _ITERATING:
        there = [one for one in (*arguments, function) if one is not None]
        iterated = next((one for one in there if one == PARAMETERS), None)
        if iterated is None and len(path) > 1:  # `self.layers.children()`
            return Value("name", path[:-1])
        return iterated or next((one for one in there if one is not function), None)
    if last.startswith("new_"):
        return MADE
    if path[0] in _ARRAYS and len(path) > 1 and (path[1] != "nn"):
        if last in _VIEWS and first is not None:
            return attribute_of(first, last)
        if last[0].islower():
            return MADE
    return Value("object", path, any(map(is_weight, arguments)))


_INIT = (("init",), ("nn", "init"), ("torch", "nn", "init"))
