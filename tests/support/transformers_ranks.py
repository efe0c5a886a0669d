"""transformers' own tensor parallelism and FSDP2, by four processes."""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

import fastinit
from support.common import same_bits
from support.rank_cases import CASES

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


@functools.cache
def prepared(kind: Any, tensor: int, fsdp: int) -> tuple[Any, Any]:
    """Give the configuration and the mesh, made once: each group has threads until the end."""
    from transformers.distributed import DistributedConfig

    config, _, mesh = kind.prepare_distribute_model(
        DistributedConfig(tp_size=tensor, fsdp_size=fsdp)
    )
    return config, mesh


def distributed(model: Any, tensor: int, fsdp: int) -> Any:
    return type(model).maybe_distribute_model(model, *prepared(type(model), tensor, fsdp))


def initialised(model: Any) -> Any:
    with torch.no_grad():
        model.to_empty(device="cpu").init_weights()
    return model


def patched(model: Any) -> Any:
    with fastinit.patch(key=5):
        return initialised(model)


def torch_can(function: Callable[[nn.Module], Any], model: nn.Module) -> bool:
    """Whether this works without fastinit.

    Of a sharded embedding with a padding row torch 2.10 has no forward, and neither that nor
    torch 2.11 has, below FSDP2, the row.
    """
    try:
        function(model)
    except (AssertionError, ValueError):
        if torch.__version__.startswith(("2.10.", "2.11.")):
            return False
        raise
    return True


def parts_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Give what this rank holds of a model."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {n: t.detach().to_local() if isinstance(t, DTensor) else t.detach() for n, t in named}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: Any = model.eval()(torch.arange(8).view(1, 8)).logits
    whole_result: torch.Tensor = result.full_tensor() if isinstance(result, DTensor) else result
    return whole_result


def check(model: nn.Module, want: Any, spread: Callable[[Any], Any]) -> None:
    """Compare with what transformers makes of a model that has values.

    Part by part, for torch 2.10 and 2.11 cannot put all of them together again (`full_tensor`).
    """
    divided = spread(copy.deepcopy(want))
    mine, theirs = parts_of(model), parts_of(divided)
    assert mine.keys() == theirs.keys()
    wrong: list[Any] = [None] * torch.distributed.get_world_size()
    here = [name for name, tensor in mine.items() if not same_bits(tensor, theirs[name])]
    torch.distributed.all_gather_object(wrong, here)  # all fail, or none: what follows is for all
    assert not any(wrong), wrong
    if torch_can(logits, divided):
        assert torch.allclose(logits(model), logits(want), atol=1e-5)


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
        check(make(), want, spread)
    made = fastinit.materialize(lambda: whole(family), key=3)
    check(fastinit.materialize(lambda: spread(whole(family)), key=3), made, spread)
    if torch_can(initialised, spread(whole_on_meta(family))):
        check(patched(spread(whole_on_meta(family))), patched(whole_on_meta(family)), spread)


for one in FAMILIES:
    for sizes in SIZES:
        CASES[f"transformers_{one}_by_{sizes[0]}_and_{sizes[1]}"] = functools.partial(
            plans, one, *sizes
        )
