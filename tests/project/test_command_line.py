"""`python -m fastinit info | init | report`."""

from __future__ import annotations

import argparse
import json
import math
import os
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


@pytest.mark.parametrize("beside", [{}, {"rng": torch.get_rng_state(), "best": torch.tensor(0.5)}])
@pytest.mark.parametrize("name", ["model", "state_dict"])
def test_report_of_a_checkpoint_of_a_training_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, beside: dict[str, torch.Tensor]
) -> None:
    module = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    saved = {name: module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "hp": {}}
    torch.save(saved | beside, tmp_path / "w.pt")
    assert main(["report", str(tmp_path / "w.pt")]) == 0
    printed = capsys.readouterr().out
    assert "\nweight " in printed
    assert "\n20 parameters" in printed


def test_report_of_a_state_dict_with_a_state_of_its_own_inside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = {"scale": torch.ones(3), "more": torch.ones(3), "most": torch.ones(3)}
    saved = nn.Linear(4, 4).state_dict() | {"_extra_state": inside}
    torch.save(saved, tmp_path / "w.pt")
    assert main(["report", str(tmp_path / "w.pt")]) == 0
    assert "\n20 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("named", [["MyGPT2", "Other"], "MyGPT2"])
def test_init_of_a_class_that_transformers_has_not(config: Path, named: object) -> None:
    config.write_text(json.dumps(CONFIG | {"architectures": named}))
    with pytest.raises(SystemExit, match="transformers has none of its 'architectures', MyGPT2"):
        main(["init", "--config", str(config), "--key", "0"])


