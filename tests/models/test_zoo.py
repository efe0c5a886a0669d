"""A fixed sample of the zoo, on every road; the whole of it is `make zoo`."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import zoo_roads
from support.zoo_compare import Reference
from support.zoo_roads import (
    CONSTRUCTOR,
    OWN,
    REFUSED,
    RIGHT,
    ROADS,
    SEEDED,
    WRONG,
    Family,
    examine,
)
from support.zoo_sources import LIBRARIES
from torch import nn

SAMPLE = [
    "torch/BatchNorm",
    "torch/Bilinear",
    "torch/ConvTranspose2d",
    "torch/Embedding",
    "torch/EmbeddingBag",
    "torch/GRU",
    "torch/LSTM",
    "torch/MultiheadAttention",
    "torch/Transformer",
    "bart.BartForCausalLM",
    "beit.BeitModel",
    "bert.BertLMHeadModel",
    "bert_generation.BertGenerationDecoder",
    "big_bird.BigBirdForCausalLM",
    "blenderbot_small.BlenderbotSmallForCausalLM",
    "blip.blip_text.BlipTextLMHeadModel",
    "bloom.BloomForCausalLM",
    "camembert.CamembertForCausalLM",
    "clip.CLIPModel",
    "codegen.CodeGenForCausalLM",
    "cohere.CohereForCausalLM",
    "deberta_v2.DebertaV2ForMaskedLM",
    "deit.DeiTModel",
    "dinov2.Dinov2Model",
    "distilbert.DistilBertForMaskedLM",
    "electra.ElectraForCausalLM",
    "gemma2.Gemma2ForCausalLM",
    "glm.GlmForCausalLM",
    "gpt2.GPT2LMHeadModel",
    "gpt_bigcode.GPTBigCodeForCausalLM",
    "gpt_neo.GPTNeoForCausalLM",
    "gptj.GPTJForCausalLM",
    "persimmon.PersimmonForCausalLM",
    "gpt_neox.GPTNeoXForCausalLM",
    "gpt_oss.GptOssForCausalLM",
    "granite.GraniteForCausalLM",
    "llama.LlamaForCausalLM",
    "longformer.LongformerForMaskedLM",
    "mamba.MambaForCausalLM",
    "mbart.MBartForCausalLM",
    "mistral.MistralForCausalLM",
    "mixtral.MixtralForCausalLM",
    "mpnet.MPNetForMaskedLM",
    "mpt.MptForCausalLM",
    "olmo2.Olmo2ForCausalLM",
    "opt.OPTForCausalLM",
    "phi3.Phi3ForCausalLM",
    "qwen2.Qwen2ForCausalLM",
    "qwen3_moe.Qwen3MoeForCausalLM",
    "roberta.RobertaForCausalLM",
    "siglip.SiglipModel",
    "splinter.SplinterModel",
    "starcoder2.Starcoder2ForCausalLM",
    "vit.ViTModel",
    "vit_mae.ViTMAEModel",
    "whisper.WhisperForCausalLM",
    "xglm.XGLMForCausalLM",
    "xlm_roberta.XLMRobertaForCausalLM",
    "xlnet.XLNetLMHeadModel",
    "xmod.XmodForCausalLM",
]
# Where these are installed, too.
MORE = [
    "diffusers/AutoencoderTiny",
    "diffusers/FluxTransformer2DModel",
    "diffusers/UNet2DModel",
    "lightning/Autoencoder",
    "peft/IA3@llama",
    "peft/LORA@net",
    "peft/VERA@net",
    "timm/levit_128s",
    "torchvision/shufflenet_v2_x0_5",
]
# What is not right: mostly on the roads that know only what modules define.
EXPECTED: dict[str, dict[str, str]] = {
    "clip.CLIPModel": dict.fromkeys(OWN, REFUSED),
    "vit_mae.ViTMAEModel": dict.fromkeys(OWN, REFUSED),
}


def family_of(name: str) -> tuple[str, str]:
    """Give the library and the family; those of transformers are named without the library."""
    source, slash, family = name.partition("/")
    if slash:
        return source, family
    folder, *rest, kind = name.split(".")
    return "transformers", f"{folder}.modeling_{rest[0] if rest else folder}.{kind}"


@pytest.mark.parametrize("name", [*SAMPLE, *MORE])
def test_sample(name: str) -> None:
    source, family = family_of(name)
    for package in LIBRARIES[source]:
        pytest.importorskip(package)
    row = examine(source, family)
    assert "not built" not in row, row["not built"]
    verdicts = {road: row[road]["verdict"] for road in ROADS}
    expected = dict.fromkeys(ROADS, RIGHT) | EXPECTED.get(name, {})
    assert verdicts == expected, {road: row[road]["differences"] for road in ROADS}


class Net(nn.Module):
    """Of each sort of tensor that is compared one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.embedding = nn.Embedding(32, 16, padding_idx=0)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps", torch.arange(4))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.norm(self.first(x)))


