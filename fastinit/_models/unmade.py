"""Tensors that constructors make in spite of `torch.device("meta")`, and that have no values."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping

from torch import nn

from fastinit._models.by_class import by_class
from fastinit._models.bytecode import names_in
from fastinit._models.loaded import FLAG
from fastinit._models.names import Named
from fastinit._warnings import outside

# What gives memory on the CPU whatever device is the default: torch's legacy constructors, and
# `torch.normal`, whose values no key has decided.
_LEGACY = frozenset({"Tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "normal"})


@by_class
def _makes_some(kind: type[nn.Module]) -> bool:
    """Whether the constructor of a class uses a function that does not ask for the device."""
    for base in kind.__mro__:
        if base is nn.Module:
            return False
        code = getattr(vars(base).get("__init__"), "__code__", None)
        if code is not None and names_in(code) & _LEGACY:
            return True
    return False


def made_in_spite_of_meta(named: Mapping[str, Named], alone: Container[str] = ()) -> set[str]:
    """Name what is real beside others on the meta device, and is likely to have no values.

    That is what a class holds whose constructor calls such a function, but for what transformers
    has marked as loaded.

    Args:
        named: parameters and buffers; no twins, which are all real, in the places of DTensors.
        alone: the names of those that are to stay what they are.
    """
    mine = {name: one for name, one in named.items() if name not in alone}
    if not any(one.tensor.is_meta for one in mine.values()):
        return set()
    return {
        name
        for name, one in mine.items()
        if not one.tensor.is_meta
        and _makes_some(type(one.owner))
        and not getattr(one.tensor, FLAG, False)
    }


def warn_of_unmade(names: Iterable[str], where: str) -> None:
    """Warn that what is real is initialised like the rest."""
    found = list(names)
    if not found:
        return
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    warnings.warn(
        f"fastinit.{where}: {', '.join(found[:5])}{more} are real beside others on the meta "
        "device, as torch.Tensor(n) and torch.normal ignore torch.device('meta'); they are taken "
        "to have no values, and initialised. What is loaded has to be said: argument 'state_dict', "
        "or 'skip'",
        UserWarning,
        stacklevel=outside(),
    )
