"""Code that stands in for that of functions: put back whatever comes in between."""

from __future__ import annotations

from collections.abc import Iterator

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
