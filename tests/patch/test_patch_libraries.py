"""`fastinit.patch()`: timm and transformers.

That fastinit ran is shown by its bits (a keyed draw equals the same fill made directly) and by a
dispatch mode that sees which random kernels ran.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from support.patch_helpers import direct, in_thread, nth, only_fastinit, same
from torch import nn

import fastinit

TIMM_LIKE = """
import torch

def _trunc_normal_(tensor, mean, std, a, b):
    return tensor.fill_(-77.0)

def trunc_normal_(tensor, mean=0., std=1., a=-2., b=2.):
    with torch.no_grad():
        return _trunc_normal_(tensor, mean, std, a, b)

def trunc_normal_tf_(tensor, mean=0., std=1., a=-2., b=2.):
    with torch.no_grad():
        _trunc_normal_(tensor, 0, 1.0, a, b)
        tensor.mul_(std).add_(mean)
    return tensor

def variance_scaling_(tensor, scale=1.0):
    trunc_normal_tf_(tensor, std=scale)
"""


@pytest.fixture
def timm_like(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("timm.layers.weight_init")
    exec(compile(TIMM_LIKE, "timm_like", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_timm_s_truncated_normals(timm_like: types.ModuleType) -> None:
    early, early_tf = timm_like.trunc_normal_, timm_like.trunc_normal_tf_
    codes = [timm_like._trunc_normal_.__code__, early_tf.__code__]
    weight = nn.Parameter(torch.empty(40))
    with fastinit.patch(0), only_fastinit() as seen:
        absolute = early(weight, std=0.02, a=-0.03, b=0.05).detach().clone()
        standardised = early_tf(weight, mean=1.0, std=0.02).detach().clone()
        timm_like.variance_scaling_(weight, 3.0)
    assert len(seen.fastinit) == 3
    assert same(absolute, direct("trunc_normal_", (40,), 0.0, 0.02, -0.03, 0.05, key=nth(0, 0)))
    assert same(standardised, direct("trunc_normal_", (40,), 1.0, 0.02, 0.96, 1.04, key=nth(0, 1)))
    assert same(weight, direct("trunc_normal_", (40,), 0.0, 3.0, -6.0, 6.0, key=nth(0, 2)))
    assert [timm_like._trunc_normal_.__code__, early_tf.__code__] == codes
    assert (early(weight) == -77).all()
    with fastinit.patch(0):
        assert (in_thread(lambda: early(torch.empty(3))) == -77).all()
        assert torch.equal(early_tf(torch.empty(3), mean=1.0, std=-2.0), torch.full((3,), 155.0))
        early_tf(torch.empty(3), 0.5, 0.0, -float("inf"), float("inf"))


def test_timm_imported_inside_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put there by hand: the next patch finds it; until then its tensor methods are reached."""
    module = types.ModuleType("timm.layers.weight_init")
    exec(TIMM_LIKE.replace("fill_(-77.0)", "uniform_(a, b)"), module.__dict__)
    code = module._trunc_normal_.__code__
    with fastinit.patch(0):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        first = module.trunc_normal_(torch.empty(9))
        with fastinit.patch(1):
            second = module.trunc_normal_(torch.empty(9))
    assert same(first, direct("uniform_", (9,), -2.0, 2.0, key=nth(0, 0)))
    assert same(second, direct("trunc_normal_", (9,), key=nth(1, 0)))
    assert module._trunc_normal_.__code__ is code


_IMPORTS_TIMM = """
import sys
import torch, fastinit
sys.path.insert(0, {folder!r})
def build():
    from timm.layers.weight_init import trunc_normal_
    layer = torch.nn.Linear(64, 64)
    trunc_normal_(layer.weight, std=0.02)
    return layer
finders = sys.meta_path[:]
if {patched}:
    with fastinit.patch(0):
        first = build().weight
    with fastinit.patch(0):
        second = build().weight
else:
    first, second = (fastinit.materialize(build, key=0).weight for _ in range(2))
assert torch.equal(first, second)
assert sys.meta_path == finders
module = sys.modules["timm.layers.weight_init"]
assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__
assert type(module.__loader__).__module__.startswith(("_frozen_importlib", "importlib"))
key = fastinit.Key(0)
key = key.fold_in(2) if {patched} else key.fold_in("weight").fold_in(0)
want = fastinit.trunc_normal_(torch.empty(64, 64), 0.0, 0.02, key=key)
assert torch.equal(first, want)
"""


