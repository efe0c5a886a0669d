"""The command line: `python -m fastinit info | init | report`."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastinit
from fastinit._report import saved

_DTYPES = ("float32", "float64", "float16", "bfloat16")
# Keys that save_pretrained adds to every configuration.
_OF_ANY_CONFIG = frozenset({"transformers_version", "auto_map", "torch_dtype", "architectures"})


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
    init.add_argument(
        "--config", type=Path, required=True, metavar="CONFIG.JSON", help="the model's config.json"
    )
    init.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: the config's)")
    init.add_argument("--device", default=None, help="where the model goes (default: cpu)")
    init.add_argument("--key", type=int, help="an int in [-2**63, 2**64) (default: torch's seed)")
    init.add_argument("--save", type=Path, metavar="DIR", help="save_pretrained there")

    report = commands.add_parser("report", help="report on weights that are saved")
    report.add_argument(
        "weights",
        type=Path,
        help="a state dict (.pt, .bin, .safetensors), a checkpoint that holds one, "
        "the index of one in pieces, or a folder",
    )
    for command in (init, report):
        command.add_argument("--json", type=Path, metavar="PATH", help="write the report there")
        command.add_argument(
            "--plot",
            type=Path,
            metavar="PATH",
            help="draw a picture there, of the kind that its ending names (default: .png)",
        )
    return parser


class _Complaint(Exception):
    """What is wrong with what was asked for, in words of our own."""


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise _Complaint(f"{path}: no such file")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text
        raise _Complaint(f"{path} is no configuration: {error}") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise _Complaint(f"{path} has no 'model_type', so it is no configuration")
    return values


def _dtype(value: Any) -> torch.dtype:
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(dtype, torch.dtype):
        raise _Complaint(f"the configuration's dtype is {value!r}, which torch does not have")
    return dtype


def _check_device(device: str | None) -> None:
    """Complain of a device that torch cannot make tensors on."""
    try:
        torch.empty(0, device=device)
    except Exception as error:  # of many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _Complaint(f"--device {device}: {lines[0]}") from None


def _built(options: argparse.Namespace) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise _Complaint("init needs transformers: pip install transformers") from None
    _check_device(options.device)
    values = _read_config(options.config)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    kind = type(config)
    unknown = [n for n in values if not hasattr(kind, n) and n not in kind.attribute_map]
    unknown = [name for name in unknown if not name.startswith("_") and name not in _OF_ANY_CONFIG]
    if unknown:
        listed = ", ".join(unknown)
        print(f"{options.config}: {kind.__name__} does not know {listed}", file=sys.stderr)
    named = config.architectures or ()
    named = [named] if isinstance(named, str) else [*named]
    model_class = next(filter(None, (getattr(transformers, name, None) for name in named)), None)
    if named and model_class is None:
        raise _Complaint(
            f"{options.config}: transformers has none of its 'architectures', {', '.join(named)}; "
            "name one that it has, or leave them out for the bare model"
        )

    def factory() -> nn.Module:
        made: nn.Module
        if model_class is None:
            made = transformers.AutoModel.from_config(config)
        else:
            made = model_class(config)
        return made

    wanted = options.dtype or config.dtype
    config.dtype = None if wanted is None else _dtype(wanted)
    model = fastinit.materialize(
        factory, options.device, config.dtype, key=options.key, progress=sys.stderr.isatty()
    )
    if options.save is not None:
        model.save_pretrained(options.save)  # type: ignore[operator]
    return model


def _check_file(path: Path) -> None:
    """Complain of a file that cannot be written; leave no trace."""
    new = not path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise _Complaint(f"{path} cannot be written: {error.strerror}") from None
    if new:
        path.resolve().unlink()  # what a link leads to, not the link


def _check_outputs(options: argparse.Namespace) -> None:
    """Complain of what could not be written in the end, before the work."""
    weights = getattr(options, "weights", None)
    read = [] if weights is None else saved.files_of(weights)
    used = [weights, getattr(options, "config", None), *read]
    for path in (options.json, options.plot):
        if path is None:
            continue
        _check_file(path)
        if any(path.is_file() and os.path.samefile(path, o) for o in used if o and o.exists()):
            raise _Complaint(f"{path} is also what is read; name another file")
    both = {path.resolve() for path in (options.json, options.plot) if path is not None}
    if len(both) == 1 and None not in (options.json, options.plot):
        raise _Complaint(f"{options.json} cannot be both the report and the picture")
    if options.plot is not None:
        try:
            from matplotlib.backend_bases import FigureCanvasBase
        except ImportError:
            raise _Complaint("--plot needs matplotlib: pip install matplotlib") from None
        known = sorted(FigureCanvasBase.get_supported_filetypes())
        ending = options.plot.suffix.removeprefix(".").lower()
        if ending not in known:
            raise _Complaint(f"{options.plot}: a picture ends with .{', .'.join(known)}")
    folder = getattr(options, "save", None)
    if folder is not None:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise _Complaint(f"{folder} cannot be written: {there} is no folder that can be")


def _run(options: argparse.Namespace) -> None:
    if options.command == "info":
        print(fastinit.show_config())
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    plot = options.plot
    if plot is not None and not (plot.suffix or plot.is_dir()):
        options.plot = plot.with_name(plot.name + ".png")  # as matplotlib would
    _check_outputs(options)
    module = _built(options) if options.command == "init" else saved.load(options.weights)
    found = fastinit.report(module)
    # The files first: whoever reads what is printed may go before its end.
    if options.json is not None:
        values = _finite(found.to_dict())
        options.json.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    if options.plot is not None:
        found.plot(options.plot)
    print(found)
    print(f"\n{sum(p.numel() for p in module.parameters()):,} parameters")


def _finite(value: Any) -> Any:
    """Put null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit code.

    Raises:
        SystemExit: with a line that says what is wrong, whatever it was.
    """
    options = _parser().parse_args(arguments)
    try:
        _run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"fastinit {options.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        text = " ".join(str(error).split())
        if not isinstance(error, (_Complaint, OSError, ValueError, ImportError)) or not text:
            text = f"{type(error).__name__}: {text}"
        raise SystemExit(f"fastinit {options.command}: {text}") from error
    return 0


def _drop_output() -> None:
    """Let go of what could not be printed, of which Python would complain again as it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        _drop_output()
