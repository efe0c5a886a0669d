"""What is on for the whole process while somebody uses it: who counts as a user, and until when."""

from __future__ import annotations

import os
import threading

import pytest
from support.patch_helpers import in_thread

from fastinit._users import Users


class Switch:
    def __init__(self) -> None:
        self.is_on = False
        self.fails = False
        self.users = Users(self.turn_on, self.turn_off)

    def turn_on(self) -> None:
        assert not self.is_on
        self.is_on = True
        if self.fails:
            raise ValueError("no current")

    def turn_off(self) -> None:
        assert self.is_on
        self.is_on = False


def test_the_first_turns_it_on_and_the_last_off_in_any_order() -> None:
    switch = Switch()
    first, second = switch.users.enter(), switch.users.enter()
    first.leave()
    assert switch.is_on
    first.leave()  # a second time, which is no other user's
    assert switch.is_on
    in_thread(second.leave)
    assert not switch.is_on
    with pytest.raises(KeyError), switch.users.inside():
        assert switch.is_on
        raise KeyError
    assert not switch.is_on


def test_who_cannot_turn_it_on_is_no_user() -> None:
    switch = Switch()
    switch.fails = True
    with pytest.raises(ValueError, match="no current"):
        switch.users.enter()
    assert not switch.users
    assert not switch.is_on
    switch.fails = False
    with switch.users.inside():
        assert switch.is_on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("here", [False, True])
def test_a_child_has_the_users_of_the_thread_that_forked(here: bool) -> None:
    switch = Switch()
    inside, outside = threading.Event(), threading.Event()

    def other() -> None:
        with switch.users.inside(), switch.users.lock:  # which nobody releases in the child
            inside.set()
            assert outside.wait(60)

    own = switch.users.enter() if here else None
    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        try:
            assert switch.is_on == bool(switch.users) == here
            if own is not None:
                own.leave()
            assert not switch.is_on
            with switch.users.inside():
                assert switch.is_on
        except BaseException:
            os._exit(1)
        os._exit(0)
    outside.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert switch.is_on == here
