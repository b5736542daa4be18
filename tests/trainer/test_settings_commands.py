"""The commands that work without ComfyUI: presets, EveryDream2's files, and a new run folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cocktail import trainer
from cocktail.trainer import command_line
from cocktail.trainer.command_line import PIPE_CLOSED, main
from cocktail.trainer.runs import Run
from cocktail.trainer.settings import commands
from cocktail.trainer.settings.presets import PRESETS, preset
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.shapes import draw_shapes


def output(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_presets_are_printed_as_json_that_new_takes(capsys):
    assert json.loads(output(capsys, "presets")) == list(PRESETS)
    found = json.loads(output(capsys, "presets", "Cosmopolitan 768 AdamW"))
    assert RunSettings.from_json(found) == preset("Cosmopolitan 768 AdamW")


@pytest.mark.parametrize(
    ("arguments", "statuses"),
    [(["presets"], {PIPE_CLOSED}), (["new", "--help"], {PIPE_CLOSED, 0})],
)
def test_a_command_whose_reader_has_gone_ends_quietly(arguments, statuses):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, str(Path(trainer.__path__[0]) / "__main__.py"), *arguments]
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    finally:
        os.close(writer)
    assert ended.stderr == b"" and ended.returncode in statuses


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch):
    def broken(options):
        raise BrokenPipeError(32, "a worker has gone")

    monkeypatch.setattr(command_line, "_run", broken)
    with pytest.raises(BrokenPipeError, match="a worker has gone"):
        main(["run", "folder"])


def test_everydream2s_files_become_a_file_of_settings_and_nothing_is_overwritten(tmp_path, capsys):
    train, out = tmp_path / "train.json", tmp_path / "settings.json"
    train.write_text('{"max_epochs": 7}', encoding="utf-8")
    assert "max_epochs = 7: taken, as epochs" in output(
        capsys, "import-everydream2", train, "-o", out
    )
    assert RunSettings.from_json(json.loads(out.read_text(encoding="utf-8"))).epochs == 7
    assert main(["import-everydream2", str(train), "-o", str(out)]) == 1
    assert "already exists" in capsys.readouterr().err


@pytest.fixture
def given(tmp_path, miniatures, tokenizer):
    """Arguments of `new` for twelve drawn pairs."""
    draw_shapes(tmp_path / "pictures", 12, 1)
    return [
        "new",
        str(tmp_path / "runs"),
        "first",
        "--base",
        str(miniatures / "miniature_base.safetensors"),
        "--dataset",
        str(tmp_path / "pictures"),
        "--tokenizer",
        str(tokenizer),
        "--validation-share",
        "0.25",
    ]


def test_new_makes_a_run_folder_with_a_preset_and_changes(given, tmp_path, capsys):
    chosen = [
        "--preset",
        "ED2 2023 baseline",
        "--set",
        "epochs=2",
        "--set",
        "loss.min_snr_gamma = 5",
    ]
    printed = output(capsys, *given, *chosen)
    run = Run.open(tmp_path / "runs" / "first")
    assert (run.settings.epochs, run.settings.loss.min_snr_gamma) == (2, 5.0)
    assert run.settings.loss.offset_noise == 0.02
    assert (len(run.dataset().train), len(run.dataset().validation)) == (9, 3)
    assert f"run {run.folder}" in printed
    assert output(capsys, *given, *chosen) == printed, "the same again is the same run"
    assert main([*given, "--set", "epochs=3"]) == 1
    assert "taken by another run" in capsys.readouterr().err


def test_new_reads_a_folder_as_load_dataset_can(given, tmp_path, capsys):
    for file in (tmp_path / "pictures").glob("*.txt"):
        file.write_text(f"{file.read_text(encoding='utf-8')}\nand more", encoding="utf-8")
    more = ["--caption-text", "whole file", "--layout", "plain", "--background", "#102030"]
    printed = output(capsys, *given, *more)
    dataset = Run.open(tmp_path / "runs" / "first").dataset()
    assert dataset.background == "#102030" and "read as plain: as asked" in printed
    assert all(pair.caption.endswith("\nand more") for pair in dataset.pairs)


def test_the_command_that_new_prints_can_be_pasted(given, tmp_path, capsys):
    given[1] = str(tmp_path / "my runs & more's")
    command = output(capsys, *given).splitlines()[-1]
    if os.name != "nt":
        expected = ["python", "-m", "trainer", "run", str(Path(given[1]) / "first")]
        assert shlex.split(command) == expected


def without_tokenizer(arguments):
    place = arguments.index("--tokenizer")
    return arguments[:place] + arguments[place + 2 :]


@pytest.mark.parametrize(
    ("place", "pack", "named"),
    [
        ("ComfyUI", "ComfyUI/custom_nodes/cocktail", ""),
        ("cocktail/.comfy/comfyui", "cocktail", ""),
        ("elsewhere", "cocktail", "elsewhere"),
    ],
)
def test_new_finds_the_tokenizer_of_a_comfyui(
    given, tokenizer, tmp_path, monkeypatch, place, pack, named
):
    shutil.copytree(tokenizer, tmp_path / place / "comfy" / "sd1_tokenizer")
    monkeypatch.setattr(commands, "PACK", tmp_path / pack)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / named) if named else "")
    assert main(without_tokenizer(given)) == 0
    found = Path(Run.open(tmp_path / "runs" / "first").paths.tokenizer)
    assert found == (tmp_path / place / "comfy" / "sd1_tokenizer").resolve()


def test_new_says_how_to_give_a_tokenizer_when_there_is_none(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "PACK", tmp_path / "cocktail")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    assert main(without_tokenizer(given)) == 1
    said = capsys.readouterr().err
    assert "nowhere" in said and "or give its comfy/sd1_tokenizer with --tokenizer" in said
    assert not (tmp_path / "runs").exists()


def test_a_run_made_by_new_trains(given, tmp_path, capsys, alone):
    small = [
        "resolution=64",
        "bucket_step=16",
        "epochs=1",
        "batch_size=4",
        "validation_timesteps=1",
        "train_text_encoder=false",
    ]
    output(capsys, *given, *(part for line in small for part in ("--set", line)))
    folder = tmp_path / "runs" / "first"
    status = main(["run", str(folder)])
    state = Run.open(folder).state()
    assert (status, state.status) == (0, "finished"), state.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--set", "epoch=3"], "'epoch'. Did you mean epochs"),
        (["--preset", "ED2"], "There is no preset 'ED2'"),
        (["--settings", "nothing.json"], "nothing.json cannot be read"),
        (["--validation-share", "1.5"], "validation share is 1.5"),
        (["--dataset", "nowhere"], "neither a folder nor a manifest"),
        (["--base", "nowhere.safetensors"], "no file nowhere.safetensors"),
        (["--tokenizer", "nowhere"], "no tokenizer in nowhere"),
    ],
)
def test_new_refuses_in_words_and_leaves_nothing(given, tmp_path, capsys, changes, words):
    assert main([*given, *changes]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_new_refuses_a_base_that_is_not_whole_naming_the_tensor(given, tmp_path, capsys):
    place = given.index("--base") + 1
    tensors = load_file(given[place])
    bias = "model.diffusion_model.out.2.bias"
    save_file({k: v for k, v in tensors.items() if k != bias}, tmp_path / "cut.safetensors")
    given[place] = str(tmp_path / "cut.safetensors")
    assert main(given) == 1
    assert f"cut.safetensors cannot be trained: {bias} is missing" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["", "new", "presets", "import-everydream2", "memory", "run"])
def test_every_command_documents_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*filter(None, [command]), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in ("new", "presets", "import-everydream2", "memory", "run") if not command else ():
        assert name in text
    assert "usage: python -m trainer" in text and len(text.splitlines()) > 4


def test_memory_is_told_for_the_full_model_and_for_a_base(tiny_base, capsys):
    figures = []
    for base in ([], [str(tiny_base)]):
        assert main(["memory", *base, "--set", "batch_size=2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("as set: ") and lines[1].startswith(
            "gradient checkpointing on: "
        )
        figures.append(float(lines[0].split()[2]))
    full, tiny = figures
    assert 15.7 < full < 25 and tiny < full / 4
