"""Flags by which initialisers do nothing when they are called again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastinit._models.by_class import by_class
from fastinit._models.bytecode import ASKED
from fastinit._models.bytecode_values import SELF
from fastinit._models.loaded import FLAG
from fastinit._models.reached import function_of, is_of, reached
from fastinit._models.tree import INITIALISERS, Tree

_OTHERS = (FLAG, "training")  # which are not an initialiser's own


class _OwnFlag(NamedTuple):
    """An attribute that initialisers ask for, and set to True: what they set back is a state.

    Attributes:
        name: the attribute.
        of_itself: whether it is one of the module that defines them; else of any.
        may_lack: whether they ask if it is there at all.
    """

    name: str
    of_itself: bool
    may_lack: bool


@by_class
def flags_of(kind: Any) -> frozenset[_OwnFlag]:
    """Collect the flags by which the initialisers of a class know that they have run."""
    methods = (function_of(getattr(kind, name, None)) for name in INITIALISERS)
    # Those of transformers, which has a flag of its own, take a tenth of a second to read.
    own = [f for f in methods if f is not None and not is_of(f, "torch", "transformers")]
    found = reached(kind, own, lambda _: False)
    read = found.names | {path[-1] for path in found.paths}
    states = {flag.name for flag in found.flags if not flag.raised}
    asked = {path[-1] for path in found.paths if path[-2:-1] == (ASKED,)}
    return frozenset(
        _OwnFlag(name, of == SELF, name in asked)
        for of, name, _ in found.flags
        if name in read and name not in states and name not in _OTHERS
    )


@contextmanager
def lowered(tree: Tree) -> Iterator[None]:
    """Take back the flags of modules, so that their initialisers run again.

    Those that they do not set again are set afterwards.
    """
    flags = {kind: flags_of(kind) for kind in {*map(type, tree.modules)}}
    everywhere = {flag for found in flags.values() for flag in found if not flag.of_itself}
    raised = [
        (module, flag)
        for module in (tree.modules if any(flags.values()) else ())
        for flag in {*everywhere, *flags[type(module)]}
        if vars(module).get(flag.name) is True
    ]
    for module, flag in raised:
        vars(module)[flag.name] = False
        if flag.may_lack:
            del vars(module)[flag.name]
    try:
        yield
    finally:
        for module, flag in raised:
            if not vars(module).get(flag.name):
                vars(module)[flag.name] = True