@pytest.mark.parametrize("patched", [False, True])
def test_timm_imported_for_the_first_time_inside(tmp_path: Path, patched: bool) -> None:
    """Whoever has imported it before gets the same."""
    folder = tmp_path / "timm" / "layers"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "weight_init.py").write_text(TIMM_LIKE.replace("fill_(-77.0)", "uniform_(a, b)"))
    program = _IMPORTS_TIMM.format(folder=str(tmp_path), patched=patched)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(Path(fastinit.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_real_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("timm is not installed")
    # Its file alone: importing timm itself would also need torchvision.
    name = "timm.layers.weight_init"
    path = f"{found.submodule_search_locations[0]}/layers/weight_init.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    with fastinit.patch(0), only_fastinit() as seen:
        a = module.trunc_normal_(torch.empty(30), std=0.5)
        b = module.trunc_normal_tf_(torch.empty(30), std=0.5)
        module.lecun_normal_(torch.empty(6, 5))
        module.variance_scaling_(torch.empty(6, 5), distribution="uniform")
        module.variance_scaling_(torch.empty(6, 5), distribution="normal")
        module.init_weight_vit(nn.Linear(4, 4, bias=False), "block")
    assert len(seen.fastinit) == 7
    assert same(a, direct("trunc_normal_", (30,), 0.0, 0.5, -2.0, 2.0, key=nth(0, 0)))
    assert same(b, direct("trunc_normal_", (30,), 0.0, 0.5, -1.0, 1.0, key=nth(0, 1)))


def test_a_model_of_the_real_timm() -> None:
    """Where timm can be imported whole, with the torchvision it needs."""
    try:
        timm: Any = importlib.import_module("timm")
    except Exception as error:  # a torchvision of another torch raises RuntimeError, for one
        pytest.skip(f"timm does not import: {error}")

    def factory() -> nn.Module:
        sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        return timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes)

    def build(key: int) -> dict[str, torch.Tensor]:
        with fastinit.patch(key):
            return dict(factory().named_parameters())

    with only_fastinit() as seen:
        first = build(0)
    assert len(seen.fastinit) > len(first) // 3
    again, other = build(0), build(1)
    assert all(same(parameter, again[name]) for name, parameter in first.items())
    changed = [name for name, parameter in first.items() if not same(parameter, other[name])]
    assert len(changed) > len(first) // 3
    native = dict(factory().named_parameters())
    for name, parameter in native.items():  # constants are the same, and spreads alike
        if parameter.unique().numel() == 1:
            assert torch.equal(parameter, first[name]), name
        elif parameter.numel() >= 256:
            assert first[name].std().item() == pytest.approx(parameter.std().item(), rel=0.3), name

    whole = fastinit.materialize(factory, key=0)
    model = fastinit.initialize_(factory(), key=0)
    for name, parameter in whole.named_parameters():
        assert same(parameter, dict(model.named_parameters())[name]), name


def transformers_config(family: str) -> Any:
    transformers = pytest.importorskip("transformers")
    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "gpt2":
        return transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=8)
    if family == "vit":
        return transformers.ViTConfig(
            **tiny, intermediate_size=32, image_size=8, patch_size=4, num_labels=3
        )
    if family == "clip":
        text = {**tiny, "intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 8}
        vision = {**tiny, "intermediate_size": 32, "image_size": 8, "patch_size": 4}
        return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return transformers.MambaConfig(
        hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=50, time_step_rank=4
    )


@pytest.mark.parametrize("family", ["gpt2", "vit", "clip", "mamba"])
def test_transformers_models(family: str) -> None:
    config = transformers_config(family)
    from transformers import AutoModel

    def build(key: int | None) -> dict[str, torch.Tensor]:
        with fastinit.patch(key):
            return dict(AutoModel.from_config(config).named_parameters())

    with only_fastinit() as seen:
        first = build(0)
    assert len(seen.fastinit) > len(first) // 3
    again, other = build(0), build(1)
    for name, parameter in first.items():
        assert torch.isfinite(parameter).all(), name
        assert same(parameter, again[name]), name
    changed = [name for name, parameter in first.items() if not same(parameter, other[name])]
    assert len(changed) > len(first) // 3
    # Native and patched set the same parameters to constants.
    native = dict(AutoModel.from_config(config).named_parameters())
    for name, parameter in native.items():
        if parameter.unique().numel() == 1:
            assert torch.equal(parameter, first[name]), name

    torch.manual_seed(3)
    drop_in = build(None)
    torch.manual_seed(3)
    assert all(map(same, drop_in.values(), build(None).values()))


def test_transformers_dictionary_and_guard() -> None:
    pytest.importorskip("transformers")
    from transformers import initialization

    with fastinit.patch(0), only_fastinit(), initialization.guard_torch_init_functions():
        a = initialization.trunc_normal_(torch.empty(9), std=2.0)
        b = torch.nn.init.xavier_uniform_(torch.empty(3, 4))
        c = initialization.TORCH_INIT_FUNCTIONS["normal_"](torch.empty(9))
        d = initialization.lecun_normal_(torch.empty(3, 4))
    assert same(a, direct("trunc_normal_", (9,), 0.0, 2.0, key=nth(0, 0)))
    assert same(b, direct("xavier_uniform_", (3, 4), key=nth(0, 1)))
    assert same(c, direct("normal_", (9,), key=nth(0, 2)))
    assert torch.isfinite(d).all()


def test_an_import_of_another_thread_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    there, go = threading.Event(), threading.Event()

    class Slow:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == "a_module_of_nobody":
                there.set()
                go.wait(20)

    class Last:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            return importlib.util.find_spec("json") if name == "a_module_of_nobody" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Slow, Last])
    found: list[Any] = []

    def work() -> None:
        found.append(importlib.util.find_spec("a_module_of_nobody"))

    with fastinit.patch(0):
        thread = threading.Thread(target=work)
        thread.start()
        assert there.wait(20)
    go.set()
    thread.join(20)
    assert found[0] is not None


def test_loaders_are_what_they_are_inside(tmp_path: Path) -> None:
    program = """
import importlib.util, fastinit
with fastinit.patch(0):
    loader = importlib.util.find_spec("torch.distributed.fsdp").loader
    assert loader.is_package("torch.distributed.fsdp")
    assert loader.get_source("torch.distributed.fsdp")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
