"""What ranks tell each other through the store of their process group, with a time limit."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

_MOST = 1 << 20  # characters of one value
# Of this process, by what they are for and who comes; ranks count alike.
_uses: dict[str, int] = {}


def ranks_as_text(ranks: Collection[int]) -> str:
    """Write ranks as text: "ranks 0-2, 5"."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and spans[-1][1] == rank - 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"


def digest(values: Any) -> str:
    """Hash values that JSON has."""
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


def is_fake_group() -> bool:
    """Whether the default process group is torch's fake one, whose other ranks are nowhere."""
    from torch import distributed

    return str(distributed.get_backend()) == "fake"


class Store:
    """torch.distributed's default store, for one meeting of ranks.

    Args:
        purpose: what meets: a function's name.
        timeout: how many seconds to wait for a rank.
        ranks: which ranks come, if these are not all; each has to come equally often.

    Raises:
        RuntimeError: if there are no other ranks.
    """

    def __init__(self, purpose: str, timeout: float, ranks: Sequence[int] = ()) -> None:
        from torch import distributed

        if is_fake_group():
            raise RuntimeError(
                f"fastinit.{purpose}: the process group is torch's fake one, which has no other "
                "ranks to ask"
            )
        find: Any = distributed.distributed_c10d._get_default_store
        self._store: Any = find()
        self._timeout = timeout
        self._purpose = purpose
        self._path = f"fastinit/{purpose}{digest(ranks) if ranks else ''}"
        self._number = _uses.get(self._path, 0)
        _uses[self._path] = self._number + 1
        self._said: set[str] = set()
        self.rank = int(distributed.get_rank())

    def _key(self, what: str, of: Any) -> str:
        return f"{self._path}/{self._number}/{what}/{of}"

    def publish(self, what: str, value: Any) -> None:
        """Say something for this rank."""
        self._said.add(self._key(what, self.rank))
        self._write(self._key(what, self.rank), value)

    def withdraw(self) -> None:
        """Take back what this rank has said, as if there had been no meeting.

        Not where others still look who has come: they would take this rank for absent.
        """
        for key in self._said:
            with suppress(RuntimeError):  # the store may be what has failed
                self._store.delete_key(key)
        _uses[self._path] = min(self._number, _uses[self._path])

    def share(self, value: Any) -> str:
        """Say something that others may say, too; give its digest."""
        text = digest(value)
        self._write(self._key("shared", text), value)
        return text

    def collect(self, what: str, ranks: Sequence[int]) -> list[Any]:
        """Read what these ranks have published.

        Raises:
            RuntimeError: if it is not all there within the time limit.
        """
        keys = [self._key(what, rank) for rank in ranks]
        try:
            return self._read(keys)
        except RuntimeError as error:  # also torch's DistError
            try:
                absent = [r for r, key in zip(ranks, keys, strict=True) if not self._there(key)]
            except RuntimeError:
                absent = []
            if not absent:
                raise self._failure(error) from error
        raise RuntimeError(
            f"fastinit.{self._purpose}: {ranks_as_text(absent)} did not come to this call, number "
            f"{self._number}, within {self._timeout:g} s"
        )

    def collect_shared(self, digests: Sequence[str]) -> list[Any]:
        """Read what has these digests, of which ranks have told that have come."""
        return self._read([self._key("shared", text) for text in digests])

    def _failure(self, error: Exception) -> RuntimeError:
        return RuntimeError(
            f"fastinit.{self._purpose}: the store of the process group fails: {error}"
        )

    def _write(self, key: str, value: Any) -> None:
        """Write a value, in pieces: a large one would cost the connection to the store.

        Raises:
            RuntimeError: if the store fails.
        """
        packed = base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()
        pieces = range(0, len(packed), _MOST)
        try:
            for number, begin in enumerate(pieces):
                self._store.set(f"{key}/{number}", packed[begin : begin + _MOST])
            self._store.set(key, str(len(pieces)))
        except RuntimeError as error:  # also torch's DistError
            raise self._failure(error) from error

    def _read(self, keys: list[str]) -> list[Any]:
        self._store.wait(keys, timedelta(seconds=self._timeout))
        found = []
        for key, count in zip(keys, self._store.multi_get(keys), strict=True):
            pieces = [self._store.get(f"{key}/{number}") for number in range(int(count))]
            found.append(json.loads(zlib.decompress(base64.b64decode(b"".join(pieces)))))
        return found

    def _there(self, key: str) -> bool:
        return bool(self._store.check([key]))
