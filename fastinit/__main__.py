"""The command line: `python -m fastinit info | init | report`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastinit

_DTYPES = ("float32", "float64", "float16", "bfloat16")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastinit", description="Fast and reproducible weights for PyTorch models."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print versions, processor, devices and dtypes")

    init = commands.add_parser(
        "init",
        help="build a transformers model from its config.json, with weights, and report on it",
    )
    init.add_argument("--config", type=Path, required=True, metavar="CONFIG.JSON")
    init.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: the config's)")
    init.add_argument("--device", default=None, help="where the model goes (default: cpu)")
    init.add_argument("--key", type=int, help="an int in [-2**63, 2**64) (default: torch's seed)")
    init.add_argument("--save", type=Path, metavar="DIR", help="save_pretrained there")

    report = commands.add_parser("report", help="report on weights that are saved")
    report.add_argument(
        "weights",
        type=Path,
        help="a state dict (.pt, .bin, .safetensors), or a folder of save_pretrained",
    )
    for command in (init, report):
        command.add_argument("--json", type=Path, metavar="PATH", help="write the report there")
        command.add_argument("--plot", type=Path, metavar="PATH", help="draw a picture there")
    return parser


def _transformers(why: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise SystemExit(f"{why} needs transformers: pip install transformers") from None
    return transformers


def _built(options: argparse.Namespace) -> nn.Module:
    transformers = _transformers("init")
    values = json.loads(options.config.read_text())
    kind = values.pop("model_type", None)
    if kind is None:
        raise SystemExit(f"{options.config} has no 'model_type', so it is no configuration")
    config = transformers.AutoConfig.for_model(kind, **values)
    model_class = None
    for name in config.architectures or ():
        model_class = model_class or getattr(transformers, name, None)

    def factory() -> nn.Module:
        made: nn.Module
        if model_class is None:
            made = transformers.AutoModel.from_config(config)
        else:
            made = model_class(config)
        return made

    dtype = config.dtype if options.dtype is None else getattr(torch, options.dtype)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    config.dtype = dtype
    model = fastinit.materialize(
        factory, options.device, dtype, key=options.key, progress=sys.stderr.isatty()
    )
    if options.save is not None:
        model.save_pretrained(options.save)  # type: ignore[operator]
    return model


def _of_state_dict(state: dict[str, Any]) -> nn.Module:
    """Make a module with these parameters, nested by the dots in their names."""
    root = nn.Module()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            continue
        *path, attribute = name.split(".")
        owner = root
        for segment in path:
            if segment not in owner._modules:
                owner.add_module(segment, nn.Module())
            owner = owner.get_submodule(segment)
        owner.register_parameter(attribute, nn.Parameter(value, requires_grad=False))
    return root


def _loaded(path: Path) -> nn.Module:
    if path.is_dir():
        transformers = _transformers("a folder")
        module: nn.Module = transformers.AutoModel.from_pretrained(path)
        return module
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise SystemExit(f"{path} needs safetensors: pip install safetensors") from None
        return _of_state_dict(load_file(path))
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(state, dict):
        raise SystemExit(f"{path} holds a {type(state).__name__}, not a state dict")
    return _of_state_dict(state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "info":
        print(fastinit.show_config())
        return 0
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    path = options.config if options.command == "init" else options.weights
    if not path.exists():
        raise SystemExit(f"{path}: no such file or folder")
    module = _built(options) if options.command == "init" else _loaded(path)
    found = fastinit.report(module)
    print(found)
    print(f"\n{sum(p.numel() for p in module.parameters()):,} parameters")
    if options.json is not None:
        options.json.write_text(json.dumps(found.to_dict(), indent=1) + "\n")
    if options.plot is not None:
        found.plot(options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
