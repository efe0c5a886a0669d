"""Inside torch.vmap: member i of the batch is what `key.fold_in(i)` gives outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import no_randomness, same_bits
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import fastinit
from fastinit import Key

KEY = Key(2**64 - 7)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "uniform_": lambda t, **given: fastinit.uniform_(t, -2.0, 3.0, **given),
    "normal_": lambda t, **given: fastinit.normal_(t, 1.0, 2.0, **given),
    "trunc_normal_": fastinit.trunc_normal_,
    "xavier_uniform_": fastinit.xavier_uniform_,
    "xavier_normal_": fastinit.xavier_normal_,
    "kaiming_uniform_": lambda t, **given: fastinit.kaiming_uniform_(t, a=2.0, **given),
    "kaiming_normal_": lambda t, **given: fastinit.kaiming_normal_(t, mode="fan_out", **given),
    "batch_dims": lambda t, **given: fastinit.kaiming_normal_(t[None], batch_dims=1, **given)[0],
    "variance_scaling_": fastinit.variance_scaling_,
    "lecun_uniform_": fastinit.lecun_uniform_,
    "lecun_normal_": fastinit.lecun_normal_,
    "trunc_normal_tf_": fastinit.trunc_normal_tf_,
    "sparse_": lambda t, **given: fastinit.sparse_(t, 0.4, **given),
    "orthogonal_": fastinit.orthogonal_,
    "orthogonal_many_": lambda t, key: fastinit.orthogonal_many_([t], keys=[key])[0],
}


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, 7.0, dtype=dtype)


def same(got: Tensor, want: Tensor) -> bool:
    return same_bits(got.contiguous(), want.contiguous())


# ---- members -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_different_members(name: str) -> None:
    function = FUNCTIONS[name]
    with no_randomness():
        got = vmap(lambda t: function(t, key=KEY), randomness="different")(empty(3, 4, 6))
    for i in range(3):
        assert same(got[i], function(empty(4, 6), key=KEY.fold_in(i)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_members(name: str) -> None:
    function = FUNCTIONS[name]
    got = vmap(lambda t: function(t, key=KEY), randomness="same")(empty(3, 4, 6))
    for member in got:
        assert same(member, function(empty(4, 6), key=KEY))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_dimensions_and_types(dim: int, dtype: torch.dtype) -> None:
    batch = empty(3, 4, 6, dtype=dtype).movedim(0, dim).contiguous()
    for function in (fastinit.normal_, fastinit.lecun_normal_):
        with no_randomness():
            got = vmap(
                lambda t, function=function: function(t, key=5), dim, randomness="different"
            )(batch)
        for i in range(3):
            want = function(torch.empty(4, 6, dtype=dtype), key=Key(5).fold_in(i))
            assert torch.equal(got[i], want)
            assert torch.equal(batch.select(dim, i), want)  # in place


@pytest.mark.parametrize("inner", ["same", "different"])
@pytest.mark.parametrize("outer", ["same", "different"])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_nested(outer: str, inner: str, dim: int) -> None:
    def member(t: Tensor) -> Tensor:
        return fastinit.trunc_normal_(t, key=KEY)

    batch = empty(2, 3, 5).movedim(1, dim).contiguous()
    inner_dim = 0 if dim == 0 else dim - 1
    outer_dim = 1 if dim == 0 else 0
    nested = vmap(vmap(member, inner_dim, randomness=inner), outer_dim, randomness=outer)
    got = nested(batch)
    for i in range(2):
        for j in range(3):
            key = KEY.fold_in(i) if outer == "different" else KEY
            key = key.fold_in(j) if inner == "different" else key
            assert same(got[i, j], fastinit.trunc_normal_(empty(5), key=key))


def test_batched_by_the_outer_one_only() -> None:
    def member(t: Tensor, _: Tensor) -> Tensor:
        return fastinit.normal_(t, key=KEY)

    t, x = empty(2, 5), torch.zeros(2, 3)
    got = vmap(vmap(member, (None, 0), randomness="same"), randomness="different")(t, x)
    for i in range(2):
        assert same(got[i, 0], fastinit.normal_(empty(5), key=KEY.fold_in(i)))
    with pytest.raises(RuntimeError, match="differently for each member"):
        vmap(vmap(member, (None, 0), randomness="different"), randomness="different")(t, x)


def test_unbatched() -> None:
    t = empty(5)
    vmap(lambda x: fastinit.normal_(t, key=KEY) + x, randomness="same")(torch.zeros(3))
    assert same(t, fastinit.normal_(empty(5), key=KEY))


@pytest.mark.parametrize("name", ["empty_like", "new_empty"])
def test_tensors_made_inside(name: str) -> None:
    def member(x: Tensor) -> Tensor:
        made = torch.empty_like(x) if name == "empty_like" else x.new_empty(4, 6)
        return fastinit.xavier_normal_(made, key=KEY)

    got = vmap(member, randomness="different")(torch.zeros(3, 4, 6))
    for i in range(3):
        assert same(got[i], fastinit.xavier_normal_(empty(4, 6), key=KEY.fold_in(i)))


def test_delta_orthogonal() -> None:
    got = vmap(lambda t: fastinit.delta_orthogonal_(t, key=KEY), randomness="different")(
        empty(3, 4, 2, 3)
    )
    for i in range(3):
        assert same(got[i], fastinit.delta_orthogonal_(empty(4, 2, 3), key=KEY.fold_in(i)))


def test_key_of_each_call() -> None:
    def member(x: Tensor) -> tuple[Tensor, Tensor]:
        a = fastinit.normal_(torch.empty_like(x), key=KEY.fold_in("a"))
        return a, fastinit.normal_(torch.empty_like(x), key=KEY.fold_in("b"))

    a, b = vmap(member, randomness="different")(torch.zeros(3, 5))
    assert same(a[2], fastinit.normal_(empty(5), key=KEY.fold_in("a").fold_in(2)))
    assert same(b[2], fastinit.normal_(empty(5), key=KEY.fold_in("b").fold_in(2)))


# ---- generators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "orthogonal_many_"])
@pytest.mark.parametrize("own", [False, True])
def test_generators_give_one_key(name: str, own: bool) -> None:
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(9) if own else torch.default_generator.manual_seed(9)
    given = {"generator": generator} if own else {}
    got = vmap(lambda t: function(t, **given), randomness="different")(empty(3, 4, 6))
    after = generator.get_state()
    generator.manual_seed(9)
    key = fastinit.reserve_key("cpu", generator)
    assert torch.equal(generator.get_state(), after)
    for i in range(3):
        assert same(got[i], function(empty(4, 6), key=key.fold_in(i)))


def test_same_members_from_a_generator() -> None:
    torch.manual_seed(9)
    got = vmap(fastinit.trunc_normal_, randomness="same")(empty(3, 5))
    torch.manual_seed(9)
    want = fastinit.trunc_normal_(empty(5))
    assert all(same(member, want) for member in got)


def test_nothing_to_draw() -> None:
    fill = vmap(fastinit.trunc_normal_, randomness="different")
    with no_randomness():
        assert fill(empty(3, 0)).shape == (3, 0)
        assert fill(torch.empty(3, 2, device="meta")).is_meta


# ---- what surrounds it ---------------------------------------------------------------------------


def test_an_ensemble() -> None:
    models = [nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(5)]
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]

    def reset(state: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, tensor in state.items():
            if name.endswith("bias"):
                nn.init.zeros_(tensor)
            else:
                fastinit.kaiming_uniform_(tensor, key=KEY.fold_in(name))
        return state

    vmap(reset, randomness="different")(parameters)
    for name, tensor in parameters.items():
        assert tensor.requires_grad
        for i in range(5):
            want = empty(*tensor.shape[1:])
            if name.endswith("bias"):
                nn.init.zeros_(want)
            else:
                fastinit.kaiming_uniform_(want, key=KEY.fold_in(name).fold_in(i))
            assert same(tensor[i].detach(), want)
    call: Any = lambda p, b, x: functional_call(models[0], (p, b), (x,))  # noqa: E731
    assert vmap(call, (0, 0, None))(parameters, buffers, torch.ones(6, 4)).shape == (5, 6, 2)


def test_leaves_and_versions() -> None:
    leaf = torch.zeros(3, 5, requires_grad=True)
    before = leaf._version
    vmap(lambda t: fastinit.normal_(t, key=KEY), randomness="different")(leaf)
    assert leaf.grad_fn is None
    assert leaf._version > before
    assert same(leaf.detach()[1], fastinit.normal_(empty(5), key=KEY.fold_in(1)))


def test_with_other_modes() -> None:
    fill = vmap(lambda t: fastinit.trunc_normal_(t, key=KEY), randomness="different")
    want = fill(empty(3, 5))
    with torch.inference_mode():
        assert same(fill(empty(3, 5)), want)
    with fastinit.batch():
        batched = fill(torch.empty(3, 5))
    assert same(batched, want)


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_mode(name: str) -> None:
    t = empty(3, 4, 6)
    with no_randomness(), pytest.raises(RuntimeError, match="randomness error mode"):
        vmap(lambda t: FUNCTIONS[name](t, key=KEY))(t)
    assert (t == 7).all()
    with pytest.raises(RuntimeError, match="randomness error mode"):
        vmap(torch.nn.init.normal_)(t)


@pytest.mark.parametrize("given", [{}, {"key": KEY}])
def test_unbatched_cannot_differ(given: dict[str, Any]) -> None:
    t = empty(5)
    with no_randomness(), pytest.raises(RuntimeError, match="differently for each member"):
        vmap(lambda x: fastinit.normal_(t, **given) + x, randomness="different")(torch.zeros(3))
    assert (t == 7).all()


@pytest.mark.parametrize("given", [{}, {"key": KEY}])
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_bad_arguments_leave_everything_as_it_was(randomness: str, given: dict[str, Any]) -> None:
    t = empty(3, 5)
    shared = empty(5).expand(3, 5)
    for function, error, tensor in (
        (lambda t: fastinit.normal_(t, std=-1.0, **given), RuntimeError, t),
        (lambda t: fastinit.uniform_(t, 2.0, 1.0, **given), RuntimeError, t),
        (lambda t: fastinit.xavier_normal_(t, **given), ValueError, t),
        (lambda t: fastinit.normal_(t, **given), RuntimeError, shared),
        (lambda t: fastinit.trunc_normal_(t, key=KEY), NotImplementedError, t.to(torch.int32)),
        (lambda t: fastinit.trunc_normal_(t, key=KEY), NotImplementedError, t.to(torch.complex64)),
    ):
        with no_randomness(), pytest.raises(error):
            vmap(function, randomness=randomness)(tensor)
        assert (tensor == 7).all()


def test_inference_tensors_stay_closed() -> None:
    with torch.inference_mode():
        t = empty(3, 5)
    for given in ({}, {"key": KEY}):
        with no_randomness(), pytest.raises(RuntimeError, match="inference"):
            vmap(lambda t, g=given: fastinit.normal_(t, **g), randomness="different")(t)
    assert (t == 7).all()


def test_other_transforms_are_refused() -> None:
    def fill(t: Tensor) -> Tensor:
        return fastinit.normal_(t.clone(), key=KEY).sum()

    t = empty(3, 5)
    for call in (
        lambda: grad(fill)(t),
        lambda: jvp(fill, (t,), (t,)),
        lambda: vmap(grad(fill), randomness="different")(t),
        lambda: torch.func.functionalize(fill)(t),
    ):
        with pytest.raises(NotImplementedError, match="transforms"):
            call()


# ---- memory, recordings -------------------------------------------------------------------------


@pytest.mark.parametrize("randomness", ["different", "same"])
@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(10).unfold(0, 4, 1),
        torch.zeros(3, 4, 1).expand(3, 4, 4),
        torch.zeros(1, 4).expand(3, 4),
        torch.zeros(40).as_strided((3, 4), (2, 1)),
    ],
    ids=["unfold", "within members", "shared", "members that overlap"],
)
def test_memory_that_overlaps_is_refused_and_nothing_drawn(batch: Tensor, randomness: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="single memory location"):
        torch.vmap(lambda t: fastinit.normal_(t), randomness=randomness)(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert not batch.any()


class Ensemble(nn.Module):
    """Two parameters whose members are drawn inside vmap."""

    def __init__(self, function: Any, randomness: str) -> None:
        super().__init__()
        self.draw = lambda p: torch.vmap(function, randomness=randomness)(p.detach())
        self.a, self.b = (nn.Parameter(torch.empty(3, 4, 4)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for p in (self.a, self.b):
            self.draw(p)


@pytest.mark.parametrize("randomness", ["different", "same"])
@pytest.mark.parametrize("name", ["normal_", "trunc_normal_", "uniform_", "orthogonal_"])
@pytest.mark.parametrize("module", [nn.init, fastinit], ids=["torch", "fastinit"])
@pytest.mark.parametrize("door", ["materialize", "initialize_"])
def test_ensembles_of_whole_models(door: str, module: Any, name: str, randomness: str) -> None:
    """Every parameter has draws of its own, and the key decides."""

    def made(key: int) -> list[Tensor]:
        def factory() -> Ensemble:
            return Ensemble(getattr(module, name), randomness)

        if door == "materialize":
            model = fastinit.materialize(factory, key=key)
        else:
            with fastinit.patch():  # torch's own trunc_normal_ knows no vmap
                built = factory()
            model = fastinit.initialize_(built, key=key)
        return [p.detach() for p in model.parameters()]

    first, again, other = made(1), made(1), made(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    members = first[0]
    assert torch.equal(members[0], members[1]) == (randomness == "same")


def test_whole_models_are_made_outside() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()

    def inside(x: Tensor) -> Tensor:
        fastinit.initialize_(layer, key=1)
        return x.sum()

    def built(x: Tensor) -> Tensor:
        return (fastinit.materialize(lambda: nn.Linear(3, 3), key=1).weight * x).sum()

    for body in (inside, built):
        for transform in (torch.func.grad, torch.vmap, torch.func.functionalize):
            with pytest.raises(NotImplementedError, match=r"not inside torch\.func"):
                transform(body)(torch.ones(3))
    assert torch.equal(layer.weight, before)
