"""Code that stands in for that of functions: put back whatever comes in between."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType

import pytest

from fastinit._patch.exchanges import Exchanges, Wanted, _Exchange
from fastinit._patch.stubs import code_calling


def _one() -> int:
    return 1


def _other() -> int:
    return 2


def _wanted() -> Iterator[Wanted]:
    for function in (_one, _other):
        yield Wanted(function, __name__, lambda _: code_calling(lambda: 3, _one.__code__, "", ""))


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_while_code_is_put_back_leaves_none_for_the_function_s_own(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _one.__code__, _other.__code__
    exchanges = Exchanges(_wanted)
    use = exchanges.install()
    undo = _Exchange.undo

    def interrupted(self: _Exchange) -> None:
        if not before:
            undo(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Exchange, "undo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            use.leave()
    exchanges.install().leave()
    assert (_one.__code__, _other.__code__) == own


def test_code_that_somebody_has_put_there_meanwhile_stays() -> None:
    own = _one.__code__
    exchanges = Exchanges(_wanted)
    use = exchanges.install()
    before = FunctionType(_one.__code__, globals())

    def theirs() -> int:
        return 10 + before()

    made = code_calling(theirs, own, "", "")
    _one.__code__ = made
    try:
        assert (_one(), _other()) == (13, 3)
        use.leave()
        assert (_one(), _other()) == (13, 2)
        again = exchanges.install()
        assert (_one(), _other()) == (3, 3)
        again.leave()
        assert _one.__code__ is made
    finally:
        _one.__code__ = own
    assert "_torchdynamo_disable" not in vars(_other)


def test_a_function_that_others_keep_from_the_compiler_stays_so() -> None:
    vars(_one)["_torchdynamo_disable"] = True
    try:
        exchanges = Exchanges(_wanted)
        for _ in range(2):
            exchanges.install().leave()
            assert vars(_one)["_torchdynamo_disable"] is True
    finally:
        del _one._torchdynamo_disable  # type: ignore[attr-defined]
