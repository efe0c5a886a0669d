"""Names of parameters and buffers that stay the same whatever a model is wrapped in."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastinit._models.parametrized import Parametrized, Place, parametrized
from fastinit._models.tree import entry_in

# What wrappers call the module inside: torch.compile, FSDP and activation checkpointing.
_WRAPPED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# The classes that call it "module", in torch and other libraries. Many that are no wrappers have a
# child of that name, too, so nothing but the class tells.
_WRAPPERS = frozenset(
    {"DataParallel", "DistributedDataParallel", "AveragedModel", "DeepSpeedEngine"}
)

_NONE: tuple[()] = ()  # of which most have none


class Named:
    """A parameter or buffer under its first name.

    Attributes:
        name: fully qualified, without the segments that wrappers add.
        tensor: the parameter or buffer.
        owner: the module that holds it under this name.
        attribute: what the owner calls it.
        part_of: what the module that has it computes from it, if so: a normalised weight, say.
        others: the other (owner, attribute) that hold the same tensor.
        aliases: its names there.
    """

    __slots__ = ("aliases", "attribute", "name", "others", "owner", "part_of", "tensor")

    def __init__(
        self,
        name: str,
        tensor: Tensor,
        owner: nn.Module,
        attribute: str,
        part_of: Computed | None = None,
    ) -> None:
        self.name = name
        self.tensor = tensor
        self.owner = owner
        self.attribute = attribute
        self.part_of = part_of
        self.others: Sequence[Place] = _NONE
        self.aliases: Sequence[str] = _NONE

    def stands_as(self, owner: nn.Module, attribute: str, alias: str) -> None:
        """Note another place that holds the tensor, and its name there."""
        if not isinstance(self.others, list) or not isinstance(self.aliases, list):
            self.others, self.aliases = [], []
        self.others.append((owner, attribute))
        self.aliases.append(alias)

    def with_tensor(self, tensor: Tensor) -> Named:
        """Give another tensor these names and places."""
        made = Named(self.name, tensor, self.owner, self.attribute, self.part_of)
        if self.others:
            made.others, made.aliases = [*self.others], [*self.aliases]
        return made

    @property
    def padding_rows(self) -> list[int]:
        """The rows that embeddings which hold the tensor keep at zero."""
        rows = {
            owner.padding_idx
            for owner, attribute in self.places
            if isinstance(owner, (nn.Embedding, nn.EmbeddingBag))
            and attribute == "weight"
            and tuple(self.tensor.shape) == (owner.num_embeddings, owner.embedding_dim)
        }
        return sorted(row for row in rows if row is not None)

    @property
    def places(self) -> list[Place]:
        """Every (owner, attribute) that holds the tensor."""
        return [(self.owner, self.attribute), *self.others]

    @property
    def tables(self) -> list[tuple[dict[str, Any], str]]:
        """The tables of modules in which the tensor stands, and under which name."""
        return [
            (table, attribute)
            for owner, attribute in self.places
            for table in (owner._parameters, owner._buffers)
            if entry_in(table, attribute) is self.tensor
        ]


@dataclass(frozen=True, eq=False)
class Computed:
    """A tensor that a module computes from its parameters, under the name it has without that.

    Attributes:
        name: fully qualified, as those of parameters.
        how: what computes it.
    """

    name: str
    how: Parametrized

    @functools.cached_property
    def named(self) -> Named:
        """Itself as a parameter, on the meta device."""
        return Named(self.name, self.how.example(), self.how.module, self.how.attribute)


def without_wrappers(name: str) -> str:
    """Drop the segments that only wrappers use; "module" may be anybody's."""
    return ".".join(segment for segment in name.split(".") if segment not in _WRAPPED)


def _is_wrapper(module: nn.Module) -> bool:
    """Whether a child called "module" is what this one wraps, as in DistributedDataParallel."""
    return any(kind.__name__ in _WRAPPERS for kind in type(module).__mro__)


def _join(path: str, segment: str) -> str:
    return f"{path}.{segment}" if path else segment


