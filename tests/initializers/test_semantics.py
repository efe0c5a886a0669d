"""What a user of torch.nn.init expects, sentence by sentence.

Here it is what calls return, consume and leave alone. What they refuse is in test_arguments.py,
what they hand on to torch in test_dispatch.py; values are proven elsewhere.
"""

from __future__ import annotations

import inspect
import math
import warnings

import pytest
import torch
from support.common import (
    COMPLEX_DTYPES,
    CONSTANT,
    ELEMENTWISE,
    RANDOM,
    fill,
    no_randomness,
    same_bits,
)
from torch import nn

import fastinit
from fastinit import Key

INF, NAN = math.inf, math.nan
EVERY = [*RANDOM, *CONSTANT]
MAX_HALF = 65504.0


# ---- the mirror ----------------------------------------------------------------------------------


def test_every_name_of_torch_is_there():
    assert set(fastinit.init.__all__) == set(nn.init.__all__)
    for name in [*nn.init.__all__, "_calculate_fan_in_and_fan_out", "_calculate_correct_fan"]:
        assert getattr(fastinit, name) is getattr(fastinit.init, name)


@pytest.mark.parametrize("name", [n for n in nn.init.__all__ if n.endswith("_")])
def test_parameters_are_those_of_torch(name):
    ours = list(inspect.signature(getattr(fastinit, name)).parameters.values())
    if name in RANDOM:
        only = [p for p in ours if p.kind is inspect.Parameter.KEYWORD_ONLY]
        assert (only[0].name, only[0].default) == ("key", None)
        assert all(p.default is not inspect.Parameter.empty for p in only)
        ours = ours[: -len(only)]
    torchs = inspect.signature(getattr(nn.init, name)).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [
        (p.name, p.default, p.kind) for p in torchs
    ]


@pytest.mark.parametrize("name", [n for n in RANDOM if n not in ("trunc_normal_",)])
def test_deprecated_names_take_a_key(name):
    with pytest.warns(FutureWarning, match=f"in favor of `fastinit.{name}`"):
        alias = getattr(fastinit, name[:-1])(torch.empty(4, 3), *RANDOM[name], key=Key(2))
    assert same_bits(alias, fill(name, torch.empty(4, 3), key=2))


# ---- returns the same object; leaf parameters; autograd ------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("make", [torch.empty, lambda *s: nn.Parameter(torch.empty(*s))])
def test_returns_the_same_object(name, make):
    tensor = make(4, 3)
    address = tensor.data_ptr()
    assert fill(name, tensor) is tensor
    assert tensor.data_ptr() == address


def test_dirac_returns_the_same_object():
    tensor = nn.Parameter(torch.empty(4, 2, 3))
    assert fastinit.dirac_(tensor) is tensor


@pytest.mark.parametrize("name", EVERY)
def test_leaf_parameters_that_require_grad(name):
    parameter = nn.Parameter(torch.full((4, 3), NAN))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(name, parameter)
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.grad_fn is None
        (parameter * 2).sum().backward()
    assert torch.equal(parameter.grad, torch.full((4, 3), 2.0))
    assert not parameter.isnan().any()


@pytest.mark.parametrize("name", EVERY)
def test_views_of_parameters(name):
    parameter = nn.Parameter(torch.full((2, 4, 3), NAN))
    fill(name, parameter[1])
    assert parameter[0].isnan().all()
    assert not parameter[1].isnan().any()


@pytest.mark.parametrize("name", EVERY)
def test_tensors_that_are_no_leaves(name):
    leaf = torch.ones(4, 3, requires_grad=True)
    tensor = leaf * 2
    fill(name, tensor)
    assert tensor.grad_fn is not None


@pytest.mark.parametrize("name", EVERY)
def test_autograd_notices_the_write(name):
    parameter = nn.Parameter(torch.ones(4, 3))
    loss = (parameter**2).sum()
    fill(name, parameter)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", RANDOM)
def test_inference_mode(name):
    with torch.inference_mode():
        made_inside = fill(name, torch.empty(4, 3), key=3)
        made_outside = nn.Parameter(torch.empty(4, 3))
    fill(name, made_inside.clone(), key=3)
    assert same_bits(made_inside, fill(name, torch.empty(4, 3), key=3))
    with pytest.raises(RuntimeError, match="nference"):
        fill(name, made_outside, key=3)


# ---- generators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM)
def test_generator_is_honoured_and_moves_on(name):
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    with no_randomness():
        first = fill(name, torch.empty(6, 5), generator=generator)
        assert not torch.equal(generator.get_state(), before)
        second = fill(name, torch.empty(6, 5), generator=generator)
        assert not same_bits(first, second)
        generator.set_state(before)
        assert same_bits(first, fill(name, torch.empty(6, 5), generator=generator))
    if name == "sparse_":
        assert not torch.equal(first == 0, second == 0), "the mask ignores the generator"


@pytest.mark.parametrize("name", RANDOM)
def test_generator_may_be_positional(name):
    parameters = list(inspect.signature(getattr(fastinit, name)).parameters.values())
    defaults = {"sparsity": 0.3}
    between = [p for p in parameters[1:] if p.kind is not inspect.Parameter.KEYWORD_ONLY][:-1]
    arguments = [defaults.get(p.name, p.default) for p in between]
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    by_position = getattr(fastinit, name)(torch.empty(4, 3), *arguments, one)
    assert same_bits(by_position, fill(name, torch.empty(4, 3), generator=two))


