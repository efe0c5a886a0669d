"""Operators that torch makes of others in C++, and that write their memory past the dispatcher.

What they have written counts, and what waits never comes over it later.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.common import same_bits
from support.patch_helpers import in_thread
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastinit
from fastinit._models import session

_packed = pack_padded_sequence(torch.ones(5, 2, 3), torch.tensor([5, 3]))
_log_p = torch.arange(40.0).reshape(5, 2, 4).log_softmax(2)
_ones = torch.ones(2, 2, dtype=torch.long)


def _quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.fbgemm_linear_quantize_weight(torch.arange(12.0).reshape(3, 4))[1]


MADE: dict[str, Callable[[], Tensor]] = {
    "pad_packed_sequence": lambda: pad_packed_sequence(_packed)[0],
    "its lengths": lambda: pad_packed_sequence(_packed)[1],
    "SobolEngine": lambda: torch.quasirandom.SobolEngine(3).draw(4),
    "ctc_loss": lambda: F.ctc_loss(_log_p, _ones, (5, 5), (2, 2)),
    "fbgemm_linear_quantize_weight": _quantized,
}


@pytest.fixture(params=MADE)
def make(request: pytest.FixtureRequest) -> Callable[[], Tensor]:
    made = MADE[request.param]
    try:
        made()
    except RuntimeError as error:  # no such library on this machine
        pytest.skip(str(error))
    return made


class Held(nn.Module):
    """A buffer that a function gives."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.register_buffer("held", make())


