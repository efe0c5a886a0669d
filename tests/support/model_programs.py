"""Random programs that are constructors and initialisers of modules, as data and as Python.

A program declares a few tensors of a module, in holders of many kinds, and says what is done to
them. `source` gives the class it stands for, and that text is what runs: what a failure prints can
be pasted. `model_steps` has the words, `model_judge` says how a program is judged.

Each word belongs to a feature; `FAILS_TODAY` is the one list of the features that do not hold yet.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from support.model_steps import CHILDREN, DRAWS, DTYPES, HOLDERS, NAMES, OTHERS, STEPS, VIEWS

DOORS = ("batch", "materialize", "initialize_")

# Feature -> the doors where it does not hold, and why. None, and so it is to stay.
FAILS_TODAY: dict[str, tuple[tuple[str, ...], str]] = {}


class Step(NamedTuple):
    """A step: its name in `STEPS`, the slots it is about, a view of them, and a number."""

    name: str
    to: int = 0
    other: int = 0
    view: str = "all"
    number: int = 1


class Program(NamedTuple):
    """A module: holder and type of each slot, its children, and what its initialiser does.

    With `skip`, `initialize_` is also asked to leave the first slot alone.
    """

    slots: tuple[tuple[str, str], ...]
    children: tuple[str, ...]
    steps: tuple[Step, ...]
    skip: bool = False


def _copies_itself(program: Program) -> bool:
    """Whether something is written from itself, or from a sum with itself before it has values."""
    slots = len(program.slots)
    filled: set[int] = set()
    for step in program.steps:
        to, other = step.to % slots, step.other % slots
        if step.name == "copy_" and to == other:
            return True
        if step.name == "functional" and {to, other} - filled:
            return True
        if STEPS[step.name] in ("fills", "constants") and step.view == "all":
            filled.add(to)
    return False


def features(program: Program) -> set[str]:
    """Collect the features of a program."""
    return {
        *(["copies of itself"] if _copies_itself(program) else []),
        *(HOLDERS[holder][2] for holder, _ in program.slots),
        *(dtype for _, dtype in program.slots),
        *(f"child: {child}" for child in program.children),
        *(STEPS[step.name] for step in program.steps),
    }


def holds_today(program: Program, door: str) -> bool:
    """Whether nothing in a program is known to fail at this door."""
    return not any(door in FAILS_TODAY.get(feature, ((),))[0] for feature in features(program))


def _expression(program: Program, slot: int) -> tuple[int, str]:
    slot %= len(program.slots)
    return slot, HOLDERS[program.slots[slot][0]][1].format(i=slot)


def statements(program: Program, constant: bool) -> Iterator[str]:
    """Write the steps, one a line; with `constant`, draws give constants."""
    for number, step in enumerate(program.steps):
        i, to = _expression(program, step.to)
        _, other = _expression(program, step.other)
        row = DRAWS.get(step.name)
        template = OTHERS[step.name][0] if row is None else row[1 if constant else 0]
        view = VIEWS[step.view]
        yield template.format(
            i=i, t=to, u=other, v=view.format(to), x=view.format(other), k=number + step.number
        )


def source(program: Program, constant: bool = False) -> str:
    """Write the class that a program stands for.

    Its constructor declares, and calls `reset_parameters` if `build` says so; that does the steps.
    """
    declared = [
        HOLDERS[holder][0].format(i=i, dtype="" if dtype == "float32" else f", dtype=torch.{dtype}")
        for i, (holder, dtype) in enumerate(program.slots)
    ]
    declared += [
        f"self.child{i} = " + ("Dense()" if constant else CHILDREN[child])
        for i, child in enumerate(program.children)
    ]
    lines = [
        "class Model(nn.Module):",
        "    build = True",
        "    def __init__(self):",
        "        super().__init__(); self.seen = []",
        *(f"        {line}" for line in declared),
        "        if self.build: self.reset_parameters()",
        "    @torch.no_grad()",
        "    def reset_parameters(self):",
        *(f"        {line}" for line in statements(program, constant)),
        "        return None",
    ]
    return "\n".join(lines) + "\n"


def model_class(program: Program, constant: bool = False) -> Any:
    """Give the class that a program stands for."""
    space: dict[str, Any] = {**NAMES, "__name__": __name__}
    exec(_code(program, constant), space)
    return space["Model"]


@functools.lru_cache(maxsize=8)
def _code(program: Program, constant: bool) -> types.CodeType:
    return compile(source(program, constant), "<program>", "exec")


def _possible(program: Program) -> Iterator[Step]:
    """Drop the steps that need what is not there."""
    arrays = {i for i, (holder, _) in enumerate(program.slots) if holder == "numpy's"}
    deleted: set[int] = set()
    for step in program.steps:
        slot, other = step.to % len(program.slots), step.other % len(program.slots)
        replaces = step.name in ("deleted", "in place of a parameter", "tie to the other")
        simple = HOLDERS[program.slots[slot][0]][1] == "self.w{i}"
        needs_child = "self.child0" in str(OTHERS.get(step.name))
        if (
            {slot, other} & deleted
            or (needs_child and not program.children)
            or (step.name == "numpy kept *=" and slot not in arrays)
            or (replaces and not simple)
        ):
            continue
        if step.name == "deleted":
            deleted.add(slot)
        elif step.name == "numpy kept":
            arrays.add(slot)
        yield step


Choose = Callable[[Sequence[Any]], Any]


def make_program(choose: Choose, door: str | None = None, longest: int = 8) -> Program:
    """Make a program of choices; for a door, of the features that hold there today."""

    def holds(feature: str) -> bool:
        return door is None or door not in FAILS_TODAY.get(feature, ((),))[0]

    names = [name for name, feature in STEPS.items() if holds(feature)]
    holders = [name for name, row in HOLDERS.items() if holds(row[2])]
    dtypes = [name for name in DTYPES if holds(name)]
    children = [name for name in CHILDREN if holds(f"child: {name}")]
    views = list(VIEWS)
    # The plain case often: parameters of float32, each written before anything else is done.
    slots = tuple(
        (
            choose(["parameter", choose(holders)]),
            choose(["float32", "float32", choose(dtypes)]),
        )
        for _ in range(choose([1, 2, 2, 3]))
    )
    kids = tuple(choose(children) for _ in range(choose([0, 0, 1, 2])))
    fills = ["normal", "uniform", "constant", "xavier", "trunc_normal"]
    first = [
        Step(choose(fills), i) for i in range(len(slots) if choose([True] * 9 + [False]) else 0)
    ]
    steps = [
        Step(
            choose(names),
            choose([0, 1, 2]),
            choose([0, 1, 2]),
            choose(["all", choose(views)]),
            choose([1, 2, 3]),
        )
        for _ in range(choose(range(longest + 1)))
    ]
    made = Program(slots, kids, (*first, *steps), choose([False, False, True]))
    made = made._replace(steps=tuple(_possible(made)))
    while door is not None and not holds_today(made, door):
        made = made._replace(steps=made.steps[:-1])
    return made


@st.composite
def programs(draw: Any, door: str | None = None, longest: int = 8) -> Program:
    """Give programs to Hypothesis."""
    return make_program(lambda options: draw(st.sampled_from(options)), door, longest)


def to_program(data: Any) -> Program:
    """Read a program back from JSON."""
    slots, children, steps, skip = data
    return Program(tuple(map(tuple, slots)), tuple(children), tuple(Step(*s) for s in steps), skip)


def smaller(program: Program) -> Iterator[Program]:
    """Give programs with something less, for those who shrink without Hypothesis."""
    slots, children, steps, skip = program
    for k in range(len(steps) - 1, -1, -1):
        yield program._replace(steps=steps[:k] + steps[k + 1 :])
    for k in range(len(children)):
        yield program._replace(children=children[:k] + children[k + 1 :])
    if len(slots) > 1:
        yield program._replace(slots=slots[:-1])
        yield program._replace(slots=slots[1:])
    for k, (holder, dtype) in enumerate(slots):
        for plainer in (("parameter", dtype), (holder, "float32")):
            if plainer != slots[k]:
                yield program._replace(slots=(*slots[:k], plainer, *slots[k + 1 :]))
    for k, step in enumerate(steps):
        plainer_steps = [step._replace(view="all"), step._replace(to=0), step._replace(other=0)]
        plainer_steps += [Step("constant", step.to)] if step.name in DRAWS else []
        for plainer_step in plainer_steps:
            if plainer_step != step:
                yield program._replace(steps=(*steps[:k], plainer_step, *steps[k + 1 :]))
    if skip:
        yield program._replace(skip=False)
