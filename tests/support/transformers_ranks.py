"""transformers' own tensor parallelism and FSDP2, by four processes."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

import fastinit
from support.rank_cases import CASES, check_full_tensors

THERE = importlib.util.find_spec("transformers") is not None
FAMILIES = ("llama", "mixtral", "phi3")
# Processes for tensor parallelism, and for FSDP2.
SIZES = ((4, 1), (1, 4), (2, 2))
_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
}


def config_of(family: str) -> Any:
    import transformers

    if family == "llama":
        return transformers.LlamaConfig(**_SMALL, tie_word_embeddings=False)
    if family == "mixtral":
        return transformers.MixtralConfig(**_SMALL, num_local_experts=4, pad_token_id=None)
    return transformers.Phi3Config(**_SMALL, pad_token_id=1)


def whole(family: str) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_config(config_of(family))


def whole_on_meta(family: str) -> Any:
    with torch.device("meta"):
        return whole(family)


def distributed(model: Any, tensor: int, fsdp: int) -> Any:
    from transformers.distributed import DistributedConfig

    config = DistributedConfig(tp_size=tensor, fsdp_size=fsdp)
    config, _, mesh = type(model).prepare_distribute_model(config)
    return type(model).maybe_distribute_model(model, config, mesh)


def patched(model: Any) -> Any:
    with fastinit.patch(key=5), torch.no_grad():
        model.to_empty(device="cpu").init_weights()
    return model


def check(model: nn.Module, want: nn.Module) -> None:
    check_full_tensors(model, want)
    tokens = torch.arange(8).view(1, 8)
    with torch.no_grad():
        result, wanted = (m.eval()(tokens).logits for m in (model, want))
    result = result.full_tensor() if isinstance(result, DTensor) else result
    assert torch.allclose(result, wanted, atol=1e-5)


def plans(family: str, tensor: int, fsdp: int) -> None:
    logging.disable(logging.WARNING)  # of plans that do not name every layer
    spread = functools.partial(distributed, tensor=tensor, fsdp=fsdp)
    want = fastinit.materialize(whole_on_meta(family), key=3)
    ways: dict[str, Callable[[], nn.Module]] = {
        "initialize_": lambda: fastinit.initialize_(
            spread(whole_on_meta(family)).to_empty(device="cpu"), key=3
        ),
        "materialize": lambda: fastinit.materialize(spread(whole_on_meta(family)), key=3),
        "a factory on meta": lambda: fastinit.materialize(
            lambda: spread(whole_on_meta(family)), key=3
        ),
    }
    for make in ways.values():
        check(make(), want)
    made = fastinit.materialize(lambda: whole(family), key=3)
    check(fastinit.materialize(lambda: spread(whole(family)), key=3), made)
    check(patched(spread(whole_on_meta(family))), patched(whole_on_meta(family)))


for one in FAMILIES:
    for sizes in SIZES:
        CASES[f"transformers_{one}_by_{sizes[0]}_and_{sizes[1]}"] = functools.partial(
            plans, one, *sizes
        )
