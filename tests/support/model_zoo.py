"""Real models, shrunk: transformers configurations and torch's own modules, with inputs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # configurations only: nothing is downloaded
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA = {**_TEXT, "intermediate_size": 48, "num_key_value_heads": 1}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 8,
    "patch_size": 4,
}
# The class, the class of its configuration, and what the configuration is.
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "n_positions": 16}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA),
    "mistral": ("MistralForCausalLM", "MistralConfig", _LLAMA),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_LLAMA, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_LLAMA, "head_dim": 8}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_LLAMA, "num_local_experts": 4}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **_LLAMA,
            "num_key_value_heads": 2,
            "moe_intermediate_size": 16,
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
        | {"decoder_start_token_id": 0},
    ),
    "bert": (
        "BertForMaskedLM",
        "BertConfig",
        {**_TEXT, "intermediate_size": 48, "max_position_embeddings": 16},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 64,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 16,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", _VISION),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**_TEXT, "intermediate_size": 48, "max_position_embeddings": 16},
            "vision_config": _VISION,
            "projection_dim": 16,
        },
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 64}
        | {"time_step_rank": 4},
    ),
    "rwkv": (
        "RwkvForCausalLM",
        "RwkvConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "context_length": 16}
        | {"attention_hidden_size": 32},
    ),
}


def transformers_factory(family: str) -> Callable[[], nn.Module]:
    import transformers

    model, config, options = TRANSFORMERS[family]
    made = getattr(transformers, config)(**options)
    return lambda: getattr(transformers, model)(made)


def inputs_of(family: str) -> dict[str, torch.Tensor]:
    tokens = torch.arange(8).view(1, 8) + 3
    image = torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8)
    if family == "vit":
        return {"pixel_values": image}
    if family == "clip":
        return {"input_ids": tokens, "pixel_values": image}
    if family == "whisper":
        sound = torch.linspace(-1, 1, 8 * 32).view(1, 8, 32)
        return {"input_features": sound, "decoder_input_ids": tokens}
    if family == "t5":
        return {"input_ids": tokens, "decoder_input_ids": tokens}
    return {"input_ids": tokens}


def _transformer() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Transformer(16, 2, 2, 2, 32)


# Each with the arguments of a call.
TORCH: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "Transformer": (_transformer, lambda: (torch.ones(3, 2, 16), torch.ones(4, 2, 16))),
    "LSTM": (lambda: nn.LSTM(8, 16, 2, bidirectional=True), lambda: (torch.ones(3, 2, 8),)),
    "GRU": (lambda: nn.GRU(8, 16), lambda: (torch.ones(3, 2, 8),)),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(16, 2),
        lambda: (torch.ones(3, 2, 16),) * 3,
    ),
    "MultiheadAttention kv": (
        lambda: nn.MultiheadAttention(16, 2, kdim=8, vdim=4, add_bias_kv=True),
        lambda: (torch.ones(3, 2, 16), torch.ones(3, 2, 8), torch.ones(3, 2, 4)),
    ),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 8, 3), lambda: (torch.ones(1, 4, 5, 5),)),
    "Embedding": (lambda: nn.Embedding(64, 16, padding_idx=3), lambda: (torch.arange(4),)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(64, 16), lambda: (torch.arange(4).view(1, 4),)),
    "Bilinear": (lambda: nn.Bilinear(8, 8, 8), lambda: (torch.ones(2, 8), torch.ones(2, 8))),
    "BatchNorm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.PReLU()
        ),
        lambda: (torch.ones(2, 3, 5, 5),),
    ),
}
