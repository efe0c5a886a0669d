"""Model families of libraries: which there are, and how each is built small, without a network."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # configurations only: nothing is downloaded
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

from support.model_zoo import TORCH
from support.zoo_shrink import ATTEMPTS, shrink_arguments, shrink_config

Factory = Callable[[], nn.Module]
LIMIT = 100_000_000  # parameters
LIBRARIES = {
    "torch": ("torch",),
    "transformers": ("transformers",),
    "timm": ("timm", "torchvision"),
    "torchvision": ("torchvision",),
    "diffusers": ("diffusers",),
    "peft": ("peft", "transformers"),
    "lightning": ("lightning",),
}
# The first class of a family that is built: heads are tied to embeddings, so rather with one.
HEADS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "Model")


def check_size(model: nn.Module) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > LIMIT:
        raise ValueError(f"{count} parameters")


def first_that_builds(factories: Iterator[Factory]) -> Factory:
    """Give the first factory that builds, on the meta device and for real, and is small enough."""
    error: Exception | None = None
    for factory in factories:
        try:
            with torch.device("meta"):
                check_size(factory())
        except ValueError as failed:
            error = error or failed
            continue
        except Exception:  # some build only for real
            pass
        try:
            check_size(factory())
            return factory
        except Exception as failed:
            error = error or failed
    raise error or ValueError("no factory")


def transformers_classes() -> dict[str, list[str]]:
    """Read the model classes of every modeling file, in the order in which they are wanted."""
    import transformers

    found = {}
    for file in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        if file.parent.name == "auto":
            continue
        text = file.read_text(encoding="utf-8")
        public = re.search(r"^__all__ = (\[.*?\])", text, re.DOTALL | re.MULTILINE)
        names = [
            name
            for name in (ast.literal_eval(public[1]) if public else ())
            if not name.endswith("PreTrainedModel") and re.search(rf"(?m)^class {name}\(", text)
        ]
        names.sort(key=lambda n: next((i for i, h in enumerate(HEADS) if n.endswith(h)), 99))
        found[f"{file.parent.name}.{file.stem}"] = names
    return found


def transformers_factory(family: str) -> Factory:
    module, _, name = family.rpartition(".")
    kind = getattr(importlib.import_module(f"transformers.models.{module}"), name)

    def factories() -> Iterator[Factory]:
        for sizes in ATTEMPTS:
            try:
                config = shrink_config(kind.config_class(), sizes)
            except Exception:
                continue
            yield functools.partial(kind, config)

    return first_that_builds(factories())


def diffusers_factory(family: str) -> Factory:
    kind = getattr(importlib.import_module("diffusers.models"), family)
    return first_that_builds(
        functools.partial(kind, **shrink_arguments(kind, sizes)) for sizes in ATTEMPTS
    )


def diffusers_classes() -> list[str]:
    models = importlib.import_module("diffusers.models")
    kinds = {
        name: kind
        for name in dir(models)
        if inspect.isclass(kind := getattr(models, name, None)) and issubclass(kind, nn.Module)
    }
    return sorted(set(kinds) - {"ModelMixin"})


def _tiny_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **tokens, max_position_embeddings=64))


def _small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 32), nn.Linear(32, 4)
    )


# Of peft: what a method is asked for besides its type.
PEFT_OPTIONS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "C3A": {"block_size": 16},
    "CPT": {"cpt_token_ids": [3, 4], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]},
    "FOURIERFT": {"n_frequency": 16},
    "IA3": {"feedforward_modules": []},
    "MISS": {"r": 16},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "WAVEFT": {"n_frequency": 64},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    **{
        method: {"num_virtual_tokens": 4}
        for method in ("CARTRIDGE", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING")
    },
}
# Only for language models.
PROMPTS = (
    *(
        "ADAPTION_PROMPT",
        "CARTRIDGE",
        "CPT",
        "MULTITASK_PROMPT_TUNING",
        "P_TUNING",
        "PREFIX_TUNING",
    ),
    *("PROMPT_TUNING", "SHADOW", "TRAINABLE_TOKENS", "XLORA"),
)
PEFT_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LORA dora": ("LORA", {"use_dora": True}),
    "LORA gaussian": ("LORA", {"init_lora_weights": "gaussian"}),
    "LORA orthogonal": ("LORA", {"init_lora_weights": "orthogonal"}),
    "LORA pissa": ("LORA", {"init_lora_weights": "pissa"}),
    "LORA olora": ("LORA", {"init_lora_weights": "olora"}),
}


def peft_factory(family: str) -> Factory:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    method, net = family.split("@")
    method, options = PEFT_VARIANTS.get(method, (method, PEFT_OPTIONS.get(method, {})))
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method)]
    base = _tiny_llama if net == "llama" else _small_net
    accepted = inspect.signature(kind).parameters
    if "target_modules" in accepted and method not in ("ADAPTION_PROMPT", "TRAINABLE_TOKENS"):
        options = {"target_modules": ["q_proj", "v_proj"] if net == "llama" else ["3"], **options}
    if net == "llama":
        options = {"task_type": "CAUSAL_LM", **options}

    def factory() -> nn.Module:
        config = kind(**options)
        return peft.get_peft_model(base(), config)  # type: ignore[arg-type]

    return first_that_builds(iter([factory]))


def peft_families() -> list[str]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    methods = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    return [
        f"{method}@{net}"
        for method in [*methods, *PEFT_VARIANTS]
        for net in (("llama",) if method in PROMPTS else ("llama", "net"))
    ]


def lightning_factories() -> dict[str, Factory]:
    from lightning.pytorch import LightningModule, demos
    from lightning.pytorch.demos import boring_classes

    class Autoencoder(LightningModule):
        """As in Lightning's introduction: two networks, and hyperparameters kept."""

        def __init__(self, width: int = 64) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder = nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 3))
            self.decoder = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 784))
            self.example_input_array = torch.zeros(2, 784)

        def forward(self, x: torch.Tensor) -> Any:
            return self.decoder(self.encoder(x))

    return {
        "BoringModel": boring_classes.BoringModel,
        "ManualOptimBoringModel": boring_classes.ManualOptimBoringModel,
        "DemoModel": boring_classes.DemoModel,
        "Net": boring_classes.Net,
        "LightningTransformer": functools.partial(demos.LightningTransformer, vocab_size=64),
        "Transformer": functools.partial(demos.Transformer, vocab_size=64),
        "LightningLSTM": functools.partial(demos.LightningLSTM, vocab_size=64),
        "SimpleLSTM": functools.partial(demos.SimpleLSTM, vocab_size=64),
        "Autoencoder": Autoencoder,
    }