@pytest.mark.parametrize("name", RANDOM)
def test_manual_seed(name):
    torch.manual_seed(3)
    first, second = fill(name, torch.empty(6, 5)), fill(name, torch.empty(6, 5))
    assert not same_bits(first, second)
    torch.manual_seed(3)
    assert same_bits(first, fill(name, torch.empty(6, 5)))
    assert same_bits(second, fill(name, torch.empty(6, 5)))
    torch.manual_seed(4)
    assert not same_bits(first, fill(name, torch.empty(6, 5)))


@pytest.mark.parametrize("name", RANDOM)
def test_rng_state(name):
    with no_randomness(), torch.random.fork_rng(devices=[]):
        inside = fill(name, torch.empty(6, 5))
    state = torch.get_rng_state()
    outside = fill(name, torch.empty(6, 5))
    assert same_bits(inside, outside)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(state)
    assert same_bits(outside, fill(name, torch.empty(6, 5)))


@pytest.mark.parametrize("name", RANDOM)
def test_a_call_draws_once_whatever_the_size(name):
    states = []
    for shape in ((2, 2), (200, 100)):
        torch.manual_seed(3)
        fill(name, torch.empty(shape))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# ---- meta and empty tensors ----------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_meta_tensors_draw_nothing(name):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.empty(4, 3, device="meta")
    with no_randomness(generator):
        assert fill(name, tensor) is tensor
        if name in RANDOM:
            assert fill(name, tensor, generator=generator) is tensor
            assert fill(name, tensor, key=1) is tensor
    assert tensor.is_meta


def test_dirac_on_meta():
    tensor = torch.empty(4, 2, 3, device="meta")
    assert fastinit.dirac_(tensor) is tensor


def test_meta_tensors_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastinit.trunc_normal_(torch.empty(3, device="meta"), mean=9.0)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_empty_tensors_draw_nothing(name, shape):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.empty(shape)
    with no_randomness(generator):
        assert fill(name, tensor) is tensor
        if name in RANDOM:
            assert fill(name, tensor, generator=generator) is tensor
            assert fill(name, tensor, key=1) is tensor


def test_dirac_on_empty_tensors():
    for shape in ((0, 2, 3), (2, 0, 3), (2, 2, 0)):
        assert fastinit.dirac_(torch.empty(shape), groups=2).shape == shape


# ---- complex -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", COMPLEX_DTYPES)
def test_complex_fills_are_those_of_their_parts(dtype):
    part = torch.float32 if dtype is torch.complex64 else torch.float64
    tensor = fastinit.uniform_(torch.empty(6, 5, dtype=dtype), 2.0, 3.0, key=1)
    parts = fastinit.uniform_(torch.empty(6, 5, 2, dtype=part), 2.0, 3.0, key=1)
    assert same_bits(torch.view_as_real(tensor), parts)
    tensor = fastinit.normal_(torch.empty(6, 5, dtype=dtype), 0.0, 3.0, key=1)
    parts = fastinit.normal_(torch.empty(6, 5, 2, dtype=part), 0.0, 3.0 / math.sqrt(2), key=1)
    assert same_bits(torch.view_as_real(tensor), parts)


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if n != "trunc_normal_"])
def test_conjugate_and_negative_views(name):
    plain = fill(name, torch.empty(6, 5, dtype=torch.complex64), key=1)
    view = torch.empty(6, 5, dtype=torch.complex64).conj()
    fill(name, view, key=1)
    assert view.is_conj()
    assert torch.equal(view.resolve_conj(), plain)
    negative = torch.empty(6, 5, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    fill(name, negative, key=1)
    assert torch.equal(negative.resolve_neg(), fill(name, torch.empty(6, 5), key=1))


@pytest.mark.parametrize("key", [None, 1])
def test_complex_trunc_normal_is_refused(key):
    with pytest.raises(NotImplementedError):
        fastinit.trunc_normal_(torch.empty(3, dtype=torch.complex64), key=key)


# ---- show_config ---------------------------------------------------------------------------------


def test_show_config():
    config = fastinit.show_config()
    assert config.version == fastinit.__version__
    assert config.stream_version == fastinit.STREAM_VERSION
    assert config.torch == torch.__version__
    assert torch.__version__.startswith(config.torch_built_for)
    assert config.capability in config.capabilities
    assert config.capabilities[0] == "scalar"
    assert config.cuda is False or torch.version.cuda is not None
    text = str(config)
    assert text == repr(config)
    for part in (fastinit.__version__, torch.__version__, config.capability, "CUDA", "float8_e5m2"):
        assert part in text
    assert "torch.nn.init" in text


@pytest.mark.parametrize(
    ("version", "among"),
    [
        ("2.9.1", False),
        ("2.10.0+cpu", True),
        ("2.13.0a0+git1", True),
        ("{newest}", True),
        ("{newest}+cu130", True),
        ("{newest}.1", False),
        ("3.0.0", False),
    ],
)
def test_show_config_says_whether_this_torch_is_tested(monkeypatch, version, among):
    newest = fastinit.show_config().torch_tested[1]
    monkeypatch.setattr(torch, "__version__", version.format(newest=newest))
    config = fastinit.show_config()
    assert config.torch_in_range is among
    assert ("not among the tested 2.10.0 to" in str(config)) is not among
