"""Initialise every model family that builds small in each way, and compare with torch's own.

    make zoo ARGS='--sources transformers torchvision timm --out build/zoo'

For each: `patch()`, `materialize` of the factory, `materialize` of the model on the meta device,
and `initialize_`. Compared are names, types, ties, what is constant (bytes; what three seeds
of torch's agree on, buffers included), what is drawn (Kolmogorov–Smirnov against torch's own), and
whether a forward pass is finite where torch's is. OUT.json has every difference and OUT.md the
table; a second run goes on with what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # configurations only: nothing is downloaded
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
from scipy import stats  # noqa: E402
from torch import nn  # noqa: E402

import fastinit  # noqa: E402

Factory = Callable[[], nn.Module]
LIMIT = 100_000_000  # parameters
SECONDS = 300  # a family
IMPROBABLE = 1e-9
# What configurations call their sizes, and a small one that the others go with.
SMALL: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim"), 32),
    **dict.fromkeys(("encoder_hidden_size", "decoder_hidden_size", "embedding_size"), 32),
    **dict.fromkeys(("projection_dim", "hidden_sizes_out", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("d_ff", "n_inner", "d_inner", "moe_intermediate_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
}
# The first of these that a family has: heads are tied to embeddings, so rather with one.
HEADS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "MODEL_MAPPING",
)
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def shrink(config: Any, names: dict[str, int], depth: int = 0) -> Any:
    """Make a configuration small in place, those inside it too."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and depth < 3:
            shrink(value, names, depth + 1)
        elif name in names and isinstance(value, int) and value > names[name]:
            setattr(config, name, names[name])
        elif name in TOKENS and isinstance(value, int) and value >= names.get("vocab_size", value):
            setattr(config, name, 1)
    return config


