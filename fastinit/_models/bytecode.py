"""What code does, as far as its instructions tell: the names it uses, and changes to weights."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Sequence
from types import CodeType
from typing import Any, NamedTuple

from fastinit._models.bytecode_values import (
    ANY,
    DICT,
    INITIALISER,
    MADE,
    NEW,
    PARAMETERS,
    SELF,
    SELF_VALUE,
    SOME,
    Held,
    Path,
    Value,
    attribute_of,
    constants,
    each_of,
    from_elsewhere,
    is_tied,
    is_weight,
    item_of,
    known,
    result_of,
)

MADE_BY = "()"  # in a path: what is made by calling what leads there
ITEM = "[]"  # in a path: what is called is an element of what leads there; its name may follow
ASKED = "hasattr()"  # in a path: before what is asked for so
FROM_PRETRAINED, GIVEN = "from_pretrained", "_weight"  # how embeddings are given their weights
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


class Table(NamedTuple):
    """A weight that gets values which code may have been handed.

    Attributes:
        owner: what has it: of a call of `from_pretrained`, the class; () if that is not known.
        attribute: what that calls it; `FROM_PRETRAINED`, or `GIVEN` for an argument of that name.
        certain: whether it does, whenever the code runs.
    """

    owner: Path
    attribute: str
    certain: bool


class Flag(NamedTuple):
    """An attribute that is set.

    Attributes:
        of: SELF for one of the first argument, else ANY.
        name: the attribute.
        raised: whether it is set to True; else to something else.
    """

    of: str
    name: str
    raised: bool


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
        tables: weights that get values from elsewhere.
        flags: attributes that are set, which may be flags.
    """

    names: frozenset[str]
    paths: frozenset[Path]
    changes: frozenset[Change]
    parts: frozenset[str]
    wholes: frozenset[str]
    loads: frozenset[Path]
    calls: frozenset[Call]
    tables: frozenset[Table]
    flags: frozenset[Flag]


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
    if any(GIVEN in (c if isinstance(c, tuple) else (c,)) for c in code.co_consts):
        stack.tables.add(Table((), GIVEN, certain=False))
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
        frozenset(stack.tables).union(*(one.tables for one in inner)),
        frozenset(stack.flags).union(*(one.flags for one in inner)),
    )


