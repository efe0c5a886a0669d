"""What this installation is and can do."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

import torch

from fastinit._compiled import extension
from fastinit._tensors import DEVICES, DTYPES
from fastinit._version import TORCH_TESTED, __version__


def _names(dtypes: frozenset[torch.dtype]) -> tuple[str, ...]:
    return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _numbers(release: str) -> tuple[int, ...]:
    """The numbers of a release, of which 2.13.0+cpu and previews of 2.13.0 have the same."""
    found = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


@dataclass(frozen=True, repr=False)
class Config:
    """What `show_config` reports; it prints as a readable text.

    Attributes:
        version: of fastinit.
        stream_version: of the random bits, see docs/stream.md.
        torch: the version of torch in use.
        torch_built_for: the release of torch that the binary was built for; it runs with no other.
        torch_tested: the oldest and the newest release of torch that fastinit is tested with.
        torch_in_range: whether the torch in use lies between them.
        built_with: compiler, torch, Python and CUDA of the binary.
        capability: the instruction set in use.
        capabilities: those that this processor has, plainest first.
        threads: how many a large fill may use (`torch.set_num_threads`).
        cuda: whether the binary has CUDA kernels.
        devices: where fills run in fastinit's own code.
        dtypes: what uniform, normal and everything made of them fill; no complex ones for
            trunc_normal_.
        fallback: what happens to other tensors.
    """

    version: str
    stream_version: int
    torch: str
    torch_built_for: str
    torch_tested: tuple[str, str]
    torch_in_range: bool
    built_with: dict[str, str]
    capability: str
    capabilities: tuple[str, ...]
    threads: int
    cuda: bool
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    fallback: tuple[str, ...]

    def __str__(self) -> str:
        built = ", ".join(f"{name} {value}" for name, value in self.built_with.items())
        tested = "{} to {}".format(*self.torch_tested)
        tested = (
            f"tested with {tested}" if self.torch_in_range else f"not among the tested {tested}"
        )
        lines = [
            f"fastinit {self.version}, stream version {self.stream_version}",
            f"  torch         {self.torch} ({tested}), Python {platform.python_version()}",
            f"  built with    {built}",
            f"  processor     {self.capability} in use; available: {', '.join(self.capabilities)}",
            f"  threads       {self.threads}",
            f"  CUDA          {'yes' if self.cuda else 'no'}",
            f"  devices       {', '.join(self.devices)}",
            f"  dtypes        {', '.join(self.dtypes)}",
            "  elsewhere     " + "\n                ".join(self.fallback),
        ]
        return "\n".join(lines)

    __repr__ = __str__


_FALLBACK = (
    "other devices: torch.nn.init; with key=, filled on the CPU and copied",
    "other dtypes (trunc_normal_: complex too): torch.nn.init; with key=, NotImplementedError",
    "sparse and nested layouts, subclasses but DTensor, torch.func but vmap: likewise",
    "constant_, ones_ and zeros_ are torch's own",
)


def show_config() -> Config:
    """Describe this installation: versions, processor, CUDA, dtypes, what falls back to torch.

    Examples:
        >>> print(fastinit.show_config())
    """
    built_with = extension.build_info()
    oldest, newest = map(_numbers, TORCH_TESTED)
    return Config(
        version=__version__,
        stream_version=extension.STREAM_VERSION,
        torch=torch.__version__,
        torch_built_for=built_with["torch"],
        torch_tested=TORCH_TESTED,
        torch_in_range=oldest <= _numbers(torch.__version__) <= newest,
        built_with=built_with,
        capability=extension.capability(),
        capabilities=tuple(extension.capabilities()),
        threads=torch.get_num_threads(),
        cuda=built_with.get("cuda", "no") != "no",
        devices=DEVICES,
        dtypes=_names(DTYPES),
        fallback=_FALLBACK,
    )
