"""`python -m fastinit info | init | report`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fastinit
from fastinit.__main__ import main

CONFIG = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 2,
    "vocab_size": 64,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def test_info_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastinit", "info"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(fastinit.show_config())


def test_init(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = config.parent
    arguments = ["init", "--config", str(config), "--dtype", "bfloat16", "--key", "0"]
    options = ["--json", f"{out}/r.json", "--save", f"{out}/saved"]
    assert main([*arguments, *options]) == 0
    printed = capsys.readouterr().out
    assert "wte.weight" in printed
    assert "bfloat16" in printed
    assert "parameters" in printed
    rows = json.loads((out / "r.json").read_text())["parameters"]
    assert {row["dtype"] for row in rows} == {"bfloat16"}
    expected = fastinit.normal_(
        torch.empty(64, 32, dtype=torch.bfloat16),
        std=0.02,
        key=fastinit.Key(0).fold_in("wte.weight").fold_in(0),
    )
    import transformers

    saved = transformers.AutoModel.from_pretrained(out / "saved")
    assert saved.wte.weight.dtype is torch.bfloat16
    assert torch.equal(saved.wte.weight, expected)
    assert main(["report", f"{out}/saved"]) == 0
    assert "wte.weight" in capsys.readouterr().out


def test_init_of_an_architecture(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(json.dumps(CONFIG | {"architectures": ["GPT2LMHeadModel"]}))
    assert main(["init", "--config", str(config)]) == 0
    assert "transformer.wte.weight" in capsys.readouterr().out


def test_report_of_a_state_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    paths = [tmp_path / "a.pt"]
    try:
        from safetensors.torch import save_file
    except ImportError:
        pass
    else:
        save_file(module.state_dict(), tmp_path / "a.safetensors")
        paths.append(tmp_path / "a.safetensors")
    for path in paths:
        assert main(["report", str(path)]) == 0
        printed = capsys.readouterr().out
        assert "0.weight" in printed
        assert "1.running_var" in printed


def test_complaints(tmp_path: Path, config: Path) -> None:
    with pytest.raises(SystemExit, match="no such file"):
        main(["report", str(tmp_path / "missing.pt")])
    config.write_text("{}")
    with pytest.raises(SystemExit, match="model_type"):
        main(["init", "--config", str(config)])
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(SystemExit, match="list"):
        main(["report", str(tmp_path / "list.pt")])
    with pytest.raises(SystemExit):
        main([])
