"""Keys: 64 bits that name a stream of random numbers, and the ways to derive more of them."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any, NoReturn, SupportsIndex

import torch
from torch import Generator

from fastinit import _ops

_WORDS = 1 << 64


def _as_integer(value: Any, name: str) -> int:
    """Convert an integer of any kind (NumPy's too) to int; a bool is no integer here."""
    kind = type(value)
    if kind is int:
        return int(value)
    if kind is not bool:
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"argument '{name}' must be an integer, got {kind.__name__}")


class Key:
    """An immutable 64-bit key. The same key fills the same weights on every device.

    Keys are values: they compare and hash by their bits, pickle, and convert with `int(key)` to a
    number in [0, 2**64). Deriving keys costs nothing and draws nothing; any number of them can be
    made from one.

    Two fills under one key and one distribution write the same numbers, and even under different
    distributions they share the words underneath, so give every tensor a key of its own:
    `key.fold_in(name)`.

    Args:
        seed: an integer in [-2**63, 2**64), taken modulo 2**64.

    Raises:
        TypeError: if `seed` is not an integer (a bool is not).
        ValueError: if `seed` is outside that range.

    Examples:
        >>> key = fastinit.Key(0)
        >>> w = fastinit.normal_(torch.empty(3, 5), key=key.fold_in("layer.0.weight"))
    """

    __slots__ = ("_word",)
    _word: int

    def __init__(self, seed: SupportsIndex) -> None:
        value = _as_integer(seed, "seed")
        if not -(_WORDS >> 1) <= value < _WORDS:
            raise ValueError(f"argument 'seed' must be in [-2**63, 2**64), got {value}")
        object.__setattr__(self, "_word", value % _WORDS)

    def fold_in(self, data: SupportsIndex | str) -> Key:
        """Derive the key of `data`, which may be a number (taken modulo 2**64) or a name.

        Numbers and names never meet: `fold_in(7)` and `fold_in("7")` are unrelated. A name is
        hashed by BLAKE2b over its UTF-8 bytes, so the result is the same in every process.

        Raises:
            TypeError: if `data` is neither an integer nor a str.
        """
        if isinstance(data, str):
            digest = hashlib.blake2b(data.encode("utf-8"), digest_size=8).digest()
            return Key(_ops.fold(self._word, int.from_bytes(digest, "little"), "str"))
        return Key(_ops.fold(self._word, _as_integer(data, "data") % _WORDS, "int"))

    def split(self, n: SupportsIndex = 2) -> tuple[Key, ...]:
        """Derive `n` keys, unrelated to those of `fold_in`. The i-th does not depend on `n`.

        Raises:
            TypeError: if `n` is not an integer.
            ValueError: if `n` is negative.
        """
        count = _as_integer(n, "n")
        if count < 0:
            raise ValueError(f"argument 'n' must not be negative, got {count}")
        return tuple(Key(_ops.fold(self._word, i, "split")) for i in range(count))

    def __int__(self) -> int:
        return self._word

    def __eq__(self, other: object) -> bool:
        return self._word == other._word if isinstance(other, Key) else NotImplemented

    def __hash__(self) -> int:
        return hash((Key, self._word))

    def __repr__(self) -> str:
        return f"Key({self._word:#018x})"

    def __reduce__(self) -> tuple[type[Key], tuple[int]]:
        return Key, (self._word,)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Key is immutable; cannot set '{name}'")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Key is immutable; cannot delete '{name}'")


def key_argument(
    key: Key | SupportsIndex | None, generator: Generator | None, where: str
) -> int | None:
    """Check the arguments that say where randomness comes from; give the key as the ops take it.

    Returns:
        The key in two's complement, in [-2**63, 2**63), or None without one.

    Raises:
        TypeError: if either has the wrong type.
        ValueError: if both are given, or the key is an int out of range.
    """
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            f"fastinit.{where}: argument 'generator' must be a torch.Generator, "
            f"got {type(generator).__name__}"
        )
    if key is None:
        return None
    if generator is not None:
        raise ValueError(f"fastinit.{where}: arguments 'key' and 'generator' exclude each other")
    if not isinstance(key, Key):
        try:
            key = Key(key)
        except (TypeError, ValueError) as error:
            message = str(error).replace("'seed'", "'key'").replace("an integer", "a Key or an int")
            raise type(error)(f"fastinit.{where}: {message}") from None
    word = key._word
    # Compared, not shifted: torch.compile makes a symbol of a key that changes, and fails on that.
    return word if word < _WORDS >> 1 else word - _WORDS


# What most calls give `source`; asking it would cost them a tenth of their time.
NOTHING: dict[str, Any] = {}


def source(
    key: Key | SupportsIndex | None, generator: Generator | None, where: str
) -> dict[str, Any]:
    """Check `key` and `generator`; give the one that was passed as the op's keyword argument."""
    if key is None and type(generator) is Generator:
        return {"generator": generator}
    word = key_argument(key, generator, where)
    if word is not None:
        return {"key": word}
    return NOTHING if generator is None else {"generator": generator}


def reserve_key(device: torch.device | str | int, generator: Generator | None = None) -> Key:
    """Take a key from a generator now, for a fill that happens later.

    A fill under the result writes what a fill with that generator would have written at this point,
    and the generator moves on just as far.

    Args:
        device: whose default generator to use, if none is given.
        generator: the generator to draw from; it must be of that device.

    Raises:
        RuntimeError: if the generator belongs to another device, fastinit has no generator for the
            device, or a CUDA graph is being captured there.
    """
    key_argument(None, generator, "reserve_key")
    return Key(_ops.reserve_key(torch.device(device), generator))


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Compute one block of Philox4x32-10, the generator behind every fill.

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

    Args:
        counter: four words, each in [0, 2**32).
        key: two words, each in [0, 2**32).

    Returns:
        Four words in [0, 2**32).

    Raises:
        TypeError: if a word is not an integer.
        ValueError: if there are too many or too few words, or one is out of range.
    """

    def words(values: Sequence[int], name: str, count: int) -> tuple[int, ...]:
        checked = tuple(_as_integer(value, name) for value in values)
        if len(checked) != count or not all(0 <= word < 1 << 32 for word in checked):
            raise ValueError(f"argument '{name}' must be {count} words in [0, 2**32), got {values}")
        return checked

    c0, c1, c2, c3 = words(counter, "counter", 4)
    k0, k1 = words(key, "key", 2)
    return _ops.philox4x32((c0, c1, c2, c3), (k0, k1))