class Copied(nn.Module):
    """A parameter that an initialiser copies it to."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.make = make
        self.weight = nn.Parameter(torch.empty(make().shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.weight.data.copy_(self.make())


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """List the recordings that there have been."""
    found: list[Any] = []

    class Counted(session.Recorder):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            found.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(session, "Recorder", Counted)
    return found


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode])
@pytest.mark.parametrize("around", [fastinit.batch, lambda: fastinit.patch(0, batch=True)])
def test_in_a_batch(make: Any, around: Any, mode: Any) -> None:
    with mode(), around():
        made = make()
        in_between = made.clone()
        with fastinit.batch():
            nested = make()
        last = make()
    for one in (made, in_between, nested, last):
        assert same_bits(one, make())


def test_in_models(make: Any, recorders: list[Any]) -> None:
    made = fastinit.materialize(lambda: Held(make), key=0)
    assert same_bits(made.held, make())
    assert len(recorders) == 1  # it has not had to be run again without anything waiting
    copied = fastinit.initialize_(Copied(make), key=0)
    assert same_bits(copied.weight.data, make().float())
    assert same_bits(fastinit.materialize(lambda: Copied(make), key=0).weight.data, make().float())
    with torch.device("meta"):
        meta = nn.Linear(2, 2)
    meta.register_module("copied", Copied(make))
    assert same_bits(fastinit.materialize(meta, key=0).copied.weight.data, make().float())


def test_in_models_in_which_nothing_may_wait(make: Any, recorders: list[Any]) -> None:
    class Reached(Held):
        def __init__(self) -> None:
            super().__init__(make)
            pending = torch.empty(4).fill_(2)
            self.seen = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(pending))
            self.register_buffer("after", make())

    made = fastinit.materialize(Reached, key=0)
    assert [recorder.waits for recorder in recorders] == [True, False]
    assert made.seen.tolist() == [2] * 4
    assert same_bits(made.held, make()) and same_bits(made.after, make())


def test_on_threads(make: Any) -> None:
    class Threaded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("held", in_thread(make))
            self.register_buffer("here", make())

    made = fastinit.materialize(Threaded, key=0)
    assert same_bits(made.held, make()) and same_bits(made.here, make())
    with fastinit.batch():
        other, here = in_thread(make), make()
    assert same_bits(other, make()) and same_bits(here, make())


def test_draws_into_what_was_written_have_the_keys_of_their_names() -> None:
    class Drawn(nn.Module):
        def __init__(self, make: Callable[[], Tensor]) -> None:
            super().__init__()
            weight = make()
            self.weight = nn.Parameter(nn.init.normal_(weight))
            self.bias = nn.Parameter(torch.randn(3))

    expected = fastinit.materialize(lambda: Drawn(lambda: torch.empty(5, 2, 3)), key=0)
    made = fastinit.materialize(lambda: Drawn(MADE["pad_packed_sequence"]), key=0)
    assert same_bits(made.weight.data, expected.weight.data)
    assert same_bits(made.bias.data, expected.bias.data)


COMPOSITES: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "dropout": (
        lambda: F.dropout(torch.ones(64)),
        lambda: torch.ones(64).mul(torch.empty(64).bernoulli_(0.5).div_(0.5)),
    ),
    "feature_dropout": (
        lambda: torch.feature_dropout(torch.ones(8, 8, 2, 2), 0.5, True),
        lambda: torch.ones(8, 8, 2, 2).mul(torch.empty(8, 8, 1, 1).bernoulli_(0.5).div_(0.5)),
    ),
    "rand": (lambda: torch.rand(8), lambda: torch.empty(8).uniform_()),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_what_operators_have_others_fill_still_waits(name: str, recorders: list[Any]) -> None:
    composite, parts = COMPOSITES[name]
    made = fastinit.materialize(lambda: Held(composite), key=0)
    runs = len(recorders)
    recorders.clear()
    assert same_bits(made.held, fastinit.materialize(lambda: Held(parts), key=0).held)
    assert len(recorders) == runs


def test_whoever_has_a_pointer_sees_fills_at_once() -> None:
    with fastinit.batch():
        shared, alone = torch.empty(4), torch.empty(4)
        other = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(shared))
        shared.fill_(1)
        assert in_thread(other.tolist) == [1] * 4
        in_thread(lambda: other.fill_(2))
        in_thread(lambda: alone.fill_(3))
    assert shared.tolist() == [2] * 4
    assert alone.tolist() == [3] * 4


def test_a_pointer_in_a_recording_is_seen_and_the_rest_waits(recorders: list[Any]) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shared = torch.empty(4)
            self.other = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(shared))
            self.register_buffer("shared", shared.fill_(1))
            self.seen = in_thread(self.other.tolist)
            self.weight = nn.Parameter(torch.randn(3))

    made = fastinit.materialize(Shared, key=0)
    assert made.seen == made.shared.tolist() == [1] * 4
    assert len(recorders) == 1


@pytest.mark.parametrize("around", [nullcontext, fastinit.batch])
def test_memory_that_nobody_writes_is_still_told(around: Any) -> None:
    def make() -> Tensor:
        with around():
            return torch.empty(3)

    with pytest.raises(ValueError, match="nothing that Held defines writes held"):
        fastinit.materialize(lambda: Held(make), key=0)


def test_batches_inside_recordings_and_batches_watch_the_same_memory(recorders: list[Any]) -> None:
    def make() -> Tensor:
        with fastinit.batch():
            fresh, drawn = torch.empty(4), torch.randn(4)
        return nn.init.normal_(fresh) + drawn

    def at_once() -> Tensor:
        fresh, drawn = torch.empty(4), torch.randn(4)
        return nn.init.normal_(fresh) + drawn

    made = fastinit.materialize(lambda: Held(make), key=0).held
    runs = len(recorders)
    assert same_bits(made, fastinit.materialize(lambda: Held(at_once), key=0).held)
    assert len(recorders) == 2 * runs
    with fastinit.batch():
        with fastinit.batch():
            fresh = torch.empty(4)
        other = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(fresh))
        fresh.fill_(1)
        assert in_thread(other.tolist) == [1] * 4


def test_memory_is_torchs_own_afterwards() -> None:
    kept: list[Tensor] = []

    def make() -> Tensor:
        kept.extend([torch.empty(4), torch.empty(4).fill_(1), MADE["its lengths"]()])
        return torch.zeros(1)

    with fastinit.batch():
        make()
    fastinit.materialize(lambda: Held(make), key=0)
    with pytest.raises(KeyError), fastinit.batch():
        make()
        raise KeyError
    assert len(kept) == 9
    assert not any(map(torch._C._is_cow_tensor, kept))
