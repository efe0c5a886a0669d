"""Tied parameters: which place decides what they are, and keeping the places apart until it has.

A model initialises its layers, then ties what they hold. Initialisers that run over tied parameters
would write one memory several times, and the last would decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._compiled import extension
from fastinit._fills.region import Region
from fastinit._models.marks import Marks
from fastinit._models.names import Named, named_parameters
from fastinit._models.tree import Tree, entry_in
from fastinit._models.writes import WriteWatch

Place = tuple[nn.Module, str]


@dataclass(eq=False)
class Tie:
    """Places that hold one memory.

    Attributes:
        places: all of them, by their names' order.
        tensors: what each holds: the same parameter, or parameters on the same memory.
        source: the number of the place that decides.
        declared: whether a model of transformers says so, and ties after it has initialised.
    """

    places: list[Place]
    tensors: list[nn.Parameter]
    source: int = 0
    declared: bool = False
    _twins: dict[int, Marks] = field(default_factory=dict)

    def part(self, watch: WriteWatch) -> None:
        """Give all places but the source memory of their own."""
        with torch.inference_mode(False):  # inference tensors do not count what is written
            for k, (owner, attribute) in enumerate(self.places):
                tensor = self.tensors[k]
                if k != self.source:
                    twin = nn.Parameter(torch.empty_like(tensor), tensor.requires_grad)
                    owner._parameters[attribute] = twin
                    self._twins[k] = Marks(twin, tensor)
                    watch.watch(twin)
                else:
                    watch.watch(tensor)

    def join(self, watch: WriteWatch) -> None:
        """Tie them again. If nothing wrote the source, the first place that was written decides."""
        twins, self._twins = self._twins, {}
        for k, marks in twins.items():
            owner, attribute = self.places[k]
            # Initialisers may put others there.
            if entry_in(owner._parameters, attribute) is marks.stand_in:
                owner._parameters[attribute] = self.tensors[k]
                marks.hand_over(self.tensors[k])
        if not twins or watch.wrote(self.tensors[self.source]):
            return
        written = next((k for k, marks in twins.items() if watch.wrote(marks.stand_in)), None)
        if written is not None:
            self.tensors[written].copy_(twins[written].stand_in)


class Ties:
    """All that is tied in a module.

    Args:
        tree: the module.
        watch: what knows which places have been written.
    """

    def __init__(self, tree: Tree, watch: WriteWatch) -> None:
        self._watch = watch
        self._ties = [] if _nothing_shared(tree.modules) else ties_of(tree.modules[-1])
        self._at: dict[int, list[Tie]] = {}
        for tie in self._ties:
            place = tree.meeting([owner for owner, _ in tie.places])
            if tie.declared:  # which the outermost model does
                place = tree.outermost(place)
            self._at.setdefault(place, []).append(tie)

    def __bool__(self) -> bool:
        return bool(self._ties)

    def part(self) -> None:
        """Give all places but the sources memory of their own."""
        for tie in self._ties:
            tie.part(self._watch)

    def join_at(self, place: int, declared: bool) -> None:
        """Tie what meets in a module."""
        for tie in self._at.get(place, ()):
            if tie.declared is declared:
                tie.join(self._watch)

    def join_all(self) -> None:
        """Tie whatever is still apart."""
        for tie in self._ties:
            tie.join(self._watch)


def _span(tensor: Tensor) -> Any:
    """Give the bytes that a tensor fills to the last; another thing than any if it does not."""
    region = Region.of(tensor)
    return region.span if region.dense else id(tensor)


def _storage(tensor: Tensor) -> int:
    return extension.storage_address(tensor) or -id(tensor)  # a subclass without memory


def _nothing_shared(modules: Iterable[nn.Module]) -> bool:
    """Whether every place has memory of its own, which is soon found out."""
    held = [p for m in modules if m._parameters for p in m._parameters.values() if p is not None]
    return len(set(map(extension.storage_address, held))) == len(held)


def ties_of(module: nn.Module) -> list[Tie]:
    """Find what is tied: parameters in several places, and parameters on the same memory."""
    with torch._C.DisableTorchFunction():  # nobody reads anything here
        by_storage: dict[int, list[Named]] = {}
        for named in named_parameters(module).values():
            by_storage.setdefault(_storage(named.tensor), []).append(named)
        groups: dict[Any, list[Named]] = {}
        for storage, found in by_storage.items():
            for named in found if len(found) > 1 or found[0].others else ():
                groups.setdefault((storage, _span(named.tensor)), []).append(named)
    tied = [group for group in groups.values() if len(group) > 1 or group[0].others]
    if not tied:
        return []
    sources, targets = _declared(module)
    return [_tie(group, sources, targets) for group in tied]


def _key(place: Place) -> tuple[int, str]:
    return id(place[0]), place[1]


def _tie(group: list[Named], sources: set[tuple[int, str]], targets: set[tuple[int, str]]) -> Tie:
    held: list[tuple[Place, Any]] = [(place, n.tensor) for n in group for place in n.places]
    places = [place for place, _ in held]
    tie = Tie(places, [tensor for _, tensor in held])
    keys = [_key(place) for place in places]
    tie.declared = any(key in targets for key in keys)
    # What other places are tied to; an embedding, which heads are tied to; the first.
    tie.source = max(
        range(len(places)),
        key=lambda k: (
            keys[k] in sources and keys[k] not in targets,
            tie.declared and keys[k] not in targets,
            isinstance(places[k][0], (nn.Embedding, nn.EmbeddingBag)),
            -k,
        ),
    )
    return tie


def _place(model: nn.Module, name: str) -> tuple[int, str] | None:
    path, _, attribute = name.rpartition(".")
    try:
        return id(model.get_submodule(path)), attribute
    except AttributeError:
        return None


def _declared(module: nn.Module) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
    """Collect what models of transformers tie, as places: to what, and what."""
    sources: set[tuple[int, str]] = set()
    targets: set[tuple[int, str]] = set()
    for model in module.modules():
        keys = getattr(model, "all_tied_weights_keys", None)  # those of models inside, too
        if not isinstance(keys, Mapping):
            keys = getattr(model, "_tied_weights_keys", None)
        if isinstance(keys, Mapping):
            pairs = [(_place(model, target), _place(model, to)) for target, to in keys.items()]
            targets.update(target for target, _ in pairs if target is not None)
            sources.update(source for _, source in pairs if source is not None)
        elif isinstance(keys, (list, tuple, set)):  # before transformers 5: patterns of the targets
            targets.update(_matching(model, [key for key in keys if isinstance(key, str)]))
    return sources, targets


def _matching(model: nn.Module, patterns: Iterable[str]) -> set[tuple[int, str]]:
    found = [re.compile(pattern) for pattern in patterns]
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    places = (_place(model, name) for name in names if any(p.search(name) for p in found))
    return {place for place in places if place is not None}
