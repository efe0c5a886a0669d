"""Where a planted defect goes: a file, a symbol in it, and a few tokens inside that symbol.

White space and comments do not count, so reformatting moves nothing. Overloads of a C++ function
are one symbol. C++ is read just well enough to know which braces belong to what: namespaces,
classes, enumerations, functions, constants and macros.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Token(NamedTuple):
    text: str
    begin: int
    end: int


class Span(NamedTuple):
    """Characters of a file that define a symbol, whose full name is `parts`."""

    parts: tuple[str, ...]
    begin: int
    end: int


_TOKEN = r"""
    [A-Za-z_]\w*                         # a name
  | (?:0[xX])?\.?\d(?:[eEpP][+-]|'?[\w.])*   # a number
  | ::|->
  | \S
"""
_STRING = r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
_TRIPLE = r'"""(?:\\.|[^\\])*?"""' + r"|'''(?:\\.|[^\\])*?'''"
_CPP = re.compile(rf"(?P<skip>//[^\n]*|/\*.*?\*/)|{_STRING}|{_TOKEN}", re.DOTALL | re.VERBOSE)
_PYTHON = re.compile(rf"(?P<skip>\#[^\n]*)|{_TRIPLE}|{_STRING}|{_TOKEN}", re.DOTALL | re.VERBOSE)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
_DEFINE = re.compile(r"[ \t]*#[ \t]*define[ \t]+(\w+)")
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_CLOSES = {"(": ")", "[": "]", "{": "}"}
_CLASSES = {"class", "struct", "union", "enum"}
# What may stand before parentheses in a head without being the function's name.
_NOT_NAMES = {"noexcept", "alignas", "decltype", "requires", "__attribute__", "__launch_bounds__"}


def _tokens(text: str, python: bool) -> list[Token]:
    found = (_PYTHON if python else _CPP).finditer(text)
    return [Token(m.group(), *m.span()) for m in found if m.group("skip") is None]


# ---- symbols -------------------------------------------------------------------------------------


def _python_spans(text: str) -> Iterator[Span]:
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line.decode()))

    def span(parts: tuple[str, ...], node: ast.stmt) -> Span:
        assert node.end_lineno is not None
        return Span(parts, starts[node.lineno - 1], starts[node.end_lineno])

    def walk(body: Sequence[ast.stmt], outer: tuple[str, ...]) -> Iterator[Span]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                parts = (*outer, node.name)
                yield span(parts, node)
                yield from walk(node.body, parts)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        yield span((*outer, target.id), node)

    return walk(ast.parse(text).body, ())


class _Cpp:
    """The definitions of a C++ file."""

    def __init__(self, text: str) -> None:
        self.spans: list[Span] = []
        for directive in _DIRECTIVE.finditer(text):
            if named := _DEFINE.match(directive.group()):
                self.spans.append(Span((named.group(1),), *directive.span()))
        blank = _DIRECTIVE.sub(lambda m: re.sub(r"\S", " ", m.group()), text)
        self.tokens = _tokens(blank, python=False)
        self.close = self._matching()
        self._scope(0, len(self.tokens), ())

    def _matching(self) -> dict[int, int]:
        close: dict[int, int] = {}
        opened: list[int] = []
        for k, token in enumerate(self.tokens):
            if token.text in _CLOSES:
                opened.append(k)
            elif token.text in _CLOSES.values():
                if not opened or _CLOSES[self.tokens[opened[-1]].text] != token.text:
                    raise ValueError(f"unbalanced {token.text} at character {token.begin}")
                close[opened.pop()] = k
        return close

    def _scope(self, k: int, end: int, outer: tuple[str, ...]) -> None:
        """What stands between two braces, or in the whole file."""
        head: list[int] = []  # tokens of a declaration so far, groups by their opening token
        while k < end:
            text = self.tokens[k].text
            if text == ";":
                self._constant(head, k, outer)
                head = []
            elif text == "{" and not self._is_value(head):
                self._definition(head, k, outer)
                head = []
                k = self.close[k]
            elif text == ":" and len(head) == 1 and self.tokens[head[0]].text.startswith("p"):
                head = []  # public:, private:
            else:
                head.append(k)
                k = self.close.get(k, k)
            k += 1

    def _texts(self, head: Sequence[int]) -> list[str]:
        return [self.tokens[k].text for k in head]

    def _is_value(self, head: list[int]) -> bool:
        """Whether a brace after `head` opens an initial value and no body."""
        texts = self._texts(self._without_template(head))
        if "=" in texts and "operator" not in texts:
            return True
        if ":" in texts and "(" in texts[: texts.index(":")]:  # a constructor's members
            return _NAME.match(texts[-1]) is not None
        return False

    def _definition(self, head: list[int], brace: int, outer: tuple[str, ...]) -> None:
        head = self._without_template(head)
        texts = self._texts(head)
        if not head:
            return
        inside = (brace + 1, self.close[brace])
        if "namespace" in texts or texts[0] == "extern":
            names = [t for t in texts if _NAME.match(t) and t not in ("namespace", "inline")]
            self._scope(*inside, (*outer, *(names if texts[0] != "extern" else [])))
            return
        parts = (*outer, *self._name(head))
        self.spans.append(
            Span(parts, self.tokens[head[0]].begin, self.tokens[self.close[brace]].end)
        )
        kinds = _CLASSES.intersection(texts)
        if kinds and "enum" not in kinds and "(" not in self._bare(texts):
            self._scope(*inside, parts)

    def _constant(self, head: list[int], end: int, outer: tuple[str, ...]) -> None:
        head = self._without_template(head)
        texts = self._texts(head)
        stop = next((k for k, t in enumerate(texts) if t in "=[{"), None)
        if stop and _NAME.match(texts[stop - 1]) and "(" not in texts[:stop]:
            begin = self.tokens[head[0]].begin
            self.spans.append(Span((*outer, texts[stop - 1]), begin, self.tokens[end].end))

    def _without_template(self, head: list[int]) -> list[int]:
        while head and self.tokens[head[0]].text == "template":
            depth = 0
            for at, k in enumerate(head):
                depth += {"<": 1, ">": -1}.get(self.tokens[k].text, 0)
                if at > 0 and depth == 0:
                    head = head[at + 1 :]
                    break
            else:
                return []
        return head

    @staticmethod
    def _bare(texts: list[str]) -> list[str]:
        """Without the groups that say something about a definition and are no parameters."""
        keep = list(texts)
        for k in range(len(texts) - 1, 0, -1):
            if texts[k] == "(" and texts[k - 1] in _NOT_NAMES:
                del keep[k]
        return keep

    @staticmethod
    def _without_arguments(texts: list[str]) -> list[str]:
        """Box<int>::get is Box::get."""
        keep: list[str] = []
        depth = 0
        for text in texts:
            depth += text == "<"
            if depth == 0:
                keep.append(text)
            depth -= text == ">"
        return keep

    def _name(self, head: list[int]) -> list[str]:
        texts = self._bare(self._texts(head))
        for stop in (":", "->"):
            if stop in texts:
                texts = texts[: texts.index(stop)]
        if "operator" in texts:
            at = texts.index("operator")
            stop = len(texts) - 1 - texts[::-1].index("(") if "(" in texts[at:] else len(texts)
            return ["".join("()" if t == "(" else t for t in texts[at:stop]) or "operator"]
        if "(" in texts:
            texts = texts[: len(texts) - texts[::-1].index("(") - 1]
        elif texts[-1:] == ["final"]:
            texts.pop()
        texts = self._without_arguments(texts)
        names = [texts.pop()] if texts else []
        while texts and texts[-1] in ("::", "~"):
            if texts.pop() == "~":
                names[-1] = f"~{names[-1]}"
            elif texts:
                names.append(texts.pop())
        return names[::-1]


def symbols(text: str, python: bool) -> list[Span]:
    """All that is defined in a file, in its order."""
    found = list(_python_spans(text)) if python else _Cpp(text).spans
    return sorted(found, key=lambda span: span.begin)


# ---- planting ------------------------------------------------------------------------------------


class NoPlaceError(ValueError):
    """A symbol or a pattern that is not where a defect wants it."""


def place(path: Path, symbol: str, pattern: str) -> tuple[str, int, int]:
    """The file's text, and where in it the one occurrence of `pattern` in `symbol` is."""
    text = path.read_text(encoding="utf-8")
    python = path.suffix == ".py"
    wanted = tuple(re.split(r"\.|::", symbol))
    spans = [s for s in symbols(text, python) if s.parts[-len(wanted) :] == wanted]
    if not spans:
        raise NoPlaceError(f"{path.name} defines no {symbol} (which was to contain `{pattern}`)")
    if len({span.parts for span in spans}) > 1 or (python and len(spans) > 1):
        names = ", ".join("::".join(span.parts) for span in spans)
        raise NoPlaceError(f"{symbol} in {path.name} may be any of {names} (for `{pattern}`)")
    words = [token.text for token in _tokens(pattern, python)]
    found: list[tuple[int, int]] = []
    for span in spans:
        tokens = [
            Token(t.text, t.begin + span.begin, t.end + span.begin)
            for t in _tokens(text[span.begin : span.end], python)
        ]
        for k in range(len(tokens) - len(words) + 1):
            if all(tokens[k + j].text == word for j, word in enumerate(words)):
                found.append((tokens[k].begin, tokens[k + len(words) - 1].end))
    if len(found) != 1:
        raise NoPlaceError(
            f"{symbol} in {path.name} has `{pattern}` {len(found)} times, not exactly once"
        )
    return text, *found[0]


def planted(path: Path, symbol: str, pattern: str, replacement: str) -> str:
    """The file's text with the replacement in the pattern's place."""
    text, begin, end = place(path, symbol, pattern)
    return text[:begin] + replacement + text[end:]
