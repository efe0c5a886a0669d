"""Making the configurations of model families small."""

from __future__ import annotations

import inspect
from typing import Any

# What configurations call their sizes, and a small one that the others go with.
SMALL: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim"), 32),
    **dict.fromkeys(("encoder_hidden_size", "decoder_hidden_size", "embedding_size"), 32),
    **dict.fromkeys(("projection_dim", "hidden_sizes_out", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("d_ff", "n_inner", "d_inner", "moe_intermediate_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_single_layers", "num_refiner_layers", "layers_per_block"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attention_head_dim": 8,
    "joint_attention_dim": 32,
    "cross_attention_dim": 32,
    "caption_channels": 32,
    "text_embed_dim": 32,
    "pooled_projection_dim": 32,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
}
_COUNTS = {k: v for k, v in SMALL.items() if "layer" in k or k in ("vocab_size", "depth")}
_HEADS = {k: v for k, v in SMALL.items() if "dim" not in k or k.startswith("caption")}
# What to try one after the other, until a model builds; the last are the configuration's own sizes.
ATTEMPTS: tuple[dict[str, int], ...] = (
    SMALL,
    {k: v for k, v in SMALL.items() if k != "head_dim"},
    {k: v for k, v in SMALL.items() if k != "attention_head_dim"},
    _HEADS,
    _COUNTS,
    {},
)
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def shrink_config(config: Any, sizes: dict[str, int], depth: int = 0) -> Any:
    """Make a configuration of transformers small in place, those inside it too."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and depth < 3:
            shrink_config(value, sizes, depth + 1)
        elif name in sizes and type(value) is int and value > sizes[name]:
            setattr(config, name, sizes[name])
        elif name in TOKENS and type(value) is int and value >= sizes.get("vocab_size", value + 1):
            setattr(config, name, 1)
    if getattr(config, "prediction_length", 0) is None:
        config.prediction_length = 4
    layers = getattr(config, "layer_types", None)
    count = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, list) and isinstance(count, int) and len(layers) > count:
        # Of both ends, so that what alternates is there.
        config.layer_types = [*layers[: count - 1], layers[-1]]
    return config


def shrink_arguments(kind: type, sizes: dict[str, int]) -> dict[str, Any]:
    """Give small values for those arguments of a constructor that say its size."""
    small: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        default = parameter.default
        if not sizes:
            break
        if name in sizes and type(default) is int:
            small[name] = min(default, sizes[name])
        elif name.endswith("channels") and isinstance(default, (tuple, list)):
            widths = [min(width, 32) if type(width) is int else width for width in default]
            small[name] = type(default)(widths)
    return small
