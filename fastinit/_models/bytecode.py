"""What code does, as far as its instructions tell: the names it uses, and changes to weights."""

from __future__ import annotations

import dis
from types import CodeType

# What is called so is looked at: tables have methods of these names, and parts, as well.
_CHANGED = ("weight", "bias")
_CALLS = ("copy_", "mul_", "div_")
# What gives the memory of a tensor, or its values in another type or layout; of one made just now
# it gives what has been made.
_VIEWS = frozenset(
    {
        "T",
        "detach",
        "expand",
        "expand_as",
        "flatten",
        "mT",
        "narrow",
        "permute",
        "reshape",
        "squeeze",
        "t",
        "transpose",
    }
    | {"unsqueeze", "view", "view_as"}
    | {"bfloat16", "clone", "contiguous", "cpu", "cuda", "double", "float", "half", "to", "type"}
)
_EMPTY = frozenset(  # what makes no values
    {"empty", "empty_like", "empty_strided", "new", "new_empty"}
    | {"Tensor", "FloatTensor", "DoubleTensor", "HalfTensor"}
)
_KEPT = "memory of others, or without values"
SETS = frozenset(f"{changed}{what}" for changed in _CHANGED for what in (".data", "[...]"))
CHANGES = SETS.union(f"{changed}.{call}" for changed in _CHANGED for call in _CALLS)


def names_in(code: CodeType) -> set[str]:
    """Collect the names that code uses, with the functions defined in it."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(names_in, inner))


def changes_in(code: CodeType) -> set[str]:
    """Collect what code does to weights beside calling initialisers: some of `CHANGES`.

    What is tied, as `a.weight.data = b.weight.data` does, or gets memory without values, is not
    changed.
    """
    found: set[str] = set()
    stack = _Stack()
    for step in dis.get_instructions(code):
        changed = stack.changed_by(step)
        if changed is not None:
            found.add(changed)
        stack.take(step)
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return found.union(*map(changes_in, inner))


class _Stack:
    """The interpreter's stack: of what is on it the last attribute, None if it is no attribute.

    The `.data` of a tensor goes by the tensor's name, and views of it are told from others. Jumps
    are not followed: what is on the stack where two ways meet is the same mostly.
    """

    def __init__(self) -> None:
        self._held: list[str | None] = []
        self._locals: dict[str, str | None] = {}

    def _below(self, depth: int) -> str | None:
        return self._held[-depth] if len(self._held) >= depth else None

    def _pop(self, count: int) -> None:
        if count > 0:
            del self._held[-count:]

    def changed_by(self, step: dis.Instruction) -> str | None:
        """Say what an instruction that comes next changes."""
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval in _CALLS:
            of, how = self._below(1), f".{step.argval}"
        elif step.opname == "STORE_ATTR" and step.argval == "data" and self._below(2) is None:
            of, how = self._below(1), ".data"
        elif step.opname in ("STORE_SUBSCR", "STORE_SLICE"):
            of, how = self._below(2 if step.opname == "STORE_SUBSCR" else 3), "[...]"
        else:
            return None
        change = f"{of}{how}"
        return change if change in CHANGES else None

    def take(self, step: dis.Instruction) -> None:
        """Do what an instruction does to the stack."""
        name = step.opname
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            of = self._below(1)
            self._pop(1)
            self._held += [None] * effect
            self._held.append(_attribute(of, step.argval))
        elif name in ("SWAP", "ROT_TWO") and len(self._held) >= 2:
            depth = 2 if name == "ROT_TWO" else step.argval
            if depth <= len(self._held):
                self._held[-1], self._held[-depth] = self._held[-depth], self._held[-1]
        elif name in ("COPY", "DUP_TOP"):
            self._held.append(self._below(1 if name == "DUP_TOP" else step.argval))
        elif name == "STORE_FAST":
            self._locals[step.argval] = self._below(1)
            self._pop(1)
        elif name.startswith("LOAD_FAST"):  # one, or two at once
            names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
            self._held += map(self._locals.get, names)
        elif name in ("BINARY_SUBSCR", "BINARY_SLICE"):
            of = self._below(2 if name == "BINARY_SUBSCR" else 3)
            self._pop(1 - effect)
            self._held.append(None if of is None else _KEPT)
        elif effect > 0:
            self._held += [None] * effect
        elif name.startswith(_TAKING) and not name.endswith("_LOAD_FAST"):
            self._pop(-effect)
        elif name not in _NOTHING:
            # Of a call the first two are what is called and, for most calls, an object or nothing.
            first = 1 if name.startswith("CALL_FUNCTION") else 2
            called = self._held[effect - 1 :][:first] if "CALL" in name else ()
            self._pop(1 - effect)
            kept = _KEPT in called or not _EMPTY.isdisjoint(called)
            self._held.append(_KEPT if kept else None)


def _attribute(of: str | None, name: str) -> str | None:
    """Give what stands for an attribute; of a view of one, that it is its memory."""
    if name in _VIEWS:
        return None if of is None else _KEPT
    return of if name == "data" else name


# What puts nothing on the stack, and what has nothing to do with it.
_TAKING = ("STORE_", "POP_", "DELETE_", "RETURN_", "RAISE_", "PRECALL")
_NOTHING = frozenset({"CACHE", "EXTENDED_ARG", "KW_NAMES", "MAKE_CELL", "NOP", "RESUME"})