def factory_of(source: str, family: str) -> Factory:
    """Give a factory of a family; an error says why there is none."""
    if source == "transformers":
        return transformers_factory(family)
    if source == "diffusers":
        return diffusers_factory(family)
    if source == "peft":
        return peft_factory(family)
    if source == "lightning":
        return lightning_factories()[family]
    if source == "torch":
        return TORCH[family][0]
    module = importlib.import_module(source)
    if source == "timm":
        factory: Factory = functools.partial(module.create_model, family)
    else:
        factory = functools.partial(module.models.get_model, family, weights=None)
        if (
            "weights_backbone"
            in inspect.signature(module.models.get_model_builder(family)).parameters
        ):
            factory = functools.partial(factory, weights_backbone=None)
    with torch.device("meta"), contextlib.suppress(RuntimeError, NotImplementedError):
        check_size(factory())
    return factory


def families(source: str) -> list[str]:
    """List the families of a library, one of each kind first; shuffled, so that a part is fair."""
    if source == "transformers":
        classes = transformers_classes()
        return _shuffled(
            (int(i > 0), f"{module}.{name}")
            for module, names in classes.items()
            for i, name in enumerate(names)
        )
    if source == "diffusers":
        return _shuffled((0, name) for name in diffusers_classes())
    if source == "peft":
        return peft_families()
    if source == "lightning":
        return list(lightning_factories())
    if source == "torch":
        return list(TORCH)
    module = importlib.import_module(source)
    groups: dict[str, list[str]] = {}
    if source == "torchvision":
        for name in module.models.list_models():
            groups.setdefault(module.models.get_model_builder(name).__module__, []).append(name)
    else:
        groups = {name: module.list_models(module=name) for name in module.list_modules()}
    ranked = []
    for names in groups.values():
        ranked += list(enumerate(sorted(names, key=_size_in_name)))
    return _shuffled(ranked)


def _shuffled(ranked: Iterable[tuple[int, str]]) -> list[str]:
    """Order by rank, and among the same rank in a way that has nothing to do with the name."""
    return [name for *_, name in sorted((rank, crc32(n.encode()), n) for rank, n in ranked)]


def _size_in_name(name: str) -> tuple[int, str]:
    """Rank by what a model's name says of its size, and by the name."""
    words = ("atto", "femto", "pico", "nano", "xxtiny", "xtiny", "tiny", "xxs", "xs", "small")
    order = next((i for i, word in enumerate(words) if word in name), 5)
    return (99 if re.search(r"large|huge|giant|enormous|gigantic|xl", name) else order), name