class Customised(Net):
    """What a constructor does to its children."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.norm.weight)
        nn.init.normal_(self.first.weight, std=3.0)


class Tempered(Net):
    """A parameter that no module initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.5))


class Seeded(Net):
    """Draws that are the same for every seed of torch's."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("fixed", torch.randn(16, 16, generator=generator))


def family(monkeypatch: pytest.MonkeyPatch, factory: Callable[[], nn.Module]) -> Family:
    monkeypatch.setattr(zoo_roads, "factory_of", lambda *_: factory)
    monkeypatch.setattr(zoo_roads, "first_accepted", lambda *_: ((torch.ones(3, 16),), {}))
    return Family("torch", "")


@pytest.mark.filterwarnings("ignore:fastinit. constructors are not run again")
@pytest.mark.parametrize(
    "factory, verdicts",
    [
        (Net, (RIGHT, RIGHT)),
        (Customised, (RIGHT, CONSTRUCTOR)),
        (Tempered, (RIGHT, REFUSED)),
        (Seeded, (SEEDED, RIGHT)),
    ],
)
def test_verdicts(
    monkeypatch: pytest.MonkeyPatch,
    factory: Callable[[], nn.Module],
    verdicts: tuple[str, str],
) -> None:
    found = family(monkeypatch, factory)
    for road, verdict in zip(("materialize(factory)", "initialize_"), verdicts, strict=True):
        assert found.judge(road)["verdict"] == verdict, found.judge(road)


def _garbage(net: Net) -> None:
    net.first.bias[3] = float("nan")


def _constant(net: Net) -> None:
    net.norm.weight[5] = 1.25


def _padding(net: Net) -> None:
    net.embedding.weight[0] = 0.01


def _buffer(net: Net) -> None:
    net.steps += 1  # type: ignore[operator]


def _scale(net: Net) -> None:
    net.first.weight *= 1.5


def _tie(net: Net) -> None:
    net.head.weight = nn.Parameter(net.head.weight.detach().clone())


def _kind(net: Net) -> None:
    net.first.weight.requires_grad_(False)


def _name(net: Net) -> None:
    net.register_buffer("more", torch.zeros(1))


def _undrawn(net: Net) -> None:
    net.first.bias.zero_()


def _unkeyed(net: Net) -> None:
    generator = torch.Generator()
    generator.seed()
    net.first.weight.uniform_(-0.25, 0.25, generator=generator)


def _left_on_meta(net: Net) -> None:
    net.cache = {"steps": torch.arange(4, device="meta")}  # type: ignore[assignment]


def _object_on_meta(net: Net) -> None:
    net.schedule = types.SimpleNamespace(steps=torch.arange(4, device="meta"))  # type: ignore


@pytest.mark.parametrize(
    "defect",
    [
        *(_garbage, _constant, _padding, _buffer, _scale, _tie, _kind, _name, _undrawn, _unkeyed),
        _left_on_meta,
        _object_on_meta,
    ],
)
@pytest.mark.parametrize("road", ["patch", "initialize_"])
def test_defects_are_seen(
    monkeypatch: pytest.MonkeyPatch, road: str, defect: Callable[[Net], None]
) -> None:
    build = ROADS[road]

    def spoilt(factory: Callable[[], nn.Module], key: int) -> nn.Module:
        model = build(factory, key)
        with torch.no_grad():
            defect(model)  # type: ignore[arg-type]
        return model

    found = family(monkeypatch, Net)
    monkeypatch.setitem(ROADS, road, spoilt)
    assert found.judge(road)["verdict"] == WRONG


def _angles(seed: int, scale: float = 1.0) -> torch.Tensor:
    """Few numbers, of which there are many sines, as rotary embeddings draw them."""
    torch.manual_seed(seed)
    angles = torch.rand(72, 1) * 2 * torch.pi * scale
    magnitudes = 10 ** -(torch.arange(16) / 16)
    return (magnitudes * angles.sin()).reshape(-1)


def test_draws_of_few_numbers_are_as_far_apart_as_torch_s() -> None:
    reference = Reference([{"freqs": _angles(seed)} for seed in range(3)])
    for seed in range(3, 203):
        assert not [*reference.differences({"freqs": _angles(seed)})]
    for seed in range(3, 23):
        assert [*reference.differences({"freqs": _angles(seed, 0.25)})]
