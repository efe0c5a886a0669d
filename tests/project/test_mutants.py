"""The defects that `make mutants` plants in the sources have a place there, and one alone."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

import mutants  # noqa: E402
from defects import Defect  # noqa: E402
from planting import NoPlaceError, place, planted, symbols  # noqa: E402

CPP = """
// int commented(int x) { return x; }
#define TWICE(x) \\
  ((x) * 2)
namespace outer::inner {
namespace {
constexpr int kTable[] = {1, 2, 3};
enum class Kind : int { First = 0, Second = 1 };
template <class T, int n = (1 < 2)>
struct Box final : Base {
  explicit Box(T x) : value{x}, other(x) { check(x, "}"); }
  ~Box() { free(value); }
  T operator()(T x) const { return value + x; }
 private:
  T value = {};
};
template <class T>
__global__ void __launch_bounds__(256) kernel(Box<T> box) { box(1); }
auto later(int x) -> int { return x; }
}  // namespace
int Box<int>::get() const noexcept { return value; }
int twice(int x) { return 2 * x; }
long twice(long x) { return x + x; }
}  // namespace outer::inner
"""


@pytest.mark.parametrize("defect", mutants.SOURCES, ids=lambda defect: defect.name)
def test_defect_can_be_planted(defect: Defect) -> None:
    text = planted(ROOT / defect.path, defect.symbol, defect.old, defect.new)
    assert text != (ROOT / defect.path).read_text(encoding="utf-8")
    if defect.path.endswith(".py"):
        ast.parse(text)
    for word in defect.tests:
        assert not word.startswith("tests/") or (ROOT / word).exists()


def test_defects_are_distinct() -> None:
    assert len({defect.name for defect in mutants.SOURCES}) == len(mutants.SOURCES)


def test_every_promise_has_defects() -> None:
    for number in range(1, 8):
        assert any(defect.guards.startswith(f"P{number}:") for defect in mutants.SOURCES)


def test_symbols_of_cpp() -> None:
    names = {"::".join(span.parts).removeprefix("outer::inner::") for span in symbols(CPP, False)}
    assert names == {
        "TWICE", "kTable", "Kind", "Box", "Box::Box", "Box::~Box", "Box::operator()", "Box::value",
        "kernel", "later", "Box::get", "twice",
    }  # fmt: skip


def test_symbols_of_python() -> None:
    text = "A: int = 1\nclass B:\n    c = 2\n    def d(self):\n        def e(): pass\n"
    names = {".".join(span.parts) for span in symbols(text, True)}
    assert names == {"A", "B", "B.c", "B.d", "B.d.e"}


def test_white_space_and_comments_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "some.h"
    path.write_text(
        "int f() {\n  return g(1,  // why\n           2);\n}\nint h() { return g(1, 2); }"
    )
    text = planted(path, "f", "g(1, 2)", "g(1)")
    assert text == "int f() {\n  return g(1);\n}\nint h() { return g(1, 2); }"


@pytest.mark.parametrize(
    ("symbol", "pattern", "message"),
    [
        ("g", "x", "some.h defines no g .*`x`"),
        ("f", "y", "f in some.h has `y` 0 times"),
        ("f", "x", "f in some.h has `x` 2 times"),
        ("same", "1", "same in some.h may be any of A::same, B::same .*`1`"),
    ],
)
def test_errors_name_symbol_and_pattern(
    tmp_path: Path, symbol: str, pattern: str, message: str
) -> None:
    path = tmp_path / "some.h"
    path.write_text(
        "int f(int x) { return x; }\n"
        "struct A { int same() { return 1; } };\nstruct B { int same() { return 1; } };\n"
    )
    with pytest.raises(NoPlaceError, match=message):
        place(path, symbol, pattern)


def test_tests_that_do_not_end_are_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "test_sleep.py").write_text("import time\ndef test_sleep(): time.sleep(100)\n")
    copy = object.__new__(mutants.Copy)
    copy.work, copy.environment = tmp_path, dict(os.environ)
    assert copy.failure(["test_sleep.py"], 2.0) == "test_sleep.py does not end (2 s)"


def test_the_table_says_what_caught_a_defect_and_what_nothing_caught() -> None:
    rows = [mutants.Row("one", "P1: a", "test_x[a|b]", 2.4), mutants.Row("two", "P2: b", None, 3.0)]
    text = mutants.table(rows)
    assert "1 of 2 caught" in text and "torch " in text
    assert text.endswith(
        "| one | P1: a | `test_x[a\\|b]` | 2 |\n| two | P2: b | **nothing** | 3 |\n"
    )
