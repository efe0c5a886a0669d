"""Keys: 64 bits that name a stream of random numbers, and the ways to derive more of them."""

from __future__ import annotations

import hashlib
import operator
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, NoReturn, SupportsIndex

import torch
from torch import Generator

from fastinit._compiled import HAS_CUDA, extension, reserve_key_op
from fastinit._untraced import untraced

# torch 2.11 takes only classes derived from it, and has loaded it; others need no base.
_Opaque: Any = getattr(sys.modules.get("torch._opaque_base"), "OpaqueBase", object)

_WORDS = 1 << 64
_SIGN = 1 << 63


def _as_integer(value: Any, name: str) -> int:
    """Convert an integer of any kind (NumPy's too) to int; a bool is no integer here."""
    kind = type(value)
    if kind is not bool and not (isinstance(value, torch.Tensor) and value.dtype is torch.bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"argument '{name}' must be an integer, got {kind.__name__}")


class _Derivation(_Opaque):  # type: ignore[misc]
    """The arithmetic of keys, in one object so that torch.compile can be told what it is.

    To the compiler this is a constant whose methods are called while it traces: what they return is
    part of the graph, guarded by what they were given. It could trace neither the extension nor
    `hashlib`.
    """

    def fold(self, key: int, data: int, purpose: Literal["int", "str", "split"]) -> int:
        """Derive a word from another."""
        return extension.fold(key % _WORDS, data % _WORDS, purpose)

    def digest(self, name: str) -> int:
        """Hash a name to a word."""
        return int.from_bytes(
            hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Derivation)

    def __hash__(self) -> int:
        return hash(_Derivation)

    def __fx_repr__(self) -> tuple[str, dict[str, type]]:
        return "_Derivation()", {"_Derivation": _Derivation}


def _tell_compiler() -> bool:
    """Declare `_Derivation` to torch.compile; say whether this torch has a way to."""
    try:
        from torch._library import opaque_object

        real = opaque_object.MemberType.USE_REAL
        register: Any = getattr(opaque_object, "register_custom_class", None)
        kind = "constant"
        if register is None:  # as it was called up to 2.13; later releases warn of these names
            register, kind = opaque_object.register_opaque_type, "value"
    except (ImportError, AttributeError):
        return False  # older; the graph breaks where a key is derived
    try:
        # RuntimeError: it knows the name from before this module was loaded again.
        with suppress(RuntimeError):
            register(_Derivation, typ=kind, members={"fold": real, "digest": real})
    except (TypeError, ValueError):  # it is not public, and another torch may ask for more
        return False
    return True


# Whether torch.compile derives keys while it traces; older ones break their graph there.
DERIVES_IN_GRAPHS = _tell_compiler()
_derivation = _Derivation()


class Key:
    """An immutable 64-bit key. The same key fills the same weights on every device.

    Keys are values: they compare and hash by their bits, pickle, and convert with `int(key)` to a
    number in [0, 2**64). Deriving keys costs nothing and draws nothing; any number of them can be
    made from one.

    Two fills under one key and one distribution write the same numbers, and even under different
    distributions they share the words underneath, so give every tensor a key of its own:
    `key.fold_in(name)`.

    Inside torch.compile keys are constants, derived while it traces: code that is called with
    another key, name or number is compiled anew, up to torch's limit of recompilations.

    Args:
        seed: an integer in [-2**63, 2**64), taken modulo 2**64.

    Raises:
        TypeError: if `seed` is not an integer (a bool is not).
        ValueError: if `seed` is outside that range.

    Examples:
        >>> key = fastinit.Key(0)
        >>> w = fastinit.normal_(torch.empty(3, 5), key=key.fold_in("layer.0.weight"))
    """

    # In two's complement, as the ops take it: a number that torch.compile can have as an input.
    __slots__ = ("_signed",)
    _signed: int

    def __init__(self, seed: SupportsIndex) -> None:
        value = _as_integer(seed, "seed")
        if not -_SIGN <= value < _WORDS:
            raise ValueError(f"argument 'seed' must be in [-2**63, 2**64), got {value}")
        object.__setattr__(self, "_signed", signed(value))

    def fold_in(self, data: SupportsIndex | str) -> Key:
        """Derive the key of `data`, which may be a number (taken modulo 2**64) or a name.

        Numbers and names never meet: `fold_in(7)` and `fold_in("7")` are unrelated. A name is
        hashed by BLAKE2b over its UTF-8 bytes, so the result is the same in every process.

        Raises:
            TypeError: if `data` is neither an integer nor a str.
        """
        if isinstance(data, str):
            return self._folded(_derivation.digest(data), "str")
        return self._folded(_as_integer(data, "data"), "int")

    def _folded(self, data: int, purpose: Literal["int", "str", "split"]) -> Key:
        # The index makes a constant of an input of a graph, of numbers of any kind.
        return Key(_derivation.fold(operator.index(self._signed), operator.index(data), purpose))

    def split(self, n: SupportsIndex = 2) -> tuple[Key, ...]:
        """Derive `n` keys, unrelated to those of `fold_in`. The i-th does not depend on `n`.

        Raises:
            TypeError: if `n` is not an integer.
            ValueError: if `n` is negative.
        """
        count = _as_integer(n, "n")
        if count < 0:
            raise ValueError(f"argument 'n' must not be negative, got {count}")
        return tuple([self._folded(i, "split") for i in range(count)])

    def __int__(self) -> int:
        return self._signed % _WORDS

    def __eq__(self, other: object) -> bool:
        return self._signed == other._signed if isinstance(other, Key) else NotImplemented

    def __hash__(self) -> int:
        return hash((Key, self._signed))

    def __repr__(self) -> str:
        return f"Key({int(self):#018x})"

    def __reduce__(self) -> tuple[type[Key], tuple[int]]:
        return Key, (int(self),)

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
    return key._signed


# What most calls give `source`; asking it would cost them a tenth of their time.
NOTHING: dict[str, Any] = {}


def source(
    key: Key | SupportsIndex | None, generator: Generator | None, where: str
) -> dict[str, Any]:
    """Check `key` and `generator`; give the one that was passed as the op's keyword argument."""
    if key is None and type(generator) is Generator:
        return {"generator": generator}
    if type(key) is Key and generator is None:
        return {"key": key._signed}
    word = key_argument(key, generator, where)
    if word is not None:
        return {"key": word}
    return NOTHING if generator is None else {"generator": generator}


def _reserve_word(device: torch.device, generator: torch.Generator | None) -> int:
    """Hash one draw of the generator (default: the device's) to a key, a signed 64-bit int.

    Not in a graph of torch.compile: tracing the op would draw, and its result is no constant.
    """
    if HAS_CUDA and device.type == "cuda":
        # Seeds that were set before CUDA started wait in Python until it does.
        torch.cuda.init()  # type: ignore[no-untyped-call]
    word: int = reserve_key_op(device, generator)
    return word


reserve_word = untraced(_reserve_word, "a key is drawn from a generator; pass key= instead")


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
    return Key(reserve_word(torch.device(device), generator))


def key_of(word: int, name: str, count: int) -> int:
    """Give `Key(word).fold_in(name).fold_in(count)` as ops take it: for who derives thousands."""
    return signed(extension.fold(word, _derivation.digest(name), "str", count, "int"))


def signed(word: int) -> int:
    """Give a word as the ops take it, in two's complement."""
    return word - _WORDS if word >= _SIGN else word


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
    return extension.philox4x32((c0, c1, c2, c3), (k0, k1))
