"""More of what the processes of tests/distributed/test_processes.py do: weights that are distinct.

Experts and pipeline stages that are shared out by hand, which `check_ranks()` has to tell from
replicas.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit
from support.rank_cases import case, rank

EXPERTS = {"experts.*": None}


class Layer(nn.Module):
    """Two experts of eight, and a router that all ranks have alike."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 8)
        self.experts = nn.ModuleList(nn.Linear(6, 4, bias=False) for _ in range(2))

    def init_weights(self) -> None:
        nn.init.normal_(self.router.weight)
        for expert in self.experts:
            nn.init.normal_(expert.weight)


def renaming(place: int) -> Callable[[str], str]:
    def globally(name: str) -> str:
        return re.sub(r"^experts\.(\d)", lambda m: f"experts.{int(m[1]) + 2 * place}", name)

    return globally


def said_by(draw: Callable[[], object], *arguments: Any, **options: Any) -> str:
    try:
        with fastinit.check_ranks(*arguments, **options):
            draw()
    except RuntimeError as error:
        return str(error)
    return ""


def expect(said: str, *parts: str) -> None:
    for part in parts:
        assert part in said, said
    assert parts or not said, said


def by_patch(layer: Layer, **how: Any) -> None:
    with fastinit.patch(key=0, **how), torch.no_grad():
        layer.init_weights()


def by_calls(layer: Layer, rename: Callable[[str], str] = lambda name: name) -> None:
    for name, parameter in layer.named_parameters():
        fastinit.normal_(parameter, key=fastinit.Key(0).fold_in(rename(name)))


def ways(rename: Any) -> dict[str, tuple[Layer, Callable[[], object]]]:
    """List the ways to draw experts, under their names here or in the whole model."""
    layer, named = Layer(), {} if rename is None else {"rename": rename}
    meta = Layer()
    found: dict[str, tuple[Layer, Callable[[], object]]] = {
        "initialize_": (layer, lambda: fastinit.initialize_(layer, key=0, **named)),
        "materialize": (meta, lambda: fastinit.materialize(meta.to("meta"), key=0, **named)),
        "patch of a module": (layer, lambda: by_patch(layer, module=layer, **named)),
        "calls": (layer, lambda: by_calls(layer, *named.values())),
    }
    if rename is None:
        found["patch"] = (layer, lambda: by_patch(layer))
    return found


@case
def experts_of_one_name_are_named() -> None:
    for layer, draw in ways(None).values():
        said = said_by(draw, layer, distinct=EXPERTS)
        expect(said, "ranks 0-3 draw the same numbers into what is distinct on each")
        expect(said, "argument 'distinct': 'experts.*'", "ranks 0-3: ", "of 'experts.0.weight'")
        expect(said, "shape (4, 6), torch.float32, under the key of hash", "(rename=)")
        # Nobody has said that they are no replicas, as those of data parallelism are.
        expect(said_by(draw, layer))


@case
def experts_of_names_of_their_own_are_fine() -> None:
    for layer, draw in ways(renaming(rank())).values():
        expect(said_by(draw, layer, distinct=EXPERTS))


@case
def replicas_of_experts_are_fine() -> None:
    """Two groups of expert parallelism, and data parallelism between them."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    distinct = {re.compile("^experts"): mesh.get_group("ep")}
    for layer, draw in ways(renaming(mesh.get_local_rank("ep"))).values():
        expect(said_by(draw, layer, distinct=distinct))
        wrong = said_by(draw, layer, distinct=EXPERTS)
        expect(wrong, "draw the same numbers", "ranks 0, 2: ")
    for layer, draw in ways(None).values():
        ranks = "ranks 0-1" if rank() < 2 else "ranks 2-3"
        expect(said_by(draw, layer, distinct=distinct), f"{ranks} draw the same numbers")


@case
def experts_that_are_sharded_too() -> None:
    """Each rank of expert parallelism has a mesh of its own, so DTensors do not tell."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    layer = Layer()
    for expert in layer.experts:
        fully_shard(expert, mesh=mesh["dp"])
    rename = renaming(mesh.get_local_rank("ep"))
    for how, wrong in (({}, "ranks 0-3 draw the same numbers"), ({"rename": rename}, "")):
        draws = [
            lambda how=how: fastinit.initialize_(layer, key=0, **how),
            lambda how=how: by_patch(layer, module=layer, **how),
        ]
        for draw in draws:
            # On all ranks, for those of one mesh have parts of one weight.
            expect(said_by(draw, layer, distinct=EXPERTS), *filter(None, [wrong]))


@case
def stages_of_one_name_that_are_not_alike() -> None:
    """What two ranks draw under one key, and not in one way, is no replica."""

    class Stage(nn.Module):
        def __init__(self, width: int, std: float) -> None:
            super().__init__()
            self.std = std
            self.layers = nn.ModuleList([nn.Linear(width, 4, bias=False)])

        def reset_parameters(self) -> None:
            nn.init.normal_(self.layers[0].weight, std=self.std)  # type: ignore[arg-type]

    stage = Stage(5 + (rank() == 2), 1.0)
    said = said_by(lambda: fastinit.initialize_(stage, key=0), stage)
    expect(said, "ranks 0 and 2 draw under one key what is not the same")
    expect(said, "rank 0: ", "'layers.0.weight', shape (4, 5)", "rank 2: ", "shape (4, 6)")
    expect(said, "not the same: the shape", "rename=")
    stage = Stage(5, 1.0 if rank() < 2 else 0.5)  # as it is scaled by the depth in the whole
    said = said_by(lambda: fastinit.initialize_(stage, key=0), [stage])
    expect(said, "ranks 0 and 2 draw under one key", "not the same: the arguments")
    expect(said_by(lambda: fastinit.initialize_(stage, key=rank() // 2), [stage]))


@case
def what_distinct_does_not_meet_is_said() -> None:
    layer = Layer()
    group = distributed.new_group([0, 1])
    said = said_by(lambda: by_patch(layer), layer, distinct={"expert.*": group})
    expect(said, *(["'expert.*' matches nothing that was drawn on ranks 0-1"] * (rank() < 2)))
    # Nothing at all was drawn, and not on these ranks alone.
    said = said_by(lambda: None, layer, distinct=EXPERTS)
    expect(said, "'experts.*' matches nothing that was drawn on ranks 0-3")
    # A rank that has none of them, as others have.
    layer = Layer() if rank() else nn.Linear(6, 4)  # type: ignore[assignment]
    said = said_by(lambda: fastinit.initialize_(layer, key=0), layer, distinct=EXPERTS)
    expect(said, "ranks 1-3 draw the same numbers")


@case
def a_rank_that_draws_nothing_with_a_name() -> None:
    layer, other = Layer(), nn.Linear(3, 3)
    draw = (lambda: by_calls(layer)) if rank() else (lambda: fastinit.normal_(other.weight, key=0))
    expect(said_by(draw, layer))
    expect(said_by(draw, layer, distinct={"router.*": None}), "ranks 1-3 draw the same numbers")
