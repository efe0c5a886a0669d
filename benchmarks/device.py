"""Fills on a CUDA device: single tensors of every size and type, and all parameters of a model.

Every function takes the device, so that the benchmarks can be tried out, though not measured, on
a CPU.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import parameters
import report
import torch
from parameters import CONSTANT, NORMAL, UNIFORM, Parameter
from timing import Contender, QueuedContender, Race

import fastinit
from fastinit import Key

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn)
FILLS = ("uniform_", "normal_", "trunc_normal_")
SAMPLE_S = 3e-3
ROUND = ("native", "memset", "fastinit", "fill", "fastinit")


@dataclass(frozen=True)
class Scale:
    """How large a run is."""

    sizes: tuple[int, ...] = tuple(2**k for k in (10, 14, 18, 22, 26, 30, 32))
    embedding: tuple[int, ...] = (262144, 8192)
    conv: tuple[int, ...] = (4096, 4096, 3, 3)
    matrix: tuple[int, ...] = (16384, 16384)
    models: tuple[str, ...] = ("resnet50", "vit_large", "llama3_8b")
    rounds: int = 9


QUICK = Scale(
    sizes=(2**10, 2**16),
    embedding=(512, 256),
    conv=(32, 32, 3, 3),
    matrix=(256, 256),
    models=("resnet50",),
    rounds=2,
)
MODELS: dict[str, tuple[str, Callable[[], list[Parameter]], torch.dtype]] = {
    "resnet50": ("ResNet-50", parameters.resnet50, torch.float32),
    "vit_large": ("ViT-L/16", parameters.vit_large, torch.float32),
    "llama3_8b": ("Llama-3-8B", parameters.llama3_8b, torch.bfloat16),
}


# ---- memory -------------------------------------------------------------------------------------


def cache_bytes(device: torch.device) -> int:
    """Size of the device's L2 cache."""
    if device.type != "cuda":
        return 2**20
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return report.available_memory()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


