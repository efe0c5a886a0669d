"""The words of model programs: holders, children, views and steps, each with its Python.

Every tensor that is declared has one shape, so that most steps fit each other. Each word belongs
to a feature, by which `model_programs` says what holds.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

# What programs use besides torch.


class Stop(Exception):
    """What a program raises."""


class Box:
    """An object that is no module."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Sub(nn.Parameter):
    """A parameter of a class of its own."""


class Dense(nn.Module):
    """A layer that initialises itself by what a program of constants can say, too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 6))
        self.register_buffer("scale", torch.ones(4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.25)


def hook(gradient: torch.Tensor) -> torch.Tensor:
    return gradient * 0


def after(parameter: torch.Tensor) -> None:
    parameter.grad = None


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.second = nn.Linear(3, 2)
        self.second.weight = self.first.weight


# Entered by the threads of a program; an oracle puts what it follows draws with here.
carried: list[Callable[[], Any]] = []


def in_thread(work: Callable[[], Any]) -> Any:
    """Run on a thread of its own, and give the result or the exception."""
    result: list[Any] = []

    def run() -> None:
        try:
            with contextlib.ExitStack() as stack, torch.no_grad():
                for enter in carried:
                    stack.enter_context(enter())
                result.append((work(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = result[0]
    if error is not None:
        raise error
    return value


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


NAMES = {
    "torch": torch,
    "nn": nn,
    "np": np,
    "copy": copy,
    "weakref": weakref,
    "Stop": Stop,
    "Box": Box,
    "Sub": Sub,
    "Dense": Dense,
    "Tied": Tied,
    "hook": hook,
    "after": after,
    "in_thread": in_thread,
    "default_dtype": default_dtype,
}

SHAPE = (4, 6)
DTYPES = ("float32", "float64", "bfloat16")
# How a slot is declared, and how it is reached.
HOLDERS: dict[str, tuple[str, str, str]] = {
    "parameter": ("self.w{i} = nn.Parameter(torch.empty(4, 6{dtype}))", "self.w{i}", "parameters"),
    "zeros": ("self.w{i} = nn.Parameter(torch.zeros(4, 6{dtype}))", "self.w{i}", "parameters"),
    "drawn": ("self.w{i} = nn.Parameter(torch.randn(4, 6{dtype}))", "self.w{i}", "parameters"),
    "subclass": ("self.w{i} = Sub(torch.zeros(4, 6{dtype}))", "self.w{i}", "subclasses"),
    "buffer": ("self.register_buffer('w{i}', torch.zeros(4, 6{dtype}))", "self.w{i}", "buffers"),
    "attribute": ("self.w{i} = torch.zeros(4, 6{dtype})", "self.w{i}", "attributes"),
    "listed": (
        "self.w{i} = nn.ParameterList([torch.zeros(4, 6{dtype})])",
        "self.w{i}[0]",
        "parameters",
    ),
    "nested": (
        "self.w{i} = [[torch.zeros(4, 6{dtype})], {{}}]",
        "self.w{i}[0][0]",
        "slots in other holders",
    ),
    "in a dict": (
        "self.w{i} = {{'x': {{'y': torch.zeros(4, 6{dtype})}}}}",
        "self.w{i}['x']['y']",
        "slots in other holders",
    ),
    "in an object": (
        "self.w{i} = Box(torch.zeros(4, 6{dtype}))",
        "self.w{i}.tensor",
        "slots in other holders",
    ),
    "in a closure": (
        "self.w{i} = lambda t=torch.zeros(4, 6{dtype}): t",
        "self.w{i}()",
        "slots in other holders",
    ),
    "numpy's": (
        "self.n{i} = np.ones((4, 6), np.float32); self.w{i} = torch.from_numpy(self.n{i})",
        "self.w{i}",
        "numpy",
    ),
}
CHILDREN = {
    "linear": "nn.Linear(3, 2)",
    "norm": "nn.BatchNorm1d(3)",
    "embedding": "nn.Embedding(4, 3, padding_idx=1)",
    "recurrent": "nn.GRU(2, 2)",
    "attention": "nn.MultiheadAttention(2, 1)",
    "dense": "Dense()",
    "tied": "Tied()",
    "nested": "nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({'x': nn.LayerNorm(2)}))",
}
VIEWS = {
    "all": "{}",
    "first": "{}[0]",
    "tail": "{}[1:]",
    "steps": "{}[::2]",
    "columns": "{}[:, :3]",
    "turned": "{}.t()",
    "flat": "{}.view(-1)",
    "data": "{}.data",
    "detached": "{}.detach()",
}
# Draws, and the constant that stands for each where only values are compared, not keys. `k` is the
# number of the step, so that constants tell draws apart.
DRAWS: dict[str, tuple[str, str, str]] = {
    "uniform": ("nn.init.uniform_({v}, {k}, {k} + 1)", "nn.init.uniform_({v}, {k}, {k})", "fills"),
    "normal": ("nn.init.normal_({v}, {k}, 0.5)", "nn.init.normal_({v}, {k}, 0.0)", "fills"),
    "trunc_normal": (
        "nn.init.trunc_normal_({v}, {k}, 0.5, {k} - 1, {k} + 1)",
        "nn.init.trunc_normal_({v}, {k}, 0.0, {k} - 1, {k} + 1)",
        "fills",
    ),
    "xavier": ("nn.init.xavier_uniform_({t})", "nn.init.xavier_uniform_({t}, gain=0.0)", "fills"),
    "method": ("{v}.uniform_({k}, {k} + 1)", "{v}.uniform_({k}, {k})", "fills"),
    "randn, copied": (
        "{t}.copy_(torch.randn(4, 6))",
        "{t}.copy_(torch.normal({k}, 0.0, (4, 6)))",
        "fills",
    ),
    "through a temporary": (
        "x = torch.empty(8, 6).normal_({k}, 0.5); {t}.copy_(x[2:6])",
        "x = torch.empty(8, 6).normal_({k}, 0.0); {t}.copy_(x[2:6])",
        "parts of temporaries",
    ),
    "own generator": (
        "{v}.normal_({k}, 0.5, generator=torch.Generator().manual_seed({k}))",
        "{v}.normal_({k}, 0.0, generator=torch.Generator().manual_seed({k}))",
        "generators",
    ),
    "random_": ("{v}.random_(0, 9)", "{v}.random_({k}, {k} + 1)", "torch's draws"),
    "bernoulli_": ("{v}.bernoulli_(0.5)", "{v}.bernoulli_(1.0)", "torch's draws"),
    "bernoulli_ of a tensor": (
        "{t}.bernoulli_(torch.full((4, 6), 0.5))",
        "{t}.bernoulli_(torch.full((4, 6), 1.0))",
        "bernoulli_ of a tensor",
    ),
    "exponential_": ("{v}.exponential_()", "{v}.fill_({k})", "torch's draws"),
    "geometric_": ("{v}.geometric_(0.5)", "{v}.fill_({k})", "torch's draws"),
    "randperm": (
        "{t}[0].copy_(torch.randperm(6))",
        "{t}[0].copy_(torch.full((6,), {k}))",
        "torch's draws",
    ),
    "data = randn": (
        "{t}.data = torch.randn(4, 6, dtype={t}.dtype) * 0.5",
        "{t}.data = torch.normal({k}, 0.0, (4, 6), dtype={t}.dtype) * 0.5",
        ".data",
    ),
    "new parameter": (
        "self.p{i} = nn.Parameter(torch.randn(4, 6))",
        "self.p{i} = nn.Parameter(torch.normal({k}, 0.0, (4, 6)))",
        "made anew",
    ),
    "in place of a parameter": (
        "self.w{i} = nn.Parameter(torch.randn(4, 6))",
        "self.w{i} = nn.Parameter(torch.normal({k}, 0.0, (4, 6)))",
        "made anew",
    ),
    "new buffer": (
        "self.register_buffer('b{i}', torch.rand(4, 6))",
        "self.register_buffer('b{i}', torch.normal({k}, 0.0, (4, 6)))",
        "made anew",
    ),
    "drawn in a thread": (
        "in_thread(lambda: nn.init.normal_({t}, {k}, 0.5))",
        "in_thread(lambda: nn.init.normal_({t}, {k}, 0.0))",
        "threads",
    ),
    "made in a thread": (
        "self.p{i} = in_thread(lambda: nn.Parameter(torch.randn(4, 6)))",
        "self.p{i} = in_thread(lambda: nn.Parameter(torch.full((4, 6), {k}.0)))",
        "threads",
    ),
    "inference tensor": (
        "with torch.inference_mode(): self.inference = torch.randn(4, 6)",
        "with torch.inference_mode(): self.inference = torch.normal({k}, 0.0, (4, 6))",
        "inference mode",
    ),
    "default dtype": (
        "with default_dtype(torch.float64): self.p{i} = nn.Parameter(torch.randn(4, 6))",
        "with default_dtype(torch.float64): self.p{i} = "
        "nn.Parameter(torch.normal({k}, 0.0, (4, 6), dtype=torch.float64))",
        "default dtype",
    ),
}
OTHERS: dict[str, tuple[str, str]] = {
    # constants
    "constant": ("nn.init.constant_({v}, {k})", "constants"),
    "zeros": ("nn.init.zeros_({v})", "constants"),
    "eye": ("nn.init.eye_({t})", "constants"),
    "fill_": ("{v}.fill_({k})", "constants"),
    "zero_": ("{v}.zero_()", "constants"),
    # arithmetic in place
    "mul_": ("{v}.mul_(0.5)", "arithmetic"),
    "add_": ("{v}.add_({x})", "arithmetic"),
    "clamp_": ("{v}.clamp_(-1, 2)", "arithmetic"),
    "tril_": ("{t}.tril_()", "arithmetic"),
    "masked_fill_": ("{t}.masked_fill_({u} > 0.5, {k})", "arithmetic"),
    "functional": ("{t}.copy_(torch.sin({t}) + {u})", "arithmetic"),
    # copies
    "copy_": ("{v}.copy_({x})", "copies"),
    "copy_ of itself": ("{t}.copy_({t})", "copies of itself"),
    "copy_ of itself, turned": ("{t}.copy_({t}.flip(0))", "copies of itself"),
    "one half from the other": ("{t}[2:] = -{t}[:2]", "slices of itself"),
    "rows from columns": ("{t}[:, 3:].copy_({t}[:, :3].clone())", "slices of itself"),
    # other ways to write
    "out=": ("torch.sin({u}.clone(), out={t})", "out="),
    "linspace out=": ("torch.linspace(0, 1, 24, out={t}.view(-1))", "out="),
    "foreach_mul_": ("torch._foreach_mul_([{t}, {u}], 0.5)", "_foreach_*"),
    "foreach_copy_": ("torch._foreach_copy_([{t}], [torch.ones(4, 6)])", "_foreach_*"),
    "index_copy_": ("{t}.index_copy_(0, torch.arange(4), torch.ones_like({t}))", "indices"),
    "scatter_": (
        "{t}.scatter_(0, torch.arange(4).view(4, 1).expand(4, 6), torch.ones_like({t}))",
        "indices",
    ),
    "index_put": ("{t}[torch.arange(4)] = torch.ones_like({t})", "indices"),
    "masks": ("m = torch.arange(24).view(4, 6) % 2 == 0; {t}[m] = 1.0; {t}[~m] = 2.0", "indices"),
    "new_tensor": ("self.c{i} = {t}.new_tensor([1.0, 2.0])", "new_tensor"),
    "table": ("self.c{i} = torch.arange(6) * 0.5", "constants beside weights"),
    # .data, casts
    "data = data / norm": ("{t}.data = {t}.data / ({t}.data.norm() + 1)", ".data"),
    "data = clone": ("{t}.data = {t}.data.clone()", ".data"),
    "data = constant": ("{t}.data = torch.full((4, 6), {k}, dtype={t}.dtype)", ".data"),
    "data = view": ("{t}.data = {t}.data.t().contiguous().t()", ".data"),
    "half and back": ("self.half().float()", "casts"),
    "double": ("self.double()", "casts"),
    "double and back": ("{t}.data = {t}.data.double().to({t}.dtype)", ".data"),
    # metadata
    "unsqueeze_": ("{t}.data = {t}.data.unsqueeze_(0).squeeze_(0)", "metadata"),
    "t_": ("x = {t}.detach(); x.t_().mul_(2)", "metadata"),
    "resize_": ("x = torch.ones(2, 6).resize_(1, 6); self.c{i} = x", "metadata"),
    # numpy
    "numpy *=": ("x = {t}.detach().numpy(); x *= 0.5", "numpy"),
    "numpy kept": ("self.n{i} = {t}.detach().numpy()", "numpy"),
    "numpy kept *=": ("self.n{i} *= 2", "numpy"),
    "from_numpy, then written": (
        "x = np.ones((4, 6), np.float32); self.c{i} = torch.from_numpy(x); x *= 3",
        "numpy",
    ),
    "copied from numpy": ("{t}.copy_(torch.from_numpy(np.arange(24.0).reshape(4, 6)))", "numpy"),
    "drawn by numpy's own": (
        "{t}.copy_(torch.from_numpy(np.random.RandomState({k}).rand(4, 6)))",
        "numpy",
    ),
    # reads
    "item": ("self.seen.append({v}.sum().item())", "reads"),
    "tolist": ("self.seen.append({v}.tolist())", "reads"),
    "comparison": ("self.seen.append(bool(({v} > 0.5).any()))", "reads"),
    "branch": ("if {t}.mean() > 0.5: {t}.neg_()", "reads"),
    "norm": ("{t}.div_({t}.norm().item() + 1)", "reads"),
    "repr": ("self.seen.append(repr({t}))", "reads"),
    "equal": ("self.seen.append(torch.equal({t}, {u}))", "reads"),
    "read in a thread": ("self.seen.append(in_thread(lambda: {t}.sum().item()))", "threads"),
    "dlpack": ("self.seen.append(torch.from_dlpack({t}.detach()).sum().item())", "reads"),
    # objects
    "same object": ("self.s{i} = {t}", "ties"),
    "tie by .data": ("self.p{i} = nn.Parameter({t}.data)", "ties by .data"),
    "tie slots by .data": ("{t}.data = {u}.data", "ties by .data"),
    "tie to the other": ("self.w{i} = {u}", "ties"),
    "in one vector": (
        "x = torch.cat([{t}.data.reshape(-1), {u}.data.reshape(-1)]); "
        "{t}.data, {u}.data = x[:24].view(4, 6), x[24:].view(4, 6)",
        "flat memory",
    ),
    "in one table": (
        "x = 2 * torch.stack([{t}.data, {u}.data], 1); {t}.data, {u}.data = x[:, 0], x[:, 1]",
        "flat memory",
    ),
    "side by side": (
        "x = torch.cat([{t}.data, {u}.data], -1) + 1; {t}.data, {u}.data = x[:, :6], x[:, 6:]",
        "flat memory",
    ),
    # operators with several results
    "sorted": (
        "x, y = {t}.data.sort(1); {t}.data.copy_(y); {u}.data.copy_(x)",
        "several results",
    ),
    "variance and mean": (
        "self.p{i}, self.q{i} = map(nn.Parameter, torch.var_mean({t}.data, 1))",
        "several results",
    ),
    "qr": (
        "x, y = torch.linalg.qr({t}.data); {u}.data.copy_(torch.cat([y, y])[:4]); {t}.data = x @ y",
        "several results",
    ),
    "view kept": ("self.c{i} = {t}[:, -1]", "views"),
    "detached kept": ("self.c{i} = {t}.detach()", "views"),
    "clone kept": ("self.c{i} = {t}.detach().clone()", "made anew"),
    "ema": ("self.ema = [[p.detach().clone() for p in self.parameters()]]", "nested holders"),
    "in a tuple": ("self.x{i} = (({t}.detach() * 2,),)", "nested holders"),
    "closure": ("x = {t}.detach() + 1; self.f{i} = lambda: x", "nested holders"),
    "deepcopy": ("self.d{i} = copy.deepcopy({t})", "deepcopy"),
    "deepcopy of a child": ("self.d{i} = copy.deepcopy(self.child0)", "deepcopy"),
    "gradient hook": ("{t}.requires_grad and {t}.register_hook(hook)", "hooks"),
    "post-accumulate hook": (
        "{t}.requires_grad and {t}.register_post_accumulate_grad_hook(after)",
        "hooks",
    ),
    "grad": ("{t}.grad = torch.ones_like({t})", "grad"),
    "weak reference": ("self.r{i} = weakref.ref({t})", "weak references"),
    "optimizer": ("self.opt = torch.optim.SGD(list(self.parameters()), lr=1.0)", "optimizers"),
    "mark": ("{t}.mark = {k}", "marks"),
    "frozen": ("{t}.requires_grad_(False)", "marks"),
    "late child": ("self.late{i} = nn.Linear(3, 2)", "made anew"),
    "late norm": ("self.late{i} = nn.BatchNorm1d(3)", "made anew"),
    "child again": ("self.late{i} = self.child0", "ties"),
    "deleted": ("del self.w{i}", "made anew"),
    "raise": ("raise Stop", "errors"),
}
# Steps that may be told "fill pending" by `batch()`: what its modes do not see.
HIDDEN = frozenset({"drawn in a thread", "made in a thread", "read in a thread", "dlpack"})
STEPS: dict[str, str] = {name: row[-1] for name, row in (*DRAWS.items(), *OTHERS.items())}
