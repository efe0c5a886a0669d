"""Who does the work: fastinit's ops, torch's own function or an override; keys always count."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from support.common import (
    OTHER_DTYPES,
    RANDOM,
    elsewhere,
    fill,
    no_randomness,
    same_bits,
    untouched,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import fastinit
from fastinit import _C, Key, _fallback, _tensors

OVERRIDABLE = ["uniform_", "normal_", "kaiming_uniform_"]
NOT_OVERRIDABLE = [name for name in RANDOM if name not in OVERRIDABLE]


class Quiet(torch.Tensor):
    """A subclass that overrides nothing."""


class Recording(torch.Tensor):
    """A subclass that notes which functions it is offered, and lets them run."""

    offered: list[Any]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.offered.append((func, kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapper(torch.Tensor):
    """A subclass that overrides dispatch, as DTensor does: it has no memory of its own."""

    @staticmethod
    def __new__(cls, inner):
        tensor = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        tensor.inner = inner
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(
            lambda x: x.inner if isinstance(x, Wrapper) else x, (args, kwargs or {})
        )
        func(*args, **kwargs)
        return None


@pytest.fixture(autouse=True)
def _nothing_offered() -> None:
    Recording.offered = []


def test_originals_are_torchs():
    for name in nn.init.__all__:
        assert _fallback.ORIGINALS[name] is getattr(nn.init, name)


# ---- ordinary tensors ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize(
    "make",
    [
        torch.empty,
        lambda *s: nn.Parameter(torch.empty(*s)),
        lambda *s: nn.Buffer(torch.empty(*s)),
        lambda *s: torch.empty(*s).as_subclass(Quiet),
        lambda *s: nn.Parameter(torch.empty(*s).as_subclass(Quiet)),
    ],
    ids=["tensor", "parameter", "buffer", "subclass", "parameter of a subclass"],
)
def test_ordinary_tensors_are_filled_by_fastinit(name, make, original_calls):
    tensor = make(6, 5)
    torch.manual_seed(1)
    assert fill(name, tensor) is tensor
    torch.manual_seed(1)
    key = fastinit.reserve_key("cpu")
    assert same_bits(tensor.as_subclass(torch.Tensor), fill(name, torch.empty(6, 5), key=key))
    keyed = make(6, 5)
    assert fill(name, keyed, key=key) is keyed
    assert same_bits(keyed.as_subclass(torch.Tensor), tensor.as_subclass(torch.Tensor))
    assert not original_calls


@pytest.mark.parametrize("split", [lambda t: t.unbind(), lambda t: t.view(-1, 5).chunk(3)])
@pytest.mark.parametrize("name", RANDOM)
def test_the_parts_of_a_packed_weight_are_filled_one_after_another(name, split):
    packed = nn.Parameter(torch.zeros(3, 6, 5))
    for k, part in enumerate(split(packed)):  # with gradients on, as torch's functions allow
        fill(name, part, key=k)
    for k in range(3):
        assert same_bits(packed[k].detach(), fill(name, torch.empty(6, 5), key=k))


@pytest.mark.parametrize("name", RANDOM)
def test_fake_tensors_draw_nothing(name):
    generator = torch.Generator().manual_seed(0)
    with no_randomness(generator), FakeTensorMode() as mode:
        tensor = torch.empty(6, 5)
        assert fill(name, tensor) is tensor
        assert fill(name, tensor, key=1) is tensor
        assert fill(name, tensor, generator=generator) is tensor
    with no_randomness():  # outside of the mode that made it, too
        fill(name, mode.from_tensor(torch.empty(6, 5)))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", RANDOM)
def test_fake_tensors_of_a_device_that_torch_has_not(name, inference):
    with no_randomness(), torch.inference_mode(inference), FakeTensorMode():
        tensor = torch.empty(6, 5, device="xpu")
        assert fill(name, tensor, key=1) is tensor
        assert inference or tensor._version == 1
        assert fastinit.shard(tensor, (12, 5), (6, 0)).shape == (12, 5)
        fill(name, fastinit.shard(tensor, (12, 5), (6, 0)), key=1)
        assert tensor.device.type == "xpu"
    with no_randomness():
        fill(name, tensor, key=1)


def test_fake_tensors_get_the_checks_of_others():
    with FakeTensorMode():
        tensor = torch.empty(6, 5, device="xpu")
        with pytest.raises(RuntimeError, match="std"):
            fastinit.normal_(tensor, std=-1.0, key=1)
        with pytest.raises(ValueError, match="2 dimensions"):
            fastinit.orthogonal_(torch.empty(5, device="xpu"), key=1)
        tensors = [torch.empty(4, 3, device=device) for device in ("xpu", "cpu", "xpu")]
        fastinit.orthogonal_many_(tensors, keys=[1, 2, 3])
        assert [tensor._version for tensor in tensors] == [1, 1, 1]


# ---- __torch_function__ --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OVERRIDABLE, "constant_"])
def test_overrides_are_offered_torchs_function(name):
    """So an override that asks `func is torch.nn.init.normal_` keeps working."""
    ours, torchs = (torch.zeros(6, 5).as_subclass(Recording) for _ in range(2))
    arguments = {"constant_": (2.5,)}.get(name, ())
    torch.manual_seed(1)
    assert getattr(fastinit, name)(ours, *arguments) is ours
    func, kwargs = Recording.offered[0]
    assert func is getattr(nn.init, name)
    Recording.offered.clear()
    torch.manual_seed(1)
    getattr(nn.init, name)(torchs, *arguments)
    expected_func, expected = Recording.offered[0]
    assert func is expected_func
    assert kwargs.keys() == expected.keys()
    for parameter in expected.keys() - {"tensor"}:
        assert kwargs[parameter] == expected[parameter]
    assert same_bits(ours.as_subclass(torch.Tensor), torchs.as_subclass(torch.Tensor))


@pytest.mark.parametrize("name", OVERRIDABLE)
def test_overrides_are_offered_the_key(name):
    tensor = torch.zeros(6, 5).as_subclass(Recording)
    with no_randomness():
        assert fill(name, tensor, key=Key(2**64 - 1)) is tensor
    func, kwargs = Recording.offered[0]
    assert func is getattr(fastinit, name)
    assert kwargs["tensor"] is tensor
    assert int(kwargs["key"]) % 2**64 == 2**64 - 1
    expected = fill(name, torch.empty(6, 5), key=Key(2**64 - 1))
    assert same_bits(tensor.as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("name", NOT_OVERRIDABLE)
def test_overrides_that_torch_does_not_honour(name):
    """Without a key torch's function runs, whose methods the override sees; a key is refused."""
    tensor = torch.zeros(6, 5).as_subclass(Recording)
    torch.manual_seed(1)
    fill(name, tensor)
    assert Recording.offered
    assert all(func is not getattr(nn.init, name) for func, _ in Recording.offered)
    torch.manual_seed(1)
    expected = getattr(nn.init, name)(torch.zeros(6, 5), *RANDOM[name])
    assert same_bits(tensor.as_subclass(torch.Tensor), expected)
    with no_randomness(), pytest.raises(NotImplementedError, match=r"subclass .*Recording"):
        fill(name, tensor, key=1)