def below(path: str, parent: nn.Module, segment: str) -> str:
    """Name what the module of a name holds under another, but for what wrappers add."""
    dropped = segment in _WRAPPED or (segment == "module" and _is_wrapper(parent))
    return path if dropped else _join(path, segment)


def named_modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Walk a module and all below it, parents first, each once and under its first name."""
    seen: set[nn.Module] = set()
    waiting = [(prefix, module)]
    while waiting:
        path, current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        yield path, current
        for segment, child in reversed(current._modules.items()) if current._modules else ():
            if child is not None:
                waiting.append((below(path, current, segment), child))


def parents_of(module: nn.Module) -> dict[nn.Module, Place]:
    """Say for all below a module which one it has its first name from, and what that calls it."""
    found: dict[nn.Module, Place] = {}
    seen: set[nn.Module] = set()
    waiting: list[tuple[nn.Module, Place | None]] = [(module, None)]
    while waiting:
        current, place = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if place is not None:
            found[current] = place
        for segment, child in reversed(current._modules.items()) if current._modules else ():
            if child is not None:
                waiting.append((child, (current, segment)))
    return found


class _Table:
    """What is collected of one sort, each tensor once."""

    __slots__ = ("_first", "_module", "named")

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._first: dict[int, Named] = {}
        self.named: dict[str, Named] = {}

    def add(
        self,
        stem: str,
        owner: nn.Module,
        table: Mapping[str, Tensor | None],
        parts: Mapping[Place, Computed],
    ) -> None:
        """Add what a module holds; `stem` is the module's name with a dot behind it."""
        first, all_named = self._first, self.named
        for attribute, tensor in table.items():
            if tensor is None:
                continue
            name, address = stem + attribute, id(tensor)
            if address in first:
                first[address].stands_as(owner, attribute, name)
                continue
            if name in all_named:
                raise ValueError(
                    f"two tensors of {type(self._module).__name__} are called {name!r} once the "
                    "names that wrappers add are dropped; rename one"
                )
            named = all_named[name] = first[address] = Named(name, tensor, owner, attribute)
            if parts:
                named.part_of = parts.get((owner, attribute))


class NamedTensors(NamedTuple):
    """The parameters and the buffers of a module, each once, by their names, in torch's order."""

    parameters: dict[str, Named]
    buffers: dict[str, Named]

    @property
    def both(self) -> dict[str, Named]:
        """All of them."""
        return {**self.parameters, **self.buffers}

    @property
    def tensors(self) -> list[Tensor]:
        """All of them without their names."""
        return [named.tensor for table in self for named in table.values()]


def named_tensors(module: nn.Module, prefix: str = "") -> NamedTensors:
    """Collect the parameters and buffers, persistent or not.

    The segments that wrappers add are dropped: `_orig_mod`, `_fsdp_wrapped_module`,
    `_checkpoint_wrapped_module`, and `module` below data parallelism (DistributedDataParallel,
    DataParallel, DeepSpeedEngine, subclasses of them) and AveragedModel. A tied parameter has the
    first of its names.

    Args:
        module: the module.
        prefix: the name of `module` itself inside a larger one, without a dot at the end.

    Raises:
        ValueError: if two parameters, or two buffers, have the same name then.
    """
    parameters, buffers = _Table(module), _Table(module)
    parts: dict[Place, Computed] = {}
    for path, owner in named_modules(module, prefix):
        for how in parametrized(owner):
            computed = Computed(_join(path, how.attribute), how)
            parts.update(dict.fromkeys(how.sources, computed))
        stem = f"{path}." if path else ""
        if owner._parameters:
            parameters.add(stem, owner, owner._parameters, parts)
        if owner._buffers:
            buffers.add(stem, owner, owner._buffers, _NO_PARTS)
    return NamedTensors(parameters.named, buffers.named)


_NO_PARTS: Mapping[Place, Computed] = {}


def computed_of(named: Mapping[str, Named]) -> list[str]:
    """List the names of what modules compute from these."""
    return [one.part_of.name for one in named.values() if one.part_of is not None]


def named_parameters(module: nn.Module, prefix: str = "") -> dict[str, Named]:
    """Collect the parameters alone, as `named_tensors` does."""
    return named_tensors(module, prefix).parameters
