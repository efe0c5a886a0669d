"""What code does, as far as its instructions tell: the names it uses, and changes to weights."""

from __future__ import annotations

import dis
import functools
from types import CodeType
from typing import Any, NamedTuple

from fastinit._models.bytecode_values import (
    ANY,
    DICT,
    INITIALISER,
    MADE,
    NEW,
    PARAMETER,
    PARAMETERS,
    SELF,
    SELF_VALUE,
    SOME,
    TIED,
    Held,
    Path,
    Value,
    attribute_of,
    constants,
    each_of,
    item_of,
    known,
    result_of,
)

SETS = (".data", "[...]", "=")  # how a parameter is changed, if no method does it


def names_in(code: CodeType) -> set[str]:
    """Collect the names that code uses, with the functions defined in it."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(names_in, inner))


class Change(NamedTuple):
    """What code does to a tensor.

    Attributes:
        of: the attribute that it is; "" for a parameter whose name is not known, ANY for what may
            be anything.
        how: one of `SETS`, or the method that is called.
    """

    of: str
    how: str


class Call(NamedTuple):
    """A call of a method of the first argument.

    Attributes:
        name: the method.
        given: the constants that it is given, by place or name; None if it is given others, too.
    """

    name: str
    given: frozenset[tuple[int | str, Any]] | None


class Uses(NamedTuple):
    """What code uses and does, with the functions defined in it.

    Attributes:
        names: globals and attributes; methods that end in "_" only where they may be functions.
        paths: the attributes of globals and of the first argument, by all their names.
        changes: what it does to tensors that it has not made itself.
        parts: methods of the first argument that are called for, or applied to, something of it.
        wholes: those that are called for, or applied to, all of it.
        loads: what is called with the parameters, or the state dict, of something, or a dict that
            is made for it.
        calls: of methods of the first argument.
    """

    names: frozenset[str]
    paths: frozenset[Path]
    changes: frozenset[Change]
    parts: frozenset[str]
    wholes: frozenset[str]
    loads: frozenset[Path]
    calls: frozenset[Call]


@functools.lru_cache(maxsize=1 << 12)
def uses(code: CodeType) -> Uses:
    """Say what code uses and does.

    What is tied, as `a.weight.data = b.weight.data` does, or gets memory without values, is not
    changed.
    """
    stack = _Stack(code)
    for step in dis.get_instructions(code):
        stack.look(step)
        stack.take(step)
    inner = [
        uses(const)
        for const in code.co_consts
        if isinstance(const, CodeType) and const.co_name not in stack.hooks
    ]
    return Uses(
        frozenset(stack.names).union(*(one.names for one in inner)),
        frozenset(stack.paths).union(*(one.paths for one in inner)),
        frozenset(stack.changes).union(*(one.changes for one in inner)),
        frozenset(stack.parts).union(*(one.parts for one in inner)),
        frozenset(stack.wholes).union(*(one.wholes for one in inner)),
        frozenset(stack.loads).union(*(one.loads for one in inner)),
        frozenset(stack.calls).union(*(one.calls for one in inner)),
    )


class _Stack:
    """The interpreter's stack, and what has been seen of it.

    Jumps are not followed: what is on the stack where two ways meet is the same mostly.
    """

    def __init__(self, code: CodeType) -> None:
        self._held: list[Held] = []
        self._constants = code.co_consts
        self._locals: dict[str, Held] = {}
        if code.co_argcount:
            self._locals[code.co_varnames[0]] = SELF_VALUE
        self._arguments: list[Held] | None = None  # that have been taken off before the call
        self.names: set[str] = set()
        self.paths: set[Path] = set()
        self.changes: set[Change] = set()
        self.parts: set[str] = set()
        self.wholes: set[str] = set()
        self.loads: set[Path] = set()
        self.calls: set[Call] = set()
        self._keywords: tuple[str, ...] = ()  # of the call that comes next
        self.hooks: set[str] = set()  # functions that are defined here, to be called later

    def _below(self, depth: int) -> Held:
        return known(self._held[-depth]) if len(self._held) >= depth else None

    def _pop(self, count: int) -> None:
        if count > 0:
            del self._held[-count:]

    # ---- what is seen ----------------------------------------------------------------------------

    def look(self, step: dis.Instruction) -> None:
        """Note what an instruction that comes next uses and changes."""
        name, how = step.opname, step.argval
        if name in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_FROM", "IMPORT_NAME"):
            self.names.add(how)
        elif name in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            self._use(self._below(1) if name != "LOAD_SUPER_ATTR" else SELF_VALUE, how)
        elif name == "STORE_ATTR":
            self._set(self._below(1), how, self._below(2))
        elif name in ("STORE_SUBSCR", "STORE_SLICE"):
            self._change(self._below(2 if name == "STORE_SUBSCR" else 3), "[...]")
        elif name.startswith("INPLACE_") or (name == "BINARY_OP" and step.argrepr.endswith("=")):
            of = self._below(2)
            own = of is not None and of.kind == "name" and len(of.path) < 3  # a number, perhaps
            self._change(None if own else of, ".data")

    def _use(self, of: Held, name: str) -> None:
        """Note that an attribute is asked for."""
        path = () if of is None or of.kind not in ("name", "view") else of.path
        if path:
            self.paths.add((*path, name))
        if not name.endswith("_") or name.startswith("_"):
            self.names.add(name)
        elif of is None or (path and path[0] not in (SELF, ANY)):
            self.names.add(name)  # a function of a module, perhaps
            if of is None:
                self.changes.add(Change(ANY, name))
        else:
            self._change(of, name)

    def _change(self, of: Held, how: str) -> None:
        """Note that what is asked for is changed."""
        if of == PARAMETER:
            self.changes.add(Change("", how))
        elif of is not None and of.kind in ("name", "view") and len(of.path) > 1:
            self.changes.add(Change(of.path[-1], how))

    def _set(self, of: Held, name: str, to: Held) -> None:
        """Note that an attribute is set."""
        if name == "data":
            if to is None or to.kind not in TIED:
                self._change(of, ".data")
        elif to == NEW and of != SELF_VALUE:
            self.changes.add(Change(name, "="))

    # ---- what instructions do to the stack -------------------------------------------------------

    def take(self, step: dis.Instruction) -> None:
        """Do what an instruction does to the stack."""
        name = step.opname
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            of = self._below(1)
            self._pop(1)
            self._push(attribute_of(of, step.argval), effect)
        elif name in ("LOAD_GLOBAL", "LOAD_NAME"):
            self._push(Value("name", (step.argval,)), effect - 1)
        elif name in ("SWAP", "ROT_TWO") and len(self._held) >= 2:
            depth = 2 if name == "ROT_TWO" else step.argval
            if depth <= len(self._held):
                self._held[-1], self._held[-depth] = self._held[-depth], self._held[-1]
        elif name in ("COPY", "DUP_TOP"):
            self._held.append(self._below(1 if name == "DUP_TOP" else step.argval))
        elif name == "STORE_FAST":
            self._locals[step.argval] = self._below(1)
            self._pop(1)
        elif name == "STORE_FAST_STORE_FAST":
            for local in step.argval:
                self._locals[local] = self._below(1)
                self._pop(1)
        elif name == "STORE_FAST_LOAD_FAST":
            self._locals[step.argval[0]] = self._below(1)
            self._pop(1)
            self._held.append(self._locals.get(step.argval[1]))
        elif name.startswith("LOAD_FAST"):  # one, or two at once
            names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
            self._held += map(self._locals.get, names)
        elif name == "LOAD_CONST" and isinstance(step.argval, CodeType):
            self._held.append(Value("function", (step.argval.co_name,)))
        elif name == "LOAD_CONST" and effect == 1:
            self._held.append(Value("constant", value=step.argval))
        elif name in ("BUILD_MAP", "BUILD_CONST_KEY_MAP"):
            self._pop(1 - effect)
            self._held.append(DICT)
        elif name == "KW_NAMES":  # before Python 3.13
            self._keywords = self._constants[step.arg or 0]
        elif name == "MAKE_FUNCTION":
            made = next((v for v in self._held[effect - 1 :] if v and v.kind == "function"), None)
            self._pop(1 - effect)
            self._held.append(made)
        elif name == "SET_FUNCTION_ATTRIBUTE":  # since Python 3.13
            made = self._below(1)
            self._pop(2)
            self._held.append(made)
        elif name == "LOAD_DEREF" and step.argval == "self":
            self._held.append(SELF_VALUE)
        elif name in ("BINARY_SUBSCR", "BINARY_SLICE") or _is_subscript(step):
            of = self._below(3 if name == "BINARY_SLICE" else 2)
            self._pop(1 - effect)
            self._held.append(item_of(of))
        elif name == "GET_ITER":
            pass
        elif name == "FOR_ITER":
            self._held.append(each_of(self._below(1)))
        elif name == "UNPACK_SEQUENCE":
            of = self._below(1)
            self._pop(1)
            self._held += [each_of(of)] * step.argval
        elif name.startswith(("BINARY_", "INPLACE_", "UNARY_")):
            self._pop(1 - effect)
            self._held.append(MADE)
        elif effect > 0:
            self._held += [None] * effect
        elif name == "PRECALL":
            self._arguments = self._top(step.arg or 0)
            self._pop(-effect)
        elif name.startswith(_TAKING):
            self._pop(-effect)
        elif name not in _NOTHING:
            made = self._called(name, step.arg or 0, effect) if "CALL" in name else None
            self._pop(1 - effect)
            self._held.append(made)

    def _push(self, value: Held, others: int) -> None:
        """Put something on top of what only says how it is to be called."""
        self._held += [None] * others
        self._held.append(value)

    def _top(self, count: int) -> list[Held]:
        return self._held[-count:] if 0 < count <= len(self._held) else []

    def _called(self, name: str, count: int, effect: int) -> Held:
        """Say what a call gives, and note what initialisers are called for."""
        # The first two are what is called and, for most calls, an object or nothing.
        first = 1 if name.startswith("CALL_FUNCTION") else 2
        function = next(filter(None, map(known, self._held[effect - 1 :][:first])), None)
        given, names = self._arguments, self._keywords
        if given is None and name.endswith("_KW"):
            *given, keywords = self._top(count + 1) or [None]
            names = () if keywords is None else keywords.value or ()
        elif given is None:
            given = self._top(count)
        self._arguments, self._keywords = None, ()
        arguments = [*map(known, given)]
        path = () if function is None else function.path
        if len(path) == 2 and path[0] == SELF:
            unknown = name.endswith("_EX") or len(given) < count
            self.calls.add(Call(path[1], None if unknown else constants(given, names)))
        if function == INITIALISER and arguments:
            self.names.add(SOME)
        named = given[1].value if len(given) == 3 and given[1] is not None else None
        if path == ("setattr",) and isinstance(named, str):
            self._set(arguments[0], named, arguments[2])
        if function is not None and function.kind == "name" and arguments:
            self._applied(function.path, arguments[0])
            if "hook" in function.path[-1]:
                functions = filter(None, arguments)
                self.hooks |= {one.path[0] for one in functions if one.kind == "function"}
            if arguments[0] in (PARAMETERS, DICT):
                self.loads.add(function.path)
        return result_of(function, arguments)

    def _applied(self, path: Path, to: Held) -> None:
        """Note a method that is called for a part, or applied to one."""
        if to is None or to.kind != "name" or path[0] != SELF or to.path[0] != SELF:
            return
        if path[-1] == "apply" and len(to.path) == 2:
            (self.wholes if len(path) == 2 else self.parts).add(to.path[1])
        elif len(path) == 2:
            (self.parts if len(to.path) > 1 else self.wholes).add(path[1])


def _is_subscript(step: dis.Instruction) -> bool:
    return step.opname == "BINARY_OP" and step.argrepr == "[]"  # since Python 3.14


# What puts nothing on the stack, and what has nothing to do with it.
_TAKING = ("STORE_", "POP_", "DELETE_", "RETURN_", "RAISE_")
_NOTHING = frozenset({"CACHE", "EXTENDED_ARG", "KW_NAMES", "MAKE_CELL", "NOP", "RESUME"})