def test_an_override_may_decline():
    class Declining(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func in (nn.init.normal_, fastinit.normal_):
                return NotImplemented
            return super().__torch_function__(func, types, args, kwargs or {})

    tensor = torch.zeros(3).as_subclass(Declining)
    for key in (None, 1):
        with pytest.raises(TypeError, match="no implementation found"):
            fastinit.normal_(tensor, key=key)


def test_an_override_may_answer_itself():
    class Answering(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is nn.init.uniform_:
                return "uniform"
            if func is fastinit.uniform_:
                return kwargs["key"]
            return super().__torch_function__(func, types, args, kwargs or {})

    tensor = torch.zeros(3).as_subclass(Answering)
    assert fastinit.uniform_(tensor) == "uniform"
    assert fastinit.uniform_(tensor, key=5) == 5


class Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", RANDOM)
def test_function_modes_see_the_op_and_change_nothing(name):
    plain = fill(name, torch.empty(6, 5), key=1)
    tensor = torch.empty(6, 5)
    with Seen() as mode:
        fill(name, tensor, key=1)
    assert same_bits(tensor, plain)
    if name in _fallback.OVERRIDABLE:  # which are all that modes see, as in torch
        assert mode.functions[-1] is getattr(fastinit, name)
        return
    own = name in ("trunc_normal_", "orthogonal_", "sparse_")
    op = "uniform_" if "uniform" in name else name if own else "normal_"
    assert getattr(torch.ops.fastinit, op).default in mode.functions


class Answers(TorchFunctionMode):
    """Answers calls of some functions, with the arguments that it is given by name."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("uniform_", "normal_", "kaiming_uniform_"):
            return kwargs
        return func(*args, **(kwargs or {}))


def test_function_modes_may_answer_what_they_may_of_torchs() -> None:
    tensor = torch.zeros(2, 2)
    generator = torch.Generator()
    with Answers():
        theirs = nn.init.normal_(tensor, 1.0, 2.0, generator)
        assert fastinit.normal_(tensor, 1.0, 2.0, generator) == theirs
        assert fastinit.kaiming_uniform_(tensor, 3.0) == nn.init.kaiming_uniform_(tensor, 3.0)
        given: Any = fastinit.kaiming_uniform_(tensor, mode="fan_out", batch_dims=1, key=5)
        assert (given["mode"], given["batch_dims"], given["key"]) == ("fan_out", 1, 5)
        with Seen() as seen:
            given = fastinit.uniform_(tensor, key=5)
        assert given["key"] == 5
        assert seen.functions == [fastinit.uniform_]
        with torch.utils._device.DeviceContext(torch.device("cpu")):
            assert fastinit.uniform_(tensor, key=5) == given
    assert not tensor.any()
    # fastinit's own modes are none of these.
    with fastinit.batch(), fastinit.patch(0):
        torch.empty(3).uniform_()
        assert fastinit.normal_(tensor, key=5) is tensor


# ---- what fastinit does not handle ---------------------------------------------------------------


def test_one_call_asks_what_the_attributes_say():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are experimental
        dtypes = [*_tensors.DTYPES, torch.complex32, torch.bool, torch.int64]
        tensors = [torch.zeros(2, 3, dtype=dtype) for dtype in dtypes]
        tensors += [torch.zeros(2, 3, dtype=dtype, device="meta") for dtype in dtypes]
        nested = [torch.zeros(2), torch.zeros(3)]
        tensors += [
            nn.Parameter(torch.zeros(3)),
            torch.zeros(2, 3).t(),
            torch.eye(3).to_sparse(),
            torch.eye(3).to_sparse_csr(),
            torch.zeros(2, 3).to_mkldnn(),
            torch.nested.nested_tensor(nested),
            torch.nested.nested_tensor(nested, layout=torch.jagged),
        ]
    with FakeTensorMode():
        tensors += [torch.zeros(3, device=device) for device in ("cpu", "cuda", "meta", "xpu")]
    for tensor in tensors:
        handled = (
            tensor.layout is torch.strided
            and not tensor.is_nested
            and _tensors.on_handled_device(tensor)
        )
        assert _C.handled_dtype(tensor) is (tensor.dtype if handled else None), tensor
    assert _C.handled_dtype(3) is _C.handled_dtype(None) is None


@pytest.mark.parametrize("name", RANDOM)
def test_other_device_without_a_key(name, monkeypatch, original_calls):
    tensor, expected = torch.empty(6, 5), torch.empty(6, 5)
    elsewhere(monkeypatch, tensor)
    torch.manual_seed(1)
    assert fill(name, tensor) is tensor
    torch.manual_seed(1)
    getattr(nn.init, name)(expected, *RANDOM[name])
    assert same_bits(tensor, expected)
    assert original_calls == [name]


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_device_with_a_key_is_filled_on_the_cpu_and_copied(
    name, dtype, monkeypatch, original_calls
):
    tensor = nn.Parameter(torch.empty(5, 6, dtype=dtype).t())
    version = tensor._version
    elsewhere(monkeypatch, tensor)
    with no_randomness():
        assert fill(name, tensor, key=1) is tensor
    assert same_bits(tensor, fill(name, torch.empty(6, 5, dtype=dtype), key=1))
    assert tensor._version > version
    assert not original_calls


@pytest.mark.parametrize("name", RANDOM)
def test_layouts(name):
    """Without a key whatever torch does, which is an error; with one NotImplementedError."""
    tensor = torch.eye(6).to_sparse()
    with pytest.raises((NotImplementedError, RuntimeError)):
        fill(name, tensor)
    with no_randomness(), pytest.raises(NotImplementedError, match=r"layout torch\.sparse_coo"):
        fill(name, tensor, key=1)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", [*OTHER_DTYPES, torch.complex32])
def test_dtypes_with_a_key(name, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex32 is experimental
        tensor = torch.zeros(6, 5, dtype=dtype)
    with untouched(tensor), pytest.raises(NotImplementedError, match=f"'tensor' has dtype {dtype}"):
        fill(name, tensor, key=1)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "xavier_normal_", "kaiming_uniform_"])
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_dtype_that_only_torch_fills(name, original_calls):
    fill(name, torch.zeros(6, 5, dtype=torch.complex32))
    assert original_calls == [name]


@pytest.mark.parametrize("name", RANDOM)
def test_subclass_that_overrides_dispatch(name, original_calls):
    tensor = Wrapper(torch.zeros(6, 5))
    with no_randomness(), pytest.raises(NotImplementedError, match=r"subclass .*Wrapper"):
        fill(name, tensor, key=1)
    assert not tensor.inner.any()
    if name in ("uniform_", "normal_", "xavier_uniform_", "kaiming_normal_"):
        torch.manual_seed(1)
        fill(name, tensor)
        torch.manual_seed(1)
        expected = getattr(nn.init, name)(torch.empty(6, 5))
        assert same_bits(tensor.inner, expected)
        assert original_calls == [name]


@pytest.mark.parametrize("name", RANDOM)
def test_uninitialized_parameters(name):
    parameter = nn.UninitializedParameter()
    with pytest.raises((ValueError, RuntimeError), match="uninitialized"):  # torch's own error
        fill(name, parameter)
    with pytest.raises(NotImplementedError, match="an uninitialized parameter"):
        fill(name, parameter, key=1)


def test_lazy_modules():
    module = nn.LazyLinear(4)
    module(torch.zeros(2, 3))
    fastinit.normal_(module.weight, key=1)
    assert same_bits(module.weight, fastinit.normal_(torch.empty(4, 3), key=1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors():
    tensor = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    fastinit.normal_(tensor)
    assert all(part.count_nonzero() == part.numel() for part in tensor.unbind())
    with no_randomness(), pytest.raises(NotImplementedError, match="nested"):
        fastinit.normal_(tensor, key=1)


def test_inside_vmap():
    def draw(x: torch.Tensor) -> torch.Tensor:
        return fastinit.normal_(x.clone())

    drawn = torch.vmap(draw, randomness="different")(torch.zeros(3, 4))
    assert drawn.unique().numel() == 12
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(draw)(torch.zeros(3, 4))


def test_inside_forward_mode_differentiation():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(3), torch.ones(3))
        result = fastinit.normal_(dual * 1)
        assert not forward_ad.unpack_dual(result).tangent.any()  # as torch has it
        with pytest.raises(NotImplementedError, match="forward-mode"):
            fastinit.normal_(dual * 1, key=1)


@pytest.mark.parametrize("name", ["eye_", "constant_", "ones_", "zeros_"])
def test_constants_of_a_subclass_are_torchs(name, original_calls):
    tensor = Wrapper(torch.full((3, 3), 7.0))
    getattr(fastinit, name)(tensor, *((2.5,) if name == "constant_" else ()))
    assert original_calls == [name]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs generators of two devices")
@pytest.mark.parametrize("name", RANDOM)
def test_generator_of_another_device(name):
    tensor, generator = torch.zeros(6, 5), torch.Generator("cuda")
    with untouched(tensor), pytest.raises(RuntimeError, match="generator"):
        fill(name, tensor, generator=generator)