def test_init_of_a_class_that_is_named_alone(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(json.dumps(CONFIG | {"architectures": "GPT2LMHeadModel"}))
    assert main(["init", "--config", str(config), "--key", "0"]) == 0
    assert "transformer.wte.weight" in capsys.readouterr().out


def test_a_report_is_not_written_over_what_it_is_about(config: Path) -> None:
    folder = config.parent / "saved"
    assert main(["init", "--config", str(config), "--key", "0", "--save", str(folder)]) == 0
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    for option in ("--json", "--plot"):
        with pytest.raises(SystemExit, match="is also what is read"):
            main(["report", str(folder), option, str(weights)])
    assert weights.read_bytes() == before


def test_report_of_a_folder_shows_what_is_saved(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, and nothing that the model has besides; in pieces, too."""
    transformers = pytest.importorskip("transformers")
    sizes = {k: v for k, v in CONFIG.items() if k != "model_type"}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    names = {name.partition(".")[2] for name, _ in model.named_parameters()}
    for size in ("10GB", "20KB"):
        folder = config.parent / size
        model.save_pretrained(folder, max_shard_size=size)
        pieces = [*folder.glob("*.safetensors")]
        assert (len(pieces) > 1) == (size == "20KB")
        indices = [*folder.glob("*.index.json")]
        for path in (folder, *indices):
            assert main(["report", str(path), "--json", f"{folder}/r.json"]) == 0
            rows = json.loads((folder / "r.json").read_text())["parameters"]
            assert {row["name"].removeprefix("transformer.") for row in rows} == names
            assert len(rows) == len(names)
    pieces[0].unlink()
    with pytest.raises(SystemExit, match=rf"{pieces[0].name}: no such file"):
        main(["report", str(folder)])


def test_report_needs_no_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    state = {"a": torch.ones(2), "a.b": torch.ones(3), "step": 4}  # a name within another
    torch.save(state, tmp_path / "pytorch_model.bin")
    torch.save([1], tmp_path / "training_args.bin")
    assert main(["report", str(tmp_path), "--json", str(tmp_path / "r.json")]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["parameters"]
    assert [row["name"] for row in rows] == ["a", "a.b"]
    old = tmp_path / "old.pt"
    torch.save(state, old, _use_new_zipfile_serialization=False)
    assert main(["report", str(old)]) == 0


def test_complaints(tmp_path: Path, config: Path) -> None:
    with pytest.raises(SystemExit, match="no such file"):
        main(["report", str(tmp_path / "missing.pt")])
    config.write_text("{}")
    with pytest.raises(SystemExit, match="model_type"):
        main(["init", "--config", str(config)])
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(SystemExit, match="holds a list, not a state dict"):
        main(["report", str(tmp_path / "list.pt")])
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, [], "no such file"),
        ("{", [], "no configuration"),
        ("[1]", [], "model_type"),
        (json.dumps(CONFIG | {"model_type": "gpt9"}), [], "gpt9"),
        (json.dumps(CONFIG | {"n_layer": "x"}), [], "n_layer"),
        (json.dumps(CONFIG | {"n_head": 5}), [], "divisible"),
        (json.dumps(CONFIG | {"dtype": "float99"}), [], "float99"),
        (json.dumps(CONFIG), ["--device", "nowhere"], "--device nowhere: "),
        (json.dumps(CONFIG), ["--device", "cuda:77"], "--device cuda:77: "),
        (json.dumps(CONFIG), ["--key", str(1 << 64)], "key"),
        (json.dumps(CONFIG), ["--save", "{config}"], "cannot be written"),
    ],
)
def test_init_complains_in_a_line(
    config: Path, text: str | None, arguments: list[str], message: str
) -> None:
    config.unlink() if text is None else config.write_text(text)
    arguments = [argument.format(config=config) for argument in arguments]
    with pytest.raises(SystemExit, match=message) as caught:
        main(["init", "--config", str(config), *arguments])
    assert str(caught.value).startswith("fastinit init: ")
    assert "\n" not in str(caught.value)


def test_init_names_keys_that_the_configuration_does_not_know(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(json.dumps(CONFIG | {"n_laer": 3, "transformers_version": "9"}))
    assert main(["init", "--config", str(config)]) == 0
    assert "GPT2Config does not know n_laer\n" in capsys.readouterr().err
    config.write_text(json.dumps(CONFIG | {"hidden_size": 32}))  # another name of n_embd
    assert main(["init", "--config", str(config)]) == 0
    assert "know" not in capsys.readouterr().err


def test_init_without_transformers(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match="pip install transformers"):
        main(["init", "--config", str(config)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing of the kind", "cannot be read as weights"),
        (b'{"model_type": "gpt2"}', "cannot be read as weights"),
        (
            {"model": {"w": torch.ones(2)}, "options": argparse.Namespace(epochs=3)},
            "cannot be read as weights: it holds argparse.Namespace; save the tensors alone",
        ),
        ({"model": {"w": 1}}, "no weights by name, but 'model'"),
        (
            {"model": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2)}, "epoch": 1},
            "but 'model', 'ema', 'epoch'; save one of 'model', 'ema' by itself",
        ),
        ({}, "holds no weights"),
        (None, "holds no weights"),
    ],
)
def test_report_complains_in_a_line(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "w.pt"
    if content is None:
        path = tmp_path
    elif isinstance(content, bytes):
        path.write_bytes(content)
        (tmp_path / "w.safetensors").write_bytes(content)
        (tmp_path / "w.bin.index.json").write_bytes(content)
        with pytest.raises(SystemExit, match=message):
            main(["report", str(tmp_path / "w.safetensors")])
        with pytest.raises(SystemExit, match="no index"):
            main(["report", str(tmp_path / "w.bin.index.json")])
    else:
        torch.save(content, path)
    with pytest.raises(SystemExit, match=message) as caught:
        main(["report", str(path)])
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice is to trust the file


def test_two_files_of_a_folder_that_hold_the_same_name(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    with pytest.raises(SystemExit, match="'w' twice"):
        main(["report", str(tmp_path)])


@pytest.mark.parametrize(
    ("option", "where"),
    [
        *((option, where) for option in ("--json", "--plot") for where in ("missing/out.png", ".")),
        ("--plot", "out.docx"),
    ],
)
def test_bad_paths_are_found_before_the_work(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, option: str, where: str
) -> None:
    if option == "--plot":
        pytest.importorskip("matplotlib")
    for name in ("materialize", "report"):
        monkeypatch.setattr(fastinit, name, lambda *a, **k: pytest.fail("has begun"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit, match=r"cannot be written|ends with"):
        main(["init", "--config", str(config), option, str(tmp_path / where)])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("path", "drawn", "begins"),
    [("p.svg", "p.svg", b"<?xml"), ("p.PNG", "p.PNG", b"\x89PNG"), ("p", "p.png", b"\x89PNG")],
)
def test_a_picture_is_drawn(tmp_path: Path, path: str, drawn: str, begins: bytes) -> None:
    """Of the kind that its ending names, or with the ending .png."""
    pytest.importorskip("matplotlib")
    weights = tmp_path / "w.pt"
    torch.save({"w": torch.ones(2)}, weights)
    assert main(["report", str(weights), "--plot", str(tmp_path / path)]) == 0
    assert sorted(tmp_path.iterdir()) == [tmp_path / drawn, weights]
    assert (tmp_path / drawn).read_bytes().startswith(begins)


def test_as_a_program_it_ends_with_a_line_and_a_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastinit", "report", str(tmp_path / "missing.pt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"fastinit report: {tmp_path}/missing.pt: no such file or folder"
    ]


def _run_as_a_program(*arguments: str, stdout: int) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "fastinit", *arguments],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_a_reader_that_goes_gets_the_files_all_the_same(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        out = f"{tmp_path}/r.json"
        done = _run_as_a_program("report", f"{tmp_path}/w.pt", "--json", out, stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["fastinit report: [Errno 32] Broken pipe"]
    assert json.loads(Path(out).read_text())["parameters"][0]["name"] == "w"


def test_an_interrupt_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fastinit, "show_config", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "fastinit info: interrupted\n"


def test_a_report_is_json_whatever_the_values(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([math.nan, 1]), "v": torch.tensor([math.inf])}, tmp_path / "w.pt")
    assert main(["report", f"{tmp_path}/w.pt", "--json", f"{tmp_path}/r.json"]) == 0

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    rows = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)["parameters"]
    assert [row["flags"] for row in rows] == [["not finite"], ["not finite"]]
    assert rows[0]["measured"]["mean"] is None


def test_pieces_hold_what_their_index_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "piece.bin")
    index = tmp_path / "model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "piece.bin"}}))
    assert main(["report", str(tmp_path)]) == 0
    assert "2 parameters" in capsys.readouterr().out
    index.write_text(json.dumps({"weight_map": {"a": "piece.bin", "b": "piece.bin"}}))
    for path in (tmp_path, index):
        with pytest.raises(SystemExit, match=r"piece\.bin does not hold .* does: 'b'$"):
            main(["report", str(path)])


def test_outputs_take_the_place_of_nothing_that_is_needed(tmp_path: Path) -> None:
    weights, link = tmp_path / "w.pt", tmp_path / "link.json"
    torch.save({"w": torch.ones(2)}, weights)
    before = weights.read_bytes()
    with pytest.raises(SystemExit, match="also what is read"):
        main(["report", str(weights), "--json", str(weights)])
    assert weights.read_bytes() == before
    link.symlink_to(tmp_path / "target.json")
    assert main(["report", str(weights), "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads((tmp_path / "target.json").read_text())["parameters"]
    pytest.importorskip("matplotlib")
    both = str(tmp_path / "both.svg")
    with pytest.raises(SystemExit, match="both the report and the picture"):
        main(["report", str(weights), "--json", both, "--plot", both])
    assert not Path(both).exists()


def test_a_picture_without_an_ending_is_not_put_over_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2)}, "w.pt")
    with pytest.raises(SystemExit, match=r"out\.png cannot be both the report and the picture"):
        main(["report", "w.pt", "--json", "out.png", "--plot", "out"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt"]
    Path("taken.png").mkdir()
    with pytest.raises(SystemExit, match=r"taken\.png cannot be written"):
        main(["report", "w.pt", "--plot", "taken"])