class _Stack:
    """The interpreter's stack, and what has been seen of it.

    Jumps are not followed: what is on the stack where two ways meet is the same mostly.
    """

    def __init__(self, code: CodeType) -> None:
        self._held: list[Held] = []
        self._constants = code.co_consts
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        self._locals: dict[str, Held] = {n: Value("given", value=n) for n in arguments}
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
        self.tables: set[Table] = set()
        self.flags: set[Flag] = set()
        self._certain = True  # whether what comes next is done whenever the code runs
        self._until = 0  # where what has been jumped over, or may have been, ends
        self._keywords: tuple[str, ...] = ()  # of the call that comes next
        self.hooks: set[str] = set()  # functions that are defined here, to be called later

    def _below(self, depth: int) -> Held:
        return known(self._held[-depth]) if len(self._held) >= depth else None

    @property
    def _top(self) -> Held:
        return self._held[-1] if self._held else None

    @property
    def _kept(self) -> Held:
        """What a local has that is set to what is on top, which may be set otherwise, too."""
        top = self._top
        return None if top is not None and top.kind == "constant" else top

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
            top = self._top
            if top is not None and top.kind == "object":
                self.paths.add((*top.path, MADE_BY, how))
            self._use(self._below(1) if name != "LOAD_SUPER_ATTR" else SELF_VALUE, how)
        elif name == "STORE_ATTR":
            self._flag(self._below(1), how, self._held[-2:][0] if self._held else None)
            self._set(self._below(1), how, self._below(2))
        elif name in ("STORE_SUBSCR", "STORE_SLICE"):
            self._change(self._below(2 if name == "STORE_SUBSCR" else 3), "[...]")
        elif name.startswith("INPLACE_") or (name == "BINARY_OP" and step.argrepr.endswith("=")):
            of = self._below(2)
            own = of is not None and of.kind == "name" and len(of.path) < 3  # a number, perhaps
            self._change(None if own else of, ".data")
        elif step.opcode in _JUMPS:
            self._until = max(self._until, step.argval)
        elif name in ("RETURN_VALUE", "RETURN_CONST"):  # so what follows is of another branch
            self._until = sys.maxsize
        self._certain = step.offset >= self._until

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
        if of is not None and of.kind == "parameter":
            self.changes.add(Change("", how))
        elif of is not None and of.kind in ("name", "view") and len(of.path) > 1:
            self.changes.add(Change(of.path[-1], how))

    def _set(self, of: Held, name: str, to: Held) -> None:
        """Note that an attribute is set."""
        if name == "data":
            if not is_tied(to, of):
                self._change(of, ".data")
            elif from_elsewhere(to) and of is not None and len(of.path) > 1:
                self._hand(of.path[:-1], of.path[-1], to, certain=True)
        elif to == NEW and of != SELF_VALUE:
            self.changes.add(Change(name, "="))
        elif to is not None and to.kind == "handed":
            self._hand(() if of is None else of.path, name, to, certain=to.value)

    def _hand(self, owner: Path, name: str, to: Held, *, certain: bool) -> None:
        """Note that a weight gets what may be a table of somebody's; not if it is a weight, too."""
        if to is None or name not in to.path:
            self.tables.add(Table(owner, name, certain and self._certain))

    def _flag(self, of: Held, name: str, to: Held) -> None:
        """Note an attribute that is set to True, or to something else."""
        raised = to is not None and to.kind == "constant" and to.value is True
        self.flags.add(Flag(SELF if of == SELF_VALUE else ANY, name, raised))

    # ---- what instructions do to the stack -------------------------------------------------------

    def take(self, step: dis.Instruction) -> None:
        """Do what an instruction does to the stack."""
        name = step.opname
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            of = self._top
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
            self._locals[step.argval] = self._kept
            self._pop(1)
        elif name == "STORE_FAST_STORE_FAST":
            for local in step.argval:
                self._locals[local] = self._kept
                self._pop(1)
        elif name == "STORE_FAST_LOAD_FAST":
            self._locals[step.argval[0]] = self._kept
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
            of, index = self._below(3 if name == "BINARY_SLICE" else 2), self._top
            self._pop(1 - effect)
            self._held.append(item_of(of, index))
        elif name == "GET_ITER":
            pass
        elif name == "FOR_ITER":
            self._held.append(each_of(self._below(1)))
        elif name == "UNPACK_SEQUENCE":
            of = self._below(1)
            self._pop(1)
            self._held += [each_of(of, k) for k in reversed(range(step.argval))]
        elif name.startswith(("BINARY_", "INPLACE_", "UNARY_")):
            self._pop(1 - effect)
            self._held.append(MADE)
        elif effect > 0:
            self._held += [None] * effect
        elif name == "PRECALL":
            self._arguments = self._last(step.arg or 0)
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

    def _last(self, count: int) -> list[Held]:
        return self._held[-count:] if 0 < count <= len(self._held) else []

    def _called(self, name: str, count: int, effect: int) -> Held:
        """Say what a call gives, and note what initialisers are called for."""
        # The first two are what is called and, but for functions before 3.11, an object or nothing.
        first = 1 if name.startswith("CALL_FUNCTION") and sys.version_info < (3, 11) else 2
        callee = self._held[effect - 1 :][:first]
        function = next(filter(None, map(known, callee)), None)
        callee_is_given = any(one is not None and one.kind == "given" for one in callee)
        given, names = self._arguments, self._keywords
        if given is None and name.endswith("_KW"):
            *given, keywords = self._last(count + 1) or [None]
            names = () if keywords is None else keywords.value or ()
        elif given is None:
            given = self._last(count)
        self._arguments, self._keywords = None, ()
        arguments = [*map(known, given)]
        path = () if function is None else function.path
        if len(path) == 2 and path[0] == SELF:
            unknown = name.endswith("_EX") or len(given) < count
            self.calls.add(Call(path[1], None if unknown else constants(given, names)))
        if function is not None and function.kind == "view" and path:
            self.paths.add((*path, ITEM, *([function.value] if function.value else [])))
        if callee_is_given:
            return Value("given")
        if function == INITIALISER and arguments:
            self.names.add(SOME)
        named = _name_in(given)
        if path == ("setattr",) and len(given) == 3 and named is not None:
            self._set(arguments[0], named, arguments[2])
        elif path in (("getattr",), ("hasattr",)) and named is not None:
            of = (ANY,) if arguments[0] is None else arguments[0].path
            self.paths.add((*of, ASKED, named) if path == ("hasattr",) else (*of, named))
        elif path[-1:] == (FROM_PRETRAINED,) and not any(map(is_weight, arguments)):
            self.tables.add(Table(path[:-1], FROM_PRETRAINED, self._certain))
        if function is not None and function.kind == "name" and arguments:
            self._applied(function.path, arguments[0])
            if "hook" in function.path[-1]:
                functions = filter(None, arguments)
                self.hooks |= {one.path[0] for one in functions if one.kind == "function"}
            if arguments[0] in (PARAMETERS, DICT):
                self.loads.add(function.path)
        return result_of(function, given)

    def _applied(self, path: Path, to: Held) -> None:
        """Note a method that is called for a part, or applied to one."""
        if to is None or to.kind != "name" or path[0] != SELF or to.path[0] != SELF:
            return
        if path[-1] == "apply" and len(to.path) == 2:
            (self.wholes if len(path) == 2 else self.parts).add(to.path[1])
        elif len(path) == 2:
            (self.parts if len(to.path) > 1 else self.wholes).add(path[1])


def _name_in(given: Sequence[Held]) -> str | None:
    """Give the name of an attribute that is asked for, or set, by a function."""
    named = given[1] if len(given) > 1 else None
    constant = named is not None and named.kind == "constant"
    return named.value if named and constant and isinstance(named.value, str) else None


def _is_subscript(step: dis.Instruction) -> bool:
    return step.opname == "BINARY_OP" and step.argrepr == "[]"  # since Python 3.14


# What may leave out what follows: loops and blocks are taken to be entered.
_JUMPS = frozenset(
    opcode
    for opcode in (*dis.hasjabs, *dis.hasjrel)
    if not dis.opname[opcode].startswith(("FOR_", "SETUP_", "SEND"))
)
# What puts nothing on the stack, and what has nothing to do with it.
_TAKING = ("STORE_", "POP_", "DELETE_", "RETURN_", "RAISE_")
_NOTHING = frozenset({"CACHE", "EXTENDED_ARG", "KW_NAMES", "MAKE_CELL", "NOP", "RESUME"})
