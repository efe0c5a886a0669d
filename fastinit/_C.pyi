"""The compiled module. Importing it registers ``torch.ops.fastinit``; it minds memory, too."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, TypedDict, overload

import torch

STREAM_VERSION: int

def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """One Philox4x32-10 block. All words are in [0, 2**32)."""

_Purpose = Literal["int", "str", "split"]

@overload
def fold(key: int, data: int, purpose: _Purpose, /) -> int:
    """Derive the key of ``data`` from ``key`` under one purpose. All are in [0, 2**64)."""

@overload
def fold(key: int, data: int, purpose: _Purpose, data2: int, purpose2: _Purpose, /) -> int:
    """Derive a key from that again; of more pairs, too."""

def capability() -> str:
    """Name the capability in use: ``"scalar"``, ``"avx2"`` or ``"avx512"``."""

def capabilities() -> list[str]:
    """Name the capabilities that this processor has, plainest first."""

class Distribution(TypedDict):
    """A row of the table of distributions: of an operator, and of a code of `fill_many_`."""

    name: str  # of its operator; the constant has none
    code: int
    arguments: dict[str, float]  # in order, with their defaults
    random: bool
    complex: bool  # whether complex tensors take it

def distributions() -> list[Distribution]:
    """List the distributions in the order of their codes."""

def build_info() -> dict[str, str]:
    """Report compiler, torch version and CUDA support of this binary."""

def overlaps_itself(size: Sequence[int], stride: Sequence[int]) -> bool: ...
def advise_huge_pages(begin: int, bytes: int, wanted: bool = True) -> None:
    """Ask for huge pages behind memory that nothing has touched yet, or for none."""

def touch_page(begin: int) -> int:
    """Touch the page at this address, and give the nanoseconds of processor time that it took."""

def handled_dtype(tensor: object) -> torch.dtype | None:
    """Give the dtype of a strided tensor on a device that has a backend, or meta; else None."""

def layout_of(
    tensor: torch.Tensor,
) -> tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype]:
    """Give size, stride, offset and dtype of a strided tensor."""

def ordinary_layout(
    tensor: object,
) -> tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype] | None:
    """Give the same of a tensor that is handled and has memory; None for others.

    And for lazily conjugated or negated ones, and inference tensors.
    """

def storage_fault(tensor: object) -> str | None:
    """Say what is wrong with a storage that has no memory for all elements of a tensor.

    None where nothing is, and for what is not handled or has no storage of its own.
    """

def tensor_on(
    storage: int, layout: tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype], /
) -> torch.Tensor | None:
    """Make a tensor on a storage (its `_cdata`) that somebody refers to.

    None if it is dead, or has not so much memory.
    """

class AddressSpace:
    """Where the address space of tensors is taken from; it lives as long as one of them."""

def reserve(
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype,
    space: AddressSpace = ...,
    /,
) -> torch.Tensor:
    """Make a tensor on the CPU of address space alone, until somebody touches it.

    Without a space it has some of its own. RuntimeError if the system refuses to give so much.
    """

def hold_storage(tensor: torch.Tensor) -> tuple[object, int, int, bool]:
    """Refer weakly to a tensor's storage for as long as the first of what is returned lives.

    The others are its `_cdata`, its bytes, and whether it is resizable.
    """

def storage_address(tensor: object) -> int:
    """Give the address of a tensor's storage (its `_cdata`); 0 for what has none."""

def guard_storage(storage: int, closed: bool, message: str = ..., /) -> None:
    """Make access to the memory of a storage (its `_cdata`) an error, or allow it again."""

def watch_storage(storage: int, /) -> object | None:
    """Give that by which it can be told who gets a pointer to write to a storage (its `_cdata`).

    None if it cannot: its memory is not as torch's allocators give it.
    """

def unwatch_storage(watch: object, /) -> bool:
    """Say whether somebody has got one; the last to watch a storage leaves it as it was."""

def attributes_of(object: object, /) -> dict[str, Any] | None:
    """Give the dict of an object's attributes, without asking its class; None if it has none."""

def modules_of(root: torch.nn.Module, /) -> list[torch.nn.Module]:
    """List a module and all below it, each object once, in no order in particular."""

def walk_held(
    waiting: list[Any],
    seen: set[int],
    containers: list[Any],
    copies: list[Any],
    empty: list[Any],
    plain: Set[type],
    atoms: Set[type],
    module: type,
    /,
) -> list[Any]:
    """Follow what containers and modules hold; give what waits and is neither.

    Args:
        waiting: what to begin with, last first; empty in the end.
        seen: the id of everything that was met, which is not looked at again.
        containers: gets the containers, and the attributes of modules.
        copies: gets copies of these.
        empty: gets the containers in them that are empty.
        plain: classes of containers.
        atoms: classes of what holds nothing.
        module: the class of modules.
    """

def holds_same(now: object, before: object, /) -> bool:
    """Whether a list, dict or OrderedDict holds the objects of another in their order.

    Of everything else, subclasses of these included, it is not known, and False.
    """

def all_hold_same(now: list[Any], before: list[Any], instead: Mapping[int, Any], /) -> bool:
    """Whether that is so of many; those whose ids are in `instead` are compared with that."""

def tensor_state(
    tensor: torch.Tensor,
) -> tuple[
    torch.Tensor,
    torch.Tensor,
    bool,
    torch.Tensor | None,
    bool,
    dict[str, Any],
    dict[int, Any] | None,
    dict[int, Any] | None,
    int,
]:
    """Give what belongs to the object: itself, a tensor on its memory, whether it is a leaf.

    Then its gradient if it is one, whether it requires one, and copies of its attributes, hooks,
    and hooks after the accumulation of gradients; None if there are no hooks. Last its version; -1
    if it has none.
    """

def set_version(tensor: torch.Tensor, version: int, /) -> None:
    """Have autograd count a tensor's writes from there on; -1 changes nothing."""