class Memory:
    """One allocation that all tensors of a table are views of.

    A table's tensors then share addresses, and small ones are taken in turn from more memory than
    the cache holds, so that no fill finds its own lines still there.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.device = device
        self.cache = cache_bytes(device)
        self.nbytes = max(nbytes, 3 * self.cache)
        self._bytes = torch.empty(self.nbytes, dtype=torch.uint8, device=device)

    def tensors(self, shape: Sequence[int], dtype: torch.dtype, most: int = 512) -> list[Any]:
        """Tensors of one shape beside one another, as many as it takes to outgrow the cache."""
        size = math.prod(shape) * dtype.itemsize
        step = -(-size // 512) * 512
        count = max(1, min(most, math.ceil(2 * self.cache / step), self.nbytes // step))
        starts = (k * step for k in range(count))
        return [self._bytes[s : s + size].view(dtype).view(*shape) for s in starts]


def memset(tensor: torch.Tensor) -> Callable[[], object]:
    """What sets a contiguous tensor's bytes to zero: the runtime's own memset on the device."""
    if tensor.is_cuda:
        try:
            function = ctypes.CDLL(None).cudaMemsetAsync  # torch has loaded the runtime
        except AttributeError:
            return tensor.view(torch.uint8).zero_
        pointer = ctypes.c_void_p(tensor.data_ptr())
        size = ctypes.c_size_t(tensor.numel() * tensor.element_size())
        stream = ctypes.c_void_p(torch.cuda.current_stream(tensor.device).cuda_stream)
        return lambda: function(pointer, ctypes.c_int(0), size, stream)
    return tensor.view(torch.uint8).zero_


def repeated(calls: Sequence[Callable[[], object]]) -> Callable[[int], None]:
    """Make `run(n)`, which makes n of the calls, going round."""
    turns = itertools.cycle(calls)

    def run(number: int) -> None:
        for call in itertools.islice(turns, number):
            call()

    return run


def queued(
    function: Callable[[Any], object], tensors: Sequence[Any], *, device: torch.device
) -> QueuedContender:
    return QueuedContender(repeated([lambda t=t: function(t) for t in tensors]), device)  # type: ignore[misc]


def make_queued(module: Any, function: str, tensor: torch.Tensor) -> QueuedContender:
    """What `tensors.layout_rows` makes its contenders with here."""
    return queued(getattr(module, function), [tensor], device=tensor.device)


def measure(races: Sequence[Race], rounds: int, late: Callable[[], bool]) -> None:
    """Calibrate and run each race to its end; once it is late a race gets one round."""
    for index, race in enumerate(races):
        report.progress(f"race {index + 1}/{len(races)}")
        for contender in race.contenders.values():
            if isinstance(contender, QueuedContender):
                contender.calibrate(SAMPLE_S, 200)
        while race.rounds < (1 if late() else rounds):
            race.round()


# ---- single tensors -----------------------------------------------------------------------------


@dataclass
class DeviceRow:
    """One function on tensors of one shape and type, against torch, `fill_` and memset."""

    function: str
    where: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    race: Race

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def ratio(self) -> float | None:
        return self.race.ratio("native", "fastinit") if "native" in self.race.contenders else None

    @property
    def share(self) -> float:
        """Of the speed of memset."""
        return self.race.ratio("memset", "fastinit")

    def giga_bytes(self, name: str) -> float:
        return self.nbytes / self.race[name].median / 1e9

    def cells(self) -> list[str]:
        def speed(name: str) -> str:
            there = name in self.race.contenders
            return report.figures(self.giga_bytes(name)) if there else "none"

        return [
            self.function,
            self.where,
            report.dtype_name(self.dtype),
            report.figures(1e6 * self.race["fastinit"].median),
            *(speed(name) for name in ("native", "fastinit", "fill", "memset")),
            "none" if self.ratio is None else f"{self.ratio:.2f}x",
            f"{100 * self.share:.0f}%",
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "tensor": self.where,
            "shape": list(self.shape),
            "dtype": report.dtype_name(self.dtype),
            "ratio": self.ratio,
            "share_of_memset": self.share,
            "contenders": {
                name: contender.as_dict() | {"giga_bytes_per_s": self.giga_bytes(name)}
                for name, contender in self.race.contenders.items()
            },
        }


DEVICE_HEADER = [
    "function",
    "tensor",
    "dtype",
    "fastinit us",
    "native GB/s",
    "fastinit GB/s",
    "fill_ GB/s",
    "memset GB/s",
    "native/fastinit",
    "of memset",
]
DEVICE_NOTES = [
    "Medians of samples between two events, each of as many calls as take a few milliseconds; "
    "small tensors are taken",
    "in turn from more memory than the L2 cache holds. Where a fill is shorter than its launch "
    "(below some 2^20 elements),",
    "the launch is what is measured. none: torch.nn.init does not fill this type. of memset: share "
    "of cudaMemsetAsync's speed.",
]


def native_fills(function: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch.nn.init fills this type at all."""
    try:
        getattr(torch.nn.init, function)(torch.empty(4, 4, dtype=dtype, device=device))
    except (NotImplementedError, RuntimeError):
        return False
    return True


def device_row(
    function: str, where: str, shape: tuple[int, ...], dtype: torch.dtype, memory: Memory
) -> DeviceRow:
    tensors, device = memory.tensors(shape, dtype), memory.device
    contenders: dict[str, Contender] = {
        "fastinit": queued(getattr(fastinit, function), tensors, device=device),
        "fill": queued(lambda t: t.fill_(0.5), tensors, device=device),
        "memset": QueuedContender(repeated([memset(t) for t in tensors]), device),
    }
    if native_fills(function, dtype, device):
        contenders["native"] = queued(getattr(torch.nn.init, function), tensors, device=device)
    order = [name for name in ROUND if name in contenders]
    return DeviceRow(function, where, shape, dtype, Race(contenders, order))


def size_rows(scale: Scale, memory: Memory) -> list[DeviceRow]:
    """Sizes from small to as large as the memory is, in each type."""
    return [
        device_row(function, f"2^{math.log2(n):g}", (n,), dtype, memory)
        for dtype in DTYPES
        for function in FILLS
        for n in scale.sizes
        if n * dtype.itemsize <= memory.nbytes
    ]


def shape_rows(
    scale: Scale,
    memory: Memory,
    functions: Sequence[str] = (*FILLS, "kaiming_uniform_", "xavier_normal_"),
) -> list[DeviceRow]:
    """A large embedding and a large convolution."""
    return [
        device_row(function, f"{label} {report.shape_name(shape)}", shape, dtype, memory)
        for label, shape in (("embedding", scale.embedding), ("conv", scale.conv))
        for dtype in (torch.float32, torch.bfloat16)
        for function in functions
        if math.prod(shape) * dtype.itemsize <= memory.nbytes
    ]


