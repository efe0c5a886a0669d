"""What `initialize_` or `materialize` was asked for, and what has come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from fastinit._models import rules as _rules
from fastinit._models.loaded import places_of
from fastinit._models.names import Named
from fastinit._models.patterns import Patterns
from fastinit._models.renaming import Renaming
from fastinit.key import Key


@dataclass
class Request:
    """What `initialize_` or `materialize` was asked for.

    Attributes:
        where: the function, for messages.
        key: what keys derive from.
        rules: those that were given.
        skip: names of what is to be left alone.
        allow: names of what may stay without values.
        state_dict: what is loaded, by name.
        progress: whether to show a bar.
        prefix: the name of the module.
        rename: from names to those that keys derive from.
        constructs: whether constructors run.
    """

    where: str
    key: Key
    rules: list[_rules.Rule] | None = None
    skip: Patterns = field(default_factory=Patterns)
    allow: Patterns = field(default_factory=Patterns)
    state_dict: Mapping[str, Tensor] = field(default_factory=dict)
    progress: bool = False
    prefix: str = ""
    rename: Renaming = field(default_factory=lambda: Renaming(None, ""))
    constructs: bool = False

    def argument(self, name: str) -> str:
        """Word an argument for a message."""
        return f"fastinit.{self.where}: argument {name!r}"

    def loaded(self, named: Mapping[str, Named], module: nn.Module) -> dict[str, Tensor]:
        """Give what is loaded by the first names of its places, which a module holds."""
        argument = self.argument("state_dict")
        return places_of(self.state_dict, named, argument, module, self.prefix)


@dataclass
class Result:
    """One run of the initialisers.

    Attributes:
        module: what they have initialised.
        parameters: its parameters now, by name.
        buffers: its buffers now, and tensors that it holds otherwise.
        applied: the rule of each parameter that has one.
        untouched: the parameters and buffers that are to stay as they were.
        lost: what constructors do that has not been run again.
    """

    module: nn.Module
    parameters: dict[str, Named]
    buffers: dict[str, Named]
    applied: dict[str, str] = field(default_factory=dict)
    untouched: list[Named] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