def transformers_factory(family: str) -> Factory:
    """Give the first of a few small configurations with which the model builds."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    error: Exception | None = None
    layers = {k: v for k, v in SMALL.items() if "layer" in k or k == "vocab_size"}
    for names in (SMALL, {k: v for k, v in SMALL.items() if k != "head_dim"}, layers, {}):
        try:
            config = shrink(CONFIG_MAPPING[family](), names)
            model = next(
                mapping[type(config)]
                for mapping in (getattr(modeling_auto, name) for name in HEADS)
                if type(config) in mapping
            )
            model = model[0] if isinstance(model, tuple) else model

            def factory(model: Any = model, config: Any = config) -> Any:
                return model(config)

            with torch.device("meta"):
                check_size(factory())
            factory()
            return factory
        except Exception as failed:
            error = failed
    raise error or AssertionError


def check_size(model: nn.Module) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > LIMIT:
        raise ValueError(f"{count} parameters")


def factory_of(source: str, family: str) -> Factory:
    if source == "transformers":
        return transformers_factory(family)
    module = __import__(source)
    if source == "timm":
        return lambda: module.create_model(family)
    return lambda: module.models.get_model(family, weights=None)


def families(source: str) -> list[str]:
    if source == "transformers":
        from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

        return sorted(MODEL_MAPPING_NAMES)
    module = __import__(source)
    if source == "timm":
        return sorted(module.list_models())
    import torchvision

    return sorted(torchvision.models.list_models())


def _meta(factory: Factory) -> nn.Module:
    with torch.device("meta"):
        model = factory()
    return fastinit.materialize(model, key=7)


def _patched(factory: Factory) -> nn.Module:
    with fastinit.patch(key=7):
        return factory()


ROADS: dict[str, Callable[[Factory], nn.Module]] = {
    "patch": _patched,
    "materialize(factory)": lambda factory: fastinit.materialize(factory, key=7),
    "materialize(meta)": _meta,
    "initialize_": lambda factory: fastinit.initialize_(factory(), key=7),
}


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def ties(found: dict[str, torch.Tensor]) -> set[frozenset[str]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in found.items():
        groups.setdefault(id(tensor), []).append(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().contiguous().reshape(-1)
    return plain.view(torch.uint8).reshape(plain.numel(), -1)


def differences(
    ours: nn.Module, one: dict[str, torch.Tensor], others: list[dict[str, torch.Tensor]]
) -> Iterator[str]:
    """Compare a model with some that torch has drawn from different seeds."""
    mine = tensors(ours)
    if [*mine] != [*one]:
        yield f"names: {sorted(set(mine) ^ set(one)) or 'order'}"
        return
    if ties(mine) != ties(one):
        yield f"ties: {sorted(map(sorted, ties(mine) ^ ties(one)))}"
    for name, tensor in mine.items():
        native = one[name]
        kinds = [
            (type(t), t.shape, t.dtype, t.device, t.requires_grad, t.stride())
            for t in (tensor, native)
        ]
        if kinds[0] != kinds[1]:
            yield f"{name}: {kinds[0]} for {kinds[1]}"
            continue
        # Two draws of the same number are not that rare, three are.
        constant = torch.stack([(bits(native) == bits(o[name])).all(dim=1) for o in others]).all(0)
        same = (bits(tensor) == bits(native)).all(dim=1)
        if not bool(same[constant].all()):
            yield f"{name}: {int((~same & constant).sum())} of {int(constant.sum())} constants"
        drawn = ~constant
        if bool(drawn.any()):
            yield from _drawn(name, tensor, native, drawn)


def _drawn(
    name: str, tensor: torch.Tensor, native: torch.Tensor, drawn: torch.Tensor
) -> Iterator[str]:
    a = tensor.detach().reshape(-1)[drawn][: 1 << 16].double()
    b = native.detach().reshape(-1)[drawn][: 1 << 16].double()
    if not bool(a.isfinite().all()) and bool(b.isfinite().all()):
        yield f"{name}: not finite"
    elif a.numel() >= 32 and stats.ks_2samp(a.numpy(), b.numpy()).pvalue < IMPROBABLE:
        yield f"{name}: std {float(a.std()):.3g} for {float(b.std()):.3g}"
    elif 1 < a.numel() < 32 and float(a.abs().max()) > 50 * float(b.abs().max()):
        yield f"{name}: up to {float(a.abs().max()):.3g} for {float(b.abs().max()):.3g}"


def forward(source: str, model: nn.Module) -> bool | None:
    """Whether a forward pass is finite; None if we have no input that it takes."""
    model.eval()
    image, tokens = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64), torch.arange(8)[None] + 3
    calls: list[dict[str, Any]] = [{"x": image}]
    if source == "transformers":
        calls = [{"input_ids": tokens}, {"input_ids": tokens, "decoder_input_ids": tokens}]
        size = getattr(getattr(model, "config", None), "image_size", 64)
        if isinstance(size, int) and size <= 512:
            calls.append(
                {"pixel_values": torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)}
            )
    for call in calls:
        with contextlib.suppress(Exception), torch.no_grad():
            out = model(call["x"]) if "x" in call else model(**call)
            leaves = torch.utils._pytree.tree_leaves(dict(out) if hasattr(out, "items") else out)
            return all(
                bool(t.isfinite().all())
                for t in leaves
                if isinstance(t, torch.Tensor) and t.is_floating_point()
            )
    return None


def examine(source: str, family: str) -> dict[str, Any]:
    """Compare one family; give the differences of each road, or why it was not built."""
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _examine(source, family)
    except Exception as error:
        return {"not built": f"{type(error).__name__}: {error}"[:200]}
    finally:
        signal.alarm(0)


def _late(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def _examine(source: str, family: str) -> dict[str, Any]:
    factory = factory_of(source, family)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(factory())
        check_size(models[0])
    first = models[0]
    one, *others = map(tensors, models)
    finite = forward(source, first)
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in first.parameters())}
    row["forward"] = finite
    for road, build in ROADS.items():
        try:
            model = build(factory)
            row[road] = list(differences(model, one, others))[:50]
            if finite and forward(source, model) is False:
                row[road].append("forward: not finite")
        except TimeoutError:
            raise
        except Exception as error:
            row[road] = [f"{type(error).__name__}: {error}"[:300]]
    return row


def markdown(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Write the table: how many are right on each road, and what is not."""
    built = {name: row for name, row in rows.items() if "not built" not in row}
    yield f"{len(built)} families built, {len(rows) - len(built)} did not.\n"
    yield "| road | right | of |\n| --- | ---: | ---: |"
    for road in ROADS:
        yield f"| {road} | {sum(not row[road] for row in built.values())} | {len(built)} |"
    yield "\n| family | road | first difference |\n| --- | --- | --- |"
    for name, row in sorted(built.items()):
        for road in ROADS:
            if row[road]:
                more = f" (+{len(row[road]) - 1})" if len(row[road]) > 1 else ""
                text = row[road][0].replace("|", "\\|").replace("\n", " ")
                yield f"| {name} | {road} | {text[:160]}{more} |"
    yield "\nNot built: " + ", ".join(sorted(set(rows) - set(built)))


def _start() -> None:
    torch.set_num_threads(1)
    os.nice(5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", nargs="+", default=["transformers"])
    parser.add_argument("--only", nargs="+", help="these families")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "zoo")
    options = parser.parse_args()
    store = options.out.with_suffix(".json")
    rows: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    store.parent.mkdir(parents=True, exist_ok=True)
    left = [
        (source, family)
        for source in options.sources
        for family in options.only or families(source)
        if f"{source}/{family}" not in rows
    ]
    total = len(rows) + len(left)
    with ProcessPoolExecutor(
        options.processes, mp_context=get_context("spawn"), initializer=_start
    ) as pool:
        running = {pool.submit(examine, *each): "/".join(each) for each in left}
        for future in as_completed(running):
            rows[running[future]] = future.result()
            store.write_text(json.dumps(rows, indent=1, sort_keys=True))
            print(f"{len(rows)} of {total}", end="\r", file=sys.stderr, flush=True)
    options.out.with_suffix(".md").write_text("\n".join(markdown(rows)) + "\n")
    print("\n".join(markdown(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