# ---- many tensors -------------------------------------------------------------------------------


class Model:
    """All parameters of a model in memory of their own, and the ways to initialise them."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.title, make, self.dtype = MODELS[name]
        self.parameters = make()
        self.tensors = [
            torch.empty(p.shape, dtype=self.dtype, device=device) for p in self.parameters
        ]
        self.nbytes = sum(p.numel for p in self.parameters) * self.dtype.itemsize
        self.key = Key(0)
        self.lists = self.make_lists()

    def make_lists(self) -> tuple[list[int], list[float], list[int]]:
        """Plan, arguments and keys of `fill_many_`; each parameter's key is of its name."""
        plan, args, keys = [], [], []
        for p in self.parameters:
            plan += [p.kind, 0]
            args += [*p.args, 0.0, 0.0, 0.0][:4]
            word = int(self.key.fold_in(p.name))
            keys.append(word - 2**64 if word >> 63 else word)
        return plan, args, keys

    def one_by_one(self, init: Any) -> None:
        for parameter, tensor in zip(self.parameters, self.tensors, strict=True):
            if parameter.kind == CONSTANT:
                init.constant_(tensor, parameter.args[0])
            else:
                draw = {NORMAL: init.normal_, UNIFORM: init.uniform_}[parameter.kind]
                draw(tensor, *parameter.args)

    def native(self) -> None:
        self.one_by_one(torch.nn.init)

    def separate(self) -> None:
        self.one_by_one(fastinit)

    def together(self) -> None:
        torch.ops.fastinit.fill_many_(self.tensors, *self.lists)

    def together_with_lists(self) -> None:
        torch.ops.fastinit.fill_many_(self.tensors, *self.make_lists())


def model_bytes(name: str) -> int:
    """What a model's row needs: its parameters, and as much for the memset."""
    _, make, dtype = MODELS[name]
    return 2 * dtype.itemsize * sum(p.numel for p in make())


@dataclass
class ModelRow:
    """All parameters of one model: torch one by one against fastinit, one by one and at once."""

    title: str
    dtype: torch.dtype
    count: int
    nbytes: int
    race: Race

    def cells(self) -> list[str]:
        race = self.race
        names = ("native", "separate", "together", "together_with_lists", "memset")
        return [
            self.title,
            report.dtype_name(self.dtype),
            str(self.count),
            *(report.figures(1e3 * race[name].median) for name in names),
            f"{race.ratio('native', 'together'):.1f}x",
            f"{race.ratio('together', 'memset'):.2f}x",
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.title,
            "dtype": report.dtype_name(self.dtype),
            "tensors": self.count,
            "bytes": self.nbytes,
            "ratio": self.race.ratio("native", "together"),
            "over_memset": self.race.ratio("together", "memset"),
            "contenders": {name: c.as_dict() for name, c in self.race.contenders.items()},
        }


MODEL_HEADER = [
    "model",
    "dtype",
    "tensors",
    "native ms",
    "fastinit each ms",
    "one launch ms",
    "one launch, lists ms",
    "memset ms",
    "native/one launch",
    "over memset",
]
MODEL_NOTES = [
    "Wall time until the device is done, Python included: weights drawn as the model draws them, "
    "biases and norms constant.",
    "one launch: a call of fill_many_ with its lists made before; lists: made in Python each time, "
    "keys by name included.",
    "memset: one cudaMemsetAsync over as many bytes as the parameters have.",
]


def model_row(name: str, device: torch.device) -> ModelRow:
    """A row whose contenders are timed by the clock, each waiting for the device."""
    model = Model(name, device)
    flat = torch.empty(model.nbytes, dtype=torch.uint8, device=device)
    contenders = {
        what: Contender("f()", f=getattr(model, what))
        for what in ("native", "separate", "together", "together_with_lists")
    }
    contenders["memset"] = Contender("f()", f=memset(flat), keep=flat)
    for contender in contenders.values():  # kernels loaded, staging memory there
        contender.sample()
        contender.samples.clear()
    race = Race(contenders, tuple(contenders))
    return ModelRow(model.title, model.dtype, len(model.tensors), model.nbytes, race)
